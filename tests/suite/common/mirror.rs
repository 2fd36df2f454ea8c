//! A server of checkpoints over TLS that behaves as a test wants, with a certificate of the test authority.

use std::io::{BufRead as _, BufReader, Read as _, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::tls::Authority;

/// A request that the server has received.
#[derive(Debug, Clone, Default)]
pub struct Ask {
    pub path: String,
    /// First byte of the `range` header. `None` without one.
    pub from: Option<usize>,
    pub if_range: Option<String>,
}

/// What the server does with a request: writes a response, or a part of it. The connection is closed then.
pub type Behavior = Box<dyn Fn(&Ask, usize, &mut dyn Write) -> std::io::Result<()> + Send + Sync>;

/// A running server.
pub struct Mirror {
    pub authority: Authority,
    pub address: SocketAddr,
    asked: Arc<Mutex<Vec<Ask>>>,
    stopped: Arc<AtomicBool>,
}

impl Mirror {
    /// Starts a server that gives each request and its number, from 0, to `behavior`.
    pub fn start(behavior: Behavior) -> Self {
        let authority = Authority::new();
        let pem = |name: &str| std::fs::read(authority.path(name)).unwrap();
        let certificate = CertificateDer::from_pem_slice(&pem("tls.crt")).unwrap();
        let key = PrivateKeyDer::from_pem_slice(&pem("tls.key")).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mirror = Self {
            authority,
            address: listener.local_addr().unwrap(),
            asked: Arc::default(),
            stopped: Arc::default(),
        };
        let (asked, stopped) = (Arc::clone(&mirror.asked), Arc::clone(&mirror.stopped));
        let (config, behavior) = (Arc::new(config), Arc::new(behavior));
        let count = Arc::new(AtomicUsize::new(0));
        std::thread::spawn(move || {
            for socket in listener.incoming() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let (config, behavior) = (Arc::clone(&config), Arc::clone(&behavior));
                let (asked, count) = (Arc::clone(&asked), Arc::clone(&count));
                std::thread::spawn(move || -> std::io::Result<()> {
                    let socket = socket?;
                    socket.set_read_timeout(Some(Duration::from_secs(30)))?;
                    let connection = ServerConnection::new(config).unwrap();
                    let mut stream = BufReader::new(StreamOwned::new(connection, socket));
                    let ask = read(&mut stream)?;
                    asked.lock().unwrap().push(ask.clone());
                    let number = count.fetch_add(1, Ordering::SeqCst);
                    let stream = stream.get_mut();
                    behavior(&ask, number, stream)?;
                    stream.conn.send_close_notify();
                    stream.flush()?;
                    // The client closes first, so that the kernel does not drop bytes on their way.
                    let _ = stream.read(&mut [0]);
                    Ok(())
                });
            }
        });
        mirror
    }

    /// Returns the URL of the file `name`.
    pub fn url(&self, name: &str) -> String {
        format!("https://localhost:{}/{name}", self.address.port())
    }

    /// Returns the path of the file with the certificate of the authority.
    pub fn ca(&self) -> String {
        self.authority.path("ca.crt").to_str().unwrap().to_owned()
    }

    /// Returns the requests that have arrived.
    pub fn asked(&self) -> Vec<Ask> {
        self.asked.lock().unwrap().clone()
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        let _ = std::net::TcpStream::connect(self.address);
    }
}

/// Reads the head of a request.
fn read(stream: &mut impl std::io::BufRead) -> std::io::Result<Ask> {
    let mut ask = Ask::default();
    let mut lines = stream.lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    let path = first.split(' ').nth(1);
    path.unwrap_or_default().clone_into(&mut ask.path);
    for line in lines {
        let line = line?;
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(": ").unwrap_or_default();
        match name.to_ascii_lowercase().as_str() {
            "range" => {
                let from = value
                    .strip_prefix("bytes=")
                    .and_then(|range| range.strip_suffix('-'));
                ask.from = from.and_then(|from| from.parse().ok());
            }
            "if-range" => ask.if_range = Some(value.to_owned()),
            _ => {}
        }
    }
    Ok(ask)
}

/// Writes a response with `headers`, each with a line break at its end.
pub fn respond(
    to: &mut dyn Write,
    status: &str,
    headers: &str,
    body: &[u8],
) -> std::io::Result<()> {
    write!(to, "HTTP/1.1 {status}\r\n{headers}\r\n")?;
    to.write_all(body)
}

/// Writes the file `content` or the requested rest of it, as a good server does, but at most `most` bytes of the body.
pub fn serve(ask: &Ask, content: &[u8], most: usize, to: &mut dyn Write) -> std::io::Result<()> {
    let from = ask.from.unwrap_or(0);
    let size = content.len();
    if from >= size && from > 0 {
        return respond(
            to,
            "416 Range Not Satisfiable",
            "content-length: 0\r\n",
            b"",
        );
    }
    let rest = &content[from..];
    let headers = format!("content-length: {}\r\netag: \"v1\"\r\n", rest.len());
    let range = format!("content-range: bytes {from}-{}/{size}\r\n", size - 1);
    let (status, headers) = if ask.from.is_some() {
        ("206 Partial Content", headers + &range)
    } else {
        ("200 OK", headers)
    };
    respond(to, status, &headers, &rest[..most.min(rest.len())])
}
