//! The commands that talk to a gateway.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use client::{AgentAccess, AgentEndpoint, ChatPrompt, ClientError, ExecCommand, GatewayClient, LogSource};
use domain::{Clock, PodId, SystemClock};
use futures_util::StreamExt;
use tokio::signal::unix::{SignalKind, signal};
use wire::Secret;
use wire::fault::{Code, Fault};
use wire::v1::public::{AgentsResponse, SpawnRequest};
use wire::v1::vault::Prices;

use super::asked::{Asked, ShownPieces, first_model, not_obeyed, only, payers_model, read_question};
use super::coder::{Coding, CodingOptions};
use super::environment::environment;
use super::files::{RemoteFiles, in_data};
use super::pay::LimitedPayer;
use super::starting::{Starting, wait};
use super::task::{Task, TaskAgent};
use super::{asked, chat, download, forward, gateway, piped, shell, task, upload};
use crate::answers::{Removed, RemovedAgent};
use crate::cli::{
    AccessToken, Ask, Chat, Command, CopyPath, Cp, Exec, Logs, NewLifetime, PortForward, Price, Run, RunTask,
    SetTimeout, Shell, Signer, Spawn, Start, Target,
};
use crate::output::{self, show};
use crate::signer::KeystoreLocation;
use crate::starters::Starters;
use crate::tokens::TokenFolder;
use crate::up::StateDir;

/// What coding agents work in, if nothing else is said.
const CODERS_IMAGE: &str = "base";

/// One run of a command.
struct Session<'a> {
    target: &'a Target,
    state: &'a StateDir,
    client: GatewayClient,
    tokens: TokenFolder,
    json: bool,
}

pub(crate) async fn run(target: &Target, state: &StateDir, command: Command) -> Result<ExitCode> {
    let unsigned = matches!(command, Command::Tiers) || opens(&command).is_some_and(|token| token.token.is_some());
    let client = if unsigned { GatewayClient::new(&gateway(target, state)?)? } else { super::client(target, state)? };
    let session = Session { target, state, client, tokens: TokenFolder::at(state.tokens()), json: target.json };
    match command {
        Command::Tiers => show(session.json, &session.client.tiers().await?, output::tiers)?,
        Command::Spawn(options) => session.spawn(options).await?,
        Command::Start(options) => session.start(options).await?,
        Command::Ls => session.list().await?,
        Command::Status { id: Some(id) } => {
            show(session.json, &session.client.status(id).await?, output::status)?;
        }
        Command::Wait { id } => {
            wait(&session.client, id, interrupted()?).await?;
            show(session.json, &session.client.status(id).await?, output::status)?;
        }
        Command::Logs(options) => session.logs(&options).await?,
        Command::Events { id } => session.events(id).await?,
        Command::Exec(options) => return session.exec(options).await,
        Command::Shell(options) => return session.shell(options).await,
        Command::PortForward(options) => session.forward(options).await?,
        Command::Cp(options) => session.copy(options).await?,
        Command::Ask(options) => session.ask(options).await?,
        Command::Chat(options) => return session.chat(options).await,
        Command::Run(options) => return session.run_task(options).await,
        Command::Timeout(options) => session.set_timeout(options).await?,
        Command::Stop { id } => session.stop(id).await?,
        Command::Rm { ids } => session.remove(&ids).await?,
        Command::Price(options) => session.price(options).await?,
        Command::Usage => show(session.json, &session.client.usage().await?, output::usage)?,
        Command::Up(_)
        | Command::Down
        | Command::Serve(_)
        | Command::Status { id: None }
        | Command::Image { .. }
        | Command::Key { .. }
        | Command::Volume { .. }
        | Command::Vault { .. }
        | Command::Wallet { .. }
        | Command::Keygen { .. }
        | Command::Sign(_)
        | Command::Config { .. }
        | Command::Pod { .. }
        | Command::Store { .. }
        | Command::Completions { .. } => unreachable!("these commands need no gateway and are not passed here"),
    }
    Ok(ExitCode::SUCCESS)
}

/// What a command that opens an agent's guest is told to open it by.
const fn opens(command: &Command) -> Option<&AccessToken> {
    match command {
        Command::Exec(options) => Some(&options.token),
        Command::Shell(options) => Some(&options.token),
        Command::PortForward(options) => Some(&options.token),
        Command::Cp(options) => Some(&options.token),
        _ => None,
    }
}

/// Opens an agent's guest: by the token that is given, by the API key, or by the token that
/// the gateway shows for one signature. One that was kept may be an earlier run's.
async fn access(client: &GatewayClient, id: PodId, given: AccessToken) -> Result<AgentAccess> {
    match given.token {
        Some(token) => Ok(client.access_by(id, &token)?),
        None => Ok(client.access(id).await?),
    }
}

fn is_refused(error: &anyhow::Error, code: Code) -> bool {
    error.downcast_ref().and_then(ClientError::code) == Some(code)
}

impl Session<'_> {
    async fn spawn(&self, options: Spawn) -> Result<()> {
        let new = SpawnRequest {
            agent_type: Some(options.agent_type),
            name: options.name.map(|name| name.to_string()),
            ephemeral: options.rm.then_some(true),
            public: options.public.then_some(true),
            volumes: (!options.volumes.is_empty()).then(|| options.volumes.into_iter().map(Into::into).collect()),
            ..SpawnRequest::default()
        };
        let agent = self.run(new, options.run).await?;
        self.give_vault(agent, options.no_vault, &options.signer).await
    }

    async fn start(&self, options: Start) -> Result<()> {
        let again = SpawnRequest { pod: Some(options.id), agent_type: options.agent_type, ..SpawnRequest::default() };
        self.run(again, options.run).await.map(drop)
    }

    /// Has a run started, of a new agent or of one that is there; keeps its token, and shows it.
    async fn run(&self, of: SpawnRequest, run: Run) -> Result<PodId> {
        let no_wait = run.no_wait;
        let starting = self.starting(of, run)?;
        let answer = if no_wait { starting.begin().await? } else { starting.until_ready(interrupted()?).await? };
        show(self.json, &answer, output::spawned)?;
        Ok(answer.agent.id)
    }

    /// What is to be asked for a run.
    fn starting(&self, of: SpawnRequest, run: Run) -> Result<Starting<'_>> {
        let env = environment(run.env, run.env_file.as_deref())?;
        let request = SpawnRequest {
            env: (!env.0.is_empty()).then_some(env),
            cores: run.cores,
            memory: run.memory,
            timeout_seconds: run.timeout.map(|time| time.as_secs()),
            runtime: run.runtime,
            image_ref: run.image,
            ..of
        };
        let starting = Starting::new(&self.client, &self.tokens, request, run.idempotency_key)?;
        Ok(starting.with_starters(self.starters()?))
    }

    /// What can be built here, if the gateway is of the stack that runs here.
    fn starters(&self) -> Result<Option<Starters>> {
        let stack = match &self.target.gateway {
            None => self.state.running()?,
            // Whatever runs here, and whether that can be told, another one is meant.
            Some(named) => self.state.running().ok().flatten().filter(|stack| stack.gateway == *named),
        };
        Ok(stack.map(|stack| Starters::of(&stack, self.state)))
    }

    /// Has a new agent do something, and removes it again.
    async fn run_task(&self, options: RunTask) -> Result<ExitCode> {
        let RunTask { task, agent_type, agent, dir, apply, keep, model, mut run, arguments } = options;
        if run.no_wait {
            bail!("run waits for the answer; who does not wait: palatine spawn --no-wait, then palatine ask");
        }
        let task = task.map(|task| if task == asked::STDIN { read_question() } else { Ok(task) }).transpose()?;
        if !keep {
            // Should we die, it does not stay for ever.
            run.timeout.get_or_insert(task::LIFETIME);
        }
        let new = SpawnRequest {
            agent_type: Some(agent_type.unwrap_or_else(|| CODERS_IMAGE.to_owned())),
            ephemeral: (!keep).then_some(true),
            ..SpawnRequest::default()
        };
        let starting = self.starting(new, run)?;
        let its = TaskAgent { client: &self.client, tokens: &self.tokens, keep: Cell::new(keep) };
        if let Some(agent) = agent {
            let options = CodingOptions { agent, dir: dir.unwrap_or_else(|| ".".into()), task, arguments, apply };
            return Coding::new(its, options, self.json).run(starting, interrupted()?, interrupted).await;
        }
        let text = task.context("what is it to do?")?;
        Task { agent: its, text, model, json: self.json }.run(starting, interrupted()?, interrupted).await
    }

    async fn set_timeout(&self, options: SetTimeout) -> Result<()> {
        let SetTimeout { id, time: NewLifetime(time) } = options;
        let answer = self.client.set_timeout(id, time.map(|time| time.as_secs())).await?;
        Ok(show(self.json, &answer, |answer| output::timeout(id, answer))?)
    }

    async fn chat(&self, options: Chat) -> Result<ExitCode> {
        let Chat { agent, token, url, model } = options;
        // A key goes to its gateway's own agents alone.
        let key = self.target.key.clone().filter(|_| url.is_none());
        let (id, url) = match (agent, url) {
            (agent, Some(url)) => (agent, url),
            (Some(id), None) => (Some(id), self.client.status(id).await?.agent.url),
            (None, None) => {
                let own = self.client.agents().await?;
                let id = only(&own, "palatine chat <id>")?;
                let agent = own.into_iter().find(|agent| agent.id == id).context("the agent is gone")?;
                (Some(id), agent.url)
            }
        };
        let kept = || id.and_then(|id| self.tokens.find(id));
        let endpoint = AgentEndpoint { url, token: token.map(Secret::from).or_else(kept).or(key) };
        chat::run(&self.client, endpoint, model, &self.state.chat_history(), self.json).await
    }

    /// Has the new agent's vault deployed, where a chain is configured, the wallet is
    /// linked to an owner and the owner's key is at hand. The agent works without.
    async fn give_vault(&self, agent: PodId, unwanted: bool, signer: &Signer) -> Result<()> {
        if unwanted || KeystoreLocation::find(signer, self.state)?.is_none() {
            return Ok(());
        }
        if self.target.key.is_some() {
            eprintln!(
                "the agent runs without a vault: no API key asks for one; with your keypair: palatine vault deploy {agent}"
            );
            return Ok(());
        }
        match self.client.own_link().await {
            Ok(_) => {}
            Err(ClientError::Refused(refused)) if matches!(refused.fault().code, Code::NoChain | Code::NotLinked) => {
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        }
        match super::vault::deploy_after_spawn(self.target, self.state, signer, agent).await {
            Err(error) if is_key_missing(&error) => {
                eprintln!("the agent runs, and its vault waits: {error:#}");
                Ok(())
            }
            deployed => deployed.with_context(|| {
                format!("the agent runs, and its vault is not deployed; try again: palatine vault deploy {agent}")
            }),
        }
    }

    async fn price(&self, options: Price) -> Result<()> {
        if options.prices.is_empty() && !options.clear {
            return Ok(show(self.json, &self.client.prices(options.id).await?, output::prices)?);
        }
        let prices = options.prices.into_iter().map(|price| (price.path, price.amount)).collect();
        let prices = self.client.set_prices(options.id, &Prices { prices }).await?;
        Ok(show(self.json, &prices, output::prices)?)
    }

    async fn list(&self) -> Result<()> {
        let answer = AgentsResponse { agents: self.client.agents().await? };
        Ok(show(self.json, &answer, |answer| output::agents(&answer.agents, SystemClock.now()))?)
    }

    async fn logs(&self, options: &Logs) -> Result<()> {
        let source = if options.console { LogSource::Console } else { LogSource::Agent };
        let mut lines = self.client.logs(options.id, source, options.follow).await?;
        let mut out = std::io::stdout();
        // In a pipe they are as the agent wrote them.
        let mut pieces = out.is_terminal().then(ShownPieces::default);
        while let Some(bytes) = lines.next().await {
            let bytes = bytes?;
            match &mut pieces {
                Some(pieces) => out.write_all(pieces.take(&bytes).as_bytes())?,
                None => out.write_all(&bytes)?,
            }
            out.flush()?;
        }
        Ok(())
    }

    async fn events(&self, id: PodId) -> Result<()> {
        let mut changes = self.client.follow(id, 0);
        while let Some(change) = changes.next().await {
            show(self.json, &change?, output::change)?;
        }
        Ok(())
    }

    async fn exec(&self, options: Exec) -> Result<ExitCode> {
        let command =
            ExecCommand { argv: options.argv, cwd: options.cwd, stdin: options.stdin, ..ExecCommand::default() };
        let interrupted = interrupted()?;
        piped::run(&access(&self.client, options.id, options.token).await?, &command, interrupted).await
    }

    async fn shell(&self, options: Shell) -> Result<ExitCode> {
        let id = match options.id {
            Some(id) => id,
            None => only(&self.client.agents().await?, "palatine shell <id>")?,
        };
        // Who waits at a terminal hears sooner that nobody answers.
        let client = self.client.clone().with_limits(shell::limits());
        let access = access(&client, id, options.token.clone()).await?;
        shell::run(access, id, options, self.json, interrupted()?).await
    }

    async fn forward(&self, options: PortForward) -> Result<()> {
        let interrupted = interrupted()?;
        let access = access(&self.client, options.id, options.token).await?;
        forward::run(&access, &options.ports, &options.address, self.json, interrupted).await
    }

    async fn copy(&self, options: Cp) -> Result<()> {
        let copied = match (options.source, options.destination) {
            (CopyPath::Here(source), CopyPath::Agent(id, target)) => {
                let (files, target) = self.files_of(id, options.token, target).await?;
                upload::upload(files, &source, &target).await?
            }
            (CopyPath::Agent(id, source), CopyPath::Here(target)) => {
                let (files, source) = self.files_of(id, options.token, source).await?;
                download::download(files, &source, &target).await?
            }
            (CopyPath::Here(_), CopyPath::Here(_)) | (CopyPath::Agent(..), CopyPath::Agent(..)) => {
                bail!("one of the two is in an agent, as <agent>:<path>, and the other one is here")
            }
        };
        Ok(show(self.json, &copied, output::copied)?)
    }

    /// The files of an agent, and a path in them. Of one that does not run, those of what is kept of
    /// it: they are in its `/data`.
    async fn files_of(&self, id: PodId, given: AccessToken, path: String) -> Result<(RemoteFiles, String)> {
        let by_key = given.token.is_none() && self.target.key.is_some();
        let runs = !by_key || self.client.status(id).await?.agent.state.is_live();
        let opened = if runs { Some(access(&self.client, id, given).await) } else { None };
        match opened {
            Some(Ok(access)) => Ok((RemoteFiles::Agent(access.files()), path)),
            // The gateway shows no token of an agent that does not run.
            Some(Err(error)) if !is_refused(&error, Code::WrongState) => Err(error),
            Some(Err(_)) | None => {
                let path = in_data(&path)?;
                Ok((RemoteFiles::Disk(self.client.data_files(id).await?), path))
            }
        }
    }

    async fn ask(&self, options: Ask) -> Result<()> {
        let named = options.url.is_some();
        let asked = Asked::of(options.agent, options.question, || self.client.agents(), named).await?;
        let text = asked.question.map_or_else(read_question, Ok)?;
        let url = match (options.url, asked.agent) {
            (Some(url), _) => url,
            (None, Some(id)) => self.client.status(id).await?.agent.url,
            (None, None) => bail!("whom? name one of your agents, or an agent's --url"),
        };
        let kept = || asked.agent.and_then(|id| self.tokens.find(id));
        // A key goes to its gateway's own agents alone.
        let key = self.target.key.clone().filter(|_| !named);
        let endpoint = AgentEndpoint { url, token: options.token.map(Secret::from).or_else(kept).or(key) };
        let model = match options.model {
            Some(model) => model,
            None if options.pay_up_to.is_some() => payers_model(&self.client, &endpoint).await?,
            None => first_model(&self.client, &endpoint).await?,
        };
        let payer = LimitedPayer::new(&options.signer, self.state, options.pay_up_to);
        let mut words = self.client.ask(&endpoint, &ChatPrompt::of(model, text), Some(&payer)).await?;
        let mut out = std::io::stdout();
        let is_terminal = out.is_terminal();
        while let Some(word) = words.next().await {
            let word = word?;
            let word = if is_terminal { not_obeyed(&word) } else { word };
            out.write_all(word.as_bytes())?;
            out.flush()?;
        }
        Ok(writeln!(out)?)
    }

    async fn stop(&self, id: PodId) -> Result<()> {
        let answer = self.client.stop(id).await?;
        self.tokens.forget(id).context("forget the agent's token")?;
        Ok(show(self.json, &answer, |answer| output::stopped(id, answer))?)
    }

    /// Removes one after the other; one that is refused keeps none of the others.
    async fn remove(&self, ids: &[PodId]) -> Result<()> {
        let (mut removed, mut refused) = (Vec::new(), Vec::new());
        for id in ids.iter().copied().collect::<BTreeSet<_>>() {
            match self.client.remove(id).await {
                Ok(answer) => {
                    self.tokens.forget(id).context("forget the agent's token")?;
                    removed.push(RemovedAgent { id, answer });
                }
                Err(error) => refused.push(anyhow::Error::from(error).context(format!("remove {id}"))),
            }
        }
        if self.json || !removed.is_empty() {
            show(self.json, &Removed { removed }, output::removed)?;
        }
        let Some(last) = refused.pop() else { return Ok(()) };
        for error in refused {
            eprintln!("error: {error:#}");
        }
        Err(last)
    }
}

/// Whether the gateway refused because the agent's key is not there.
fn is_key_missing(error: &anyhow::Error) -> bool {
    let fault = error.chain().find_map(|cause| cause.downcast_ref::<Fault>());
    fault.is_some_and(|fault| fault.code == Code::KeyMissing)
}

/// Comes when we are asked to end, by the keyboard, by a lost terminal or by name.
fn interrupted() -> Result<impl Future<Output = ()>> {
    let kinds = [SignalKind::interrupt(), SignalKind::hangup(), SignalKind::terminate()];
    let heard = kinds.map(signal).into_iter().collect::<Result<Vec<_>, _>>().context("listen for signals")?;
    Ok(async move {
        let each = heard.into_iter().map(|mut kind| Box::pin(async move { kind.recv().await }));
        futures_util::future::select_all(each).await;
    })
}
