//! Records the reads and writes of a socket, before TLS.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::activity::Activity;
use super::stream::Stream;

/// Number of bytes after which an HTTP/2 connection lets other tasks run, although it could read more. h2 parses every
/// frame that it can read before it returns.
const MAX_BURST: usize = 16 << 10;
/// The same for HTTP/1.1, of which hyper handles 16 reads at most before it returns. Each return can cost a switch to
/// another thread.
const MAX_PLAIN_BURST: usize = 512 << 10;

/// A socket whose reads and writes are recorded in `activity`.
pub(super) struct Observed {
    pub(super) stream: Stream,
    pub(super) activity: Arc<Activity>,
    /// Number of bytes read since the connection last let other tasks run.
    burst: usize,
}

impl Observed {
    pub(super) fn new(stream: Stream, activity: Arc<Activity>) -> Self {
        Self {
            stream,
            activity,
            burst: 0,
        }
    }

    fn record(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match &written {
            Poll::Ready(Ok(bytes)) => self.activity.wrote(*bytes),
            Poll::Ready(Err(_)) => {}
            Poll::Pending => self.activity.blocked(),
        }
        written
    }
}

impl AsyncRead for Observed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.burst >= MAX_BURST
            && (self.burst >= MAX_PLAIN_BURST || self.activity.is_multiplexed())
        {
            self.burst = 0;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        let Poll::Ready(read) = Pin::new(&mut self.stream).poll_read(context, buffer) else {
            self.burst = 0;
            return Poll::Pending;
        };
        read?;
        let bytes = buffer.filled().len() - before;
        self.burst += bytes;
        if bytes > 0 {
            self.activity.received(bytes)?;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Observed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.record(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.record(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// Flushes the socket. hyper and rustls call this only when their own buffers are empty, so on success the
    /// socket has accepted every byte of the response so far.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(context))?;
        self.activity.flushed();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::io::Write as _;
    use std::time::Duration;

    use tokio::net::TcpListener;

    use super::super::server::ConnectionTimeouts;
    use super::*;

    #[tokio::test]
    async fn a_connection_with_much_to_read_lets_other_tasks_run() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        client.write_all(&vec![0; 2 * MAX_BURST]).unwrap();
        // All bytes have arrived in the socket.
        let mut peeked = vec![0; 2 * MAX_BURST];
        while stream.peek(&mut peeked).await.unwrap() < peeked.len() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let activity = Activity::new(ConnectionTimeouts::default(), Arc::default());
        activity.multiplex(1 << 20);
        let mut io = Observed::new(Stream::Tcp(stream), Arc::new(activity));
        let mut bytes = 0;
        poll_fn(|context| {
            loop {
                let mut buffer = [0; 1 << 10];
                let mut buffer = ReadBuf::new(&mut buffer);
                if Pin::new(&mut io)
                    .poll_read(context, &mut buffer)
                    .is_pending()
                {
                    return Poll::Ready(());
                }
                bytes += buffer.filled().len();
            }
        })
        .await;
        assert_eq!(bytes, MAX_BURST);
    }
}
