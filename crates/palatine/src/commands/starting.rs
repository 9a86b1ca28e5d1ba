//! Starting an agent, and waiting for it as long as its gateway does.
//!
//! All that is asked is asked under one idempotency key: whatever breaks meanwhile, the same
//! agent and the same token come of it. One that is slow is left to start, its id and token at
//! hand, and looked at until it is settled.

use std::cell::Cell;
use std::fmt;
use std::pin::pin;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use client::{ClientError, GatewayClient, SpawnOptions};
use domain::{PodId, StateName};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, timeout};
use wire::fault::{Code, Fault};
use wire::v1::node::GuestReport;
use wire::v1::public::{Agent, SpawnRequest, SpawnResponse};

use crate::output;
use crate::starters::Starters;
use crate::tokens::TokenFolder;

/// How long a start is waited for, and how.
#[derive(Clone, Copy, Debug)]
struct Patience {
    /// For an answer that says all at once, before the agent's id is asked for.
    prompt: Duration,
    /// Between two looks at an agent that is starting.
    look: Duration,
    /// For a gateway that is away meanwhile.
    away: Duration,
    /// For the agent's id, when we are asked to end.
    leave: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            prompt: Duration::from_secs(5),
            look: Duration::from_secs(2),
            away: Duration::from_secs(120),
            leave: Duration::from_secs(10),
        }
    }
}

/// We were asked to end while an agent was starting.
#[derive(Debug)]
pub(crate) struct Interrupted {
    /// The agent, which goes on starting.
    pub(crate) id: PodId,
}

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "interrupted; {0} goes on starting, and palatine wait {0} comes back to it", self.id)
    }
}

impl std::error::Error for Interrupted {}

/// An agent that is to be started.
pub(crate) struct Starting<'a> {
    client: &'a GatewayClient,
    tokens: &'a TokenFolder,
    request: SpawnRequest,
    key: String,
    patience: Patience,
    /// The agent, once the gateway has named it.
    begun: Cell<Option<PodId>>,
    /// What can be built here, should the gateway not have it.
    starters: Option<Starters>,
}

impl<'a> Starting<'a> {
    /// What is to be asked, under this idempotency key or one of its own.
    pub(crate) fn new(
        client: &'a GatewayClient,
        tokens: &'a TokenFolder,
        request: SpawnRequest,
        key: Option<String>,
    ) -> Result<Self> {
        let key = match key {
            Some(key) => key,
            None => minted_key()?,
        };
        let patience = Patience::default();
        Ok(Self { client, tokens, request, key, patience, begun: Cell::default(), starters: None })
    }

    /// With what can be built on this machine, where the gateway is of a stack here.
    pub(crate) fn with_starters(self, starters: Option<Starters>) -> Self {
        Self { starters, ..self }
    }

    /// The agent, where the gateway has named it: it may run, however its start came out here.
    pub(crate) const fn begun(&self) -> Option<PodId> {
        self.begun.get()
    }

    /// Has it reserved, and does not wait for it.
    pub(crate) async fn begin(&self) -> Result<SpawnResponse> {
        let answer = self.ask(true).await;
        if self.has_built_for(&answer).await? { self.ask(true).await } else { answer }
    }

    /// Has it started and waits until it is ready, or `interrupted` comes.
    pub(crate) async fn until_ready(&self, interrupted: impl Future<Output = ()>) -> Result<SpawnResponse> {
        let mut interrupted = pin!(interrupted);
        let answer = self.once_until_ready(interrupted.as_mut()).await;
        if self.has_built_for(&answer).await? { self.once_until_ready(interrupted).await } else { answer }
    }

    /// Whether what the gateway does not know was built here meanwhile.
    async fn has_built_for(&self, answer: &Result<SpawnResponse>) -> Result<bool> {
        let Err(error) = answer else { return Ok(false) };
        let fault = error.chain().find_map(|cause| cause.downcast_ref::<Fault>());
        if fault.is_none_or(|fault| fault.code != Code::UnknownAgentType) {
            return Ok(false);
        }
        let (Some(starters), Some(kind)) = (&self.starters, &self.request.agent_type) else { return Ok(false) };
        if !starters.has(kind) {
            return Ok(false);
        }
        let (starters, names) = (starters.clone(), [kind.clone()]);
        spawn_blocking(move || starters.build(&names)).await.context("build the image")??;
        Ok(true)
    }

    async fn once_until_ready(&self, interrupted: impl Future<Output = ()>) -> Result<SpawnResponse> {
        let mut interrupted = pin!(interrupted);
        let prompt = tokio::select! {
            answer = timeout(self.patience.prompt, self.ask(false)) => answer,
            () = &mut interrupted => return Err(self.leave().await),
        };
        if let Ok(answer) = prompt {
            return answer;
        }
        let begun = tokio::select! {
            begun = self.ask(true) => begun?,
            () = &mut interrupted => return Err(self.leave().await),
        };
        let id = begun.agent.id;
        tokio::select! {
            settled = self.settled(begun) => settled,
            () = &mut interrupted => Err(Interrupted { id }.into()),
        }
    }

    /// Asks, or asks again: the answer is that of the first time, as the agent is now. Its
    /// token is kept.
    async fn ask(&self, detached: bool) -> Result<SpawnResponse> {
        let options = SpawnOptions { detached, idempotency_key: Some(self.key.clone()) };
        let answer = match self.client.spawn(&self.request, &options).await {
            Err(error) if may_have_been_heard(&error) => {
                let again = format!(
                    "what became of it is not known; the same command with --idempotency-key {} tells, and shows \
                     its token",
                    self.key
                );
                return Err(anyhow!(error).context(again));
            }
            answer => answer?,
        };
        let id = answer.agent.id;
        let is_first = self.begun.replace(Some(id)).is_none();
        if let Some(token) = &answer.agent.token
            && let Err(error) = self.tokens.keep(id, token)
            && is_first
        {
            // The agent is there all the same, and whoever asked for it hears of it.
            eprintln!(
                "warning: the token of {id} is not kept here ({error}): palatine ask and chat need it as --token"
            );
        }
        Ok(answer)
    }

    /// What is said when we are asked to end before the agent's id is known.
    async fn leave(&self) -> anyhow::Error {
        match timeout(self.patience.leave, self.ask(true)).await {
            Ok(Ok(answer)) => Interrupted { id: answer.agent.id }.into(),
            Ok(Err(error)) => error,
            Err(_) => anyhow!(
                "interrupted; whether an agent starts is not known: the same command with --idempotency-key {} tells",
                self.key
            ),
        }
    }

    /// Looks at an agent that is starting until it is ready, or will not be.
    async fn settled(&self, begun: SpawnResponse) -> Result<SpawnResponse> {
        let id = begun.agent.id;
        eprintln!("{id} is {}; it goes on if you leave: palatine wait {id}", begun.agent.state);
        match watch(self.client, self.patience, begun.agent.clone(), None).await? {
            Settled::Ready(agent) => {
                let agent = Agent { token: begun.agent.token, ..*agent };
                Ok(SpawnResponse { agent, ..begun })
            }
            Settled::Over { guest, .. } => {
                tell_guest(guest.as_ref());
                // The gateway's own words on what it has given up.
                self.ask(false).await?;
                bail!("{id} was stopped while it was starting")
            }
        }
    }
}

/// Comes back to an agent that was left to start, and waits until it is ready; or `interrupted` comes.
pub(crate) async fn wait(client: &GatewayClient, id: PodId, interrupted: impl Future<Output = ()>) -> Result<()> {
    wait_with(client, id, Patience::default(), interrupted).await
}

async fn wait_with(
    client: &GatewayClient,
    id: PodId,
    patience: Patience,
    interrupted: impl Future<Output = ()>,
) -> Result<()> {
    let now = client.status(id).await?;
    let settled = tokio::select! {
        settled = watch(client, patience, now.agent, now.guest) => settled?,
        () = interrupted => return Err(Interrupted { id }.into()),
    };
    match settled {
        Settled::Ready(_) => Ok(()),
        Settled::Over { agent, guest } => {
            tell_guest(guest.as_ref());
            bail!("{}; start it again: palatine start {id}", output::starting(&agent, None))
        }
    }
}

/// How the start of an agent came out.
enum Settled {
    Ready(Box<Agent>),
    /// It will not be ready; and what its guest said last.
    Over {
        agent: Box<Agent>,
        guest: Option<GuestReport>,
    },
}

async fn watch(
    client: &GatewayClient,
    patience: Patience,
    mut agent: Agent,
    mut guest: Option<GuestReport>,
) -> Result<Settled> {
    let (id, run) = (agent.id, agent.run);
    let shown = Shown::start();
    let mut heard = Instant::now();
    loop {
        match agent.state {
            StateName::Ready => return Ok(Settled::Ready(Box::new(agent))),
            StateName::Stopping | StateName::Stopped | StateName::Failed => {
                return Ok(Settled::Over { agent: Box::new(agent), guest });
            }
            StateName::Reserved | StateName::Placed | StateName::Booting | StateName::Waiting => {}
        }
        shown.tell(&agent, guest.as_ref());
        sleep(patience.look).await;
        match client.status(id).await {
            Ok(status) if status.agent.run == run => {
                (agent, heard) = (status.agent, Instant::now());
                guest = status.guest.or(guest);
            }
            Ok(_) => bail!("{id} was started anew meanwhile: palatine status {id}"),
            Err(error) if error.may_pass() && heard.elapsed() < patience.away => {}
            Err(error) => {
                return Err(anyhow!(error).context(format!("{id} goes on starting: palatine wait {id}")));
            }
        }
    }
}

fn tell_guest(guest: Option<&GuestReport>) {
    if let Some(guest) = guest {
        eprintln!("{}", output::guest(guest));
    }
}

/// Whether a request that has no answer may have been one all the same.
fn may_have_been_heard(error: &ClientError) -> bool {
    match error {
        ClientError::Unreachable { source, .. } => !source.is_connect(),
        ClientError::TimedOut { .. } | ClientError::BrokenOff(_) => true,
        _ => false,
    }
}

fn minted_key() -> Result<String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| anyhow!("draw an idempotency key: {error}"))?;
    Ok(hex::encode(bytes))
}

/// What a person sees meanwhile: a line on a terminal, nothing elsewhere. Gone when dropped.
struct Shown(ProgressBar);

impl Shown {
    fn start() -> Self {
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(120));
        Self(bar)
    }

    fn tell(&self, agent: &Agent, guest: Option<&GuestReport>) {
        self.0.set_message(output::starting(agent, guest));
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

#[cfg(test)]
impl Starting<'_> {
    /// The same, for a test that waits for no minutes.
    pub(crate) fn impatient(self) -> Self {
        Self { patience: tests::PATIENCE, ..self }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::sync::{Arc, Mutex};

    use auth::Keypair;
    use axum::Router;
    use axum::extract::State;
    use axum::routing::{get, post};
    use http::{HeaderMap, StatusCode, Uri};
    use serde_json::{Value, json};
    use wire::Secret;
    use wire::fault::{Code, Fault};

    use super::*;

    pub(super) const PATIENCE: Patience = Patience {
        prompt: Duration::from_millis(100),
        look: Duration::from_millis(10),
        away: Duration::from_secs(5),
        leave: Duration::from_secs(5),
    };

    /// A gateway whose agent is in these states, one at each look.
    #[derive(Clone)]
    struct SlowGateway {
        states: Arc<Mutex<Vec<&'static str>>>,
        keys: Arc<Mutex<Vec<String>>>,
    }

    fn agent(state: &str) -> Value {
        json!({
            "id": "agent-123", "run": "a1b2c3d4-e5f6-7890", "url": "http://agent-123.localhost", "wallet":
            "11111111111111111111111111111111", "tier": "small", "created_at": 1, "spawned_at": 1, "state": state,
            "ephemeral": false, "agent_type": "echo", "image": format!("sha256:{}", "7".repeat(64)), "public": false,
            "restarts": 0,
        })
    }

    impl SlowGateway {
        async fn serve(states: &[&'static str]) -> (Self, String) {
            rustls::crypto::ring::default_provider().install_default().ok();
            let states = states.iter().rev().copied().collect();
            let gateway = Self { states: Arc::new(Mutex::new(states)), keys: Arc::default() };
            let routes = Router::new().route("/spawn", post(spawn)).route("/status/{id}", get(status));
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("http://{}", listener.local_addr().unwrap());
            let routes = routes.with_state(gateway.clone());
            tokio::spawn(async move { axum::serve(listener, routes).await });
            (gateway, url)
        }

        fn state(&self) -> &'static str {
            let mut states = self.states.lock().unwrap();
            if states.len() > 1 { states.pop().unwrap() } else { states[0] }
        }
    }

    /// Who waits for the agent waits for ever, unless it has failed.
    async fn spawn(State(gateway): State<SlowGateway>, uri: Uri, headers: HeaderMap) -> (StatusCode, String) {
        gateway.keys.lock().unwrap().push(headers["idempotency-key"].to_str().unwrap().to_owned());
        let last = *gateway.states.lock().unwrap().first().unwrap();
        let is_over = gateway.states.lock().unwrap().len() == 1;
        if uri.query() != Some("wait=false") {
            if last != "failed" || !is_over {
                pending::<()>().await;
            }
            let fault = Fault::new(Code::SpawnTimeout, "not in time");
            return (StatusCode::GATEWAY_TIMEOUT, serde_json::to_string(&fault).unwrap());
        }
        let mut agent = agent("booting");
        agent["token"] = json!("plt_x");
        let tier = json!({"min": 1, "cores": 1, "memory": 128, "disk": 1});
        let answer = json!({"success": true, "agent": agent, "tier_config": tier});
        (StatusCode::ACCEPTED, answer.to_string())
    }

    async fn status(State(gateway): State<SlowGateway>) -> String {
        json!({"agent": agent(gateway.state()), "uptime_ms": 0}).to_string()
    }

    async fn start(url: &str, interrupted: impl Future<Output = ()>) -> (Result<SpawnResponse>, Option<Secret>) {
        let dir = tempfile::tempdir().unwrap();
        start_with(url, TokenFolder::at(dir.path().join("tokens")), interrupted).await
    }

    async fn start_with(
        url: &str,
        tokens: TokenFolder,
        interrupted: impl Future<Output = ()>,
    ) -> (Result<SpawnResponse>, Option<Secret>) {
        let client = GatewayClient::new(url).unwrap().signed_by(Keypair::generate(&[7; 32]));
        let starting = Starting::new(&client, &tokens, SpawnRequest::default(), None).unwrap().impatient();
        let done = starting.until_ready(interrupted).await;
        (done, tokens.find(id()))
    }

    fn id() -> PodId {
        "agent-123".parse().unwrap()
    }

    #[tokio::test]
    async fn an_agent_that_boots_for_long_is_waited_for_and_its_token_is_kept_from_the_beginning() {
        let (gateway, url) = SlowGateway::serve(&["booting", "waiting", "booting", "ready"]).await;
        let (answer, token) = start(&url, pending()).await;
        let agent = answer.unwrap().agent;
        assert_eq!((agent.state, agent.token.unwrap().expose()), (StateName::Ready, "plt_x"));
        assert_eq!(token.unwrap().expose(), "plt_x");
        let keys = gateway.keys.lock().unwrap().clone();
        assert!(keys.len() == 2 && keys.iter().all(|key| *key == keys[0]), "{keys:?}");
    }

    #[tokio::test]
    async fn an_agent_whose_token_cannot_be_kept_here_is_told_of_all_the_same() {
        let (_gateway, url) = SlowGateway::serve(&["booting", "ready"]).await;
        let file = tempfile::NamedTempFile::new().unwrap();
        // A folder in the place of a file cannot be made, as on a disk that is full.
        let (answer, kept) = start_with(&url, TokenFolder::at(file.path().join("tokens")), pending()).await;
        let agent = answer.unwrap().agent;
        assert_eq!((agent.id, agent.token.unwrap().expose()), (id(), "plt_x"));
        assert!(kept.is_none());
    }

    #[tokio::test]
    async fn who_leaves_is_told_the_agents_id_and_has_its_token() {
        for after_ms in [0, 300] {
            let (_gateway, url) = SlowGateway::serve(&["booting"]).await;
            let (answer, token) = start(&url, sleep(Duration::from_millis(after_ms))).await;
            let error = answer.unwrap_err();
            assert_eq!(error.downcast_ref::<Interrupted>().unwrap().id, id(), "{error:#}");
            assert_eq!(token.unwrap().expose(), "plt_x");
        }
    }

    #[tokio::test]
    async fn who_comes_back_to_an_agent_waits_for_it_and_hears_when_it_will_not_be_ready() {
        let come_back = async |states: &[&'static str], interrupted| {
            let (_gateway, url) = SlowGateway::serve(states).await;
            let client = GatewayClient::new(&url).unwrap().signed_by(Keypair::generate(&[7; 32]));
            wait_with(&client, id(), PATIENCE, interrupted).await
        };
        for states in [&["ready"][..], &["booting", "waiting", "ready"]] {
            come_back(states, sleep(Duration::from_secs(60))).await.unwrap();
        }
        for states in [&["stopped"][..], &["booting", "failed"]] {
            let error = come_back(states, sleep(Duration::from_secs(60))).await.unwrap_err().to_string();
            assert!(error.contains("palatine start agent-123"), "{error}");
        }
        let left = come_back(&["booting"], sleep(Duration::from_millis(50))).await.unwrap_err();
        assert_eq!(left.downcast_ref::<Interrupted>().unwrap().id, id(), "{left:#}");
    }

    #[tokio::test]
    async fn an_agent_that_is_not_ready_in_its_gateways_time_fails_in_its_gateways_words() {
        let (_gateway, url) = SlowGateway::serve(&["booting", "stopping", "failed"]).await;
        let error = start(&url, pending()).await.0.unwrap_err();
        let fault = error.chain().find_map(|cause| cause.downcast_ref::<Fault>()).unwrap();
        assert_eq!(fault.code, Code::SpawnTimeout);
    }
}
