//! The seam between the node daemon and what isolates its agents.
//!
//! The order of calls for one sandbox:
//!
//! ```text
//!       create ─▶ console, connect, stats … ─▶ stop(Attached) ─▶ create …   (a restart: the same disks)
//!         ▲                    ▲       │
//!    stop(Attached)      adopt │       └─────▶ stop(Erase)                  (its owner's word: nothing is left)
//!                                      └─────▶ stop(KeepData), stop(KeepAll) (any other end)
//! ```
//!
//! - A sandbox is one run of a POD, and `/data` is the POD's: the first `create` of a run
//!   takes back the newest data disk that is kept of its POD, and makes an empty one only
//!   where none is kept. At the run's end that disk is kept under the POD's name.
//! - `create` runs to its end or cleans up after itself; the disks of an earlier
//!   `create` of the same run are taken again.
//! - After the daemon died, `adopt` is called with the [`GuestFacts`] of the last
//!   `create`. If it finds nothing, `stop(Attached)` and `create` follow.
//! - A guest's volumes are there before it and outlive it: `create` gives each to one guest at a
//!   time, and fails where it cannot; nothing here makes, empties or removes one. A driver that
//!   has none refuses a guest that wants one.
//! - `create_helper` gives a disk that no guest has to a machine of ours, which `stop(Erase)` ends;
//!   `create_builder` makes one with a disk of its own, for a holder's build.
//! - `stop` may come at any time, also for what was never made or only half made,
//!   and twice. After it nothing of the sandbox runs.
//! - `remains` and `sweep` come once each, before any other call, `sweep` with every
//!   sandbox that still has a right to exist, the unreadable ones among them; it
//!   erases nothing, but keeps the disks of the others. `close` comes last, when nothing
//!   runs or when the guests are left to the next daemon.
//! - Calls for different sandboxes may run at the same time; calls for one
//!   sandbox that change it never do.

use std::collections::BTreeMap;
use std::path::PathBuf;

use async_trait::async_trait;
use domain::{NodeShortage, OwnedDisk, PodId, RunId, VolumeId};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use wire::v1::node::{DataDisk, KeptDisk, Retention, RuntimeName};

use crate::facts::GuestFacts;
use crate::network::DroppedPackets;
use crate::{DriverError, RuntimeError};

/// A run's place on its node: its number decides its addresses, its links and its user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot {
    /// The run that has it.
    pub run: RunId,
    /// Unique among the live sandboxes of a node.
    pub number: u16,
}

/// What to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestSpec {
    /// Which run, and where.
    pub slot: Slot,
    /// The POD that it is a run of.
    pub pod: PodId,
    /// Whether there must be data of that POD.
    pub data: DataDisk,
    /// Virtual processors.
    pub cores: u32,
    /// Memory, in MiB.
    pub memory_mib: u64,
    /// What isolates it: one of those that the driver offers; where it is absent, the first.
    pub runtime: Option<RuntimeName>,
    /// What is booted of the image, read-only and shared: its disk; for a container the folder
    /// of its files.
    pub base: PathBuf,
    /// The volumes that it has for itself, which are there: `create` makes none, and no end of
    /// the run touches one.
    pub volumes: Vec<VolumeId>,
    /// Where the agent expects its POD's data besides `/data`. In a machine `pod` sees to that.
    pub state_dir: String,
    /// Whether a guest of it ran before: then its own disks are there, and are never
    /// made anew.
    pub ran: bool,
}

/// A helper: a machine of ours that has one disk of its owner's, and no image, no agent and no way
/// out. `pod` alone runs in it, and answers for the files of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HelperSpec {
    /// A name that no run has, and where it is.
    pub slot: Slot,
    /// The disk that it has for itself as long as it runs.
    pub disk: OwnedDisk,
    /// Memory, in MiB.
    pub memory_mib: u64,
}

/// A builder: a machine of its own for one holder's build, who is root in it. It has no way out, and
/// what it has written is read by nobody: what it has made comes over its link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuilderSpec {
    /// A name that no run has, and where it is.
    pub slot: Slot,
    /// The disk of programs that it boots, read-only.
    pub base: PathBuf,
    /// Virtual processors.
    pub cores: u32,
    /// Memory, in MiB.
    pub memory_mib: u64,
    /// The size of the empty disk at `/data`, in MiB, which goes with it.
    pub disk_mib: u64,
}

/// A guest that runs.
#[derive(Debug)]
pub struct Guest {
    /// To find it again.
    pub facts: GuestFacts,
    /// To hear of its death.
    pub exit: GuestExitWatch,
}

/// Tells when a guest's VMM is gone, and in words how it ended.
#[derive(Clone, Debug)]
pub struct GuestExitWatch(watch::Receiver<Option<String>>);

impl GuestExitWatch {
    /// An exit, and the means to announce it.
    #[must_use]
    pub fn channel() -> (watch::Sender<Option<String>>, Self) {
        let (sender, receiver) = watch::channel(None);
        (sender, Self(receiver))
    }

    /// Another listener to the same announcement.
    #[must_use]
    pub fn of(sender: &watch::Sender<Option<String>>) -> Self {
        Self(sender.subscribe())
    }

    /// Waits for the end. Safe to drop and to call again.
    pub async fn wait(&mut self) -> String {
        match self.0.wait_for(Option::is_some).await {
            Ok(words) => words.clone().unwrap_or_default(),
            Err(_) => "its watcher is gone".to_owned(),
        }
    }

    /// Whether it has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.0.borrow().is_some()
    }
}

/// What becomes of a run's disks when its guest is ended. Of those that are kept, one
/// that is still as empty as it was made is removed instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskRetention {
    /// They stay where they are, for the run's next `create`.
    Attached,
    /// `/data` is kept of the POD until its retention is over or its owner has it erased;
    /// what the run has written elsewhere goes.
    KeepData(Retention),
    /// Both are kept so: whoever looks for the reason of a failure needs them.
    KeepAll(Retention),
    /// They are removed: nothing is left.
    Erase,
}

/// What a machine holds of a run, whoever remembers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObservedRun {
    /// Whether its guest runs.
    pub runs: bool,
    /// The slot's number, where it can be seen.
    pub slot: Option<u16>,
    /// The POD that it is a run of, where that can be read.
    pub pod: Option<PodId>,
}

/// Whether a guest that runs gets anywhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GuestState {
    /// It does, for all the VMM knows.
    Running,
    /// The VMM has stopped it, for want of this.
    Paused(NodeShortage),
}

/// The disk under the guests' disks, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskUsage {
    /// Its size.
    pub size: u64,
    /// What is free.
    pub free: u64,
    /// What the guests' disks take of it.
    pub guests: u64,
}

/// What a guest uses of the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GuestStats {
    /// Processor time of the VMM since it started, in microseconds.
    pub cpu_us: u64,
    /// Memory charged to it, page cache included.
    pub memory_bytes: u64,
    /// Memory of the VMM's process that is in RAM.
    pub resident_bytes: u64,
    /// What it sent beyond its share.
    pub limited: DroppedPackets,
}

/// What a runtime says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeInfo {
    /// What isolates, with its accelerator.
    pub name: RuntimeName,
    /// Why that accelerator, in one sentence.
    pub reason: String,
    /// Host memory that a guest takes beyond its own, in MiB.
    pub overhead_mib: u64,
    /// How many sandboxes have a slot.
    pub slots: u16,
}

/// A stream of bytes to or from a guest.
pub trait GuestStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> GuestStream for T {}

/// What isolates sandboxes. See the module for the order of calls.
#[async_trait]
pub trait Runtime: Send + Sync + 'static {
    /// What it is; of several, the strongest.
    fn info(&self) -> RuntimeInfo;

    /// All that it offers, the strongest first.
    fn offers(&self) -> Vec<RuntimeInfo> {
        vec![self.info()]
    }

    /// What the machine holds, of any sandbox.
    ///
    /// # Errors
    /// When the machine cannot be read.
    async fn observed_runs(&self) -> Result<BTreeMap<RunId, ObservedRun>, DriverError>;

    /// Ends whatever is left of sandboxes that are not in `known`, keeps their disks
    /// under their PODs' names, and says how many those were. Of the known ones, those whose slot is
    /// not known are left alone too.
    ///
    /// # Errors
    /// What could not be removed.
    async fn sweep(&self, known: &BTreeMap<RunId, Option<u16>>, retention: &Retention) -> Result<usize, DriverError>;

    /// Starts a sandbox: its disks unless they are there, its network, its VMM.
    ///
    /// # Errors
    /// [`DriverRefusal::Runs`](crate::DriverRefusal::Runs) and the other refusals before
    /// anything is touched; after a failure nothing runs. Data that is kept of the POD
    /// and cannot be had is a failure, as is none where there must be some: no empty
    /// disk takes its place.
    async fn create(&self, spec: &GuestSpec) -> Result<Guest, RuntimeError>;

    /// Starts a helper. It is in no ledger: one that outlives its daemon is ended by the next one's
    /// `sweep`. `connect` and `stop(Erase)` are as for any guest; nothing that it has is erased by
    /// that. A disk that only containers had is read alone. Where nothing but containers is offered, it fails.
    ///
    /// # Errors
    /// [`DriverFailure::Taken`](crate::DriverFailure::Taken) while another has the disk,
    /// [`DriverFailure::Missing`](crate::DriverFailure::Missing) where there is none that a helper
    /// may have; after a failure nothing runs.
    async fn create_helper(&self, spec: &HelperSpec) -> Result<Guest, RuntimeError>;

    /// Starts a builder, with `pod` as in any guest. In all else it is as a helper is; `stop(Erase)`
    /// removes its disks.
    ///
    /// # Errors
    /// After a failure nothing runs and nothing is left.
    async fn create_builder(&self, spec: &BuilderSpec) -> Result<Guest, RuntimeError>;

    /// Finds a guest that outlived the daemon; `None` when it is not there, or
    /// when what is there does not prove to be it.
    ///
    /// # Errors
    /// When the machine cannot be read.
    async fn adopt(&self, spec: &GuestSpec, facts: &GuestFacts) -> Result<Option<Guest>, RuntimeError>;

    /// Opens the serial console. One reader at a time; while there is none, what
    /// the guest prints is lost and the guest does not wait.
    ///
    /// # Errors
    /// [`DriverRefusal::NotRunning`](crate::DriverRefusal::NotRunning), or the VMM's socket.
    async fn console(&self, id: RunId) -> Result<Box<dyn GuestStream>, RuntimeError>;

    /// Opens a connection to one of the guest's own ports. May wait as long as
    /// the guest's link is silent: the caller sets the deadline.
    ///
    /// # Errors
    /// A refused connection is [`Failed`](RuntimeError::Failed) at once.
    async fn connect(&self, id: RunId, port: u16) -> Result<Box<dyn GuestStream>, RuntimeError>;

    /// Measures what the guest uses.
    ///
    /// # Errors
    /// [`DriverRefusal::NotRunning`](crate::DriverRefusal::NotRunning).
    async fn stats(&self, id: RunId) -> Result<GuestStats, RuntimeError>;

    /// Whether a guest that runs was stopped by its VMM.
    ///
    /// # Errors
    /// [`DriverRefusal::NotRunning`](crate::DriverRefusal::NotRunning), or the VMM's socket.
    async fn condition(&self, id: RunId) -> Result<GuestState, RuntimeError>;

    /// Has a guest go on that its VMM has stopped. What stopped it is tried again,
    /// and may stop it again at once.
    ///
    /// # Errors
    /// As [`Runtime::condition`].
    async fn resume(&self, id: RunId) -> Result<(), RuntimeError>;

    /// How full the disk is.
    ///
    /// # Errors
    /// When it cannot be read.
    async fn disk_usage(&self) -> Result<DiskUsage, DriverError>;

    /// The disks that are kept: all, or those of one POD.
    ///
    /// # Errors
    /// When they cannot be listed.
    async fn kept(&self, of: Option<PodId>) -> Result<Vec<KeptDisk>, DriverError>;

    /// What the data disk takes, in bytes, that a first `create` of this POD would take
    /// back; nothing where none is kept.
    ///
    /// # Errors
    /// When that cannot be seen.
    async fn kept_data(&self, pod: PodId) -> Result<Option<u64>, DriverError>;

    /// Whether that disk was written by a machine: no container is given it.
    ///
    /// # Errors
    /// When that cannot be seen.
    async fn is_kept_of_machine(&self, pod: PodId) -> Result<bool, DriverError>;

    /// Erases disks that are kept, by their name. Those that are not there are
    /// erased already.
    ///
    /// # Errors
    /// What could not be removed.
    async fn erase(&self, name: &str) -> Result<(), DriverError>;

    /// Ends it, at once and by force if need be: VMM, network, limits, and the disks
    /// as is said. Asking the guest politely is done before, over its
    /// own channel.
    ///
    /// # Errors
    /// What could not be removed. A second call tries again.
    async fn stop(&self, slot: Slot, disks: DiskRetention) -> Result<(), RuntimeError>;

    /// Looks whether what the guests' networks need of the machine is as it was made,
    /// and makes it again where others have changed it; `create` does so too. For the
    /// guests nothing changes. To be called now and then.
    ///
    /// # Errors
    /// When it cannot be looked at, or not be made.
    async fn reconcile_network(&self) -> Result<(), DriverError>;

    /// Gives the machine back what belongs to no sandbox, unless guests still run.
    ///
    /// # Errors
    /// What could not be given back.
    async fn close(&self) -> Result<(), DriverError>;
}
