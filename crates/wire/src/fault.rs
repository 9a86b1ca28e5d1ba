//! How every API refuses.

use domain::{IdError, PodId, UnixMillis};
use serde::{Deserialize, Serialize};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

use crate::v1::node::GuestReport;

/// The body of every answer that is not a success. `error` and the optional
/// fields are Romulus's; `code` is stable and made for programs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Fault {
    /// One sentence for people: what is wrong, and what to do.
    pub error: String,
    /// A stable name for programs.
    pub code: Code,
    /// The offending field, where one can be named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// 403 `insufficient_balance`: whole tokens the wallet holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub balance: Option<u64>,
    /// 403 `insufficient_balance`: whole tokens it would need.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub required: Option<u64>,
    /// 409 `agent_exists`, `volume_attached`: the live agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_id: Option<PodId>,
    /// 409 `tier_full`: what the wallet's live agents use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_use: Option<TierUse>,
    /// 403 `disk_quota`: agents whose data could go, the largest first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<Vec<KeptAgent>>,
    /// 400 `unknown_agent_type`: the names that are known; 422 `image_needs`: those that would
    /// work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub known: Option<Vec<String>>,
    /// 429 and 503: whole seconds to wait, as in `Retry-After`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<u64>,
    /// 502 and 504 of a spawn: what the agent's guest said before it was given up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest: Option<Box<GuestReport>>,
}

/// What a wallet's live agents use of what its tier gives them together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TierUse {
    /// The live agents.
    pub agents: Vec<LiveAgent>,
    /// Agents at once that the tier allows.
    pub agents_allowed: u32,
    /// Cores that are in use.
    pub cores: u32,
    /// Cores that the tier gives.
    pub cores_allowed: u32,
    /// Memory that is in use, in MiB.
    pub memory: u64,
    /// Memory that the tier gives, in MiB.
    pub memory_allowed: u64,
}

/// A live agent, and what it uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LiveAgent {
    /// Which.
    pub id: PodId,
    /// Its cores.
    pub cores: u32,
    /// Its memory, in MiB.
    pub memory: u64,
}

/// An agent that does not run, and what is kept of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KeptAgent {
    /// Which.
    pub id: PodId,
    /// What its data takes of its node's disk.
    pub bytes: u64,
    /// Until when it is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<UnixMillis>,
}

impl Fault {
    /// A fault of this code, in these words.
    pub fn new(code: Code, error: impl Into<String>) -> Self {
        Self {
            error: error.into(),
            code,
            field: None,
            balance: None,
            required: None,
            agent_id: None,
            in_use: None,
            kept: None,
            known: None,
            retry_after: None,
            guest: None,
        }
    }

    /// Names the offending field.
    #[must_use]
    pub fn field(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into());
        self
    }

    /// Says when to try again.
    #[must_use]
    pub const fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after = Some(seconds);
        self
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.error, self.code.as_str())
    }
}

impl std::error::Error for Fault {}

impl From<IdError> for Fault {
    fn from(error: IdError) -> Self {
        Self::new(Code::InvalidRequest, error.to_string())
    }
}

/// The derived schema would have the variants' names: it does not see the macro's
/// `rename`.
impl PartialSchema for Code {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .description(Some("Every stable code; its HTTP status is always the same."))
            .enum_values(Some(Self::ALL.iter().map(|code| code.as_str())))
            .into()
    }
}

impl ToSchema for Code {}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $status:literal;)*) => {
        /// Every stable code, with the HTTP status it travels under.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum Code {
            $($(#[$doc])* #[serde(rename = $text)] $name,)*
        }

        impl Code {
            /// The code as it is written.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// The HTTP status it travels under.
            #[must_use]
            pub const fn status(self) -> u16 {
                match self { $(Self::$name => $status,)* }
            }

            /// All codes, for the documentation.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];
        }
    };
}

codes! {
    /// A field has the wrong shape.
    InvalidRequest = "invalid_request", 400;
    /// `agent_type` names no image.
    UnknownAgentType = "unknown_agent_type", 400;
    /// The environment is out of bounds.
    InvalidEnvironment = "invalid_environment", 400;
    /// A header of the signature is absent.
    MissingSignature = "missing_signature", 401;
    /// A header of the signature has the wrong shape.
    MalformedSignature = "malformed_signature", 401;
    /// Signed too long ago, or in the future.
    ExpiredSignature = "expired_signature", 401;
    /// The signature is of something else, or of someone else.
    InvalidSignature = "invalid_signature", 401;
    /// This message was used before.
    ReplayedSignature = "replayed_signature", 401;
    /// This needs a signature that binds request and gateway.
    UnboundSignature = "unbound_signature", 401;
    /// The signature is for another gateway.
    OtherGateway = "other_gateway", 401;
    /// The agent's bearer token is absent or wrong.
    InvalidToken = "invalid_token", 401;
    /// The API key is none, unknown here, or was revoked.
    InvalidKey = "invalid_key", 401;
    /// The API key's time is over.
    ExpiredKey = "expired_key", 401;
    /// A payment's header holds no payment that can be read.
    MalformedPayment = "malformed_payment", 400;
    /// The answer has a price; the terms are beside this fault.
    PaymentRequired = "payment_required", 402;
    /// The payment is not what was asked for.
    InvalidPayment = "invalid_payment", 402;
    /// The wallet is linked to no owner.
    NotLinked = "not_linked", 403;
    /// A signature of the EVM is of something else, or of someone else.
    InvalidEvmSignature = "invalid_evm_signature", 403;
    /// The relayer does not carry this call.
    CallRefused = "call_refused", 403;
    /// The wallet holds too little of the token.
    InsufficientBalance = "insufficient_balance", 403;
    /// The data of the wallet's PODs fills what its tier gives; what could go is beside this.
    DiskQuota = "disk_quota", 403;
    /// The API key does not open this.
    KeyScope = "key_scope", 403;
    /// The wallet has as many API keys as it may.
    TooManyKeys = "too_many_keys", 403;
    /// This tier may not bring its own image.
    ImageRefused = "image_refused", 403;
    /// The wallet's images fill what its tier gives, or are as many as they may be.
    ImageQuota = "image_quota", 403;
    /// No such thing, or not yours.
    NotFound = "not_found", 404;
    /// The path is known, the method is not.
    MethodNotAllowed = "method_not_allowed", 405;
    /// The call would fail on the chain; the words say why.
    WouldRevert = "would_revert", 409;
    /// The wallet has a live agent.
    AgentExists = "agent_exists", 409;
    /// The wallet's live agents leave no room in its tier for this one; what is in use is
    /// beside this.
    TierFull = "tier_full", 409;
    /// This id was another holder's, or is in use.
    IdTaken = "id_taken", 409;
    /// The POD runs already.
    PodRunning = "pod_running", 409;
    /// The node that should keep the POD's data keeps none.
    NoData = "no_data", 409;
    /// The wallet has a volume of this name.
    VolumeExists = "volume_exists", 409;
    /// The volume is attached to an agent; that one is beside this.
    VolumeAttached = "volume_attached", 409;
    /// The node that should hold the volume holds none.
    NoVolume = "no_volume", 409;
    /// The payment is being settled or answered for another copy of the request.
    PaymentInFlight = "payment_in_flight", 409;
    /// The desired state is older than, or differs from, the one held.
    StaleGeneration = "stale_generation", 409;
    /// The agent's key is not here, and another would not be its vault's: the operator imports
    /// it.
    KeyMissing = "key_missing", 409;
    /// The upload is not at this offset: `Upload-Offset` says where it is.
    UploadOffset = "upload_offset", 409;
    /// The agent is not in a state that allows this.
    WrongState = "wrong_state", 409;
    /// The body is larger than allowed.
    BodyTooLarge = "body_too_large", 413;
    /// The body is not JSON.
    UnsupportedMediaType = "unsupported_media_type", 415;
    /// The host that the request is for is none of this gateway's.
    UnknownHost = "unknown_host", 421;
    /// This `Idempotency-Key` was used with another request.
    IdempotencyMismatch = "idempotency_mismatch", 422;
    /// The image needs more than it would get, or another runtime; what would work is beside
    /// this.
    ImageNeeds = "image_needs", 422;
    /// The archive is no image that can be taken; the words say why.
    InvalidImage = "invalid_image", 422;
    /// No node could hold it, even empty; ask for less.
    ExceedsCapacity = "exceeds_capacity", 422;
    /// Too many requests.
    RateLimited = "rate_limited", 429;
    /// The headers are larger than allowed.
    HeadersTooLarge = "headers_too_large", 431;
    /// Our fault.
    Internal = "internal", 500;
    /// The guest does not answer.
    AgentUnreachable = "agent_unreachable", 502;
    /// The agent has no WebSocket at this path.
    NoWebSocket = "no_web_socket", 502;
    /// No chain is configured here.
    NoChain = "no_chain", 501;
    /// The chain does not answer just now, or its endpoints disagree.
    ChainUnavailable = "chain_unavailable", 503;
    /// The vault is on its way onto the chain, or not read from it yet.
    VaultDeploying = "vault_deploying", 503;
    /// The payment may be on its way: the same request with the same payment is
    /// answered once it is known to be made.
    SettlementPending = "settlement_pending", 503;
    /// Payments cannot be taken just now; nothing was charged.
    PaymentsUnavailable = "payments_unavailable", 503;
    /// The balance cannot be read just now.
    BalanceUnknown = "balance_unknown", 503;
    /// No node has room.
    NoCapacity = "no_capacity", 503;
    /// No node has the image.
    NoImage = "no_image", 503;
    /// The node does not answer.
    NodeUnavailable = "node_unavailable", 503;
    /// The agent has as many requests as it may.
    AgentBusy = "agent_busy", 503;
    /// The agent is not ready.
    AgentNotReady = "agent_not_ready", 503;
    /// The store cannot be written just now: its disk is full, or does not answer.
    StoreUnavailable = "store_unavailable", 503;
    /// This gateway is going down.
    ShuttingDown = "shutting_down", 503;
    /// The agent was not ready in time; its slot is free again.
    SpawnTimeout = "spawn_timeout", 504;
    /// The agent failed while it was starting; its slot is free again.
    SpawnFailed = "spawn_failed", 502;
}
