//! The task's stages, and what it holds.

use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use domain::{FailReason, MarkKind, NodeShortage, RunId, UnixMillis};
use sandbox::{DiskRetention, Guest, GuestFacts, GuestSpec, RuntimeError};
use tokio::sync::{Mutex, watch};
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};
use wire::v1::node::{DataPolicy, RuntimeName, Sandbox, SandboxPhase};

use super::command::{Deletion, Ending, Inbox, StageName};
use super::exits::GuestExits;
use super::failure::{BookkeepingError, GuestFailure, Shortage};
use super::handle::{Logs, Origin, SandboxHandle};
use super::live::RunningGuest;
use crate::context::NodeContext;
use crate::error_chain::error_chain;
use crate::guest::PodClient;
use crate::journal::JournalError;
use crate::ledger::{DesiredState, SandboxDir, SandboxRecord, Secrets};
use crate::logs::{AgentLog, RotatedLog};
use crate::policy::{ReadinessHistory, RestartDecision, SpecWithoutEnv};

/// Where a sandbox's task is.
pub(super) enum Stage {
    /// A guest is to be made.
    Start,
    /// It runs and is not ready.
    Boot(RunningGuest),
    /// It is ready.
    Monitor(RunningGuest),
    /// It died; another is made then.
    Backoff(UnixMillis),
    /// The node lacks something: what there is is looked at again later.
    Wait(Shortage),
    /// It runs, and its VMM has stopped it for want of something.
    Suspended(RunningGuest, NodeShortage),
    /// It was given up.
    Failed(FailReason),
    /// It ends.
    End(Option<RunningGuest>, Ending),
}

/// A wait for what the node lacks.
#[derive(Clone, Copy)]
pub(super) struct Waiting {
    lacks: NodeShortage,
    since: UnixMillis,
    tries: u32,
}

/// The task that owns a sandbox.
pub(crate) struct SandboxTask {
    pub(super) shared: Arc<NodeContext>,
    pub(super) record: SandboxRecord,
    pub(super) dir: SandboxDir,
    pub(super) view: watch::Sender<Sandbox>,
    pub(super) commands: Inbox,
    pub(super) handle: Arc<SandboxHandle>,
    /// What the first boot is told to trace.
    pub(super) trace: Option<String>,
    pub(super) agent_log: Option<Arc<Mutex<AgentLog>>>,
    /// The next start is in the record already.
    pub(super) counted: bool,
    /// When the guest became ready lately.
    pub(super) readiness: ReadinessHistory,
    /// Nothing was ever made of it.
    pub(super) fresh: bool,
    pub(super) waiting: Option<Waiting>,
    /// What its guests have said of their agent's ends, since this daemon looks.
    pub(super) exits: GuestExits,
}

/// How long the journal is waited for where something must go on without it, or before
/// it is said that the node lacks it. What is to be marked is written as soon as the
/// disk takes it, with the time at which it was seen.
pub(crate) const BOOKS_DEADLINE: Duration = Duration::from_secs(2);
/// Pause before a failure is tried to be written down again.
const AGAIN: Duration = Duration::from_secs(3);
/// Longest text of a cause that is shown.
const CAUSE: usize = 400;

impl SandboxTask {
    /// A task for this record, shown before it begins.
    pub(crate) fn new(
        shared: Arc<NodeContext>,
        record: SandboxRecord,
        dir: SandboxDir,
        commands: Inbox,
        view: watch::Sender<Sandbox>,
        handle: Arc<SandboxHandle>,
    ) -> Self {
        Self {
            shared,
            record,
            dir,
            view,
            commands,
            handle,
            trace: None,
            agent_log: None,
            counted: false,
            readiness: ReadinessHistory::default(),
            fresh: false,
            waiting: None,
            exits: GuestExits::default(),
        }
    }

    pub(crate) const fn id(&self) -> RunId {
        self.record.id
    }

    /// What is shown of a record.
    pub(crate) fn show(shared: &NodeContext, record: &SandboxRecord, phase: SandboxPhase) -> Sandbox {
        Sandbox {
            id: record.id,
            pod: record.desired.pod,
            generation: record.desired.generation,
            image: record.desired.image,
            cores: record.desired.cores,
            memory_mib: record.desired.memory_mib,
            port: record.run.port,
            phase,
            runtime: shown_runtime(shared, record.desired.runtime),
            restarts: record.restarts(),
            created_at: record.created_at,
            ready_after_ms: record.ready_after_ms,
            pid: record.facts.as_ref().and_then(GuestFacts::pid),
            cause: None,
            guest: None,
        }
    }

    /// Runs until the sandbox is gone or the daemon ends.
    pub(crate) async fn run(mut self, origin: Origin) {
        let mut stage = match self.begin(origin).await {
            Ok(Some(stage)) => stage,
            Ok(None) => return,
            Err(broken) => self.broken(&broken).await,
        };
        loop {
            stage = match stage {
                Stage::End(live, ending) => return self.end(live, ending).await,
                other => match self.step(other).await {
                    Ok(next) => next,
                    Err(broken) => self.broken(&broken).await,
                },
            };
        }
    }

    async fn step(&mut self, stage: Stage) -> Result<Stage, BookkeepingError> {
        match stage {
            Stage::Start => self.start().await,
            Stage::Boot(live) => self.boot(live).await,
            Stage::Monitor(live) => self.monitor(live).await,
            Stage::Backoff(until) => Ok(self.pause(until, Stage::Start).await),
            Stage::Wait(want) => self.wait(want).await,
            Stage::Suspended(live, wait_reason) => self.suspended(live, wait_reason).await,
            Stage::Failed(reason) => self.given_up(reason).await,
            Stage::End(live, command) => Ok(Stage::End(live, command)),
        }
    }

    /// The records cannot be written: nothing may be claimed, so nobody is let in and
    /// nobody billed. The guest, if there is one, is left alone until they can.
    async fn broken(&mut self, broken: &BookkeepingError) -> Stage {
        tracing::error!(error = broken as &dyn std::error::Error, "the node's records on a sandbox cannot be written");
        // What it waits for is written later, if not now.
        let _ = timeout(BOOKS_DEADLINE, self.journal(MarkKind::Unready, self.shared.clock.now())).await;
        Stage::Wait(Shortage { lacks: broken.wait_reason(), cause: error_chain(broken) })
    }

    /// Shows what the node lacks, and looks again after a pause that grows. This ends
    /// with what is lacked, or with a command, and never by itself.
    async fn wait(&mut self, want: Shortage) -> Result<Stage, BookkeepingError> {
        let until = self.show_shortage(&want);
        match self.pause(until, Stage::Start).await {
            Stage::Start => self.again().await,
            other => Ok(other),
        }
    }

    /// Says when to look again.
    pub(super) fn show_shortage(&mut self, want: &Shortage) -> UnixMillis {
        let (now, lacks) = (self.shared.clock.now(), want.lacks);
        let before = self.waiting.filter(|before| before.lacks == lacks);
        let waiting = before.map_or(Waiting { lacks, since: now, tries: 1 }, |before| Waiting {
            tries: before.tries.saturating_add(1),
            ..before
        });
        self.waiting = Some(waiting);
        metrics::counter!("hypercore_waits_total", "lacks" => lacks.as_str()).increment(1);
        if before.is_none() {
            tracing::error!(lacks = lacks.as_str(), cause = want.cause, "the node lacks what an agent needs; it waits");
        }
        let phase = SandboxPhase::Waiting { lacks, since: waiting.since };
        let cause = Some(want.cause.chars().take(CAUSE).collect());
        let guest = self.exits.report();
        self.view.send_replace(Sandbox { cause, guest, ..Self::show(&self.shared, &self.record, phase) });
        now.plus(self.shared.config.backoff().after_ms(waiting.tries))
    }

    /// Looks at what there is of the sandbox, as a new daemon would.
    async fn again(&mut self) -> Result<Stage, BookkeepingError> {
        if let Some(reason) = self.record.failed {
            return Ok(Stage::Failed(reason));
        }
        self.save().await?;
        self.open().await?;
        match self.record.facts.clone() {
            None => Ok(Stage::Start),
            Some(facts) => self.adopt(&facts, self.shared.clock.now()).await,
        }
    }

    async fn pause(&mut self, until: UnixMillis, then: Stage) -> Stage {
        let wait = Duration::from_millis(until.since(self.shared.clock.now()));
        tokio::select! {
            biased;
            command = self.commands.ending(StageName::NoGuest) => Stage::End(None, command),
            () = sleep(wait) => then,
        }
    }

    /// A guest is dead, or must not live on: what follows. It is stopped before
    /// anything is waited for.
    pub(super) async fn died(&mut self, death: &GuestFailure, at: UnixMillis) -> Result<Stage, BookkeepingError> {
        tracing::warn!(error = death as &dyn std::error::Error, "a guest died");
        metrics::counter!("hypercore_guest_deaths_total", "cause" => death.label()).increment(1);
        let now = self.shared.clock.now();
        let next = self.shared.config.restart_policy().after_death(&mut self.record.deaths, now);
        if next == RestartDecision::GiveUp {
            self.record.failed = Some(death.reason());
        }
        let stopped = self.stop_guest().await;
        if let Some(command) = self.unready(at).await? {
            return Ok(Stage::End(None, command));
        }
        match (stopped, next) {
            (Ok(()), RestartDecision::StartAt(at)) => {
                self.save().await?;
                self.publish(SandboxPhase::Backoff { at });
                Ok(Stage::Backoff(at))
            }
            (Ok(()), RestartDecision::GiveUp) => Ok(Stage::Failed(death.reason())),
            (Err(error), _) => Ok(Stage::Wait(error.into())),
        }
    }

    /// It was given up: nothing of it runs, and it waits for a command. That is shown
    /// even while the disk does not take it: what comes of it makes room.
    async fn given_up(&mut self, reason: FailReason) -> Result<Stage, BookkeepingError> {
        if let Err(error) = self.stop_guest().await {
            return Ok(Stage::Wait(error.into()));
        }
        if let Some(command) = self.unready(self.shared.clock.now()).await? {
            return Ok(Stage::End(None, command));
        }
        self.waiting = None;
        if let Err(broken) = self.open().await {
            tracing::warn!(error = &broken as &dyn std::error::Error, "the log of a failed agent cannot be read");
        }
        loop {
            let saved = self.save().await;
            self.publish(SandboxPhase::Failed { reason });
            let Err(broken) = saved else { return Ok(Stage::End(None, self.commands.ending(StageName::Failed).await)) };
            tracing::error!(
                error = &broken as &dyn std::error::Error,
                "the sandbox's failure cannot be recorded yet; trying again"
            );
            tokio::select! {
                biased;
                command = self.commands.ending(StageName::Failed) => return Ok(Stage::End(None, command)),
                () = sleep(AGAIN) => {}
            }
        }
    }

    /// Ends what there is of a guest. As long as that fails it is remembered.
    async fn stop_guest(&mut self) -> Result<(), RuntimeError> {
        self.shared.runtime.stop(self.record.slot(), DiskRetention::Attached).await?;
        self.record.facts = None;
        Ok(())
    }

    /// Ends the billing, if it is on. As [`SandboxTask::mark`].
    pub(super) async fn unready(&mut self, at: UnixMillis) -> Result<Option<Ending>, BookkeepingError> {
        match self.shared.journal.standing(self.record.id) {
            Some(MarkKind::Ready) => self.mark(MarkKind::Unready, at).await,
            Some(MarkKind::Booting | MarkKind::Unready | MarkKind::Gone) | None => Ok(None),
        }
    }

    /// Has a mark written and waits for it. A disk may take nothing for ever: that is
    /// shown after a while, and a command is heard meanwhile, and handed back.
    pub(super) async fn mark(&mut self, kind: MarkKind, at: UnixMillis) -> Result<Option<Ending>, BookkeepingError> {
        let (journal, id) = (self.shared.journal.clone(), self.record.id);
        let mut marked = pin!(journal.mark(id, kind, at));
        tokio::select! {
            biased;
            marked = &mut marked => return Ok(marked.map(|()| None)?),
            command = self.commands.ending(StageName::Bookkeeping) => return Ok(Some(command)),
            () = sleep(BOOKS_DEADLINE) => {}
        }
        let cause = "the node's metering journal is not written: its disk takes nothing".to_owned();
        self.show_shortage(&Shortage { lacks: NodeShortage::Ledger, cause });
        let heard = tokio::select! {
            biased;
            marked = &mut marked => marked.map(|()| None)?,
            command = self.commands.ending(StageName::Bookkeeping) => Some(command),
        };
        self.waiting = None;
        Ok(heard)
    }

    /// Has a mark written and waits for it, however long: for where no command is heard,
    /// and the wait is bounded by the caller.
    pub(super) async fn journal(&self, kind: MarkKind, at: UnixMillis) -> Result<(), JournalError> {
        self.shared.journal.mark(self.record.id, kind, at).await
    }

    /// Writes the record down.
    pub(super) async fn save(&self) -> Result<(), BookkeepingError> {
        let (dir, record) = (self.dir.clone(), self.record.clone());
        Ok(spawn_blocking(move || dir.write(&record)).await.map_err(BookkeepingError::Blocking)??)
    }

    pub(super) fn publish(&self, phase: SandboxPhase) {
        let guest = self.exits.report();
        self.view.send_replace(Sandbox { guest, ..Self::show(&self.shared, &self.record, phase) });
    }

    pub(super) fn pod(&self) -> Result<PodClient, BookkeepingError> {
        self.handle.pod.get().cloned().ok_or(BookkeepingError::Closed)
    }

    async fn begin(&mut self, origin: Origin) -> Result<Option<Stage>, BookkeepingError> {
        match origin {
            Origin::Asked { secrets, written, trace } => {
                self.trace = trace;
                // One write of the record for both the sandbox and its first start.
                (self.record.starts, self.counted, self.fresh) = (1, true, true);
                let (dir, record) = (self.dir.clone(), self.record.clone());
                let made =
                    spawn_blocking(move || dir.create(&record, &secrets)).await.map_err(BookkeepingError::Blocking)?;
                let failed = made.is_err();
                if failed {
                    self.shared.registry.forget(self.record.id);
                }
                // Whoever asked may have gone; the sandbox is wanted all the same.
                let _ = written.send(made);
                Ok((!failed).then_some(Stage::Start))
            }
            Origin::Found { last_alive } => {
                let last_alive = last_alive.unwrap_or_else(|| self.shared.clock.now());
                self.found(last_alive).await.map(Some)
            }
        }
    }

    /// Opens what belongs to a sandbox that is in the ledger, unless it is open.
    pub(super) async fn open(&mut self) -> Result<(), BookkeepingError> {
        if self.agent_log.is_some() {
            return Ok(());
        }
        let token = self.secrets().await?.token;
        let (dir, config) = (self.dir.dir(), &self.shared.config);
        let agent = AgentLog::open(dir, config.agent_log_kib * 1024).map_err(BookkeepingError::Log)?;
        let console =
            RotatedLog::open(dir, "console", config.console_log_kib * 1024, false).map_err(BookkeepingError::Log)?;
        let logs = Logs { agent: agent.files(), console: Arc::new(console) };
        self.agent_log = Some(Arc::new(Mutex::new(agent)));
        // Both are set once, here.
        let _ = self.handle.logs.set(logs);
        let _ = self.handle.pod.set(PodClient::new(Arc::clone(&self.shared.runtime), self.record.id, token));
        Ok(())
    }

    /// What a guest is told. Not kept longer than that.
    pub(super) async fn secrets(&self) -> Result<Secrets, BookkeepingError> {
        let (dir, id, generation) = (self.dir.clone(), self.record.id, self.record.desired.generation);
        Ok(spawn_blocking(move || dir.unseal(id, generation)).await.map_err(BookkeepingError::Blocking)??)
    }

    async fn found(&mut self, last_alive: UnixMillis) -> Result<Stage, BookkeepingError> {
        let data = match self.record.wanted {
            DesiredState::Run => None,
            DesiredState::Gone => Some(DataPolicy::Erase),
            DesiredState::GoneKept => Some(DataPolicy::Keep),
        };
        if let Some(data) = data {
            let (done, _) = tokio::sync::oneshot::channel();
            return Ok(Stage::End(None, Ending::Delete(Deletion { grace: Duration::ZERO, data, done })));
        }
        if let Some(reason) = self.record.failed {
            return Ok(Stage::Failed(reason));
        }
        self.open().await?;
        let Some(facts) = self.record.facts.clone() else {
            // Cut off while it was made, or halted: what there is of it goes first. One
            // that never ran has its first start still before it.
            self.counted = !self.record.ran;
            return Ok(self.unready(last_alive).await?.map_or(Stage::Start, |command| Stage::End(None, command)));
        };
        self.adopt(&facts, last_alive).await
    }

    /// Takes up a guest that was left running. If it is not there, another is made:
    /// nobody saw it die, and a daemon or a machine that was away is no crash of it.
    async fn adopt(&mut self, facts: &GuestFacts, last_alive: UnixMillis) -> Result<Stage, BookkeepingError> {
        match self.shared.runtime.adopt(&self.spec(PathBuf::new()), facts).await {
            Ok(Some(guest)) => self.adopted(guest).await,
            Ok(None) => {
                tracing::warn!("a guest was gone when the daemon came back; another is started");
                metrics::counter!("hypercore_guest_deaths_total", "cause" => "unseen").increment(1);
                if let Some(command) = self.unready(last_alive).await? {
                    return Ok(Stage::End(None, command));
                }
                self.record.facts = None;
                self.save().await?;
                Ok(Stage::Start)
            }
            // Nobody is let in to it meanwhile, so nobody pays.
            Err(error) => match self.unready(last_alive).await? {
                None => Ok(Stage::Wait(error.into())),
                Some(command) => Ok(Stage::End(None, command)),
            },
        }
    }

    async fn adopted(&mut self, guest: Guest) -> Result<Stage, BookkeepingError> {
        tracing::info!(pid = guest.facts.pid(), "a guest was adopted");
        let mut live = self.live(guest)?;
        self.waiting = None;
        match self.shared.journal.standing(self.record.id) {
            Some(MarkKind::Ready) => {
                self.attach(&mut live)?;
                self.publish(SandboxPhase::Ready);
                Ok(Stage::Monitor(live))
            }
            Some(MarkKind::Booting | MarkKind::Unready | MarkKind::Gone) => Ok(Stage::Boot(live)),
            // A journal that was begun anew has not heard of it.
            None => match self.mark(MarkKind::Booting, self.shared.clock.now()).await? {
                None => Ok(Stage::Boot(live)),
                Some(command) => Ok(Stage::End(Some(live), command)),
            },
        }
    }

    pub(super) fn live(&self, guest: Guest) -> Result<RunningGuest, BookkeepingError> {
        let console = Arc::clone(&self.handle.logs.get().ok_or(BookkeepingError::Closed)?.console);
        Ok(RunningGuest::new(guest, Arc::clone(&self.shared.runtime), self.record.id, console))
    }

    /// Follows the agent's output: `pod` has its identity.
    pub(super) fn attach(&self, live: &mut RunningGuest) -> Result<(), BookkeepingError> {
        let log = self.agent_log.clone().ok_or(BookkeepingError::Closed)?;
        live.follow(self.pod()?, log, self.record.starts);
        Ok(())
    }

    pub(super) fn spec(&self, base: PathBuf) -> GuestSpec {
        let SandboxRecord { desired, ran, .. } = &self.record;
        let &SpecWithoutEnv { pod, data, cores, memory_mib, ref volumes, runtime, generation: _, image: _ } = desired;
        let volumes = volumes.iter().map(|volume| volume.id).collect();
        let state_dir = self.record.run.state_dir.clone();
        GuestSpec {
            slot: self.record.slot(),
            pod,
            data,
            cores,
            memory_mib,
            runtime,
            base,
            volumes,
            state_dir,
            ran: *ran,
        }
    }
}

/// What isolates a run: what was asked for, or of a machine what the node makes today.
fn shown_runtime(shared: &NodeContext, said: Option<RuntimeName>) -> RuntimeName {
    said.filter(|said| said.is_container()).unwrap_or_else(|| shared.runtime_of(said).name)
}
