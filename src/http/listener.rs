//! Binds a TCP listener whose queue has room for a burst of connections.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use tokio::net::{TcpListener, TcpSocket};

/// Maximum number of connections that the kernel holds until the server accepts them. The kernel
/// drops a client's attempt to open a further connection, and the client repeats it only after a
/// second. The default limit of Linux, `net.core.somaxconn`, is the same.
pub(super) const BACKLOG: u32 = 4096;

/// Which clients reach the IPv6 address `[::]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Clients of IPv6 only.
    Ipv6,
    /// Clients of IPv6 and of IPv4, whatever the default of the system.
    Both,
}

/// Returns a listener on `address`. It can bind an address whose earlier connections the kernel
/// still remembers, so that a server can be restarted immediately. `family` concerns `[::]` only. Must be
/// called within a tokio runtime.
///
/// # Errors
/// If the address is in use, not available, or may not be bound by this process.
pub fn bind(address: SocketAddr, family: Family) -> io::Result<TcpListener> {
    let all = address.ip().is_unspecified() && family == Family::Both;
    let (socket, address) = match address {
        SocketAddr::V4(_) => (TcpSocket::new_v4()?, address),
        SocketAddr::V6(_) => match TcpSocket::new_v6() {
            // All addresses of a kernel without IPv6 are those of IPv4.
            Err(error) if all && lacks_family(&error) => {
                let address = (Ipv4Addr::UNSPECIFIED, address.port()).into();
                (TcpSocket::new_v4()?, address)
            }
            socket => (socket?, address),
        },
    };
    if address.is_ipv6() && address.ip().is_unspecified() {
        rustix::net::sockopt::set_ipv6_v6only(&socket, family == Family::Ipv6)?;
    }
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Returns whether the kernel does not support a socket's address family.
fn lacks_family(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error())
}
