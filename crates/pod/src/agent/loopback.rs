//! The agent's port, as the agent itself reaches it: many listen for their own machine alone.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::net::TcpStream;

/// In the order in which they are tried.
const ADDRESSES: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

/// Connects to a port at this machine's loopback, over IPv4 or else IPv6.
///
/// # Errors
/// Nobody listens there.
pub(crate) async fn connect(port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(&ADDRESSES.map(|address| SocketAddr::new(address, port))[..]).await?;
    // A connection without it is slower, not wrong.
    let _ = stream.set_nodelay(true);
    Ok(stream)
}
