//! `palatine serve`: the gateway and the control plane, wired from the
//! configuration.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use auth::TokenIssuer;
use chain::SolanaBalances;
use client::NodeClient;
use control::{Control, RemoteNode};
use domain::{Clock, SystemClock};
use gateway::{GatewayParts, Listeners};
use identity::Identity;
use store::{SealedKeys, Store, StoreError};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use treasury::{Identities, ServicesConfig, Treasury};

use crate::config::Config;
use crate::signer;

/// The name of the one node.
const NODE: &str = "local";

/// Serves until a signal asks for the end, then drains.
pub(crate) fn serve(config: &Config) -> Result<()> {
    let _telemetry = telemetry::init(&config.log, "palatine")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the runtime")?;
    runtime.block_on(run(config))
}

async fn run(config: &Config) -> Result<()> {
    let shutdown = CancellationToken::new();
    tokio::spawn(end_on_signal(shutdown.clone())?);
    let metrics = telemetry::prometheus()?;
    // Listening first: a taken port is said before anything else is touched.
    let listeners = Listeners::bind(&config.gateway, &config.tls).await?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let now = crate::clock::now()?;
    let opened = SealedKeys::open_store(&config.store, now).await;
    let (store, keys) = opened.context("open the database and the keys in it")?;
    let resealed = tokio::spawn(end_when_resealed(keys.clone(), shutdown.clone()));
    let has_runs = !store.live().await.context("list the live runs")?.is_empty();
    let tokens = TokenIssuer::new(&gateway::token_key(&keys, &config.gateway.token_key_file, has_runs, now).await?);
    // Nothing is asked of the chain yet: while no endpoint answers, stopping must work.
    let balances = Arc::new(SolanaBalances::new(&config.solana).context("[solana]")?);
    let node = RemoteNode::new(NODE, NodeClient::new(&config.node.socket));
    let tiers = config.tiers()?;
    // The control plane ends after the gateway: requests that drain still need it.
    let control_ends = CancellationToken::new();
    let control = Control::start(
        config.control.clone(),
        store.clone(),
        vec![Arc::new(node)],
        balances.clone(),
        tiers.clone(),
        Arc::clone(&clock),
        control_ends.clone(),
    );
    let identities = Identities::new(store.clone(), keys, &config.treasury);
    let treasury = treasury(config, &store, identities, control_ends.clone()).await?;
    let parts = GatewayParts {
        store,
        control: control.clone(),
        clock,
        balances,
        tiers,
        tokens,
        treasury: treasury.clone(),
        payments: treasury.clone().map(|treasury| Arc::new(treasury) as Arc<dyn gateway::PaymentProvider>),
        metrics: Some(metrics),
        follow: Some(telemetry::set_parent),
    };
    let (edge, tls, limits) = (config.gateway.clone(), config.tls.clone(), config.limits.clone());
    let served = gateway::serve(edge, tls, limits, listeners, parts, shutdown).await;
    control_ends.cancel();
    let patience = Duration::from_millis(config.gateway.drain_ms);
    let closed = async {
        control.closed().await;
        if let Some(treasury) = &treasury {
            treasury.closed().await;
        }
    };
    if timeout(patience, closed).await.is_err() {
        tracing::warn!(?patience, "work was still under way; the next start finishes or undoes it");
    }
    served?;
    anyhow::ensure!(!resealed.await?, StoreError::Resealed);
    Ok(())
}

/// Asks for the end when keys were sealed anew under a gateway that was held up; whether they were.
async fn end_when_resealed(keys: SealedKeys, shutdown: CancellationToken) -> bool {
    let is_resealed = shutdown.run_until_cancelled(keys.resealed()).await.is_some();
    if is_resealed {
        tracing::error!("ending: {}", StoreError::Resealed);
        shutdown.cancel();
    }
    is_resealed
}

/// The financial layer, where a chain is configured. The chain need not answer yet.
async fn treasury(
    config: &Config,
    store: &Store,
    identities: Identities,
    ends: CancellationToken,
) -> Result<Option<Treasury>> {
    let Some(evm) = config.evm.clone() else {
        tracing::info!("no [evm]: there are no vaults and no payments");
        // What removed agents left in files goes all the same.
        tokio::spawn(async move { ends.run_until_cancelled(identities.erase_removed()).await });
        return Ok(None);
    };
    let relayer = if config.relayer.enabled { Some(relayer_key(&config.relayer).await?) } else { None };
    let options = ServicesConfig { relayer: config.relayer.clone(), x402: config.x402.clone() };
    Ok(Some(Treasury::start(options, evm, store.clone(), identities, relayer, ends).await?))
}

/// The relayer's key. Opening it takes a core for a while.
async fn relayer_key(config: &relay::Config) -> Result<Identity> {
    let (keystore, file) = (config.key.clone(), config.password_file.clone());
    let open = move || -> Result<Identity> {
        let password = signer::password(signer::PASSWORD, Some(&file), &keystore)?;
        Ok(Identity::load(&keystore, &password)?)
    };
    tokio::task::spawn_blocking(open).await?.context("[relayer] key")
}

/// The first signal asks; a second one is not waited for.
fn end_on_signal(shutdown: CancellationToken) -> Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate()).context("listen for signals")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for signals")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("ending: requests under way are finished first");
        shutdown.cancel();
    })
}
