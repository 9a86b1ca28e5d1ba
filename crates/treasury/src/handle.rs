//! [`Treasury`]: what the gateway calls, and the loops behind it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use chain::EvmConfig;
use chain::evm::Indexer;
use domain::vault::TaskId;
use domain::{Address, B256, Backoff, Clock, PodId, SystemClock, UnixMillis, Usdc, Wallet};
use identity::Identity;
use moka::future::Cache;
use relay::Relayer;
use store::{IndexId, Store};
use tokio::sync::{Mutex, Notify, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use wire::v1::vault::{AgentVault, ChainResponse, DeployRequest, TasksResponse, TxResponse, VaultResponse};
use x402::{Facilitator, Offer, Quote, Resource, Seller};

use crate::config::ServicesConfig;
use crate::error::TreasuryError;
use crate::identities::Identities;
use crate::services::{ChainServices, PaymentServices};
use crate::unavailable::ChainUnavailable;
use crate::view;

/// The pauses after the chain did not answer at start.
const BACKOFF: Backoff = Backoff { first: Duration::from_millis(250), longest: Duration::from_secs(15) };
/// How often what was left open is looked at: relayed calls, payments.
const MAINTAIN_EVERY: Duration = Duration::from_secs(5);
/// Agents that are told apart while they act.
const MAX_ACTING: u64 = 10_000;
/// Vaults that are known as just deployed, and for how long: until the index must have them.
const MAX_FRESH: u64 = 10_000;
const FRESH: Duration = Duration::from_secs(120);
/// Payments looked at in one go.
const MAX_RECONCILED: usize = 256;

/// The financial layer: a handle that is cheap to clone.
#[derive(Clone)]
pub struct Treasury(Arc<Inner>);

impl std::fmt::Debug for Treasury {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Treasury").field("chain_id", &self.0.evm.chain_id).finish_non_exhaustive()
    }
}

/// What there is of the chain.
enum Connection {
    /// It has not answered yet; why.
    Waiting(ChainUnavailable),
    /// It has.
    Open(Arc<ChainServices>),
}

pub(crate) struct Inner {
    pub(crate) options: ServicesConfig,
    pub(crate) evm: EvmConfig,
    pub(crate) store: Store,
    pub(crate) index: IndexId,
    pub(crate) identities: Identities,
    pub(crate) clock: SystemClock,
    /// Agents that act: one call at a time each.
    pub(crate) agent_locks: Cache<PodId, Arc<Mutex<()>>>,
    /// There is something to deploy.
    pub(crate) signal: Notify,
    /// Vaults that were deployed just now: our index may not have come to them.
    pub(crate) fresh: Cache<Address, ()>,
    link: watch::Sender<Connection>,
    relayer: Option<Identity>,
    ends: CancellationToken,
    tasks: TaskTracker,
}

impl Treasury {
    /// Starts the loops. The chain may be silent: everything that needs it says so
    /// until it answers. `relayer` is our own account's key.
    ///
    /// # Errors
    /// Faults of the store.
    pub async fn start(
        options: ServicesConfig,
        evm: EvmConfig,
        store: Store,
        identities: Identities,
        relayer: Option<Identity>,
        ends: CancellationToken,
    ) -> Result<Self, TreasuryError> {
        let index = store.chain_index(evm.chain_id, evm.factory).await?;
        store.release_payments().await?;
        let inner = Inner {
            identities,
            options,
            evm,
            store,
            index,
            clock: SystemClock,
            agent_locks: Cache::new(MAX_ACTING),
            signal: Notify::new(),
            fresh: Cache::builder().max_capacity(MAX_FRESH).time_to_live(FRESH).build(),
            link: watch::Sender::new(Connection::Waiting(ChainUnavailable::not_asked())),
            relayer,
            ends,
            tasks: TaskTracker::new(),
        };
        let treasury = Self(Arc::new(inner));
        treasury.run(|inner| async move { inner.connect_and_maintain().await });
        treasury.run(|inner| async move { inner.carry_deploys().await });
        treasury.run(|inner| async move { inner.take_over_keystores().await });
        Ok(treasury)
    }

    /// Runs a loop until the treasury goes down.
    fn run<F: Future<Output = ()> + Send + 'static>(&self, work: impl FnOnce(Arc<Inner>) -> F) {
        let ends = self.0.ends.clone();
        let work = work(Arc::clone(&self.0));
        self.0.tasks.spawn(async move {
            ends.run_until_cancelled(work).await;
        });
    }

    /// After the token given to [`Treasury::start`] is cancelled: returns when the
    /// loops have ended.
    pub async fn closed(&self) {
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    /// What a signature must be made for.
    ///
    /// # Errors
    /// [`TreasuryError::Unavailable`]: some of it is the chain's to say.
    pub fn chain(&self) -> Result<ChainResponse, TreasuryError> {
        let evm = &self.0.evm;
        let services = self.0.services()?;
        let token = &services.chain.usdc_domain;
        Ok(ChainResponse {
            chain_id: evm.chain_id,
            usdc: evm.usdc,
            usdc_name: token.name.clone().unwrap_or_default().into_owned(),
            usdc_version: token.version.clone().unwrap_or_default().into_owned(),
            factory: evm.factory,
            forwarder: evm.forwarder,
            forwarder_name: services.chain.forwarder_domain.name.clone().unwrap_or_default().into_owned(),
            confirmations: evm.confirmations,
            relayer: self.0.relayer.as_ref().map(Identity::address),
        })
    }

    /// Whether the chain answers: asks for its newest block.
    ///
    /// # Errors
    /// [`ChainUnavailable`], with its cause in words for everybody.
    pub async fn probe(&self) -> Result<(), ChainUnavailable> {
        self.0.connected()?.chain.evm.head().await?;
        Ok(())
    }

    /// The chain's number.
    #[must_use]
    pub fn chain_id(&self) -> u64 {
        self.0.evm.chain_id
    }

    /// An agent's vault, without asking anybody.
    ///
    /// # Errors
    /// Faults of the store.
    pub async fn known_vault(&self, agent: PodId) -> Result<Option<AgentVault>, TreasuryError> {
        self.0.known(agent).await
    }

    /// Prepares the vault of an agent that was just asked for, if its holder is
    /// linked to an owner. Returns at once.
    pub fn prepare(&self, agent: PodId, holder: Wallet) {
        self.run(move |inner| async move {
            let prepared = inner.ensure(agent, holder, inner.clock.now()).await;
            if let Err(error) = prepared {
                tracing::warn!(%agent, %error, "an agent's vault is not prepared; it is when somebody asks for it");
            }
        });
    }

    /// Erases what an earlier version left of the key of an agent that was removed. What the
    /// store has of it went with the agent.
    pub async fn removed(&self, agent: PodId) {
        self.0.identities.wipe_if_removed(agent).await;
    }

    /// An agent's vault; `None` while its holder is linked to no owner.
    ///
    /// # Errors
    /// [`TreasuryError`].
    pub async fn agent_vault(&self, agent: PodId, holder: Wallet) -> Result<Option<AgentVault>, TreasuryError> {
        let deploy = self.0.ensure(agent, holder, self.0.clock.now()).await?;
        Ok(deploy.map(|deploy| view::deploy(self.0.evm.chain_id, deploy)))
    }

    /// Takes the owner's signature for an agent's vault, and has it deployed, for
    /// `client`.
    ///
    /// # Errors
    /// [`TreasuryError`].
    pub async fn deploy(
        &self,
        agent: PodId,
        holder: Wallet,
        request: &DeployRequest,
        client: IpAddr,
        now: UnixMillis,
    ) -> Result<AgentVault, TreasuryError> {
        self.0.consent(agent, holder, request, client, now).await
    }

    /// A vault's ledger.
    ///
    /// # Errors
    /// [`TreasuryError::UnknownVault`], [`TreasuryError::Deploying`], faults of the store.
    pub async fn vault(&self, address: Address) -> Result<VaultResponse, TreasuryError> {
        match self.0.store.vault(self.0.index, address).await? {
            Some(indexed) => Ok(view::vault(address, indexed)),
            None if self.0.is_on_its_way(address).await? => Err(TreasuryError::Deploying),
            None => Err(TreasuryError::UnknownVault),
        }
    }

    /// A vault's tasks, newest first.
    ///
    /// # Errors
    /// [`TreasuryError::UnknownVault`], [`TreasuryError::Deploying`], faults of the store.
    pub async fn tasks(&self, vault: Address) -> Result<TasksResponse, TreasuryError> {
        self.vault(vault).await?;
        let tasks = self.0.store.tasks(self.0.index, vault).await?;
        Ok(TasksResponse { tasks: tasks.into_iter().filter_map(|(id, task)| view::task(id, task)).collect() })
    }

    /// Hands in an agent's result.
    ///
    /// # Errors
    /// [`TreasuryError`].
    pub async fn submit(
        &self,
        agent: PodId,
        task: TaskId,
        result_hash: B256,
        now: UnixMillis,
    ) -> Result<TxResponse, TreasuryError> {
        self.0.submit(agent, task, result_hash, now).await
    }

    /// Turns an agent's task down.
    ///
    /// # Errors
    /// [`TreasuryError`].
    pub async fn decline(&self, agent: PodId, task: TaskId, now: UnixMillis) -> Result<TxResponse, TreasuryError> {
        self.0.decline(agent, task, now).await
    }

    /// The relayer.
    ///
    /// # Errors
    /// [`TreasuryError::NoRelayer`], [`TreasuryError::Unavailable`].
    pub fn relayer(&self) -> Result<Relayer, TreasuryError> {
        if self.0.relayer.is_none() {
            return Err(TreasuryError::NoRelayer);
        }
        self.0.services()?.relayer.clone().ok_or(TreasuryError::NoRelayer)
    }

    /// Whether there is a relayer at all, whatever the chain does.
    #[must_use]
    pub fn relays(&self) -> bool {
        self.0.relayer.is_some()
    }

    /// Who is paid for requests to a holder's agents.
    ///
    /// # Errors
    /// [`TreasuryError::NotLinked`] when it is nobody.
    pub async fn payee(&self, holder: Wallet) -> Result<Address, TreasuryError> {
        let link = self.0.store.link_of(holder).await?;
        let owner = link.map(|link| link.owner);
        owner.or(self.0.options.x402.pay_to).ok_or(TreasuryError::NotLinked)
    }

    /// The terms of a request that costs this.
    ///
    /// # Errors
    /// [`TreasuryError`].
    pub async fn quote(&self, holder: Wallet, url: &str, price: Usdc) -> Result<Quote, TreasuryError> {
        let services = self.0.services()?;
        let token = payments(&services)?.tokens.at(self.0.evm.chain_id, self.0.evm.usdc).cloned();
        let token = token.ok_or_else(|| TreasuryError::Config("the token is not one of [[x402.tokens]]".to_owned()))?;
        let pay_to = self.payee(holder).await?;
        let offer = Offer { token, pay_to, amount: price, max_timeout_s: self.0.options.x402.max_timeout_s };
        let resource =
            Resource { url: url.to_owned(), description: "a request to an agent".to_owned(), mime_type: String::new() };
        Ok(Quote { resource, offers: vec![offer] })
    }

    /// Who takes payments for requests.
    ///
    /// # Errors
    /// When nobody does.
    pub fn seller(&self) -> Result<Arc<Seller>, TreasuryError> {
        let services = self.0.services()?;
        Ok(Arc::clone(&payments(&services)?.seller))
    }

    /// Who settles for other sellers.
    ///
    /// # Errors
    /// [`TreasuryError::NoRelayer`] when we settle for nobody.
    pub fn facilitator(&self) -> Result<Arc<Facilitator>, TreasuryError> {
        let services = self.0.services()?;
        payments(&services)?.facilitator.clone().ok_or(TreasuryError::NoRelayer)
    }
}

fn payments(services: &ChainServices) -> Result<&PaymentServices, TreasuryError> {
    services.payments.as_ref().ok_or(TreasuryError::NoRelayer)
}

impl Inner {
    /// What needs the chain, once it has answered.
    pub(crate) fn services(&self) -> Result<Arc<ChainServices>, TreasuryError> {
        Ok(self.connected()?)
    }

    fn connected(&self) -> Result<Arc<ChainServices>, ChainUnavailable> {
        match &*self.link.borrow() {
            Connection::Open(services) => Ok(Arc::clone(services)),
            Connection::Waiting(unavailable) => Err(unavailable.clone()),
        }
    }

    /// Asks the chain until it answers, then reads it and tidies up for ever.
    async fn connect_and_maintain(self: Arc<Self>) {
        let services = self.connect().await;
        tokio::join!(self.index(&services), self.maintain(&services));
    }

    async fn connect(&self) -> Arc<ChainServices> {
        let mut pauses = BACKOFF.pauses();
        loop {
            let pause = pauses.failed();
            match ChainServices::open(&self.options, &self.evm, &self.store, self.relayer.as_ref()).await {
                Ok(services) => {
                    let services = Arc::new(services);
                    self.link.send_replace(Connection::Open(Arc::clone(&services)));
                    tracing::info!(
                        chain_id = self.evm.chain_id,
                        relays = services.relayer.is_some(),
                        "the chain answers"
                    );
                    return services;
                }
                Err(unavailable) => {
                    tracing::warn!(error = %unavailable, ?pause, "the chain cannot be used for now; vaults and payments wait");
                    self.link.send_replace(Connection::Waiting(unavailable));
                }
            }
            tokio::time::sleep(pause).await;
        }
    }

    async fn index(&self, services: &ChainServices) {
        let ledger = Arc::new(self.store.ledger(self.index));
        Indexer::new(Arc::clone(&services.chain), ledger).run().await;
    }

    /// Takes the key files of an earlier version into the store, and erases those of removed
    /// agents.
    async fn take_over_keystores(&self) {
        tokio::join!(self.identities.import_old(self.clock.now()), self.identities.erase_removed());
    }

    async fn maintain(&self, services: &ChainServices) {
        loop {
            if let Some(relayer) = &services.relayer
                && let Err(error) = relayer.resume().await
            {
                tracing::warn!(%error, "open relayed calls cannot be taken up now; trying again");
            }
            if let Some(payments) = &services.payments
                && let Err(error) = payments.settlements.reconcile(self.clock.now(), MAX_RECONCILED).await
            {
                tracing::warn!(%error, "open payments cannot be reconciled now; trying again");
            }
            tokio::time::sleep(MAINTAIN_EVERY).await;
        }
    }
}
