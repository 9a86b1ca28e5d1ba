//! What a request for a spawn asks for, read and admitted: everything that can be refused
//! before anything is written.

use control::{AdmitError, Grant, ImageAsk, RuntimeRefusal, SpawnAsk, UnmetNeed};
use domain::{HeldImageName, PodId, ResourceRequest, RunId, RuntimeKind, VolumeMount};
use http::header::HeaderMap;
use store::{IdempotencyKey, RunExpiry, RunPod, RunReservation};
use wire::Environment;
use wire::fault::{Code, Fault};
use wire::v1::node::RuntimeName;
use wire::v1::public::{IDEMPOTENCY_KEY, STARTER_IMAGES, SpawnRequest};

use crate::api::agents::mounts::mounts;
use crate::api::extract::{parse_json, shortened};
use crate::auth::caller::SpawningHolder;
use crate::error::ApiError;
use crate::ingress::urls::is_reserved;
use crate::state::Gateway;

/// The longest `agent_type`.
const MAX_TYPE: usize = 64;
/// The longest `Idempotency-Key`.
const MAX_KEY: usize = 255;

/// A spawn that was admitted, and what it gets.
pub(crate) struct AdmittedSpawn {
    pod: RunPod,
    agent_type: String,
    brought: bool,
    env: Environment,
    public: bool,
    grant: Grant,
    volumes: Vec<VolumeMount>,
    expiry: Option<RunExpiry>,
    idempotency: Option<IdempotencyKey>,
}

impl Gateway {
    /// Reads a request for a spawn, and admits it or says why not.
    pub(crate) async fn admit(&self, headers: &HeaderMap, holder: &SpawningHolder) -> Result<AdmittedSpawn, ApiError> {
        let request: SpawnRequest = parse_json(&holder.body)?;
        let requested = self.resolve(&request, holder).await?;
        let env = request.env.unwrap_or_default();
        env.check()?;
        let volumes = mounts(request.volumes.unwrap_or_default())?;
        let idempotency = self.idempotency(headers, &holder.body)?;
        let held = match &requested.image_ref {
            Some(_) => None,
            None => self.held_image(holder.wallet, &requested.agent_type).await?,
        };
        let image = match (&requested.image_ref, &held) {
            (Some(reference), _) => ImageAsk::Brought(reference),
            (None, Some((digest, needs))) => ImageAsk::Held { digest: *digest, needs },
            (None, None) => ImageAsk::Named(&requested.agent_type),
        };
        let ask = SpawnAsk {
            holder: holder.wallet,
            image,
            cores: request.cores,
            memory_mib: request.memory,
            before: requested.before,
            may_bring: &self.config.byo_image_tiers,
            runtime: request.runtime.as_deref().or(requested.stays_in.map(RuntimeKind::as_str)),
            data_of_machine: requested.data_of_machine,
            has_volumes: requested.has_volumes || !volumes.is_empty(),
        };
        let grant = self.parts.control.admit(&ask).await;
        let grant = grant.map_err(|error| match requested.stays_in {
            Some(kind) => refused_to_stay(error, kind),
            None => refused(error),
        })?;
        let expiry = self.expiry(request.timeout_seconds).await?;
        let (pod, agent_type, public) = (requested.pod, requested.agent_type, requested.public);
        let brought = requested.image_ref.is_some();
        Ok(AdmittedSpawn { pod, agent_type, brought, env, public, grant, volumes, expiry, idempotency })
    }

    /// Which agent is asked for, and what it boots: for one that is there, what it was
    /// spawned with, unless the request says otherwise.
    async fn resolve(&self, request: &SpawnRequest, holder: &SpawningHolder) -> Result<RequestedPod, ApiError> {
        let Some(pod) = request.pod else { return self.new_agent(request) };
        if let Some(field) = first_spawn_only(request) {
            let said = format!("{field} is settled when an agent is first spawned; leave it out to start one again");
            return Err(Fault::new(Code::InvalidRequest, said).field(field).into());
        }
        let last = self.owned(pod, holder.wallet).await?;
        let ran_in = last.runtime.as_deref().unwrap_or_default();
        let data_of_machine = last.data.is_some() && RuntimeKind::Qemu.is_of(ran_in);
        let stays_in = match request.runtime {
            Some(_) => None,
            None => RuntimeKind::ALL.into_iter().find(|kind| kind.is_of(ran_in)),
        };
        let in_machine = stays_in == Some(RuntimeKind::Qemu);
        let mounts = if in_machine { None } else { self.parts.store.pod_volumes(holder.wallet, pod).await? };
        let has_volumes = mounts.is_some_and(|mounts| !mounts.is_empty());
        // Who gives an agent volumes asks for a machine.
        let stays_in = stays_in.filter(|_| !has_volumes);
        let image_ref = request.image_ref.clone();
        let before = Some(last.ask());
        let same = request.agent_type.is_none() && image_ref.is_none();
        Ok(RequestedPod {
            pod: RunPod::Existing(pod),
            image_ref: if same && last.brought { Some(last.image.to_string()) } else { image_ref },
            agent_type: checked_type(request.agent_type.clone().unwrap_or(last.agent_type))?,
            public: request.public.unwrap_or(last.public),
            before,
            data_of_machine,
            has_volumes,
            stays_in,
        })
    }

    /// The key that makes a retry return the first answer. The request is kept as a keyed
    /// digest: it may hold secrets.
    pub(crate) fn idempotency(&self, headers: &HeaderMap, body: &[u8]) -> Result<Option<IdempotencyKey>, ApiError> {
        let Some(value) = headers.get(IDEMPOTENCY_KEY) else { return Ok(None) };
        let key = value.to_str().ok().filter(|key| (1..=MAX_KEY).contains(&key.len()));
        let Some(key) = key else {
            let said = format!("Idempotency-Key is not 1 to {MAX_KEY} printable characters");
            return Err(Fault::new(Code::InvalidRequest, said).field("Idempotency-Key").into());
        };
        Ok(Some(IdempotencyKey { key: key.to_owned(), request: self.parts.tokens.fingerprint(body) }))
    }
}

impl AdmittedSpawn {
    /// What is asked of the store, and what the store need not or must not see.
    pub(crate) fn reservation(
        self,
        id: RunId,
        holder: &SpawningHolder,
    ) -> (RunReservation, Environment, Vec<RuntimeName>) {
        let reservation = RunReservation {
            replay_key: holder.replay_key,
            id,
            pod: self.pod,
            brought: self.brought,
            wallet: holder.wallet,
            agent_type: self.agent_type,
            image: self.grant.image,
            tier: self.grant.tier,
            tier_config: self.grant.tier_config,
            allowance: self.grant.allowance,
            public: self.public,
            volumes: self.volumes,
            expiry: self.expiry,
            idempotency: self.idempotency,
            may_start: true,
            now: holder.now,
        };
        (reservation, self.env, self.grant.runtimes)
    }
}

/// Which agent is asked for, and what it boots.
struct RequestedPod {
    pod: RunPod,
    agent_type: String,
    image_ref: Option<String>,
    public: bool,
    /// What its last run took.
    before: Option<ResourceRequest>,
    /// Whether what is kept of it was written by a machine.
    data_of_machine: bool,
    /// Whether it has volumes already, as far as what is asked for depends on that.
    has_volumes: bool,
    /// What it ran in, and is to run in again, for nothing else is asked for.
    stays_in: Option<RuntimeKind>,
}

impl Gateway {
    fn new_agent(&self, request: &SpawnRequest) -> Result<RequestedPod, ApiError> {
        let name = request.name.as_deref().map(|name| self.chosen(name)).transpose()?;
        let Some(agent_type) = request.agent_type.clone() else {
            let said = "agent_type is missing: name an image, or with `pod` one of your agents to start again";
            return Err(Fault::new(Code::InvalidRequest, said).field("agent_type").into());
        };
        Ok(RequestedPod {
            pod: RunPod::New { name, ephemeral: request.ephemeral.unwrap_or(false) },
            agent_type: checked_type(agent_type)?,
            image_ref: request.image_ref.clone(),
            public: request.public.unwrap_or(false),
            before: None,
            data_of_machine: false,
            has_volumes: false,
            stays_in: None,
        })
    }

    /// An id that a holder may choose: none whose host is one of ours.
    fn chosen(&self, name: &str) -> Result<PodId, ApiError> {
        let refused = |said: String| ApiError::from(Fault::new(Code::InvalidRequest, said).field("name"));
        let id = PodId::chosen(name).map_err(|error| refused(error.to_string()))?;
        if is_reserved(name) || self.hosts.is_named(&self.agent_url.host(id)) {
            return Err(refused(format!("the name {name} is the gateway's own; choose another one")));
        }
        Ok(id)
    }
}

/// A field that a start again may not have.
fn first_spawn_only(request: &SpawnRequest) -> Option<&'static str> {
    let volumes = ("volumes", request.volumes.is_some());
    [("name", request.name.is_some()), ("ephemeral", request.ephemeral.is_some()), volumes]
        .into_iter()
        .find_map(|(field, is_there)| is_there.then_some(field))
}

fn checked_type(agent_type: String) -> Result<String, ApiError> {
    // One that a holder has published is named with its wallet.
    let most = if agent_type.contains('/') { HeldImageName::MAX_TEXT } else { MAX_TYPE };
    if (1..=most).contains(&agent_type.len()) {
        return Ok(agent_type);
    }
    let said = format!("agent_type is not 1 to {MAX_TYPE} bytes");
    Err(Fault::new(Code::InvalidRequest, said).field("agent_type").into())
}

/// Why a holder gets nothing, in the words of this API.
pub(crate) fn refused(error: AdmitError) -> ApiError {
    let fault = |code, field, said: &str| ApiError::from(Fault::new(code, said).field(field));
    match error {
        AdmitError::NoImagesYet => Fault::new(Code::NodeUnavailable, error.to_string()).retry_after(1).into(),
        AdmitError::UnknownImage { name, known } => {
            let more = match STARTER_IMAGES.contains(&name.as_str()) {
                true => {
                    format!(" here yet; its operator builds it: palatine up --images {name}, or ./dev images {name}")
                }
                false => String::new(),
            };
            let said = format!("agent_type {:?} names no image{more}", shortened(&name));
            let mut fault = Fault::new(Code::UnknownAgentType, said).field("agent_type");
            fault.known = Some(known.keys().cloned().collect());
            fault.into()
        }
        AdmitError::MayNotBring(_) => {
            let said = "your tier may not bring its own image; name one by agent_type";
            fault(Code::ImageRefused, "image_ref", said)
        }
        AdmitError::NotADigest => fault(Code::InvalidRequest, "image_ref", "image_ref is not sha256:<64 hex digits>"),
        AdmitError::ImageNotHeld => {
            fault(Code::ImageRefused, "image_ref", "no node holds this image; ask the operator to pull it")
        }
        AdmitError::Balance(error) => error.into(),
        AdmitError::InsufficientBalance { balance, required } => {
            let mut fault = Fault::new(Code::InsufficientBalance, error.to_string());
            (fault.balance, fault.required) = (Some(balance), Some(required));
            fault.into()
        }
        AdmitError::Unmet { unmet, working } => unmet_need(&unmet, working),
        AdmitError::Runtime(refusal @ RuntimeRefusal::VolumesNeedMachine) => {
            fault(Code::InvalidRequest, "volumes", &refusal.to_string())
        }
        AdmitError::Runtime(refusal) => fault(Code::InvalidRequest, "runtime", &refusal.to_string()),
        AdmitError::Share { field, .. } => fault(Code::InvalidRequest, field, &error.to_string()),
    }
}

/// The same of an agent that is started again and was to stay in what it ran in.
fn refused_to_stay(error: AdmitError, ran_in: RuntimeKind) -> ApiError {
    let (code, why) = match &error {
        AdmitError::Runtime(refusal) => (Code::InvalidRequest, refusal.to_string()),
        AdmitError::Unmet { unmet: unmet @ UnmetNeed::Runtime { .. }, .. } => (Code::ImageNeeds, unmet.to_string()),
        _ => return refused(error),
    };
    let ran_in = ran_in.as_str();
    let said = format!("the agent ran in {ran_in} and stays there unless `runtime` names another, but {why}");
    Fault::new(code, said).field("runtime").into()
}

/// Why an image cannot work for its holder, with the names of those that would.
fn unmet_need(unmet: &UnmetNeed, working: Vec<String>) -> ApiError {
    let (field, more) = match unmet {
        UnmetNeed::Memory { needs, tier_gives, .. } if needs <= tier_gives => ("memory", "ask for more of your tier's"),
        UnmetNeed::Memory { .. } | UnmetNeed::Tier { .. } => ("agent_type", "your tier gives no more"),
        UnmetNeed::Runtime { .. } => ("agent_type", "the operator has to offer one of those"),
    };
    let instead = match &working[..] {
        [] => String::new(),
        names => format!("; what works for you: {}", names.join(", ")),
    };
    let said = format!("the image cannot work: {unmet}; {more}{instead}");
    let mut fault = Fault::new(Code::ImageNeeds, said).field(field);
    fault.known = Some(working);
    fault.into()
}
