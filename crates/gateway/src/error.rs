//! How the gateway says no: every error that a handler can meet, and the one
//! place that gives each its code. Internal text stays here, and in the log.

use auth::AuthError;
use axum::body::Body;
use axum::response::IntoResponse;
use chain::BalanceError;
use control::{NoNode, NodeError, SpawnError, StopError};
use domain::{FailReason, PlacementError};
use http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{Response, StatusCode};
use store::StoreError;
use treasury::{IdentityError, TreasuryError};
use wire::EnvironmentError;
use wire::fault::{Code, Fault};

use crate::edge::limits::RateExceeded;

/// Seconds after which a caller may try again what failed for want of something
/// that comes back by itself.
pub(crate) const SOON_S: u64 = 2;
/// The same for what comes back when somebody has made room.
pub(crate) const LATER_S: u64 = 30;

/// Why a request is not answered as it wished.
#[derive(Debug)]
pub(crate) enum ApiError {
    /// A fault that is said already.
    Fault(Box<Fault>),
    Auth(AuthError),
    RateExceeded(RateExceeded),
    Environment(EnvironmentError),
    Store(StoreError),
    Balance(BalanceError),
    Spawn(SpawnError),
    Stop(StopError),
    /// A node was asked on behalf of a guest.
    Node(NodeError),
    /// An agent does not answer.
    Unreachable(Box<dyn std::error::Error + Send + Sync>),
    Treasury(TreasuryError),
    /// An agent that was asked for has failed meanwhile.
    Failed(FailReason),
}

macro_rules! errors {
    ($($error:ty => $variant:ident;)*) => {
        $(impl From<$error> for ApiError {
            fn from(error: $error) -> Self {
                Self::$variant(error)
            }
        })*
    };
}

errors! {
    AuthError => Auth;
    RateExceeded => RateExceeded;
    EnvironmentError => Environment;
    StoreError => Store;
    BalanceError => Balance;
    SpawnError => Spawn;
    StopError => Stop;
    NodeError => Node;
    TreasuryError => Treasury;
}

impl From<NoNode> for ApiError {
    fn from(error: NoNode) -> Self {
        match error {
            NoNode::Ended => Self::new(Code::WrongState, error.to_string()),
            NoNode::NotPlaced => Fault::new(Code::AgentNotReady, error.to_string()).retry_after(1).into(),
            NoNode::Unknown(_) => {
                tracing::warn!(%error, "an agent's node is not configured");
                node_unavailable().into()
            }
        }
    }
}

impl From<Fault> for ApiError {
    fn from(fault: Fault) -> Self {
        Self::Fault(Box::new(fault))
    }
}

impl ApiError {
    /// A handler's own words.
    pub(crate) fn new(code: Code, error: impl Into<String>) -> Self {
        Fault::new(code, error).into()
    }

    /// No such agent, or not the caller's: nobody is told which.
    pub(crate) fn not_found() -> Self {
        Self::new(Code::NotFound, "there is no such agent, or it is not yours")
    }

    /// There is no financial layer.
    pub(crate) fn no_chain() -> Self {
        let said = "this gateway has no chain configured; everything but vaults and payments works";
        Self::new(Code::NoChain, said)
    }

    /// The wallet is linked to no owner.
    pub(crate) fn not_linked() -> Self {
        Self::new(Code::NotLinked, "your wallet is linked to no owner")
    }

    /// A body, query or path of the wrong shape.
    pub(crate) fn invalid(error: impl Into<String>) -> Self {
        Self::new(Code::InvalidRequest, error)
    }
}

impl From<ApiError> for Fault {
    fn from(error: ApiError) -> Self {
        match error {
            ApiError::Fault(fault) => *fault,
            ApiError::Auth(error) => Self::new(auth_code(&error), error.to_string()),
            ApiError::RateExceeded(RateExceeded(seconds)) => {
                Self::new(Code::RateLimited, "too many requests; wait, then go on more slowly").retry_after(seconds)
            }
            ApiError::Environment(error) => Self::new(Code::InvalidEnvironment, error.to_string()).field("env"),
            ApiError::Store(error) => store_fault(&error),
            ApiError::Balance(error) => balance_fault(&error),
            ApiError::Spawn(error) => spawn_fault(&error),
            ApiError::Stop(error) => stop_fault(&error),
            ApiError::Node(error) => node_fault(&error),
            ApiError::Unreachable(error) => unreachable_fault(&*error),
            ApiError::Treasury(error) => treasury_fault(&error),
            ApiError::Failed(reason) => failed_fault(reason),
        }
    }
}

const fn auth_code(error: &AuthError) -> Code {
    match error {
        AuthError::Missing(_) => Code::MissingSignature,
        AuthError::Malformed(_) => Code::MalformedSignature,
        AuthError::Expired | AuthError::Early => Code::ExpiredSignature,
        AuthError::Invalid => Code::InvalidSignature,
        AuthError::OtherGateway { .. } => Code::OtherGateway,
        AuthError::Unbound | AuthError::Nameless => Code::UnboundSignature,
    }
}

/// Our own fault: said so, and no more.
fn internal(error: &(dyn std::error::Error + 'static)) -> Fault {
    tracing::error!(error = %chain_of(error), "a request failed by an error of the gateway");
    Fault::new(Code::Internal, "something failed on our side; the operator's log says what")
}

/// An error with its sources, for the log.
fn chain_of(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

fn store_fault(error: &StoreError) -> Fault {
    match error {
        StoreError::Replayed => Fault::new(Code::ReplayedSignature, "this signature was used before; sign again"),
        StoreError::Unknown(_) | StoreError::NoPod(_) => {
            Fault::new(Code::NotFound, "there is no such agent, or it is not yours")
        }
        StoreError::Refused(_) => Fault::new(Code::WrongState, "the agent is not in a state that allows this"),
        error if error.retryable() => {
            tracing::error!(error = %chain_of(error), "the store cannot be written; new agents are refused until it can");
            let said = "nothing new can be written down just now; stopping and looking at agents works";
            Fault::new(Code::StoreUnavailable, said).retry_after(LATER_S)
        }
        error => internal(error),
    }
}

fn balance_fault(error: &BalanceError) -> Fault {
    tracing::warn!(error = %chain_of(error), "a wallet's balance cannot be read from any Solana endpoint");
    let BalanceError::Unknown { retry_after_s, .. } = error;
    Fault::new(Code::BalanceUnknown, "the wallet's balance cannot be read just now; try again later")
        .retry_after(*retry_after_s)
}

fn node_unavailable() -> Fault {
    Fault::new(Code::NodeUnavailable, "the node does not answer just now; try again").retry_after(SOON_S)
}

fn spawn_fault(error: &SpawnError) -> Fault {
    match error {
        SpawnError::NoCapacity(why @ PlacementError::TooLarge { .. }) => too_large(&why.to_string()),
        SpawnError::NoCapacity(_) => failed_fault(FailReason::NoCapacity),
        SpawnError::NoImage(image) => {
            Fault::new(Code::NoImage, format!("no node has the image {image}; its operator must import it"))
        }
        SpawnError::NodeLacks(lack) => Fault::new(
            Code::NodeUnavailable,
            format!("the node lacks what it needs to start agents ({lack}); its operator has to mend that"),
        )
        .retry_after(LATER_S),
        SpawnError::NodeUnavailable(_) => {
            tracing::warn!(error = %chain_of(error), "a spawn found no node that answers");
            node_unavailable()
        }
        SpawnError::DataAway(_) => Fault::new(
            Code::NodeUnavailable,
            "the node that keeps this agent's data does not answer; try again when it is back",
        )
        .retry_after(LATER_S),
        SpawnError::NoData(_) => Fault::new(
            Code::NoData,
            "the node keeps no data of this agent any more; its operator may find it, or remove the agent",
        ),
        SpawnError::NoVolume(_) => Fault::new(
            Code::NoVolume,
            "the node cannot give the agent its volumes: it holds one of them no more, or still has it in use; its \
             operator's log says which",
        ),
        SpawnError::VolumesNeedMachine => Fault::new(Code::InvalidRequest, error.to_string()).field("volumes"),
        SpawnError::Timeout { guest, .. } => Fault { guest: guest.clone(), ..failed_fault(FailReason::BootTimeout) },
        SpawnError::Failed { reason, guest } => Fault { guest: guest.clone(), ..failed_fault(*reason) },
        SpawnError::Stopped(_) => Fault::new(Code::WrongState, "the agent was stopped while it was starting"),
        SpawnError::ShuttingDown => {
            Fault::new(Code::ShuttingDown, "this gateway is going down; try again").retry_after(SOON_S)
        }
        SpawnError::Store(error) => store_fault(error),
        SpawnError::CutOff => internal(error),
    }
}

fn stop_fault(error: &StopError) -> Fault {
    match error {
        StopError::Store(error) => store_fault(error),
        StopError::NodeUnavailable => Fault::new(
            Code::NodeUnavailable,
            "the node that keeps the agent's data does not answer: ask again to have it erased",
        )
        .retry_after(SOON_S),
        StopError::Running => Fault::new(Code::PodRunning, "the agent was started again meanwhile; ask again"),
        StopError::CutOff => internal(error),
    }
}

/// What a node says of a guest, in our words.
fn node_fault(error: &NodeError) -> Fault {
    match error.code() {
        Some(Code::AgentUnreachable | Code::NotFound) => unreachable_fault(error),
        Some(Code::AgentNotReady) => Fault::new(Code::AgentNotReady, "the agent is starting; try again").retry_after(1),
        Some(Code::RateLimited) => {
            Fault::new(Code::RateLimited, "too many streams of this agent are open").retry_after(1)
        }
        Some(_) | None => {
            tracing::warn!(error = %chain_of(error), "a node does not answer, or not as expected");
            node_unavailable()
        }
    }
}

fn unreachable_fault(error: &(dyn std::error::Error + 'static)) -> Fault {
    tracing::info!(error = %chain_of(error), "an agent does not answer");
    Fault::new(Code::AgentUnreachable, "the agent does not answer")
}

fn treasury_fault(error: &TreasuryError) -> Fault {
    match error {
        TreasuryError::Unavailable(_) => {
            tracing::warn!(error = %chain_of(error), "no EVM endpoint answers as needed");
            Fault::new(Code::ChainUnavailable, "the chain does not answer just now").retry_after(SOON_S)
        }
        TreasuryError::NoRelayer => Fault::new(Code::NoChain, error.to_string()),
        TreasuryError::NotLinked => Fault::new(Code::NotLinked, "the agent's holder is linked to no owner"),
        TreasuryError::UnknownVault | TreasuryError::UnknownTask => Fault::new(Code::NotFound, error.to_string()),
        TreasuryError::Deploying => Fault::new(Code::VaultDeploying, error.to_string()).retry_after(SOON_S),
        TreasuryError::Signature => Fault::new(Code::InvalidEvmSignature, error.to_string()).field("signature"),
        TreasuryError::Deadline { .. } => Fault::new(Code::InvalidRequest, error.to_string()).field("deadline"),
        TreasuryError::Malformed(_) => Fault::new(Code::InvalidRequest, error.to_string()).field("signature"),
        TreasuryError::KeyMissing { .. } => Fault::new(Code::KeyMissing, error.to_string()),
        TreasuryError::Underway(_) => Fault::new(Code::WrongState, error.to_string()),
        TreasuryError::OverQuota { retry_after_s, .. } => {
            Fault::new(Code::RateLimited, error.to_string()).retry_after(*retry_after_s)
        }
        TreasuryError::Reverts(_) => Fault::new(Code::WouldRevert, error.to_string()),
        TreasuryError::Store(error) => store_fault(error),
        TreasuryError::Identity(lost) if matches!(**lost, IdentityError::Lost(_)) => {
            tracing::warn!(error = %chain_of(error), "an agent's key is not here");
            Fault::new(Code::KeyMissing, "the agent's key is not here, and no other can act for its vault")
        }
        TreasuryError::Identity(_) | TreasuryError::Config(_) => internal(error),
    }
}

/// What is said of a spawn whose agent has failed.
fn failed_fault(reason: FailReason) -> Fault {
    match reason {
        FailReason::BootTimeout => {
            Fault::new(Code::SpawnTimeout, "the agent was not ready in time; its slot is free again")
        }
        FailReason::NoCapacity => {
            Fault::new(Code::NoCapacity, "no node has room for an agent of this tier").retry_after(SOON_S)
        }
        FailReason::ExceedsCapacity => too_large("it is larger than any node"),
        FailReason::CrashLoop => {
            Fault::new(Code::SpawnFailed, "the agent died again and again while starting; its slot is free again")
        }
        FailReason::NodeRefused | FailReason::Interrupted | FailReason::Lost => {
            Fault::new(Code::SpawnFailed, "the agent could not be started; its slot is free again")
        }
    }
}

/// Waiting does not help, so there is no time after which to try again.
fn too_large(why: &str) -> Fault {
    Fault::new(Code::ExceedsCapacity, format!("this host cannot hold it: {why}; ask for less with cores and memory"))
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response<Body> {
        answer(&Fault::from(self))
    }
}

/// A fault as it travels.
pub(crate) fn answer(fault: &Fault) -> Response<Body> {
    let body = serde_json::to_vec(fault).unwrap_or_default();
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = StatusCode::from_u16(fault.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(seconds) = fault.retry_after {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    if matches!(fault.code, Code::InvalidToken | Code::InvalidKey | Code::ExpiredKey) {
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}
