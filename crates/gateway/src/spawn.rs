//! `POST /spawn`.
//!
//! Everything that can be refused without the database is refused first; the
//! one transaction spends the signature and takes the wallet's slot. Whatever
//! the answer is, the signature is spent.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use domain::{AgentId, ImageDigest, State as Life, Tier, TierName};
use http::header::{CONTENT_TYPE, HeaderMap};
use http::{Response, StatusCode, Uri};
use serde::Deserialize;
use store::{Admission, Idempotency, Record, Reservation};
use wire::Environment;
use wire::fault::{Code, Fault};
use wire::public::{IDEMPOTENCY_KEY, SpawnRequest, SpawnResponse};

use crate::caller::Verified;
use crate::entry::Arrival;
use crate::images::Table;
use crate::refusal::Refusal;
use crate::routes::{json, query};
use crate::state::Gateway;

/// The longest `Idempotency-Key`.
const MAX_KEY: usize = 255;
/// The longest text of ours that is repeated to the caller.
const MAX_QUOTED: usize = 128;

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

/// A wish that may be granted.
struct Wish {
    agent_type: String,
    env: Environment,
    public: bool,
    image: ImageDigest,
    tier: TierName,
    tier_config: Tier,
    idempotency: Option<Idempotency>,
}

/// Gives a holder an agent.
#[utoipa::path(
    post,
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
    security(("wallet" = [], "signature" = [], "timestamp" = []))
)]
pub(crate) async fn spawn(
    State(gateway): State<Arc<Gateway>>,
    Extension(arrival): Extension<Arrival>,
    uri: Uri,
    headers: HeaderMap,
    verified: Verified,
) -> Result<Response<Body>, Refusal> {
    let SpawnQuery { wait } = query(&uri)?;
    let wish = match gateway.wish(&headers, &verified).await {
        Ok(wish) => wish,
        Err(refusal) => {
            gateway.spend(verified.stamp).await?;
            return Err(refusal);
        }
    };
    let (reservation, env) = wish.reservation(&verified)?;
    let traceparent = Some(arrival.trace.traceparent());
    let admission = gateway.parts.store.reserve(reservation).await?;
    gateway.spent.note(verified.stamp.key);
    match admission {
        Admission::Reserved(record) if wait => {
            let record = gateway.parts.control.spawn(record, env, traceparent).await?;
            gateway.spawned(StatusCode::OK, &record)
        }
        Admission::Reserved(record) => {
            let answer = gateway.spawned(StatusCode::ACCEPTED, &record);
            gateway.parts.control.spawn_detached(record, env, traceparent);
            answer
        }
        Admission::Repeated(record) => gateway.repeated(record, wait).await,
        Admission::Busy(id) => Err(busy(id)),
        Admission::Mismatch => {
            Err(Fault::new(Code::IdempotencyMismatch, "this Idempotency-Key was used with another request")
                .field("Idempotency-Key")
                .into())
        }
        Admission::Replayed => Err(store::StoreError::Replayed.into()),
    }
}

fn busy(id: AgentId) -> Refusal {
    let mut fault = Fault::new(Code::AgentExists, "this wallet has a live agent; stop it first");
    fault.agent_id = Some(id);
    fault.into()
}

impl Gateway {
    /// Reads the wish and sees whether it may be granted.
    async fn wish(&self, headers: &HeaderMap, verified: &Verified) -> Result<Wish, Refusal> {
        let request = parse(headers, &verified.body)?;
        let env = request.env.unwrap_or_default();
        env.check()?;
        let idempotency = self.idempotency(headers, &verified.body)?;
        let table = self.images().await?;
        let named = match &request.image_ref {
            None => Some(self.named(table.clone(), &request.agent_type).await?),
            Some(_) => None,
        };
        let (tier, tier_config) = self.tier(verified).await?;
        let image = match (named, &request.image_ref) {
            (Some(image), _) => image,
            (None, reference) => self.brought(&table, reference.as_deref().unwrap_or(""), &tier)?,
        };
        Ok(Wish { agent_type: request.agent_type, env, public: request.public, image, tier, tier_config, idempotency })
    }

    /// The caller's promise that a retry is the same request. The request is
    /// kept as a keyed digest: it may hold secrets.
    fn idempotency(&self, headers: &HeaderMap, body: &[u8]) -> Result<Option<Idempotency>, Refusal> {
        let Some(value) = headers.get(IDEMPOTENCY_KEY) else { return Ok(None) };
        let key = value.to_str().ok().filter(|key| (1..=MAX_KEY).contains(&key.len()));
        let Some(key) = key else {
            let said = format!("Idempotency-Key is not 1 to {MAX_KEY} printable characters");
            return Err(Fault::new(Code::InvalidRequest, said).field("Idempotency-Key").into());
        };
        Ok(Some(Idempotency { key: key.to_owned(), request: self.parts.tokens.fingerprint(body) }))
    }

    async fn images(&self) -> Result<Arc<Table>, Refusal> {
        if let Some(table) = self.parts.images.table() {
            return Ok(table);
        }
        self.parts.images.refresh().await;
        self.parts.images.table().ok_or_else(|| {
            Fault::new(Code::NodeUnavailable, "no node has said yet which images it holds").retry_after(1).into()
        })
    }

    /// The image of this name. One that was imported a moment ago is looked for
    /// again before it is unknown.
    async fn named(&self, mut table: Arc<Table>, name: &str) -> Result<ImageDigest, Refusal> {
        if let Some(digest) = table.get(name) {
            return Ok(*digest);
        }
        self.parts.images.refresh().await;
        table = self.parts.images.table().unwrap_or(table);
        table.get(name).copied().ok_or_else(|| {
            let said = format!("agent_type {:?} names no image", shortened(name));
            let mut fault = Fault::new(Code::UnknownAgentType, said).field("agent_type");
            fault.known = Some(table.keys().cloned().collect());
            fault.into()
        })
    }

    /// The image that the caller brings, if its tier may.
    fn brought(&self, table: &Table, reference: &str, tier: &TierName) -> Result<ImageDigest, Refusal> {
        let refused = |code, said: &str| Refusal::from(Fault::new(code, said).field("image_ref"));
        if !self.config.byo_image_tiers.contains(tier) {
            return Err(refused(Code::ImageRefused, "your tier may not bring its own image; name one by agent_type"));
        }
        let digest: ImageDigest =
            reference.parse().map_err(|_| refused(Code::InvalidRequest, "image_ref is not sha256:<64 hex digits>"))?;
        if table.values().any(|held| *held == digest) {
            return Ok(digest);
        }
        Err(refused(Code::ImageRefused, "no node holds this image; ask the operator to pull it"))
    }

    /// The highest tier the wallet's balance reaches.
    async fn tier(&self, verified: &Verified) -> Result<(TierName, Tier), Refusal> {
        let balances = &self.parts.balances;
        let balance = balances.balance(&verified.wallet).await?;
        if let Some((name, tier)) = self.parts.tiers.reached_by(balance, balances.decimals()) {
            return Ok((name.clone(), *tier));
        }
        let (_, lowest) = self.parts.tiers.lowest();
        let mut fault = Fault::new(Code::InsufficientBalance, "the wallet holds too little of the token");
        fault.balance = Some(balance.whole(balances.decimals()));
        fault.required = Some(lowest.min);
        Err(fault.into())
    }

    /// The first answer again, as the agent is now.
    async fn repeated(&self, record: Record, wait: bool) -> Result<Response<Body>, Refusal> {
        let record = if wait { self.settled(record).await? } else { record };
        match record.state {
            Life::Failed(reason) => Err(Refusal::Failed(reason)),
            Life::Stopping(domain::End::Failed(reason)) => Err(Refusal::Failed(reason)),
            Life::Reserved | Life::Placed | Life::Booting => self.spawned(StatusCode::ACCEPTED, &record),
            Life::Ready | Life::Stopping(domain::End::Stopped(_)) | Life::Stopped(_) => {
                self.spawned(StatusCode::OK, &record)
            }
        }
    }

    /// Waits until the agent no longer starts.
    async fn settled(&self, record: Record) -> Result<Record, Refusal> {
        let deadline = Duration::from_millis(self.limits.agent_answer_ms);
        let id = record.id;
        let mut news = self.parts.store.subscribe();
        let waiting = async {
            let mut record = self.parts.store.get(id).await?.unwrap_or(record);
            while matches!(record.state, Life::Reserved | Life::Placed | Life::Booting) {
                // Lagging behind is as good a reason to look again as news.
                let _ = news.recv().await;
                record = self.parts.store.get(id).await?.ok_or_else(Refusal::not_found)?;
            }
            Ok(record)
        };
        let late = || Refusal::Failed(domain::FailReason::BootTimeout);
        tokio::time::timeout(deadline, waiting).await.unwrap_or_else(|_| Err(late()))
    }

    fn spawned(&self, status: StatusCode, record: &Record) -> Result<Response<Body>, Refusal> {
        let agent = self.view_with_token(record);
        json(status, &SpawnResponse { success: true, agent, tier_config: record.tier_config })
    }
}

impl Wish {
    /// What is asked of the store, and what it must not see.
    fn reservation(self, verified: &Verified) -> Result<(Reservation, Environment), Refusal> {
        let id = getrandom::u64().map_err(|error| {
            tracing::error!(%error, "no random numbers from the system");
            Refusal::new(Code::Internal, "something failed on our side; try again")
        })?;
        let reservation = Reservation {
            stamp: verified.stamp,
            id: AgentId::from_random(id),
            wallet: verified.wallet,
            agent_type: self.agent_type,
            image: self.image,
            tier: self.tier,
            tier_config: self.tier_config,
            public: self.public,
            idempotency: self.idempotency,
            now: verified.now,
        };
        Ok((reservation, self.env))
    }
}

fn parse(headers: &HeaderMap, body: &[u8]) -> Result<SpawnRequest, Refusal> {
    let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    let essence = kind.split(';').next().unwrap_or("").trim();
    if !essence.eq_ignore_ascii_case("application/json") {
        return Err(Refusal::new(Code::UnsupportedMediaType, "send the body as Content-Type: application/json"));
    }
    serde_json::from_slice(body).map_err(|error| misread(&error))
}

/// What is wrong with a body. serde's own words may quote a value, and a value
/// may be a secret: only those that name a field are passed on.
fn misread(error: &serde_json::Error) -> Refusal {
    let said = error.to_string();
    let field = said.split('`').nth(1).map(shortened).unwrap_or_default();
    let known = "it may hold agent_type, env, public and image_ref";
    let fault = |text: String| Fault::new(Code::InvalidRequest, text);
    let fault = if said.starts_with("missing field") {
        fault(format!("the body lacks {field}")).field(field)
    } else if said.starts_with("duplicate field") {
        fault(format!("the body holds {field} twice")).field(field)
    } else if said.starts_with("unknown field") {
        fault(format!("the body's field {field:?} is not known; {known}")).field(field)
    } else {
        fault(format!("the body is not the JSON of a spawn: line {}, column {}", error.line(), error.column()))
    };
    fault.into()
}

fn shortened(text: &str) -> String {
    text.chars().take(MAX_QUOTED).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(body: &str) -> Fault {
        misread(&serde_json::from_str::<SpawnRequest>(body).unwrap_err()).into()
    }

    #[test]
    fn a_misread_body_names_the_field_and_never_a_value() {
        assert_eq!(said("{}").field.as_deref(), Some("agent_type"));
        assert_eq!(said(r#"{"agent_type": "a", "cores": 64}"#).field.as_deref(), Some("cores"));
        assert_eq!(said(r#"{"agent_type": "a", "agent_type": "a"}"#).field.as_deref(), Some("agent_type"));
        for body in [
            r#"{"agent_type": "a", "env": "hush"}"#,
            r#"{"agent_type": "a", "env": {"KEY": ["hush"]}}"#,
            r#"{"agent_type": "a", "public": "hush"}"#,
            r#"hush"#,
        ] {
            let fault = said(body);
            assert!(!fault.to_string().contains("hush"), "{fault}");
        }
    }

    #[test]
    fn an_endless_field_name_is_cut() {
        let fault = said(&format!(r#"{{"{}": 1}}"#, "x".repeat(10_000)));
        assert!(fault.error.len() < 300, "{}", fault.error.len());
    }
}
