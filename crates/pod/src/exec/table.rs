//! All commands: those that run, and the last few that ended, so that an exit
//! code is not lost with a connection.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Semaphore;
use wire::process::{ListResponse, RpcCode, RpcError, Selector};

use super::process::{Process, fault};
use super::spawn::{CommandSpec, OnExit, spawn};
use crate::process::Reaper;

/// Commands that run at the same time.
const MAX_PROCESSES: usize = 32;
/// Ended commands that can still be attached to.
const MAX_ENDED: usize = 8;

/// The commands of this pod. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct ProcessTable {
    reaper: Reaper,
    slots: Arc<Semaphore>,
    known: Arc<Mutex<KnownProcesses>>,
}

#[derive(Debug, Default)]
struct KnownProcesses {
    processes: BTreeMap<u32, Arc<Process>>,
    ended: VecDeque<u32>,
}

impl ProcessTable {
    /// An empty table.
    pub(crate) fn new(reaper: Reaper) -> Self {
        Self { reaper, slots: Arc::new(Semaphore::new(MAX_PROCESSES)), known: Arc::default() }
    }

    /// Starts a command.
    ///
    /// # Errors
    /// All slots are taken, or it cannot be started.
    pub(crate) fn start(&self, spec: CommandSpec) -> Result<Arc<Process>, RpcError> {
        let full = |_| fault(RpcCode::ResourceExhausted, format!("{MAX_PROCESSES} commands run already"));
        let slot = Arc::new(Arc::clone(&self.slots).try_acquire_owned().map_err(full)?);
        let known = Arc::clone(&self.known);
        let report = move |process: &Process| lock(&known).retire(process.number());
        let process = spawn(spec, &self.reaper, OnExit { slot, report })?;
        lock(&self.known).add(&process);
        Ok(process)
    }

    /// The command a client means.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn find(&self, selector: &Selector) -> Result<Arc<Process>, RpcError> {
        let known = lock(&self.known);
        let found = match selector {
            Selector::Pid(pid) => known.processes.get(pid),
            Selector::Tag(tag) => known.tagged(tag),
        };
        found.cloned().ok_or_else(|| fault(RpcCode::NotFound, "no such process"))
    }

    /// How many run.
    pub(crate) fn running(&self) -> u64 {
        lock(&self.known).processes.values().filter(|process| process.runs()).fold(0, |count, _| count + 1)
    }

    /// What runs.
    pub(crate) fn list(&self) -> ListResponse {
        let known = lock(&self.known);
        let running = known.processes.values().filter(|process| process.runs());
        ListResponse { processes: running.map(|process| process.info()).collect() }
    }
}

impl KnownProcesses {
    /// A process id may come again; the new process replaces the old.
    fn add(&mut self, process: &Arc<Process>) {
        self.ended.retain(|pid| *pid != process.number());
        self.processes.insert(process.number(), Arc::clone(process));
    }

    fn retire(&mut self, pid: u32) {
        self.ended.push_back(pid);
        while self.ended.len() > MAX_ENDED {
            let Some(oldest) = self.ended.pop_front() else { break };
            self.processes.remove(&oldest);
        }
    }

    /// One that runs goes before one that ended.
    fn tagged(&self, tag: &str) -> Option<&Arc<Process>> {
        let mut tagged: Vec<_> = self.processes.values().filter(|one| one.tag.as_deref() == Some(tag)).collect();
        tagged.sort_by_key(|process| process.runs());
        tagged.pop()
    }
}

fn lock(known: &Mutex<KnownProcesses>) -> MutexGuard<'_, KnownProcesses> {
    known.lock().unwrap_or_else(PoisonError::into_inner)
}
