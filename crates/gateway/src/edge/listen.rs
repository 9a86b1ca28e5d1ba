//! Listeners: where they listen, and how many connections they take.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustix::net::sockopt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;

use crate::auth::audience::ListenAddress;
use crate::edge::connection::Server;
use crate::edge::eviction::ConnectionsByIdleTime;
use crate::edge::limits::{client_block, client_key};
use crate::edge::semaphore::{KeyedPermit, KeyedSemaphore};
use crate::edge::source::ConnectionInfo;
use crate::ingress::target::ListenerKind;
use crate::ingress::urls::{AgentHostPattern, AgentPathPattern};
use crate::{Config, ConfigError, Limits, TlsConfig};

/// The pause after the system refuses to accept (out of descriptors, mostly).
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);
/// A block of addresses may have so many times the connections of one address.
const BLOCK: u32 = 4;
/// How often an idle connection is evicted while there is no room for a new one.
const EVICT_EVERY: Duration = Duration::from_millis(100);
/// The silence after which a client is asked whether it is there, the time between
/// two such questions, and how many stay without an answer before it is gone.
const KEEP_IDLE: Duration = Duration::from_secs(60);
const KEEP_EVERY: Duration = Duration::from_secs(15);
const KEEP_COUNT: u32 = 4;
/// Why nothing can be listened on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// An address cannot be listened on.
    #[error("listen on {address}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// A listener does not know its own address.
    #[error("ask a listener for its address")]
    Address(#[source] io::Error),
    /// No address can be told to clients.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// Sockets that listen already.
#[derive(Debug, Default)]
pub struct Listeners {
    /// For plain HTTP.
    pub plain: Vec<TcpListener>,
    /// For HTTPS.
    pub tls: Vec<TcpListener>,
    /// For agents under paths, in plain HTTP.
    pub paths: Vec<TcpListener>,
}

impl Listeners {
    /// Listens where the configuration says.
    ///
    /// # Errors
    /// Names the first address that cannot be had.
    pub async fn bind(config: &Config, tls: &TlsConfig) -> Result<Self, ListenError> {
        Ok(Self {
            plain: bind_all(&config.listen).await?,
            tls: bind_all(&tls.listen).await?,
            paths: bind_all(&config.path_addresses(tls)).await?,
        })
    }

    /// Where agents answer unless the configuration says otherwise.
    pub(crate) fn agent_url(&self) -> Result<AgentHostPattern, ListenError> {
        Ok(AgentHostPattern::localhost(self.first()?.port(), self.plain.is_empty()))
    }

    /// Where agents are paths unless the configuration says otherwise.
    pub(crate) fn path_url(&self) -> Result<Option<AgentPathPattern>, ListenError> {
        let Some(first) = self.paths.first() else { return Ok(None) };
        Ok(Some(AgentPathPattern::at(first.local_addr().map_err(ListenError::Address)?)?))
    }

    /// The addresses, and which speak TLS.
    pub(crate) fn listening(&self) -> Result<Vec<ListenAddress>, ListenError> {
        let plain = self.plain.iter().map(|listener| (listener, false));
        let secure = self.tls.iter().map(|listener| (listener, true));
        plain
            .chain(secure)
            .map(|(listener, tls)| Ok((listener.local_addr().map_err(ListenError::Address)?, tls)))
            .collect()
    }

    fn first(&self) -> Result<SocketAddr, ListenError> {
        let first = self.plain.iter().chain(&self.tls).next().ok_or(ConfigError::NoListener)?;
        first.local_addr().map_err(ListenError::Address)
    }
}

async fn bind_all(addresses: &[SocketAddr]) -> Result<Vec<TcpListener>, ListenError> {
    let mut listeners = Vec::new();
    for address in addresses {
        let listener = TcpListener::bind(address).await;
        listeners.push(listener.map_err(|source| ListenError::Bind { address: *address, source })?);
    }
    Ok(listeners)
}

/// How many connections may be open, in all and by address.
struct ConnectionLimiter {
    all: Arc<Semaphore>,
    addresses: KeyedSemaphore<u128>,
    /// By [`client_block`].
    blocks: KeyedSemaphore<u128>,
}

/// The permits of a connection's address, and of the block that this is in.
type AddressPermits = (KeyedPermit<u128>, Option<KeyedPermit<u128>>);

impl ConnectionLimiter {
    fn new(limits: &Limits) -> Self {
        let all = usize::try_from(limits.connections).unwrap_or(Semaphore::MAX_PERMITS);
        let one = limits.connections_per_address;
        Self {
            all: Arc::new(Semaphore::new(all.min(Semaphore::MAX_PERMITS))),
            addresses: KeyedSemaphore::new(one),
            blocks: KeyedSemaphore::new(one.saturating_mul(BLOCK)),
        }
    }

    fn try_acquire(&self, address: IpAddr) -> Option<AddressPermits> {
        let address_permit = self.addresses.try_acquire(client_key(address))?;
        match client_block(address) {
            Some(block) => Some((address_permit, Some(self.blocks.try_acquire(block)?))),
            None => Some((address_permit, None)),
        }
    }

    /// A permit for one more connection. Where there is none, idle ones are ended; while
    /// none is idle, the client waits.
    async fn acquire(&self, idle: &ConnectionsByIdleTime) -> Option<OwnedSemaphorePermit> {
        if let Ok(permit) = Arc::clone(&self.all).try_acquire_owned() {
            return Some(permit);
        }
        let permit = Arc::clone(&self.all).acquire_owned();
        tokio::pin!(permit);
        loop {
            idle.evict();
            tokio::select! {
                permit = permit.as_mut() => return permit.ok(),
                () = tokio::time::sleep(EVICT_EVERY) => {}
            }
        }
    }
}

/// Takes connections from all listeners.
#[derive(Clone)]
pub(crate) struct Acceptor {
    server: Server,
    tls: Option<TlsAcceptor>,
    limiter: Arc<ConnectionLimiter>,
}

impl Acceptor {
    pub(crate) fn new(server: Server, tls: Option<TlsAcceptor>) -> Self {
        let limiter = Arc::new(ConnectionLimiter::new(&server.gateway.limits));
        Self { server, tls, limiter }
    }

    /// Takes connections until the gateway goes down.
    pub(crate) fn spawn(self, listeners: Listeners) {
        let Listeners { plain, tls, paths } = listeners;
        let plain = plain.into_iter().map(|listener| (listener, ListenerKind::Hosts, None));
        let secure = tls.into_iter().map(|listener| (listener, ListenerKind::Hosts, self.tls.clone()));
        let paths = paths.into_iter().map(|listener| (listener, ListenerKind::Paths, None));
        for (listener, kind, tls) in plain.chain(secure).chain(paths) {
            let acceptor = Self { tls, ..self.clone() };
            self.server.gateway.tasks.spawn(acceptor.run(listener, kind));
        }
    }

    async fn run(self, listener: TcpListener, kind: ListenerKind) {
        let gateway = Arc::clone(&self.server.gateway);
        gateway.draining.run_until_cancelled(async { while self.accept(&listener, kind).await.is_some() {} }).await;
    }

    /// Takes one connection; nothing once there are no more permits.
    async fn accept(&self, listener: &TcpListener, kind: ListenerKind) -> Option<()> {
        let gateway = &self.server.gateway;
        let (stream, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection cannot be accepted; trying again");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                return Some(());
            }
        };
        let trusted = gateway.config.trusted_proxies.contains(&address.ip().to_canonical());
        let own = if trusted { None } else { self.limiter.try_acquire(address.ip()) };
        if !trusted && own.is_none() {
            metrics::counter!("palatine_gateway_connections_refused_total").increment(1);
            return Some(());
        }
        // Beyond the bound, the next clients wait in the system's own queue.
        let permit = self.limiter.acquire(&self.server.idle).await?;
        let info = ConnectionInfo { address: address.ip(), listener: kind, tls: self.tls.is_some() };
        let permits = (permit, own);
        gateway.tasks.spawn(connect(self.server.clone(), stream, info, self.tls.clone(), permits));
        Some(())
    }
}

async fn connect(
    server: Server,
    stream: TcpStream,
    info: ConnectionInfo,
    acceptor: Option<TlsAcceptor>,
    permits: (OwnedSemaphorePermit, Option<AddressPermits>),
) {
    // A socket that does not take the options is slower, not wrong.
    let _ = stream.set_nodelay(true);
    let _ = keep_alive(&stream);
    match acceptor {
        None => server.run(stream, info).await,
        Some(acceptor) => {
            let within = Duration::from_millis(server.gateway.limits.header_ms);
            let handshake = tokio::time::timeout(within, acceptor.accept(stream));
            tokio::select! {
                accepted = handshake => match accepted {
                    Ok(Ok(stream)) => server.run(stream, info).await,
                    Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
                    Err(_) => {}
                },
                () = server.gateway.draining.cancelled() => {}
            }
        }
    }
    drop(permits);
}

/// Has the system find out whether a silent client is still there: one that follows
/// quiet logs says nothing for hours, and neither does one that has vanished.
fn keep_alive(stream: &TcpStream) -> rustix::io::Result<()> {
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEP_IDLE)?;
    sockopt::set_tcp_keepintvl(stream, KEEP_EVERY)?;
    sockopt::set_tcp_keepcnt(stream, KEEP_COUNT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn fault_2_4_a_client_that_has_vanished_is_found_out() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        keep_alive(&stream).unwrap();
        assert!(sockopt::socket_keepalive(&stream).unwrap());
        let set = (sockopt::tcp_keepidle(&stream), sockopt::tcp_keepintvl(&stream), sockopt::tcp_keepcnt(&stream));
        assert_eq!(set, (Ok(KEEP_IDLE), Ok(KEEP_EVERY), Ok(KEEP_COUNT)));
    }

    #[test]
    fn fault_2_4_a_block_of_addresses_has_a_share_too() {
        let limiter = ConnectionLimiter::new(&Limits { connections_per_address: 2, ..Limits::default() });
        let addresses = (0..8_u16).map(|net| IpAddr::from([0x2001, 0xdb8, 1, net, 0, 0, 0, 1]));
        let held: Vec<_> = addresses
            .flat_map(|address| [limiter.try_acquire(address), limiter.try_acquire(address)])
            .flatten()
            .collect();
        assert_eq!(held.len(), 8);
        assert!(limiter.try_acquire(IpAddr::from([0x2001, 0xdb8, 2, 0, 0, 0, 0, 1])).is_some());
    }
}
