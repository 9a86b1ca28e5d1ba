//! `palatine run`: a new agent that does one thing, and is removed again however that ends.

use std::cell::Cell;
use std::fmt;
use std::io::{IsTerminal, Write};
use std::pin::pin;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use client::{AgentEndpoint, ChatPrompt, ClientError, GatewayClient};
use domain::PodId;
use futures_util::StreamExt;
use wire::fault::Code;
use wire::v1::public::Agent;

use super::asked::first_model;
use super::conversation::MAX_ANSWER;
use super::markdown::printable;
use super::starting::{Interrupted, Starting};
use crate::answers::TaskDone;
use crate::output::show;
use crate::tokens::TokenFolder;

/// How long an agent lives that is to be removed when it has answered, if nothing is said of
/// it: should we die before, it ends by itself.
pub(crate) const LIFETIME: Duration = Duration::from_secs(60 * 60);

/// An agent that is there for one piece of work.
pub(crate) struct TaskAgent<'a> {
    pub(crate) client: &'a GatewayClient,
    pub(crate) tokens: &'a TokenFolder,
    /// Whether it runs on afterwards; the work itself may find that it must.
    pub(crate) keep: Cell<bool>,
}

/// What a new agent is to do.
pub(crate) struct Task<'a> {
    pub(crate) agent: TaskAgent<'a>,
    /// What it is asked.
    pub(crate) text: String,
    /// By this model, or the first that it lists.
    pub(crate) model: Option<String>,
    pub(crate) json: bool,
}

/// We were asked to end before the agent had answered.
#[derive(Debug)]
pub(crate) struct TaskInterrupted {
    id: PodId,
    agent: AgentLeft,
}

/// What became of the agent of a task that was interrupted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AgentLeft {
    /// It was stopped.
    Stopped,
    /// It was to stay.
    Kept,
    /// It could not be stopped, or we were asked to end once more before it was.
    Unknown,
}

impl TaskInterrupted {
    /// What can be done about the agent that is left.
    pub(crate) fn advice(&self) -> Option<String> {
        let id = self.id;
        (self.agent != AgentLeft::Stopped)
            .then(|| format!("see it: palatine status {id}, or stop it: palatine stop {id}"))
    }
}

impl fmt::Display for TaskInterrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.agent {
            AgentLeft::Stopped => write!(f, "interrupted; {} is stopped", self.id),
            AgentLeft::Kept => write!(f, "interrupted; {} runs on", self.id),
            AgentLeft::Unknown => write!(f, "interrupted; whether {} is stopped is not known", self.id),
        }
    }
}

impl std::error::Error for TaskInterrupted {}

impl TaskAgent<'_> {
    /// Has the agent started and the work done, and stops it unless it is kept: what was done, and how the stop went.
    /// `interrupted` comes when we are asked to end, what `again` gives when we are asked once more.
    pub(crate) async fn run<T, W: Future<Output = Result<T>>, F: Future<Output = ()>>(
        &self,
        starting: Starting<'_>,
        work: impl FnOnce(Agent) -> W,
        interrupted: impl Future<Output = ()>,
        again: impl FnOnce() -> Result<F>,
    ) -> Result<(T, Result<()>)> {
        let mut interrupted = pin!(interrupted);
        let agent = match starting.until_ready(interrupted.as_mut()).await {
            Ok(answer) => answer.agent,
            Err(error) => return Err(self.not_started(&starting, error, again).await?),
        };
        let id = agent.id;
        let done = tokio::select! {
            done = work(agent) => done,
            () = interrupted.as_mut() => return Err(self.leave(id, again()?).await.into()),
        };
        let stopped = match again() {
            _ if self.keep.get() => Ok(()),
            Ok(again) => self.stop(id, again).await,
            Err(error) => Err(error),
        };
        match (done, stopped) {
            (Ok(done), stopped) => {
                let left = || format!("{id} has answered and may run on; stop it: palatine stop {id}");
                Ok((done, stopped.with_context(left)))
            }
            (Err(error), stopped) => {
                if let Err(left) = stopped {
                    eprintln!("error: {left:#}\n  stop it: palatine stop {id}");
                }
                Err(error)
            }
        }
    }

    /// Ends what was begun and is not ready; why.
    async fn not_started<F: Future<Output = ()>>(
        &self,
        starting: &Starting<'_>,
        error: anyhow::Error,
        again: impl FnOnce() -> Result<F>,
    ) -> Result<anyhow::Error> {
        if let Some(Interrupted { id }) = error.downcast_ref() {
            return Ok(self.leave(*id, again()?).await.into());
        }
        if let Some(id) = starting.begun().filter(|_| !self.keep.get()) {
            self.clear_away(id, again()?).await;
        }
        Ok(error)
    }

    /// Ends what we were asked to leave.
    async fn leave(&self, id: PodId, again: impl Future<Output = ()>) -> TaskInterrupted {
        if self.keep.get() {
            return TaskInterrupted { id, agent: AgentLeft::Kept };
        }
        eprintln!("stopping {id}…");
        let agent = match self.stop(id, again).await {
            Ok(()) => AgentLeft::Stopped,
            Err(error) => {
                eprintln!("error: {error:#}");
                AgentLeft::Unknown
            }
        };
        TaskInterrupted { id, agent }
    }

    /// Ends an agent whose start failed here: it may run all the same. One that the gateway has
    /// taken down is not there any more.
    async fn clear_away(&self, id: PodId, again: impl Future<Output = ()>) {
        let Err(error) = self.stop(id, again).await else { return };
        let code = error.downcast_ref().and_then(ClientError::code);
        if !matches!(code, Some(Code::NotFound | Code::WrongState)) {
            eprintln!("error: {error:#}\n  {id} may run: palatine stop {id}");
        }
    }

    async fn stop(&self, id: PodId, again: impl Future<Output = ()>) -> Result<()> {
        tokio::select! {
            stopped = self.client.stop(id) => stopped?,
            () = again => return Err(anyhow!("interrupted while {id} was being stopped")),
        };
        if let Err(error) = self.tokens.forget(id) {
            eprintln!("warning: the token of {id}, which is stopped, is still kept here: {error}");
        }
        Ok(())
    }
}

impl Task<'_> {
    /// Has the agent started, asks it, and stops it unless it is kept, as [`TaskAgent::run`] does.
    pub(crate) async fn run<F: Future<Output = ()>>(
        &self,
        starting: Starting<'_>,
        interrupted: impl Future<Output = ()>,
        again: impl FnOnce() -> Result<F>,
    ) -> Result<ExitCode> {
        let (done, stopped) = self.work(starting, interrupted, again).await?;
        let told = self.tell(&done);
        stopped?;
        told?;
        Ok(ExitCode::SUCCESS)
    }

    /// What was answered, however the agent's end went.
    async fn work<F: Future<Output = ()>>(
        &self,
        starting: Starting<'_>,
        interrupted: impl Future<Output = ()>,
        again: impl FnOnce() -> Result<F>,
    ) -> Result<(TaskDone, Result<()>)> {
        let (done, stopped) = self.agent.run(starting, |agent| self.ask(agent), interrupted, again).await?;
        Ok((TaskDone { kept: done.kept || stopped.is_err(), ..done }, stopped))
    }

    fn tell(&self, done: &TaskDone) -> std::io::Result<()> {
        if self.json {
            return show(true, done, |_| String::new());
        }
        if self.agent.keep.get() {
            let id = done.agent;
            eprintln!("{id} runs on; talk with it: palatine chat {id}, or stop it: palatine stop {id}");
        }
        Ok(())
    }

    /// What the agent answers; a person sees it as it comes.
    async fn ask(&self, agent: Agent) -> Result<TaskDone> {
        let endpoint = AgentEndpoint { url: agent.url, token: agent.token };
        let model = match &self.model {
            Some(model) => model.clone(),
            None => first_model(self.agent.client, &endpoint).await?,
        };
        let prompt = ChatPrompt::of(model.clone(), self.text.clone());
        let mut words = self.agent.client.ask(&endpoint, &prompt, None).await?;
        let mut answer = String::new();
        let mut out = std::io::stdout();
        let on_terminal = out.is_terminal();
        while let Some(word) = words.next().await {
            let word = word?;
            if !self.json {
                let shown = if on_terminal { printable(&word) } else { word };
                out.write_all(shown.as_bytes())?;
                out.flush()?;
                continue;
            }
            if answer.len() + word.len() > MAX_ANSWER {
                bail!("the answer is longer than {MAX_ANSWER} bytes");
            }
            answer.push_str(&word);
        }
        if !self.json {
            writeln!(out)?;
        }
        Ok(TaskDone { agent: agent.id, model, answer, kept: self.agent.keep.get() })
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::sync::{Arc, Mutex};

    use auth::Keypair;
    use axum::Router;
    use axum::extract::State;
    use axum::routing::{get, post};
    use http::{StatusCode, Uri};
    use serde_json::{Value, json};
    use wire::fault::Fault;
    use wire::v1::public::SpawnRequest;

    use super::*;

    /// A gateway with one agent behind it: what its agent answers, and what was asked of it.
    #[derive(Clone)]
    struct FakeGateway {
        url: String,
        answers: Answers,
        can_stop: bool,
        heard: Arc<Mutex<Vec<String>>>,
    }

    #[derive(Clone, Copy, PartialEq, Eq)]
    enum Answers {
        Words,
        Nothing,
        AnError,
        /// The agent boots, and then nobody says how it is.
        Lost,
    }

    impl FakeGateway {
        async fn serve(answers: Answers, can_stop: bool) -> Self {
            rustls::crypto::ring::default_provider().install_default().ok();
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("http://{}", listener.local_addr().unwrap());
            let gateway = Self { url, answers, can_stop, heard: Arc::default() };
            let routes = Router::new()
                .route("/spawn", post(spawn))
                .route("/status/{id}", get(status))
                .route("/stop/{id}", post(stop))
                .route("/v1/models", get(async || json!({"data": [{"id": "first"}, {"id": "second"}]}).to_string()))
                .route("/v1/chat/completions", post(chat))
                .with_state(gateway.clone());
            tokio::spawn(async move { axum::serve(listener, routes).await });
            gateway
        }

        fn hear(&self, what: String) {
            self.heard.lock().unwrap().push(what);
        }

        /// Runs a task, and says what came of it and what was asked of the gateway.
        async fn run(&self, keep: bool, interrupted: impl Future<Output = ()>) -> (Result<()>, Vec<String>) {
            let (done, heard) = self.work(keep, interrupted).await;
            (done.and_then(|(_, stopped)| stopped), heard)
        }

        async fn work(
            &self,
            keep: bool,
            interrupted: impl Future<Output = ()>,
        ) -> (Result<(TaskDone, Result<()>)>, Vec<String>) {
            let dir = tempfile::tempdir().unwrap();
            let tokens = TokenFolder::at(dir.path().join("tokens"));
            let client = GatewayClient::new(&self.url).unwrap().signed_by(Keypair::generate(&[7; 32]));
            let starting = Starting::new(&client, &tokens, SpawnRequest::default(), None).unwrap();
            let starting = if self.answers == Answers::Lost { starting.impatient() } else { starting };
            let agent = TaskAgent { client: &client, tokens: &tokens, keep: Cell::new(keep) };
            let task = Task { agent, text: "do it".to_owned(), model: None, json: true };
            let done = task.work(starting, interrupted, || Ok(pending())).await;
            let is_kept = tokens.find("agent-123".parse().unwrap()).is_some();
            let heard = self.heard.lock().unwrap().clone();
            assert_eq!(is_kept, keep || heard.last().is_none_or(|last| last != "stop"), "its token");
            (done, heard)
        }
    }

    async fn spawn(State(gateway): State<FakeGateway>, uri: Uri) -> String {
        gateway.hear("spawn".to_owned());
        let is_lost = gateway.answers == Answers::Lost;
        if is_lost && uri.query() != Some("wait=false") {
            pending::<()>().await;
        }
        let state = if is_lost { "booting" } else { "ready" };
        let agent = json!({
            "id": "agent-123", "run": "a1b2c3d4-e5f6-7890", "url": gateway.url, "wallet":
            "11111111111111111111111111111111", "tier": "small", "created_at": 1, "spawned_at": 1, "state": state,
            "ephemeral": true, "agent_type": "echo", "image": format!("sha256:{}", "7".repeat(64)), "public": false,
            "restarts": 0, "token": "plt_x",
        });
        let tier = json!({"min": 1, "cores": 1, "memory": 128, "disk": 1});
        json!({"success": true, "agent": agent, "tier_config": tier}).to_string()
    }

    async fn status() -> (StatusCode, String) {
        let fault = Fault::new(Code::Internal, "something failed");
        (StatusCode::INTERNAL_SERVER_ERROR, serde_json::to_string(&fault).unwrap())
    }

    async fn stop(State(gateway): State<FakeGateway>) -> (StatusCode, String) {
        if gateway.can_stop {
            gateway.hear("stop".to_owned());
            return (StatusCode::OK, json!({"success": true, "uptime_ms": 1, "state": "stopped"}).to_string());
        }
        gateway.hear("no stop".to_owned());
        let fault = Fault::new(Code::StoreUnavailable, "not now");
        (StatusCode::SERVICE_UNAVAILABLE, serde_json::to_string(&fault).unwrap())
    }

    async fn chat(State(gateway): State<FakeGateway>, body: String) -> (StatusCode, String) {
        let asked: Value = serde_json::from_str(&body).unwrap();
        gateway.hear(format!("{} {}", asked["model"], asked["messages"][0]["content"]));
        match gateway.answers {
            Answers::Words => {
                let message = json!({"role": "assistant", "content": "done"});
                (StatusCode::OK, json!({"choices": [{"message": message, "finish_reason": "stop"}]}).to_string())
            }
            Answers::AnError => (StatusCode::BAD_GATEWAY, json!({"error": {"message": "no key"}}).to_string()),
            Answers::Nothing | Answers::Lost => pending().await,
        }
    }

    /// Comes when the agent was asked.
    async fn once_asked(gateway: FakeGateway) {
        while gateway.heard.lock().unwrap().len() < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn an_agent_is_spawned_asked_and_stopped_or_kept() {
        let gateway = FakeGateway::serve(Answers::Words, true).await;
        let (done, heard) = gateway.run(false, pending()).await;
        assert!(done.is_ok());
        assert_eq!(heard, ["spawn", "\"first\" \"do it\"", "stop"]);
        let gateway = FakeGateway::serve(Answers::Words, true).await;
        let (done, heard) = gateway.run(true, pending()).await;
        assert!(done.is_ok() && !heard.contains(&"stop".to_owned()), "{heard:?}");
    }

    #[tokio::test]
    async fn an_agent_that_says_no_is_stopped_all_the_same_and_its_own_words_are_told() {
        let gateway = FakeGateway::serve(Answers::AnError, true).await;
        let (done, heard) = gateway.run(false, pending()).await;
        assert!(format!("{:#}", done.unwrap_err()).contains("no key"));
        assert_eq!(heard.last().unwrap(), "stop");
    }

    #[tokio::test]
    async fn an_agent_whose_start_cannot_be_watched_is_stopped_unless_it_was_to_stay() {
        for keep in [false, true] {
            let gateway = FakeGateway::serve(Answers::Lost, true).await;
            let (done, heard) = gateway.run(keep, pending()).await;
            assert!(format!("{:#}", done.unwrap_err()).contains("something failed"));
            assert_eq!(heard.contains(&"stop".to_owned()), !keep, "{heard:?}");
        }
    }

    #[tokio::test]
    async fn an_answer_is_told_also_where_its_agent_could_not_be_stopped() {
        let gateway = FakeGateway::serve(Answers::Words, false).await;
        let (done, stopped) = gateway.work(false, pending()).await.0.unwrap();
        assert!(stopped.unwrap_err().to_string().contains("palatine stop agent-123"));
        assert_eq!((done.answer.as_str(), done.kept), ("done", true));
    }

    #[tokio::test]
    async fn who_leaves_while_the_agent_works_has_it_stopped_and_is_told_so() {
        for (can_stop, keep, said) in [
            (true, false, "interrupted; agent-123 is stopped"),
            (true, true, "interrupted; agent-123 runs on"),
            (false, false, "interrupted; whether agent-123 is stopped is not known"),
        ] {
            let gateway = FakeGateway::serve(Answers::Nothing, can_stop).await;
            let (done, heard) = gateway.run(keep, once_asked(gateway.clone())).await;
            let error = done.unwrap_err();
            let interrupted = error.downcast_ref::<TaskInterrupted>().unwrap();
            assert_eq!(interrupted.to_string(), said);
            assert_eq!(interrupted.advice().is_none(), can_stop && !keep);
            assert_eq!(heard.contains(&"stop".to_owned()), can_stop && !keep, "{heard:?}");
        }
    }

    #[tokio::test]
    async fn who_leaves_at_once_has_what_was_begun_stopped() {
        let gateway = FakeGateway::serve(Answers::Nothing, true).await;
        let (done, heard) = gateway.run(false, ready(())).await;
        assert!(done.unwrap_err().downcast_ref::<TaskInterrupted>().is_some());
        assert_eq!(heard.last().unwrap(), "stop");
    }
}
