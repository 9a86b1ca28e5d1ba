//! Sockets inside a guest's namespace, for code outside of it.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, socket_with};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::oneshot;
use wire::pod::GUEST_ADDRESS;

/// Sockets that may wait to be made; each takes microseconds.
const QUEUE: usize = 64;

struct Request {
    namespace: PathBuf,
    answer: oneshot::Sender<io::Result<OwnedFd>>,
}

/// Makes sockets in namespaces. A socket belongs for life to the namespace in
/// which it was made, so one thread of our own steps in, makes it, and steps out;
/// everything else about the socket is done by whoever asked.
#[derive(Clone, Debug)]
pub(crate) struct Dialer(SyncSender<Request>);

impl Dialer {
    pub(crate) fn start() -> io::Result<Self> {
        let home = File::open("/proc/self/ns/net")?;
        let (sender, receiver) = sync_channel(QUEUE);
        thread::Builder::new().name("dialer".to_owned()).spawn(move || serve(&home, &receiver))?;
        Ok(Self(sender))
    }

    /// Connects to a port of the guest that is alone in this namespace.
    pub(crate) async fn connect(&self, namespace: PathBuf, port: u16) -> io::Result<TcpStream> {
        let (answer, made) = oneshot::channel();
        self.0.try_send(Request { namespace, answer }).map_err(|_| io::ErrorKind::ResourceBusy)?;
        let socket = made.await.map_err(|_| io::ErrorKind::BrokenPipe)??;
        let stream = TcpSocket::from_std_stream(socket.into()).connect(SocketAddr::from((GUEST_ADDRESS, port))).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

fn serve(home: &File, requests: &Receiver<Request>) {
    for Request { namespace, answer } in requests {
        let socket = socket_in(&namespace);
        // A thread that stayed would keep a namespace alive that is long removed.
        if let Err(error) = enter(home) {
            tracing::error!(%error, "the dialer cannot leave a guest's namespace");
            return;
        }
        // Whoever asked may have gone.
        let _ = answer.send(socket);
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
