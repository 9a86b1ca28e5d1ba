//! Admission of a spawn: everything that can be refused before anything is written.

use std::sync::Arc;

use domain::{ImageDigest, PodId, RunId, Tier, TierName, Tiers};
use http::header::HeaderMap;
use store::{IdempotencyKey, PodChoice, Reservation};
use wire::Environment;
use wire::fault::{Code, Fault};
use wire::public::{IDEMPOTENCY_KEY, SpawnRequest};

use crate::api::extract::{parse_json, shortened};
use crate::auth::caller::UnspentSignature;
use crate::ingress::urls::is_reserved;
use crate::nodes::images::ImageTable;
use crate::refusal::Refusal;
use crate::state::Gateway;

/// The longest `agent_type`.
const MAX_TYPE: usize = 64;
/// The longest `IdempotencyKey-Key`.
const MAX_KEY: usize = 255;

/// A spawn that was admitted, with the image and the tier that it gets.
pub(crate) struct AdmittedSpawn {
    pod: PodChoice,
    agent_type: String,
    brought: bool,
    env: Environment,
    public: bool,
    image: ImageDigest,
    tier: TierName,
    tier_config: Tier,
    idempotency: Option<IdempotencyKey>,
}

impl Gateway {
    /// Reads a request for a spawn, and admits it or says why not.
    pub(crate) async fn admit(
        &self,
        headers: &HeaderMap,
        verified: &UnspentSignature,
    ) -> Result<AdmittedSpawn, Refusal> {
        let request: SpawnRequest = parse_json(&verified.body)?;
        let requested = self.resolve(&request, verified).await?;
        let env = request.env.unwrap_or_default();
        env.check()?;
        let idempotency = self.idempotency(headers, &verified.body)?;
        let table = self.images().await?;
        let named = match &requested.image_ref {
            None => Some(self.image_named(table.clone(), &requested.agent_type).await?),
            Some(_) => None,
        };
        let (tier, full) = self.tier(verified).await?;
        let tier_config = share_of(full, request.cores, request.memory)?;
        let image = match (named, &requested.image_ref) {
            (Some(image), _) => image,
            (None, reference) => self.own_image(&table, reference.as_deref().unwrap_or(""), &tier)?,
        };
        let (pod, agent_type, public) = (requested.pod, requested.agent_type, requested.public);
        let brought = requested.image_ref.is_some();
        Ok(AdmittedSpawn { pod, agent_type, brought, env, public, image, tier, tier_config, idempotency })
    }

    /// Which agent is asked for, and what it boots: for one that is there, what it was
    /// spawned with, unless the request says otherwise.
    async fn resolve(&self, request: &SpawnRequest, verified: &UnspentSignature) -> Result<RequestedPod, Refusal> {
        let Some(pod) = request.pod else { return self.new_agent(request) };
        if let Some(field) = first_spawn_only(request) {
            let said = format!("{field} is settled when an agent is first spawned; leave it out to start one again");
            return Err(Fault::new(Code::InvalidRequest, said).field(field).into());
        }
        let last = self.owned(pod, verified.wallet).await?;
        let image_ref = request.image_ref.clone();
        let same = request.agent_type.is_none() && image_ref.is_none();
        Ok(RequestedPod {
            pod: PodChoice::Existing(pod),
            image_ref: if same && last.brought { Some(last.image.to_string()) } else { image_ref },
            agent_type: checked_type(request.agent_type.clone().unwrap_or(last.agent_type))?,
            public: request.public.unwrap_or(last.public),
        })
    }

    /// The key that makes a retry return the first answer. The request is kept as a keyed
    /// digest: it may hold secrets.
    fn idempotency(&self, headers: &HeaderMap, body: &[u8]) -> Result<Option<IdempotencyKey>, Refusal> {
        let Some(value) = headers.get(IDEMPOTENCY_KEY) else { return Ok(None) };
        let key = value.to_str().ok().filter(|key| (1..=MAX_KEY).contains(&key.len()));
        let Some(key) = key else {
            let said = format!("Idempotency-Key is not 1 to {MAX_KEY} printable characters");
            return Err(Fault::new(Code::InvalidRequest, said).field("Idempotency-Key").into());
        };
        Ok(Some(IdempotencyKey { key: key.to_owned(), request: self.parts.tokens.fingerprint(body) }))
    }

    async fn images(&self) -> Result<Arc<ImageTable>, Refusal> {
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
    async fn image_named(&self, mut table: Arc<ImageTable>, name: &str) -> Result<ImageDigest, Refusal> {
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

    /// The image that the caller names by its digest, if its tier may do that.
    fn own_image(&self, table: &ImageTable, reference: &str, tier: &TierName) -> Result<ImageDigest, Refusal> {
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
    async fn tier(&self, verified: &UnspentSignature) -> Result<(TierName, Tier), Refusal> {
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
}

impl AdmittedSpawn {
    /// What is asked of the store, and what the store must not see.
    pub(crate) fn reservation(self, id: RunId, verified: &UnspentSignature) -> (Reservation, Environment) {
        let reservation = Reservation {
            replay_key: verified.replay_key,
            id,
            pod: self.pod,
            brought: self.brought,
            wallet: verified.wallet,
            agent_type: self.agent_type,
            image: self.image,
            tier: self.tier,
            tier_config: self.tier_config,
            public: self.public,
            idempotency: self.idempotency,
            now: verified.now,
        };
        (reservation, self.env)
    }
}

/// The part of a tier that was asked for.
fn share_of(tier: Tier, cores: Option<u32>, memory: Option<u32>) -> Result<Tier, Refusal> {
    let part = |field, requested: Option<u32>, least: u32, most: u32| match requested {
        Some(requested) if !(least..=most).contains(&requested) => {
            let said = format!("{field} must be from {least} to {most}, which your tier gives, not {requested}");
            Err(Refusal::from(Fault::new(Code::InvalidRequest, said).field(field)))
        }
        requested => Ok(requested.unwrap_or(most)),
    };
    Ok(Tier {
        cores: part("cores", cores, 1, tier.cores)?,
        memory: part("memory", memory, Tiers::MIN_MEMORY_MIB, tier.memory)?,
        ..tier
    })
}

/// Which agent is asked for, and what it boots.
struct RequestedPod {
    pod: PodChoice,
    agent_type: String,
    image_ref: Option<String>,
    public: bool,
}

impl Gateway {
    fn new_agent(&self, request: &SpawnRequest) -> Result<RequestedPod, Refusal> {
        let name = request.name.as_deref().map(|name| self.chosen(name)).transpose()?;
        let Some(agent_type) = request.agent_type.clone() else {
            let said = "agent_type is missing: name an image, or with `pod` one of your agents to start again";
            return Err(Fault::new(Code::InvalidRequest, said).field("agent_type").into());
        };
        Ok(RequestedPod {
            pod: PodChoice::New { name, ephemeral: request.ephemeral.unwrap_or(false) },
            agent_type: checked_type(agent_type)?,
            image_ref: request.image_ref.clone(),
            public: request.public.unwrap_or(false),
        })
    }

    /// An id that a holder may choose: none whose host is one of ours.
    fn chosen(&self, name: &str) -> Result<PodId, Refusal> {
        let refused = |said: String| Refusal::from(Fault::new(Code::InvalidRequest, said).field("name"));
        let id = PodId::chosen(name).map_err(|error| refused(error.to_string()))?;
        if is_reserved(name) || self.hosts.is_named(&self.agent_url.host(id)) {
            return Err(refused(format!("the name {name} is the gateway's own; choose another one")));
        }
        Ok(id)
    }
}

/// A field that a start again may not have.
fn first_spawn_only(request: &SpawnRequest) -> Option<&'static str> {
    [("name", request.name.is_some()), ("ephemeral", request.ephemeral.is_some())]
        .into_iter()
        .find_map(|(field, is_there)| is_there.then_some(field))
}

fn checked_type(agent_type: String) -> Result<String, Refusal> {
    if (1..=MAX_TYPE).contains(&agent_type.len()) {
        return Ok(agent_type);
    }
    let said = format!("agent_type is not 1 to {MAX_TYPE} bytes");
    Err(Fault::new(Code::InvalidRequest, said).field("agent_type").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_no_capacity_a_part_of_a_tier_may_be_asked_for_and_no_more_than_it() {
        let tier = Tier { min: 7, cores: 4, memory: 4_096, disk: 1_024 };
        assert_eq!(share_of(tier, None, None).unwrap(), tier);
        assert_eq!(share_of(tier, Some(2), Some(1_024)).unwrap(), Tier { cores: 2, memory: 1_024, ..tier });
        for (cores, memory, field) in [
            (Some(5), None, "cores"),
            (Some(0), None, "cores"),
            (None, Some(4_097), "memory"),
            (None, Some(1), "memory"),
        ] {
            let fault = Fault::from(share_of(tier, cores, memory).unwrap_err());
            assert_eq!((fault.code, fault.field.as_deref()), (Code::InvalidRequest, Some(field)));
        }
    }
}
