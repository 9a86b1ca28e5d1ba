//! `agent-echo probe`: whether targets answer from inside a guest.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::process::ExitCode;
use std::time::Duration;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, ipproto};

use crate::log;

/// How long a target may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// Targets tried at once at most.
const MAX_TARGETS: usize = 256;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Tcp,
    Udp,
    Icmp,
}

impl Kind {
    fn parse(word: &str) -> Option<Self> {
        match word {
            "tcp" => Some(Self::Tcp),
            "udp" => Some(Self::Udp),
            "icmp" => Some(Self::Icmp),
            _ => None,
        }
    }
}

/// What became of a try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// It answered: a connection, or a packet back.
    Answered,
    /// It, or something on the way, said no.
    Refused,
    /// Nothing came back.
    Timeout,
    /// There is no way to it.
    Unreachable,
    /// This process may not even try.
    Denied,
    /// Something else.
    Failed,
}

impl Outcome {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Refused => "refused",
            Self::Timeout => "timeout",
            Self::Unreachable => "unreachable",
            Self::Denied => "denied",
            Self::Failed => "failed",
        }
    }

    fn of(result: io::Result<()>) -> Self {
        let Err(error) = result else { return Self::Answered };
        match error.kind() {
            io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => Self::Refused,
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Self::Timeout,
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable | io::ErrorKind::AddrNotAvailable => {
                Self::Unreachable
            }
            io::ErrorKind::PermissionDenied => Self::Denied,
            _ if error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error()) => Self::Unreachable,
            _ => Self::Failed,
        }
    }
}

/// Tries all targets at once and prints a line for each, in their order. Ends
/// with 1 if any answered, with 2 if the words make no sense.
pub(crate) fn run(words: &[&str]) -> ExitCode {
    let Some(targets) = targets(words) else {
        log::line("usage: agent-echo probe tcp|udp <address>:<port>… icmp <address>…");
        return ExitCode::from(2);
    };
    let tries: Vec<_> =
        targets.iter().map(|&(kind, target)| std::thread::spawn(move || attempt(kind, target))).collect();
    let mut answered = false;
    for (&(kind, target), tried) in targets.iter().zip(tries) {
        let outcome = tried.join().unwrap_or(Outcome::Failed);
        answered |= outcome == Outcome::Answered;
        let kind = format!("{kind:?}").to_lowercase();
        let target = if kind == "icmp" { target.ip().to_string() } else { target.to_string() };
        log::line(&format!("{kind} {target} {}", outcome.as_str()));
    }
    ExitCode::from(u8::from(answered))
}

/// `tcp a b udp c` as pairs; nothing if a word is out of place.
fn targets(words: &[&str]) -> Option<Vec<(Kind, SocketAddr)>> {
    let mut kind = None;
    let mut targets = Vec::new();
    for word in words {
        match (Kind::parse(word), kind) {
            (Some(next), _) => kind = Some(next),
            (None, Some(Kind::Icmp)) => targets.push((Kind::Icmp, SocketAddr::new(word.parse().ok()?, 0))),
            (None, Some(kind)) => targets.push((kind, word.parse().ok()?)),
            (None, None) => return None,
        }
    }
    (1..=MAX_TARGETS).contains(&targets.len()).then_some(targets)
}

fn attempt(kind: Kind, target: SocketAddr) -> Outcome {
    Outcome::of(match kind {
        Kind::Tcp => TcpStream::connect_timeout(&target, PATIENCE).map(|_| ()),
        Kind::Udp => udp(target),
        Kind::Icmp => ping(target),
    })
}

/// Sends a DNS query for the root's name servers, which anything that listens on
/// port 53 answers, and waits for whatever comes back.
fn udp(target: SocketAddr) -> io::Result<()> {
    const QUERY: [u8; 17] = [0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1];
    let any: IpAddr = if target.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect(target)?;
    socket.send(&QUERY)?;
    socket.recv(&mut [0; 512]).map(|_| ())
}

/// Sends one echo request through the kernel's own ping sockets.
fn ping(target: SocketAddr) -> io::Result<()> {
    let (family, protocol, request) = if target.is_ipv4() {
        (AddressFamily::INET, ipproto::ICMP, 8)
    } else {
        (AddressFamily::INET6, ipproto::ICMPV6, 128)
    };
    let socket = rustix::net::socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC, Some(protocol))?;
    rustix::net::sockopt::set_socket_timeout(&socket, rustix::net::sockopt::Timeout::Recv, Some(PATIENCE))?;
    rustix::net::connect(&socket, &target)?;
    rustix::net::send(&socket, &[request, 0, 0, 0, 0, 0, 0, 1, b'p', b'i', b'n', b'g'], SendFlags::empty())?;
    rustix::net::recv(&socket, &mut [0_u8; 512][..], RecvFlags::empty())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn kinds_stand_before_their_targets() {
        let parsed = targets(&["tcp", "127.0.0.1:80", "[::1]:80", "udp", "10.0.0.1:53", "icmp", "fe80::1"]).unwrap();
        assert_eq!(
            parsed.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(),
            [Kind::Tcp, Kind::Tcp, Kind::Udp, Kind::Icmp]
        );
        for odd in [&["127.0.0.1:80"][..], &["tcp"], &["tcp", "localhost"], &[]] {
            assert!(targets(odd).is_none(), "{odd:?}");
        }
    }

    #[test]
    fn a_listener_answers_and_a_closed_port_refuses() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let open = listener.local_addr().unwrap();
        assert_eq!(attempt(Kind::Tcp, open), Outcome::Answered);
        drop(listener);
        assert_eq!(attempt(Kind::Tcp, open), Outcome::Refused);
        assert_eq!(attempt(Kind::Udp, open), Outcome::Refused);
    }
}
