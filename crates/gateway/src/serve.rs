//! The gateway's life: listening, serving, draining.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustix::net::sockopt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::api::routes::router;
use crate::auth::audience::{self, Listening};
use crate::edge::connection::Server;
use crate::edge::dispatch::Peer;
use crate::edge::eviction::Resting;
use crate::edge::limits::{Crowd, Place, Rates, client_block, client_key};
use crate::edge::tls::Certificates;
use crate::health;
use crate::ingress::pool::Pools;
use crate::ingress::target::Listener;
use crate::ingress::urls::{AgentUrl, PathUrl};
use crate::state::{Gateway, Parts};
use crate::{Config, ConfigError, Limits, Tls, TlsError};

/// The pause after the system refuses to accept (out of descriptors, mostly).
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);
/// How many shares of one address a block of addresses has.
const BLOCK: u32 = 4;
/// While there is no place, so often one that rests makes room.
const EVICT_EVERY: Duration = Duration::from_millis(100);
/// The silence after which a client is asked whether it is there, the time between
/// two such questions, and how many stay without an answer before it is gone.
const KEEP_IDLE: Duration = Duration::from_secs(60);
const KEEP_EVERY: Duration = Duration::from_secs(15);
const KEEP_COUNT: u32 = 4;
/// Between two rounds of a recorder's own upkeep.
const METRICS_UPKEEP: Duration = Duration::from_secs(5);

/// Why the gateway cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A section of the configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The certificate.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// An address cannot be listened on.
    #[error("listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// A listener does not know its own address.
    #[error("ask a listener for its address")]
    Address(#[source] io::Error),
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
    pub async fn bind(config: &Config, tls: &Tls) -> Result<Self, ServeError> {
        Ok(Self {
            plain: bind_all(&config.listen).await?,
            tls: bind_all(&tls.listen).await?,
            paths: bind_all(&config.paths(tls)).await?,
        })
    }

    /// Where agents answer unless the configuration says otherwise.
    fn agent_url(&self) -> Result<AgentUrl, ServeError> {
        Ok(AgentUrl::localhost(self.first()?.port(), self.plain.is_empty()))
    }

    /// Where agents are paths unless the configuration says otherwise.
    fn path_url(&self) -> Result<Option<PathUrl>, ServeError> {
        let Some(first) = self.paths.first() else { return Ok(None) };
        Ok(Some(PathUrl::at(first.local_addr().map_err(ServeError::Address)?)?))
    }

    /// The addresses, and which speak TLS.
    fn listening(&self) -> Result<Vec<Listening>, ServeError> {
        let plain = self.plain.iter().map(|listener| (listener, false));
        let secure = self.tls.iter().map(|listener| (listener, true));
        plain
            .chain(secure)
            .map(|(listener, tls)| Ok((listener.local_addr().map_err(ServeError::Address)?, tls)))
            .collect()
    }

    fn first(&self) -> Result<SocketAddr, ServeError> {
        let first = self.plain.iter().chain(&self.tls).next().ok_or(ConfigError::NoListener)?;
        first.local_addr().map_err(ServeError::Address)
    }
}

async fn bind_all(addresses: &[SocketAddr]) -> Result<Vec<TcpListener>, ServeError> {
    let mut listeners = Vec::new();
    for address in addresses {
        let listener = TcpListener::bind(address).await;
        listeners.push(listener.map_err(|source| ServeError::Listen { address: *address, source })?);
    }
    Ok(listeners)
}

/// Serves until `shutdown`, then drains: no new connection is taken, requests
/// under way are finished within `drain_ms`, streams end.
///
/// # Errors
/// Only before the first connection is taken.
pub async fn serve(
    config: Config,
    tls: Tls,
    limits: Limits,
    listeners: Listeners,
    parts: Parts,
    shutdown: CancellationToken,
) -> Result<(), ServeError> {
    config.check(&tls, &limits)?;
    let certificates = tls.files().map(|(cert, key)| Certificates::load(cert, key)).transpose()?;
    let agent_url = match &config.agent_url {
        Some(text) => AgentUrl::parse(text)?,
        None => listeners.agent_url()?,
    };
    let path_url = match &config.path_url {
        Some(text) => Some(PathUrl::parse(text)?),
        None => listeners.path_url()?,
    };
    let audiences = audience::audiences(&config, &agent_url, &listeners.listening()?)?;
    let acceptor = certificates.as_ref().map(Certificates::acceptor).transpose()?;
    if !listeners.tls.is_empty() && acceptor.is_none() {
        return Err(ConfigError::HalfTls.into());
    }
    let drain = Duration::from_millis(config.drain_ms);
    let gateway = Arc::new(Gateway::new(config, limits, (agent_url, path_url), audiences, parts, shutdown.clone()));
    let server = Server::new(Arc::clone(&gateway), router(Arc::clone(&gateway)));
    gateway.parts.images.refresh().await;
    let doors = Doors::new(&gateway.limits);
    let plain = listeners.plain.into_iter().map(|listener| (listener, Listener::Hosts, None));
    let secure = listeners.tls.into_iter().map(|listener| (listener, Listener::Hosts, acceptor.clone()));
    let paths = listeners.paths.into_iter().map(|listener| (listener, Listener::Paths, None));
    for (listener, kind, acceptor) in plain.chain(secure).chain(paths) {
        gateway.tasks.spawn(accept(server.clone(), listener, kind, acceptor, doors.clone()));
    }
    gateway.tasks.spawn(upkeep(Arc::clone(&gateway)));
    gateway.tasks.spawn(health::watch(Arc::clone(&gateway)));
    if let Some(certificates) = certificates {
        gateway.tasks.spawn(watch(certificates, Duration::from_millis(tls.reload_ms.max(1)), shutdown.clone()));
    }
    shutdown.cancelled().await;
    gateway.tasks.close();
    if tokio::time::timeout(drain, gateway.tasks.wait()).await.is_err() {
        tracing::warn!(connections = gateway.tasks.len(), "not drained in time; ending what is left");
        server.killed.cancel();
        gateway.tasks.wait().await;
    }
    Ok(())
}

/// How many connections may be open, in all and by address.
#[derive(Clone)]
struct Doors {
    all: Arc<Semaphore>,
    addresses: Crowd<u128>,
    /// By [`client_block`].
    blocks: Crowd<u128>,
}

/// A client's share of the connections.
type Share = (Place<u128>, Option<Place<u128>>);

impl Doors {
    fn new(limits: &Limits) -> Self {
        let all = usize::try_from(limits.connections).unwrap_or(Semaphore::MAX_PERMITS);
        let one = limits.connections_per_address;
        Self {
            all: Arc::new(Semaphore::new(all.min(Semaphore::MAX_PERMITS))),
            addresses: Crowd::new(one),
            blocks: Crowd::new(one.saturating_mul(BLOCK)),
        }
    }

    fn share(&self, address: IpAddr) -> Option<Share> {
        let address_place = self.addresses.enter(client_key(address))?;
        match client_block(address) {
            Some(block) => Some((address_place, Some(self.blocks.enter(block)?))),
            None => Some((address_place, None)),
        }
    }

    /// A place for one more connection. Where there is none, those that rest make
    /// room; while all are at work, the client waits.
    async fn place(&self, resting: &Resting) -> Option<OwnedSemaphorePermit> {
        if let Ok(place) = Arc::clone(&self.all).try_acquire_owned() {
            return Some(place);
        }
        let place = Arc::clone(&self.all).acquire_owned();
        tokio::pin!(place);
        loop {
            resting.evict();
            tokio::select! {
                place = place.as_mut() => return place.ok(),
                () = tokio::time::sleep(EVICT_EVERY) => {}
            }
        }
    }
}

async fn accept(server: Server, listener: TcpListener, kind: Listener, acceptor: Option<TlsAcceptor>, doors: Doors) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = server.gateway.draining.cancelled() => return,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let trusted = server.gateway.config.trusted_proxies.contains(&address.ip().to_canonical());
        let own = if trusted { None } else { doors.share(address.ip()) };
        if !trusted && own.is_none() {
            metrics::counter!("palatine_gateway_connections_refused_total").increment(1);
            continue;
        }
        // Beyond the bound, the next clients wait in the system's own queue.
        let place = tokio::select! {
            place = doors.place(&server.resting) => place,
            () = server.gateway.draining.cancelled() => return,
        };
        let Some(place) = place else { return };
        let tasks = server.gateway.tasks.clone();
        let peer = Peer { address: address.ip(), listener: kind, tls: acceptor.is_some() };
        tasks.spawn(connect(server.clone(), stream, peer, acceptor.clone(), (place, own)));
    }
}

async fn connect(
    server: Server,
    stream: TcpStream,
    peer: Peer,
    acceptor: Option<TlsAcceptor>,
    places: (OwnedSemaphorePermit, Option<Share>),
) {
    // A socket that does not take the options is slower, not wrong.
    let _ = stream.set_nodelay(true);
    let _ = keep_alive(&stream);
    match acceptor {
        None => server.run(stream, peer).await,
        Some(acceptor) => {
            let within = Duration::from_millis(server.gateway.limits.header_ms);
            let greeting = tokio::time::timeout(within, acceptor.accept(stream));
            tokio::select! {
                greeted = greeting => match greeted {
                    Ok(Ok(stream)) => server.run(stream, peer).await,
                    Ok(Err(error)) => tracing::debug!(%error, "a TLS greeting failed"),
                    Err(_) => {}
                },
                () = server.gateway.draining.cancelled() => {}
            }
        }
    }
    drop(places);
}

/// Has the system find out whether a silent client is still there: one that follows
/// quiet logs says nothing for hours, and neither does one that has vanished.
fn keep_alive(stream: &TcpStream) -> rustix::io::Result<()> {
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEP_IDLE)?;
    sockopt::set_tcp_keepintvl(stream, KEEP_EVERY)?;
    sockopt::set_tcp_keepcnt(stream, KEEP_COUNT)
}

/// What is done now and then: images are read, idle connections closed, idle keys
/// forgotten.
async fn upkeep(gateway: Arc<Gateway>) {
    let mut images = tokio::time::interval(Duration::from_millis(gateway.config.images_refresh_ms.max(1)));
    let mut forget = tokio::time::interval(Rates::FORGET_EVERY);
    let mut recorder = tokio::time::interval(METRICS_UPKEEP);
    let mut pools = tokio::time::interval(Pools::SWEEP_EVERY);
    loop {
        tokio::select! {
            _ = images.tick() => drop(gateway.parts.images.refresh().await),
            _ = pools.tick() => gateway.pools.sweep(),
            _ = forget.tick() => gateway.rates.forget(),
            _ = recorder.tick() => {
                if let Some(recorder) = &gateway.parts.metrics {
                    recorder.run_upkeep();
                }
            }
            () = gateway.draining.cancelled() => return,
        }
    }
}

/// Takes a changed certificate over; a broken one is reported and not taken.
async fn watch(certificates: Certificates, every: Duration, shutdown: CancellationToken) {
    let certificates = Arc::new(certificates);
    loop {
        tokio::select! {
            () = tokio::time::sleep(every) => {}
            () = shutdown.cancelled() => return,
        }
        let reading = Arc::clone(&certificates);
        match tokio::task::spawn_blocking(move || reading.reload()).await {
            Ok(Ok(true)) => tracing::info!("a new certificate is in use"),
            Ok(Ok(false)) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the certificate files cannot be used; the old one stays"),
            Err(error) => tracing::error!(%error, "reading the certificate files broke off"),
        }
    }
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
        let doors = Doors::new(&Limits { connections_per_address: 2, ..Limits::default() });
        let addresses = (0..8_u16).map(|net| IpAddr::from([0x2001, 0xdb8, 1, net, 0, 0, 0, 1]));
        let held: Vec<_> =
            addresses.flat_map(|address| [doors.share(address), doors.share(address)]).flatten().collect();
        assert_eq!(held.len(), 8);
        assert!(doors.share(IpAddr::from([0x2001, 0xdb8, 2, 0, 0, 0, 0, 1])).is_some());
    }
}
