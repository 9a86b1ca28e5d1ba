//! What all handlers share.

use std::sync::Arc;
use std::time::Duration;

use auth::{GatewayName, TokenIssuer};
use chain::Balances;
use control::Control;
use domain::{Clock, PodId, Tiers, UnixMillis, Wallet};
use metrics_exporter_prometheus::PrometheusHandle;
use moka::future::Cache;
use store::{ReplayKey, RunRecord, Store};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use treasury::Treasury;
use wire::Secret;
use wire::v1::public::{Agent, Reason};
use wire::v1::relay::RelayerHealth;

use crate::api::images::turns::ImportTurns;
use crate::auth::spent::SpentSignatures;
use crate::auth::uses::KeyUses;
use crate::edge::hosts::ApiHosts;
use crate::edge::limits::RateLimits;
use crate::edge::streams::StreamLimiter;
use crate::error::ApiError;
use crate::health::components::ComponentsHealth;
use crate::ids::RunIdGenerator;
use crate::ingress::bodies::BodyBudget;
use crate::ingress::pool::Pools;
use crate::ingress::prices::PriceCache;
use crate::ingress::urls::{AgentHostPattern, AgentPathPattern};
use crate::payments::PaymentProvider;
use crate::{Config, Limits};

/// How long the relayer's health is cached.
const HEALTH_LASTS: Duration = Duration::from_secs(2);

/// The parts a gateway is made of.
pub struct GatewayParts {
    /// What must last.
    pub store: Store,
    /// What places, starts and stops agents, and leads to them.
    pub control: Control,
    /// The edge's clock.
    pub clock: Arc<dyn Clock>,
    /// Who holds how much of the token.
    pub balances: Arc<dyn Balances>,
    /// What a balance buys.
    pub tiers: Tiers,
    /// The agents' bearer tokens.
    pub tokens: TokenIssuer,
    /// Vaults and payments; absent where no chain is configured.
    pub treasury: Option<Treasury>,
    /// Where requests to agents are paid; absent where none can be.
    pub payments: Option<Arc<dyn PaymentProvider>>,
    /// Renders `/metrics`; without it there is no such route.
    pub metrics: Option<PrometheusHandle>,
    /// Joins a request's span to the trace its `traceparent` names.
    pub follow: Option<fn(&tracing::Span, &str)>,
}

/// By which names clients know a gateway and its agents.
pub(crate) struct PublicUrls {
    pub(crate) agent_url: AgentHostPattern,
    /// Agents under paths, where there are such.
    pub(crate) path_url: Option<AgentPathPattern>,
    /// What signatures and links may name.
    pub(crate) audiences: Vec<GatewayName>,
}

/// One gateway.
pub(crate) struct Gateway {
    pub(crate) parts: GatewayParts,
    pub(crate) config: Config,
    pub(crate) limits: Limits,
    pub(crate) agent_url: AgentHostPattern,
    /// Agents under paths, where there are such.
    pub(crate) path_url: Option<AgentPathPattern>,
    /// The hosts by which the API is asked.
    pub(crate) hosts: ApiHosts,
    pub(crate) rates: RateLimits,
    pub(crate) spent: SpentSignatures,
    pub(crate) key_uses: KeyUses,
    pub(crate) ids: RunIdGenerator,
    /// An image is over, and is to be taken from its node.
    pub(crate) images_over: Notify,
    pub(crate) import_turns: ImportTurns,
    pub(crate) price_cache: PriceCache,
    /// The relayer's health, cached.
    pub(crate) relayer_health: Cache<(), Arc<RelayerHealth>>,
    /// What signatures and links may name.
    pub(crate) audiences: Vec<GatewayName>,
    /// How the parts that it works with were when they were last asked.
    pub(crate) components_health: ComponentsHealth,
    /// Limits answers that do not end by themselves.
    pub(crate) streams: StreamLimiter,
    /// Limits the bodies of paid requests.
    pub(crate) bodies: BodyBudget,
    /// Connections to the agents.
    pub(crate) pools: Pools,
    /// Everything that runs on behalf of a client.
    pub(crate) tasks: TaskTracker,
    /// Set when the gateway is going down.
    pub(crate) draining: CancellationToken,
    /// The document of the API.
    pub(crate) openapi: String,
}

impl Gateway {
    pub(crate) fn new(
        config: Config,
        limits: Limits,
        names: PublicUrls,
        parts: GatewayParts,
        openapi: String,
        draining: CancellationToken,
    ) -> Self {
        let PublicUrls { agent_url, path_url, audiences } = names;
        let ours = audiences.iter().map(GatewayName::as_str).chain([agent_url.domain()]);
        let ours = ours.chain(path_url.as_ref().map(AgentPathPattern::authority));
        // Where nobody can pay, nothing is kept for payers.
        let payer_percent = if parts.payments.is_some() { limits.payer_percent } else { 0 };
        let limits = Limits { payer_percent, ..limits };
        Self {
            hosts: ApiHosts::new(&config.hosts, ours),
            rates: RateLimits::new(&limits),
            spent: SpentSignatures::new(limits.tracked),
            key_uses: KeyUses::default(),
            ids: RunIdGenerator::default(),
            images_over: Notify::new(),
            import_turns: ImportTurns::default(),
            price_cache: PriceCache::new(),
            relayer_health: Cache::builder().max_capacity(1).time_to_live(HEALTH_LASTS).build(),
            audiences,
            components_health: ComponentsHealth::new(parts.treasury.is_some(), parts.clock.now()),
            bodies: BodyBudget::new(&limits),
            streams: StreamLimiter::new(&limits),
            pools: Pools::new(parts.control.clone(), &limits),
            tasks: TaskTracker::new(),
            openapi,
            parts,
            config,
            limits,
            agent_url,
            path_url,
            draining,
        }
    }

    /// The edge's clock. A clock before 1970 makes every signature one of the
    /// future, which is refused.
    pub(crate) fn now(&self) -> UnixMillis {
        self.parts.clock.now()
    }

    /// Spends a signature, durably.
    pub(crate) async fn spend(&self, replay_key: ReplayKey) -> Result<(), ApiError> {
        self.parts.store.spend(replay_key).await?;
        self.spent.insert(replay_key.key);
        Ok(())
    }

    /// Spends a signature for what must work on a full disk too. Where even that is not
    /// possible, one that is good for this request alone is remembered in memory: at the
    /// worst the same is asked twice.
    pub(crate) async fn spend_essential(&self, replay_key: ReplayKey, bound: bool) -> Result<(), ApiError> {
        match self.parts.store.spend_essential(replay_key).await {
            Err(error) if bound && error.retryable() => {
                tracing::warn!(%error, "the store cannot record a spent signature: it is remembered in memory alone, until a restart")
            }
            spent => spent?,
        }
        self.spent.insert(replay_key.key);
        Ok(())
    }

    /// The financial layer, if there is one.
    pub(crate) fn treasury(&self) -> Result<&Treasury, ApiError> {
        self.parts.treasury.as_ref().ok_or_else(ApiError::no_chain)
    }

    /// The last run of an agent, if it is this wallet's.
    pub(crate) async fn owned(&self, id: PodId, wallet: Wallet) -> Result<RunRecord, ApiError> {
        self.parts.control.owned(id, wallet).await?.ok_or_else(ApiError::not_found)
    }

    /// An agent as its holder sees it.
    pub(crate) fn view(&self, record: &RunRecord) -> Agent {
        // What was kept before a run that is live is in use.
        let kept = record.data.filter(|data| !record.state.is_live() && !data.is_over(self.now()));
        Agent {
            id: record.pod,
            run: record.id,
            url: self.agent_url.of(record.pod),
            host: self.agent_url.host(record.pod),
            path_url: self.path_url.as_ref().map(|url| url.of(record.pod)),
            wallet: record.wallet,
            tier: record.tier.clone(),
            created_at: record.created_at,
            spawned_at: record.spawned_at,
            expires_at: record.expiry.filter(|_| record.state.is_live()).map(|expiry| expiry.at),
            state: record.state.name(),
            reason: Reason::of(record.state),
            data_kept_until: kept.and_then(|data| data.until),
            data_bytes: kept.map(|data| data.bytes),
            ephemeral: record.ephemeral,
            agent_type: record.agent_type.clone(),
            image: record.image,
            runtime: record.runtime.clone(),
            public: record.public,
            restarts: record.restarts,
            token: None,
        }
    }

    /// The same with its bearer token: in the answer of a spawn alone.
    pub(crate) fn view_with_token(&self, record: &RunRecord) -> Agent {
        Agent { token: Some(Secret(self.parts.tokens.token(record.id))), ..self.view(record) }
    }
}
