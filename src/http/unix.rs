//! Listening Unix sockets and their files.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream as Client;
use std::path::{Path, PathBuf};
use std::task::{Context, Poll};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};
use thiserror::Error;
use tokio::net::unix::SocketAddr;
use tokio::net::{UnixListener, UnixStream};

use super::listener::BACKLOG;

/// A listening Unix socket. Dropping the value removes the file of the socket, if this process has made it.
#[derive(Debug)]
pub struct UnixSocket {
    /// Dropped before the listener, so that no other socket can have the identity of the file yet.
    _file: Option<SocketFile>,
    listener: UnixListener,
}

/// A Unix socket cannot be made.
#[derive(Debug, Error)]
pub enum UnixError {
    /// Another process listens on the socket.
    #[error("the address is in use")]
    InUse,
    /// The path has a file that is not a socket, for example a symbolic link, and that is therefore kept.
    #[error("the path exists and is not a socket; remove it or choose another path")]
    NotASocket,
    /// A call of the operating system has failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl UnixSocket {
    /// Makes the file `path` with the permissions `mode` and listens on it. Replaces the file of a socket on which
    /// no process listens any more. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`UnixError`] if another process listens on the socket, if the path has another file, or if the file cannot
    /// be made.
    pub fn bind(path: &Path, mode: u32) -> Result<Self, UnixError> {
        let socket = tokio::net::UnixSocket::new_stream()?;
        if let Err(error) = socket.bind(path) {
            if error.kind() != io::ErrorKind::AddrInUse {
                return Err(error.into());
            }
            remove_stale(path)?;
            socket.bind(path)?;
        }
        let file = SocketFile::new(path)?;
        // Nobody can connect before the socket listens, so there is no time in which the wrong clients can.
        std::fs::set_permissions(path, Permissions::from_mode(mode))?;
        Ok(Self {
            _file: Some(file),
            listener: socket.listen(BACKLOG)?,
        })
    }

    pub(super) fn poll_accept(
        &self,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<(UnixStream, SocketAddr)>> {
        self.listener.poll_accept(context)
    }
}

impl From<UnixListener> for UnixSocket {
    /// Returns the socket of a listener whose file belongs to another process.
    fn from(listener: UnixListener) -> Self {
        Self {
            _file: None,
            listener,
        }
    }
}

/// Identity of a file: device and inode.
type FileId = (u64, u64);

/// The file of a listening socket. Dropping the value removes it, unless another file has its path now.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    id: FileId,
}

impl SocketFile {
    fn new(path: &Path) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            id: socket_id(path)?.ok_or(io::ErrorKind::NotFound)?,
        })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if socket_id(&self.path).is_ok_and(|id| id == Some(self.id)) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Returns the identity of the socket `path`, or `None` if the file is not a socket.
fn socket_id(path: &Path) -> io::Result<Option<FileId>> {
    let file = std::fs::symlink_metadata(path)?;
    let id = (file.dev(), file.ino());
    Ok(file.file_type().is_socket().then_some(id))
}

/// Removes the file of a socket on which no process listens.
///
/// # Errors
/// As [`UnixSocket::bind`].
fn remove_stale(path: &Path) -> Result<(), UnixError> {
    let Some(id) = socket_id(path)? else {
        return Err(UnixError::NotASocket);
    };
    if is_alive(path)? {
        return Err(UnixError::InUse);
    }
    // Another server may have replaced the same file meanwhile.
    if socket_id(path)? != Some(id) {
        return Err(UnixError::InUse);
    }
    Ok(std::fs::remove_file(path)?)
}

/// Returns whether a process listens on the socket `path`. Does not block.
fn is_alive(path: &Path) -> io::Result<bool> {
    match try_connect(path) {
        // `AGAIN`: the queue of the listener is full. `PROTOTYPE`: it is a socket of another type.
        Ok(_) | Err(Errno::AGAIN | Errno::PROTOTYPE) => Ok(true),
        Err(Errno::CONNREFUSED) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Connects to the server that listens on the socket `path`. Unlike the standard library, does not wait if the queue
/// of the listener is full.
///
/// # Errors
/// If there is no such server, or if its queue is full.
pub fn connect(path: &Path) -> io::Result<Client> {
    let client = try_connect(path)?;
    client.set_nonblocking(false)?;
    Ok(client)
}

/// Returns a connection to the socket `path`, which does not block.
fn try_connect(path: &Path) -> Result<Client, Errno> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let client = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&client, &SocketAddrUnix::new(path)?)?;
    Ok(client.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the result of binding `path`: `Ok` if it works, else the text of the error.
    fn bind(path: &Path) -> Result<UnixSocket, String> {
        UnixSocket::bind(path, 0o600).map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn the_file_of_a_dead_server_is_replaced_and_that_of_a_live_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.sock");
        // The standard library does not remove the file.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let socket = bind(&path).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert!(bind(&path).unwrap_err().contains("in use"));
        drop(socket);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn other_files_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "text").unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let dangling = folder.path().join("dangling");
        let target = folder.path().join("target");
        std::os::unix::fs::symlink(&target, &dangling).unwrap();
        for path in [&file, &link, &dangling, &folder.path().to_owned()] {
            assert!(bind(path).unwrap_err().contains("not a socket"), "{path:?}");
        }
        assert_eq!(std::fs::read_to_string(&link).unwrap(), "text");
        assert!(!target.exists());
        let datagram = folder.path().join("datagram");
        let _datagram = std::os::unix::net::UnixDatagram::bind(&datagram).unwrap();
        assert!(bind(&datagram).unwrap_err().contains("in use"));
    }

    #[tokio::test]
    async fn the_file_of_another_server_is_not_removed_at_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.sock");
        let first = bind(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let _second = bind(&path).unwrap();
        drop(first);
        assert!(path.exists());
    }
}
