//! A runtime without guests: what happens in the guest is a function of the test.
//!
//! A [`Machine`] stands for the host and outlives the daemon; each [`Fake`] on it is
//! the driver of one life of the daemon.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use domain::AgentId;
use tokio::io::{AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::watch;
use wire::node::RuntimeName;

use crate::runtime::{About, Exit, Facts, Fate, Guest, Link, Runtime, Seat, Spec, Stats};
use crate::{DriverError, Failure, Operation, Refusal, RuntimeError};

const PIPE_BYTES: usize = 64 * 1024;
/// Host memory a fake guest takes beyond its own.
pub const OVERHEAD_MIB: u64 = 16;
/// Seats of a fake machine.
pub const SLOTS: u16 = 64;

/// A connection that reached a fake guest.
#[derive(Debug)]
pub struct Arrival {
    /// The guest.
    pub id: AgentId,
    /// Which of its ports.
    pub port: u16,
    /// How often this sandbox was created so far, from 1.
    pub boot: u32,
    /// The guest's end.
    pub stream: DuplexStream,
}

/// What a guest does with a connection. Returning `false` refuses it.
pub type Serve = dyn Fn(Arrival) -> bool + Send + Sync;

/// The host, as far as a fake has one.
#[derive(Clone)]
pub struct Machine(Arc<Inner>);

struct Inner {
    serve: Box<Serve>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    running: BTreeMap<AgentId, Running>,
    disks: BTreeMap<AgentId, u32>,
    pids: u32,
    /// Answers of the next `create`s, taken from the front.
    failures: Vec<Refusal>,
}

struct Running {
    seat: Seat,
    facts: Facts,
    ended: watch::Sender<Option<String>>,
}

impl Machine {
    /// A machine whose guests behave like this.
    pub fn new(serve: impl Fn(Arrival) -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(Inner { serve: Box::new(serve), state: Mutex::default() }))
    }

    /// A driver on this machine.
    #[must_use]
    pub fn driver(&self) -> Fake {
        Fake(self.clone())
    }

    /// Ends a guest from within, as a crash does.
    pub fn crash(&self, id: AgentId) {
        if let Some(guest) = self.state().running.remove(&id) {
            guest.ended.send_replace(Some("the guest crashed".to_owned()));
        }
    }

    /// Makes the next `create` refuse.
    pub fn fail_next(&self, refusal: Refusal) {
        self.state().failures.push(refusal);
    }

    /// The guests that run.
    #[must_use]
    pub fn running(&self) -> Vec<Seat> {
        self.state().running.values().map(|guest| guest.seat).collect()
    }

    /// The sandboxes that have disks, and how often each was created.
    #[must_use]
    pub fn disks(&self) -> BTreeMap<AgentId, u32> {
        self.state().disks.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A driver on a [`Machine`].
#[derive(Clone)]
pub struct Fake(Machine);

#[async_trait]
impl Runtime for Fake {
    fn about(&self) -> About {
        let reason = "a fake, for tests".to_owned();
        About { name: RuntimeName::QemuTcg, reason, overhead_mib: OVERHEAD_MIB, slots: SLOTS }
    }

    async fn sweep(&self, known: &BTreeMap<AgentId, u16>) -> Result<usize, DriverError> {
        let mut state = self.0.state();
        let before: BTreeSet<AgentId> = state.running.keys().chain(state.disks.keys()).copied().collect();
        state.disks.retain(|id, _| known.contains_key(id));
        state.running.retain(|id, _| known.contains_key(id));
        Ok(before.iter().filter(|id| !known.contains_key(id)).count())
    }

    async fn create(&self, spec: &Spec) -> Result<Guest, RuntimeError> {
        let (id, mut state) = (spec.seat.id, self.0.state());
        if !state.failures.is_empty() {
            return Err(refused(Operation::Create, id, state.failures.remove(0)));
        }
        if spec.seat.slot >= SLOTS {
            return Err(refused(Operation::Create, id, Refusal::NoSlot { slot: spec.seat.slot, slots: SLOTS }));
        }
        if state.running.contains_key(&id) {
            return Err(refused(Operation::Create, id, Refusal::Runs));
        }
        state.pids += 1;
        *state.disks.entry(id).or_default() += 1;
        let facts = Facts { pid: state.pids, started: 7, boot: "fake".to_owned() };
        let (ended, exit) = Exit::channel();
        state.running.insert(id, Running { seat: spec.seat, facts: facts.clone(), ended });
        Ok(Guest { facts, exit })
    }

    async fn adopt(&self, spec: &Spec, facts: &Facts) -> Result<Option<Guest>, RuntimeError> {
        let mut state = self.0.state();
        let Some(guest) = state.running.get_mut(&spec.seat.id).filter(|guest| guest.facts == *facts) else {
            return Ok(None);
        };
        // The watcher of the daemon before is gone with it.
        let (ended, exit) = Exit::channel();
        guest.ended = ended;
        Ok(Some(Guest { facts: facts.clone(), exit }))
    }

    async fn console(&self, id: AgentId) -> Result<Box<dyn Link>, RuntimeError> {
        if !self.0.state().running.contains_key(&id) {
            return Err(refused(Operation::Console, id, Refusal::NotRunning));
        }
        let (mut guest, host) = duplex(PIPE_BYTES);
        let (mut gone, machine) = (self.0.watch(id), self.0.clone());
        tokio::spawn(async move {
            let _ = guest.write_all(format!("boot {}\n", machine.boots(id)).as_bytes()).await;
            if let Some(gone) = &mut gone {
                gone.wait().await;
            }
        });
        Ok(Box::new(host))
    }

    async fn connect(&self, id: AgentId, port: u16) -> Result<Box<dyn Link>, RuntimeError> {
        if !self.0.state().running.contains_key(&id) {
            return Err(refused(Operation::Connect, id, Refusal::NotRunning));
        }
        let boot = self.0.boots(id);
        let (stream, host) = duplex(PIPE_BYTES);
        if (self.0.0.serve)(Arrival { id, port, boot, stream }) {
            return Ok(Box::new(host));
        }
        let source = Failure::Io(io::ErrorKind::ConnectionRefused.into());
        Err(RuntimeError::Failed { operation: Operation::Connect, id, step: "connect to its port", source })
    }

    async fn stats(&self, id: AgentId) -> Result<Stats, RuntimeError> {
        if self.0.state().running.contains_key(&id) {
            Ok(Stats { cpu_us: 1, memory_bytes: 1, resident_bytes: 1, ..Stats::default() })
        } else {
            Err(refused(Operation::Stats, id, Refusal::NotRunning))
        }
    }

    async fn stop(&self, seat: Seat, fate: Fate) -> Result<(), RuntimeError> {
        let mut state = self.0.state();
        if let Some(guest) = state.running.remove(&seat.id) {
            guest.ended.send_replace(Some("it was stopped".to_owned()));
        }
        if fate == Fate::Wipe {
            state.disks.remove(&seat.id);
        }
        Ok(())
    }

    async fn close(&self) -> Result<(), DriverError> {
        Ok(())
    }
}

impl Machine {
    fn boots(&self, id: AgentId) -> u32 {
        self.state().disks.get(&id).copied().unwrap_or(0)
    }

    /// Guests hang up when they end.
    #[must_use]
    pub fn watch(&self, id: AgentId) -> Option<Exit> {
        self.state().running.get(&id).map(|guest| Exit::of(&guest.ended))
    }
}

fn refused(operation: Operation, id: AgentId, refusal: Refusal) -> RuntimeError {
    RuntimeError::Refused { operation, id, refusal }
}
