//! An HTTP/1.1 client with little overhead: a request is prepared as one byte string, and reads and
//! writes block.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use rustix::fs::sendfile;
use rustix::net::sockopt::set_socket_send_buffer_size;

/// Time after which connecting, a single read, or a single write fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);
/// Size of the send buffer of a connection, in bytes, as far as the system allows it.
const SEND_BUFFER: usize = 256 << 10;
/// Boundary between the parts of a `multipart/form-data` body.
const BOUNDARY: &str = "frontier";

/// A request as the bytes to send.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    bytes: Vec<u8>,
    /// Length of the head in bytes, including the empty line at its end.
    head: usize,
}

impl Request {
    /// Returns the request `GET path`, which has no body.
    pub(crate) fn get(path: &str) -> Self {
        let head = format!("GET {path} HTTP/1.1\r\nhost: load\r\n\r\n");
        Self {
            head: head.len(),
            bytes: head.into_bytes(),
        }
    }

    /// Returns the request `POST path` with a body of content type `kind`.
    pub(crate) fn post(path: &str, kind: &str, body: &[u8]) -> Self {
        let length = body.len();
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: load\r\ncontent-type: {kind}\r\n\
             content-length: {length}\r\n\r\n"
        );
        Self {
            head: head.len(),
            bytes: [head.as_bytes(), body].concat(),
        }
    }

    /// Returns this request with another header.
    pub(crate) fn with_header(&self, name: &str, value: &str) -> Self {
        // Before the empty line at the end of the head.
        let (head, rest) = self.bytes.split_at(self.head - 2);
        let line = format!("{name}: {value}\r\n");
        Self {
            bytes: [head, line.as_bytes(), rest].concat(),
            head: self.head + line.len(),
        }
    }

    /// Returns a request to classify one image, which is the raw body.
    pub(crate) fn classify(image: &[u8]) -> Self {
        Self::post("/v1/classify?top_k=1", "application/octet-stream", image)
    }

    /// Returns a request to classify several images, which are the parts of one form.
    pub(crate) fn classify_form(images: &[&[u8]]) -> Self {
        let mut body = Vec::new();
        for image in images {
            let head = "content-disposition: form-data; name=\"image\"; filename=\"a\"";
            body.extend_from_slice(format!("--{BOUNDARY}\r\n{head}\r\n\r\n").as_bytes());
            body.extend_from_slice(image);
            body.extend_from_slice(b"\r\n");
        }
        body.extend_from_slice(format!("--{BOUNDARY}--\r\n").as_bytes());
        let kind = format!("multipart/form-data; boundary={BOUNDARY}");
        Self::post("/v1/classify?top_k=1", &kind, &body)
    }

    /// Returns `count` copies of this request in one byte string, to be sent without waiting for
    /// responses between them (pipelining).
    pub(crate) fn repeated(&self, count: usize) -> Self {
        Self {
            bytes: self.bytes.repeat(count),
            head: self.head,
        }
    }

    /// Returns the bytes of the head and the body.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Returns the length of the head in bytes.
    pub(crate) fn head(&self) -> usize {
        self.head
    }
}

/// A response that was read to its end.
#[derive(Debug)]
pub(crate) struct Response {
    /// The status code.
    pub(crate) status: u16,
    /// The body.
    pub(crate) body: Vec<u8>,
    /// Whether the server closes the connection after this response.
    pub(crate) closes: bool,
    /// The milliseconds that the response states for the run of the network. `None` if it states none.
    pub(crate) inference: Option<f64>,
}

impl Response {
    /// Returns the labels in the body, in order. Empty if the body has none.
    pub(crate) fn labels(&self) -> Vec<String> {
        let body = String::from_utf8_lossy(&self.body);
        let labels = body.split("\"label\":\"").skip(1);
        let labels = labels.filter_map(|rest| rest.split('"').next());
        labels.map(str::to_owned).collect()
    }

    /// Returns whether the status is 200 and the body has `label` exactly `images` times: once per
    /// image, because requests ask for the best label only.
    pub(crate) fn has_label(&self, label: &str, images: usize) -> bool {
        let body = String::from_utf8_lossy(&self.body);
        let found = body.matches(&format!("\"label\":\"{label}\"")).count();
        self.status == 200 && found == images
    }
}

/// A connection to the server, which is opened when it is needed and kept open between requests.
#[derive(Debug)]
pub(crate) struct Connection {
    address: SocketAddr,
    stream: Option<TcpStream>,
    /// Why the last request could not be sent completely. The server may respond and close before it has read
    /// everything, so this does not mean that there is no response.
    unsent: Option<io::Error>,
}

impl Connection {
    /// Returns a connection to `address` that is not open yet.
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self {
            address,
            stream: None,
            unsent: None,
        }
    }

    /// Sends `request` and returns the response. If the server has closed the connection that was
    /// kept open, the request is sent once more over a new connection, as every HTTP client does.
    pub(crate) fn send(&mut self, request: &Request) -> io::Result<Response> {
        let reused = self.write(request)?.is_none();
        let mut response = self.read()?;
        if response.is_none() && reused {
            self.write(request)?;
            response = self.read()?;
        }
        response.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    /// Returns whether the connection is open, as far as is known.
    pub(crate) fn is_open(&self) -> bool {
        self.stream.is_some()
    }

    /// Closes the connection. The next request opens a new one.
    pub(crate) fn close(&mut self) {
        self.stream = None;
    }

    /// Sends `request` without waiting for the response. Returns the stream if it was opened for the request.
    pub(crate) fn write(&mut self, request: &Request) -> io::Result<Option<&TcpStream>> {
        self.write_with(|stream| stream.write_all(request.bytes()))
    }

    /// Sends the `length` bytes of `request` as [`Connection::write`] does, without a copy of them.
    pub(crate) fn write_file(
        &mut self,
        request: &File,
        length: usize,
    ) -> io::Result<Option<&TcpStream>> {
        self.write_with(|stream| {
            let mut sent = 0;
            while (sent as usize) < length {
                let left = length - sent as usize;
                if sendfile(&*stream, request, Some(&mut sent), left)? == 0 {
                    return Err(io::ErrorKind::WriteZero.into());
                }
            }
            Ok(())
        })
    }

    fn write_with(
        &mut self,
        send: impl FnOnce(&mut TcpStream) -> io::Result<()>,
    ) -> io::Result<Option<&TcpStream>> {
        let reused = self.stream.is_some();
        let stream = match self.stream.take() {
            Some(stream) => stream,
            None => connect(self.address)?,
        };
        let stream = self.stream.insert(stream);
        self.unsent = send(stream).err();
        Ok((!reused).then_some(stream))
    }

    /// Returns the response to the request that was sent last; `None` if the server closed the connection before the
    /// first byte of the response.
    pub(crate) fn read(&mut self) -> io::Result<Option<Response>> {
        let mut stream = self.stream.take().ok_or(io::ErrorKind::NotConnected)?;
        match read_response(&mut stream) {
            Ok(Some(response)) => {
                self.stream = (!response.closes).then_some(stream);
                Ok(Some(response))
            }
            Ok(None) => Ok(None),
            Err(error) if closed(&error) => Ok(None),
            Err(error) => Err(self.unsent.take().unwrap_or(error)),
        }
    }
}

/// Opens a connection to `address`. Connecting, and each later read or write, fails after
/// [`PATIENCE`].
pub(crate) fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_nodelay(true)?;
    // So that a client that serves many connections does not have to wait while it sends an image.
    set_socket_send_buffer_size(&stream, SEND_BUFFER)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn closed(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
    )
}

/// Reads and returns one response; `None` if the server closes the connection before the first byte
/// of the response.
///
/// # Errors
/// If the connection fails or ends within the response, or if the head of the response cannot be
/// parsed.
pub(crate) fn read_response(stream: &mut impl Read) -> io::Result<Option<Response>> {
    let mut input = Vec::with_capacity(2048);
    let end = loop {
        let old = input.len();
        input.resize(old + 2048, 0);
        let read = match stream.read(&mut input[old..]) {
            Err(error) if old > 0 && closed(&error) => {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            read => read?,
        };
        input.truncate(old + read);
        if let Some(at) = input.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        if read == 0 {
            return match old {
                0 => Ok(None),
                _ => Err(io::ErrorKind::UnexpectedEof.into()),
            };
        }
    };
    let head = parse_head(&input[..end])?;
    let Head { length, .. } = head;
    let mut body = input.split_off(end);
    let read = body.len().min(length);
    body.resize(length, 0);
    stream.read_exact(&mut body[read..])?;
    Ok(Some(Response {
        status: head.status,
        body,
        closes: head.closes,
        inference: head.inference,
    }))
}

/// The head of a response.
struct Head {
    status: u16,
    /// Length of the body in bytes; 0 if the head states none.
    length: usize,
    /// Whether the server closes the connection after the response.
    closes: bool,
    /// The milliseconds of the run of the network.
    inference: Option<f64>,
}

/// Parses the head of a response.
fn parse_head(head: &[u8]) -> io::Result<Head> {
    let malformed = || io::Error::new(io::ErrorKind::InvalidData, "malformed head of a response");
    let head = std::str::from_utf8(head).map_err(|_| malformed())?;
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1));
    let status = status.and_then(|status| status.parse().ok());
    let mut parsed = Head {
        status: status.ok_or_else(malformed)?,
        length: 0,
        closes: false,
        inference: None,
    };
    for line in lines {
        let Some((name, value)) = line.split_once(':') else {
            continue;
        };
        if name.eq_ignore_ascii_case("content-length") {
            parsed.length = value.trim().parse().map_err(|_| malformed())?;
        } else if name.eq_ignore_ascii_case("connection") {
            parsed.closes = value.trim().eq_ignore_ascii_case("close");
        } else if name.eq_ignore_ascii_case("server-timing") {
            parsed.inference = inference_millis(value);
        }
    }
    Ok(parsed)
}

/// Returns the milliseconds of the run of the network in `timing`, the value of a header `Server-Timing`.
pub(crate) fn inference_millis(timing: &str) -> Option<f64> {
    let mut stages = timing.split(',');
    stages.find_map(|stage| stage.trim().strip_prefix("inference;dur=")?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn responses_are_read_to_their_end() {
        let text = "HTTP/1.1 429 Too Many\r\nContent-Length: 3\r\nconnection: close\r\n\
                    server-timing: queue;dur=0.1, inference;dur=2.5, total;dur=3\r\n\r\nabc";
        let response = read_response(&mut text.as_bytes()).unwrap().unwrap();
        assert_eq!((response.status, response.closes), (429, true));
        assert_eq!(response.inference, Some(2.5));
        assert_eq!(response.body, b"abc");
        assert!(read_response(&mut [].as_slice()).unwrap().is_none());
        for cut in [10, text.len() - 1] {
            assert!(read_response(&mut &text.as_bytes()[..cut]).is_err());
        }
        assert!(read_response(&mut b"nonsense\r\n\r\n".as_slice()).is_err());
    }

    #[test]
    fn labels_are_counted() {
        let response = Response {
            status: 200,
            body: br#"[{"label":"cat"},{"label":"cat"}]"#.to_vec(),
            closes: false,
            inference: None,
        };
        assert!(response.has_label("cat", 2));
        assert!(!response.has_label("cat", 1) && !response.has_label("dog", 2));
    }
}
