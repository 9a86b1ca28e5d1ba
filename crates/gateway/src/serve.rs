//! The gateway's life: listening, serving, draining.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::api::images::sweep;
use crate::api::openapi::openapi;
use crate::api::routes::router;
use crate::auth::audience;
use crate::auth::uses::KeyUses;
use crate::edge::connection::Server;
use crate::edge::limits::RateLimits;
use crate::edge::listen::{Acceptor, ListenError, Listeners};
use crate::edge::tls::Certificates;
use crate::health::probe;
use crate::ingress::pool::Pools;
use crate::ingress::urls::{AgentHostPattern, AgentPathPattern};
use crate::state::{Gateway, GatewayParts, PublicUrls};
use crate::{Config, ConfigError, Limits, TlsConfig, TlsError};

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
    /// The addresses.
    #[error(transparent)]
    Listen(#[from] ListenError),
}

/// Serves until `shutdown`, then drains: no new connection is taken, requests
/// under way are finished within `drain_ms`, streams end.
///
/// # Errors
/// Only before the first connection is taken.
pub async fn serve(
    config: Config,
    tls: TlsConfig,
    limits: Limits,
    listeners: Listeners,
    parts: GatewayParts,
    shutdown: CancellationToken,
) -> Result<(), ServeError> {
    config.check(&tls, &limits)?;
    let certificates = tls.files().map(|(cert, key)| Certificates::load(cert, key)).transpose()?;
    let acceptor = certificates.as_ref().map(Certificates::acceptor).transpose()?;
    if !listeners.tls.is_empty() && acceptor.is_none() {
        return Err(ConfigError::HalfTls.into());
    }
    let names = names(&config, &listeners)?;
    let drain = Duration::from_millis(config.drain_ms);
    let gateway = Arc::new(Gateway::new(config, limits, names, parts, openapi(), shutdown.clone()));
    let server = Server::new(Arc::clone(&gateway), router(Arc::clone(&gateway)));
    gateway.parts.control.fleet().asked().await;
    Acceptor::new(server.clone(), acceptor).spawn(listeners);
    gateway.tasks.spawn(upkeep(Arc::clone(&gateway)));
    gateway.tasks.spawn(probe::watch(Arc::clone(&gateway)));
    gateway.tasks.spawn(sweep::watch(Arc::clone(&gateway)));
    if let Some(certificates) = certificates {
        gateway.tasks.spawn(watch(certificates, Duration::from_millis(tls.reload_ms.max(1)), shutdown.clone()));
    }
    shutdown.cancelled().await;
    drain_within(&gateway, &server, drain).await;
    Ok(())
}

/// By which names clients know this gateway and its agents.
fn names(config: &Config, listeners: &Listeners) -> Result<PublicUrls, ServeError> {
    let agent_url = match &config.agent_url {
        Some(text) => AgentHostPattern::parse(text)?,
        None => listeners.agent_url()?,
    };
    let path_url = match &config.path_url {
        Some(text) => Some(AgentPathPattern::parse(text)?),
        None => listeners.path_url()?,
    };
    let audiences = audience::audiences(config, &agent_url, &listeners.listening()?)?;
    Ok(PublicUrls { agent_url, path_url, audiences })
}

/// Waits for what runs on behalf of clients, and ends what is left of it then.
async fn drain_within(gateway: &Gateway, server: &Server, most: Duration) {
    gateway.tasks.close();
    if tokio::time::timeout(most, gateway.tasks.wait()).await.is_err() {
        tracing::warn!(tasks = gateway.tasks.len(), "not drained in time: connections that are left are cut off");
        server.killed.cancel();
        gateway.tasks.wait().await;
    }
}

/// What is done now and then: idle connections are closed, idle keys of limits forgotten, and
/// it is written down when API keys were used.
async fn upkeep(gateway: Arc<Gateway>) {
    let mut forget = tokio::time::interval(RateLimits::FORGET_EVERY);
    let mut recorder = tokio::time::interval(METRICS_UPKEEP);
    let mut pools = tokio::time::interval(Pools::SWEEP_EVERY);
    let mut key_uses = tokio::time::interval_at(Instant::now() + KeyUses::WRITE_EVERY, KeyUses::WRITE_EVERY);
    loop {
        tokio::select! {
            _ = pools.tick() => gateway.pools.sweep(),
            _ = forget.tick() => gateway.rates.forget(),
            _ = recorder.tick() => {
                if let Some(recorder) = &gateway.parts.metrics {
                    recorder.run_upkeep();
                }
            }
            _ = key_uses.tick() => gateway.write_key_uses().await,
            () = gateway.draining.cancelled() => break,
        }
    }
    gateway.write_key_uses().await;
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
            Ok(Err(error)) => {
                tracing::warn!(%error, "the certificate files cannot be used; the certificate in use stays until they can")
            }
            Err(error) => tracing::error!(%error, "reading the certificate files broke off"),
        }
    }
}
