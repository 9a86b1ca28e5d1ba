//! `POST /spawn`.
//!
//! Everything that can be refused without the store is refused first. One transaction
//! spends the signature and takes the wallet's slot. Whatever the answer is, the
//! signature is spent.

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use control::{SpawnHandle, SpawnOrder};
use domain::{AllowanceExceeded, PodId, State as Life, TakenSlot};
use http::header::HeaderMap;
use http::{Response, StatusCode, Uri};
use serde::Deserialize;
use store::{Admission, KeptPod, MAX_STOPPED_PODS, RunRecord, StoreError};
use wire::fault::{Code, Fault, KeptAgent, LiveAgent, TierUse};
use wire::v1::public::{SpawnRequest, SpawnResponse};

use crate::api::agents::mounts::no_volumes;
use crate::api::extract::{json, query};
use crate::auth::caller::SpawningHolder;
use crate::edge::source::RequestSource;
use crate::error::{ApiError, SOON_S};
use crate::state::Gateway;

/// `?wait=`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SpawnQuery {
    /// Answer when the agent is usable (the default), or at once.
    #[serde(default = "yes")]
    wait: bool,
}

const fn yes() -> bool {
    true
}

/// Gives a holder an agent.
#[utoipa::path(
    post,
    operation_id = "spawn",
    tag = "agents",
    path = "/spawn",
    request_body = SpawnRequest,
    params(
        ("wait" = Option<bool>, Query, description = "Answer when the agent is usable (default), or at once"),
        ("Idempotency-Key" = Option<String>, Header, description = "Makes a retry, freshly signed, return the first answer"),
    ),
    responses(
        (status = 200, description = "The agent is usable", body = SpawnResponse),
        (status = 202, description = "The agent is starting", body = SpawnResponse),
        (status = "default", description = "What is wrong, by `code`", body = Fault),
    ),
    security(
        ("wallet" = [], "signature" = [], "timestamp" = [], "audience" = []),
        ("wallet" = [], "signature" = [], "timestamp" = []),
        ("bearer" = []),
        ("api_key" = [])
    )
)]
pub(crate) async fn spawn(
    State(gateway): State<Arc<Gateway>>,
    Extension(source): Extension<RequestSource>,
    uri: Uri,
    headers: HeaderMap,
    holder: SpawningHolder,
) -> Result<Response<Body>, ApiError> {
    let admitted = async {
        let SpawnQuery { wait } = query(&uri)?;
        Ok((gateway.admit(&headers, &holder).await?, wait))
    };
    let (admitted, wait) = match admitted.await {
        Ok(admitted) => admitted,
        Err(refusal) => {
            if let Some(replay_key) = holder.replay_key {
                gateway.spend(replay_key).await?;
            }
            return Err(refusal);
        }
    };
    let id = gateway.ids.next(holder.now, rand::random());
    let (reservation, env, runtimes) = admitted.reservation(id, &holder);
    let order = SpawnOrder { reservation, env, runtimes, traceparent: Some(source.trace.traceparent()) };
    match gateway.order(order).await? {
        (Admission::Reserved(_), starting) if wait => {
            let record = starting.ready().await?;
            gateway.spawned(StatusCode::OK, &record)
        }
        (Admission::Reserved(record), _) => gateway.spawned(StatusCode::ACCEPTED, &record),
        (Admission::Repeated(record), _) => gateway.repeated(record, wait).await,
        (Admission::Busy(id), _) => Err(busy(id)),
        (Admission::Running(id), _) => Err(running(id)),
        (Admission::AllowanceExceeded(exceeded), _) => Err(tier_full(&exceeded)),
        (Admission::Overloaded, _) => Err(overloaded()),
        (Admission::IdTaken(id), _) => Err(id_taken(id)),
        (Admission::NoPod(_) | Admission::RepeatedRemoved, _) => Err(ApiError::not_found()),
        (Admission::QuotaFull(kept), _) => Err(quota_full(kept)),
        (Admission::TooManyPods, _) => Err(too_many_pods()),
        (Admission::NoVolumes(refusal), _) => Err(no_volumes(refusal)),
        (Admission::Mismatch, _) => Err(mismatch()),
        (Admission::Replayed, _) => Err(StoreError::Replayed.into()),
    }
}

fn mismatch() -> ApiError {
    let fault = Fault::new(Code::IdempotencyMismatch, "this Idempotency-Key was used with another request");
    fault.field("Idempotency-Key").into()
}

fn id_taken(id: PodId) -> ApiError {
    let said = format!("the id {id} is in use, or was another holder's; choose another name");
    Fault::new(Code::IdTaken, said).field("name").into()
}

fn quota_full(kept: Vec<KeptPod>) -> ApiError {
    let said = "the data of your agents that do not run fills your tier's disk quota; remove one of those in `kept`";
    let mut fault = Fault::new(Code::DiskQuota, said);
    let kept = kept.into_iter().map(|kept| KeptAgent { id: kept.pod, bytes: kept.data.bytes, until: kept.data.until });
    fault.kept = Some(kept.collect());
    fault.into()
}

fn too_many_pods() -> ApiError {
    let said = format!("you have {MAX_STOPPED_PODS} agents that do not run; remove one of them");
    Fault::new(Code::DiskQuota, said).into()
}

fn overloaded() -> ApiError {
    Fault::new(Code::NoCapacity, "too many agents are being started; try again").retry_after(SOON_S).into()
}

fn busy(id: PodId) -> ApiError {
    let mut fault = Fault::new(Code::AgentExists, "this wallet has a live agent; stop it first");
    fault.agent_id = Some(id);
    fault.into()
}

fn running(id: PodId) -> ApiError {
    let mut fault = Fault::new(Code::PodRunning, "this agent runs already");
    fault.agent_id = Some(id);
    fault.into()
}

/// What does not fit, and what is in the way.
fn tier_full(exceeded: &AllowanceExceeded) -> ApiError {
    let AllowanceExceeded { allowed, taken, .. } = exceeded;
    let in_use = exceeded.in_use();
    let live = |run: &TakenSlot| LiveAgent { id: run.pod, cores: run.takes.cores, memory: run.takes.memory_mib };
    let mut fault = Fault::new(Code::TierFull, format!("{exceeded}; stop one, or ask for less with cores and memory"));
    fault.in_use = Some(TierUse {
        agents: taken.iter().map(live).collect(),
        agents_allowed: allowed.agents,
        cores: in_use.cores,
        cores_allowed: allowed.cores,
        memory: in_use.memory_mib,
        memory_allowed: allowed.memory_mib,
    });
    fault.into()
}

impl Gateway {
    /// Has the run reserved and brought up, which goes on if the caller hangs up.
    async fn order(&self, order: SpawnOrder) -> Result<(Admission, SpawnHandle), ApiError> {
        let replay_key = order.reservation.replay_key;
        let treasury = self.parts.treasury.clone();
        let on_reserved = move |record: &RunRecord| {
            if let Some(treasury) = treasury {
                treasury.prepare(record.pod, record.wallet);
            }
        };
        let ordered = self.parts.control.spawn(order, on_reserved).await?;
        if let Some(replay_key) = replay_key {
            self.spent.insert(replay_key.key);
        }
        Ok(ordered)
    }

    /// The first answer again, as the agent is now.
    async fn repeated(&self, record: RunRecord, wait: bool) -> Result<Response<Body>, ApiError> {
        let record = if wait { self.started(record).await? } else { record };
        match record.state {
            Life::Failed(reason) => Err(ApiError::Failed(reason)),
            Life::Stopping(domain::EndReason::Failed(reason)) => Err(ApiError::Failed(reason)),
            Life::Reserved | Life::Placed | Life::Booting | Life::Waiting(_) => {
                self.spawned(StatusCode::ACCEPTED, &record)
            }
            Life::Ready | Life::Stopping(domain::EndReason::Stopped(_)) | Life::Stopped(_) => {
                self.spawned(StatusCode::OK, &record)
            }
        }
    }

    /// Waits until the agent no longer starts.
    async fn started(&self, record: RunRecord) -> Result<RunRecord, ApiError> {
        let deadline = self.parts.control.spawn_timeout();
        let id = record.id;
        let mut news = self.parts.store.subscribe();
        let waiting = async {
            let mut record = self.parts.store.get(id).await?.unwrap_or(record);
            while matches!(record.state, Life::Reserved | Life::Placed | Life::Booting | Life::Waiting(_)) {
                // Where changes were missed, looking again is right too.
                let _ = news.recv().await;
                record = self.parts.store.get(id).await?.ok_or_else(ApiError::not_found)?;
            }
            Ok(record)
        };
        let late = || ApiError::Failed(domain::FailReason::BootTimeout);
        tokio::time::timeout(deadline, waiting).await.unwrap_or_else(|_| Err(late()))
    }

    fn spawned(&self, status: StatusCode, record: &RunRecord) -> Result<Response<Body>, ApiError> {
        let agent = self.view_with_token(record);
        json(status, &SpawnResponse { success: true, agent, tier_config: record.tier_config })
    }
}
