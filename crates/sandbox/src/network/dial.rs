//! Sockets inside a guest's namespace, for code outside of it.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread;

use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, socket_with};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{mpsc, oneshot};
use wire::v1::pod::GUEST_ADDRESS;

/// Sockets that are asked for at the same time. Whoever comes later waits, and is
/// served in the order of coming; how many may wait for one guest is bounded by who
/// asks. Each socket takes microseconds.
const QUEUE: usize = 64;

struct Request {
    namespace: PathBuf,
    answer: oneshot::Sender<io::Result<OwnedFd>>,
}

/// Makes sockets in namespaces. A socket belongs for life to the namespace in
/// which it was made, so one thread of our own steps in, makes it, and steps out;
/// everything else about the socket is done by whoever asked.
#[derive(Clone, Debug)]
pub(crate) struct NamespaceSockets(mpsc::Sender<Request>);

impl NamespaceSockets {
    pub(crate) fn start() -> io::Result<Self> {
        let home = File::open("/proc/self/ns/net")?;
        Self::over(move |namespace| {
            let socket = socket_in(namespace);
            // A thread that stayed would keep a namespace alive that is long removed.
            enter(&home).inspect_err(|error| tracing::error!(%error, "the dialer cannot leave a guest's namespace"))?;
            Ok(socket)
        })
    }

    /// A thread that makes sockets like this, until it fails for good.
    fn over(make: impl Fn(&Path) -> io::Result<io::Result<OwnedFd>> + Send + 'static) -> io::Result<Self> {
        let (sender, mut requests) = mpsc::channel::<Request>(QUEUE);
        let serve = move || {
            while let Some(Request { namespace, answer }) = requests.blocking_recv() {
                // Whoever asked may have gone, before or after.
                if answer.is_closed() {
                    continue;
                }
                let Ok(socket) = make(&namespace) else { return };
                let _ = answer.send(socket);
            }
        };
        thread::Builder::new().name("dialer".to_owned()).spawn(serve)?;
        Ok(Self(sender))
    }

    /// Connects to a port of the guest that is alone in this namespace.
    pub(crate) async fn connect(&self, namespace: PathBuf, port: u16) -> io::Result<TcpStream> {
        let socket = self.socket(namespace).await?;
        let stream = TcpSocket::from_std_stream(socket.into()).connect(SocketAddr::from((GUEST_ADDRESS, port))).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    async fn socket(&self, namespace: PathBuf) -> io::Result<OwnedFd> {
        let (answer, made) = oneshot::channel();
        self.0.send(Request { namespace, answer }).await.map_err(|_| io::ErrorKind::BrokenPipe)?;
        made.await.map_err(|_| io::ErrorKind::BrokenPipe)?
    }
}

fn socket_in(namespace: &Path) -> io::Result<OwnedFd> {
    enter(&File::open(namespace)?)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socket_with(AddressFamily::INET, SocketType::STREAM, flags, Some(ipproto::TCP))?)
}

fn enter(namespace: &File) -> io::Result<()> {
    Ok(move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?)
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;
    use futures_util::poll;

    use super::*;

    #[tokio::test]
    async fn fault_2_12_hundreds_of_sockets_at_once_wait_for_their_turn() {
        let (shut, gate) = std::sync::mpsc::channel::<()>();
        let dialer = NamespaceSockets::over(move |_| {
            // Opens when its other end is gone.
            let _ = gate.recv();
            Ok(File::open("/dev/null").map(OwnedFd::from))
        })
        .unwrap();
        let asked = (0..250).map(|_| Box::pin(dialer.socket(PathBuf::from("busy"))));
        let mut busy = join_all(asked);
        let mut neighbour = Box::pin(dialer.socket(PathBuf::from("neighbour")));
        assert!(poll!(&mut busy).is_pending() && poll!(&mut neighbour).is_pending());
        drop(shut);
        let (busy, neighbour) = tokio::join!(busy, neighbour);
        assert_eq!(busy.iter().filter(|socket| socket.is_err()).count(), 0);
        assert!(neighbour.is_ok());
    }

    #[tokio::test]
    async fn a_dialer_whose_thread_is_gone_says_so() {
        let dialer = NamespaceSockets::over(|_| Err(io::ErrorKind::PermissionDenied.into())).unwrap();
        for _ in 0..2 {
            assert_eq!(dialer.socket(PathBuf::new()).await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        }
    }
}
