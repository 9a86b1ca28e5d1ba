//! Helpers: machines of the node's own, through which owners read and write the files of disks that
//! no run has: volumes, and what is kept of PODs.
//!
//! A helper is started for the first call and ends [`IDLE`] after the last one. It is the one writer
//! of its disk, by the driver's lock and by the registry; whoever else wants the disk, a run that
//! starts before all, has it ended first ([`Helpers::end`]): calls that are under way have
//! [`CALLS_GRACE`] to end and break off then, having written a whole file or nothing. It is in no
//! ledger: one that outlives its daemon is nobody's, and is ended when the next one begins.
//!
//! A holder that has none gets one, whatever calls others keep open: where there are as many as may be, that of
//! a holder with several ends for it, and one that has had its [`TURN`].

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use domain::{OwnedDisk, PlacementError, PodId, RunId, VolumeId};
use sandbox::{DriverFailure, RuntimeError, Slot};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::error_chain::error_chain;
use crate::guest::PodError;

/// How long a helper waits for another call.
const IDLE: Duration = Duration::from_secs(30);
/// Helpers of one node at once.
const MAX_HELPERS: usize = 8;
/// Helpers of one holder on one node at once.
const MAX_PER_HOLDER: usize = 2;
/// How long a holder's one helper answers, at least, while others have none: a call that takes longer breaks off then.
const TURN: Duration = Duration::from_mins(10);
/// Calls of one helper at once.
const MAX_CALLS: u32 = 16;
/// How long calls that are under way may take to end when somebody else wants the disk.
const CALLS_GRACE: Duration = Duration::from_secs(2);
/// How long whoever wants the disk waits for the helper's end.
const END: Duration = Duration::from_secs(15);
/// How long a call waits for a helper that starts: whoever passes it on waits a little longer.
const PATIENCE: Duration = Duration::from_secs(150);
/// How often a call finds a helper that is just ending.
const TRIES: usize = 4;

/// Why nobody answers for a disk's files.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum HelperError {
    #[error(
        "this node runs containers alone, and a disk that a machine may have written is read in machines alone \
         (node.runtimes: qemu)"
    )]
    NoMachines,
    #[error("this node does not hold the volume {0}")]
    NoVolume(VolumeId),
    #[error("nothing is kept of the POD {0} on this node")]
    NoData(PodId),
    #[error("the run {0} has it")]
    Attached(RunId),
    #[error("the volume {0} is copied just now; try again when that is done")]
    Copied(VolumeId),
    #[error("a run of the POD is quarantined: {0}")]
    Quarantined(String),
    #[error("as many of your disks are read and written as may be at once; try again when one is done")]
    HolderFull,
    #[error("this node has no room for one more helper just now")]
    Full(#[source] Option<PlacementError>),
    #[error("too many files of the disk are read and written at once")]
    Busy,
    #[error("{0}")]
    Damaged(String),
    #[error("the disk is written to by another")]
    Taken,
    #[error("the disk is checked first, and {0} % of that is done: ask again")]
    Checking(u8),
    #[error("the helper of the disk is starting: ask again")]
    Starting,
    #[error("the helper did not start: {0}")]
    Start(String),
    #[error("the helper ended: {0}")]
    Died(String),
    #[error("this node's disk is full: try again when there is room")]
    DiskFull,
    #[error("look at the disk: {0}")]
    Look(String),
    #[error("the node is going down")]
    Closing,
}

impl From<RuntimeError> for HelperError {
    fn from(error: RuntimeError) -> Self {
        match error {
            RuntimeError::Failed { source: DriverFailure::Taken(_), .. } => Self::Taken,
            error => Self::Start(error_chain(&error)),
        }
    }
}

impl From<PodError> for HelperError {
    fn from(error: PodError) -> Self {
        match error {
            PodError::Refused { status: http::StatusCode::CONFLICT, said } => Self::Damaged(said),
            error => Self::Start(error_chain(&error)),
        }
    }
}

/// Where a helper is in its life.
#[derive(Clone, Debug)]
pub(crate) enum Stage {
    /// Its disk is not mounted yet; how much of the check of that is done, in per cent, while it goes on.
    Starting { checked: Option<u8> },
    /// It answers.
    Ready,
    /// Nothing of it is left; why it ended, where nobody meant it to.
    Gone(Option<HelperError>),
}

/// A helper.
pub(crate) struct Helper {
    pub(crate) slot: Slot,
    holder: String,
    calls: Arc<Semaphore>,
    begun: Instant,
    /// When the last call ended.
    used: Mutex<Instant>,
    stage: watch::Receiver<Stage>,
    pub(crate) end: CancellationToken,
}

/// One call's place in a helper, which does not end for idleness meanwhile.
pub(crate) struct HelperCall {
    helper: Arc<Helper>,
    _place: OwnedSemaphorePermit,
}

impl HelperCall {
    /// What the driver calls the helper.
    pub(crate) fn id(&self) -> RunId {
        self.helper.slot.run
    }

    /// Comes when nothing of the helper is left.
    pub(crate) fn gone(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut stage = self.helper.stage.clone();
        async move {
            let _ = stage.wait_for(|stage| matches!(stage, Stage::Gone(_))).await;
        }
    }
}

impl Drop for HelperCall {
    fn drop(&mut self) {
        *self.helper.used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }
}

impl Helper {
    /// One that is to be begun, and who tells how far it is.
    fn new(slot: Slot, holder: &str) -> (Self, watch::Sender<Stage>) {
        let (stage, told) = watch::channel(Stage::Starting { checked: None });
        let helper = Self {
            slot,
            holder: holder.to_owned(),
            calls: Arc::new(Semaphore::new(MAX_CALLS as usize)),
            begun: Instant::now(),
            used: Mutex::new(Instant::now()),
            stage: told,
            end: CancellationToken::new(),
        };
        (helper, stage)
    }

    /// Takes no more calls.
    pub(crate) fn close(&self) {
        self.calls.close();
    }

    /// Waits a while for the end of the calls that are under way.
    pub(crate) async fn drain(&self) {
        let _all = timeout(CALLS_GRACE, self.calls.acquire_many(MAX_CALLS)).await;
    }

    /// Waits until nobody has called for so long that it is to end: then it takes no more calls.
    pub(crate) async fn when_idle(&self) {
        loop {
            sleep(self.idle_left()).await;
            // Nobody gets a place between the look and the end.
            let all = self.calls.try_acquire_many(MAX_CALLS);
            if all.is_ok() && self.used().elapsed() >= IDLE {
                self.calls.close();
                return;
            }
        }
    }

    /// Waits until it answers; `false` where it has ended because somebody meant it to.
    async fn when_ready(&self) -> Result<bool, HelperError> {
        let mut stage = self.stage.clone();
        let settled = stage.wait_for(|stage| !matches!(stage, Stage::Starting { .. }));
        let settled = timeout(PATIENCE, settled).await.map(|settled| settled.map(|stage| stage.clone()));
        match settled {
            Ok(Ok(Stage::Ready)) => Ok(true),
            Ok(Ok(Stage::Gone(Some(error)))) => Err(error),
            Ok(Ok(Stage::Gone(None) | Stage::Starting { .. })) => Ok(false),
            Ok(Err(_)) => Err(HelperError::Closing),
            // It goes on: whoever asks again finds it farther.
            Err(_) => match *self.stage.borrow() {
                Stage::Starting { checked: Some(percent) } => Err(HelperError::Checking(percent)),
                Stage::Starting { checked: None } => Err(HelperError::Starting),
                Stage::Ready | Stage::Gone(_) => Ok(false),
            },
        }
    }

    async fn when_gone(&self) {
        // A sender that is dropped ends with the daemon.
        let _ = self.stage.clone().wait_for(|stage| matches!(stage, Stage::Gone(_))).await;
    }

    fn is_idle(&self) -> bool {
        self.calls.available_permits() == MAX_CALLS as usize
    }

    /// How long it waits for another call from now on.
    fn idle_left(&self) -> Duration {
        if self.is_idle() { IDLE.saturating_sub(self.used().elapsed()) } else { IDLE }
    }

    fn used(&self) -> Instant {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The helpers of a node, one a disk.
#[derive(Default)]
pub(crate) struct Helpers {
    all: Mutex<BTreeMap<OwnedDisk, Arc<Helper>>>,
    /// Held by whoever counts helpers and begins one more.
    starting: tokio::sync::Mutex<()>,
}

impl Helpers {
    /// Whether one has this disk.
    pub(crate) fn has(&self, disk: OwnedDisk) -> bool {
        self.all().contains_key(&disk)
    }

    /// Ends the helper of a disk, if one has it, and waits for its end. Who wants the disk then holds what
    /// keeps another from beginning: the node's lock on volumes, or that on what is kept.
    pub(crate) async fn end(&self, disk: OwnedDisk) {
        let found = self.all().get(&disk).cloned();
        let Some(helper) = found else { return };
        helper.end.cancel();
        if timeout(END, helper.when_gone()).await.is_err() {
            // Whoever wants the disk finds it taken, and waits for it.
            tracing::error!(%disk, "a helper does not end");
        }
    }

    /// Ends all of them, with the daemon.
    pub(crate) async fn end_all(&self) {
        let all: Vec<_> = self.all().keys().copied().collect();
        futures_util::future::join_all(all.into_iter().map(|disk| self.end(disk))).await;
    }

    /// Calls that are under way to a disk's helper.
    #[cfg(test)]
    pub(crate) fn calls(&self, disk: OwnedDisk) -> usize {
        self.get(disk).map_or(0, |helper| MAX_CALLS as usize - helper.calls.available_permits())
    }

    /// Whether a disk's helper is to end.
    #[cfg(test)]
    pub(crate) fn is_to_end(&self, disk: OwnedDisk) -> bool {
        self.get(disk).is_some_and(|helper| helper.end.is_cancelled())
    }

    fn get(&self, disk: OwnedDisk) -> Option<Arc<Helper>> {
        self.all().get(&disk).cloned()
    }

    /// A place in the helper of a disk. `begin` begins one where none is.
    pub(crate) async fn call<F>(&self, disk: OwnedDisk, begin: impl Fn() -> F) -> Result<HelperCall, HelperError>
    where
        F: Future<Output = Result<(), HelperError>>,
    {
        for _ in 0..TRIES {
            let Some(helper) = self.get(disk) else {
                begin().await?;
                continue;
            };
            if !helper.when_ready().await? {
                continue;
            }
            match Arc::clone(&helper.calls).try_acquire_owned() {
                Ok(place) => return Ok(HelperCall { helper, _place: place }),
                Err(TryAcquireError::NoPermits) => return Err(HelperError::Busy),
                // It ends: another one takes its place.
                Err(TryAcquireError::Closed) => helper.when_gone().await,
            }
        }
        Err(HelperError::Busy)
    }

    /// The right to begin helpers, with room for one more of this holder's.
    pub(crate) async fn turn(&self, holder: &str) -> Result<tokio::sync::MutexGuard<'_, ()>, HelperError> {
        let turn = self.starting.lock().await;
        self.make_room(holder).await?;
        Ok(turn)
    }

    /// Takes in the helper of a disk that has none.
    pub(crate) fn enter(&self, disk: OwnedDisk, slot: Slot, holder: &str) -> NewHelper {
        let (helper, stage) = Helper::new(slot, holder);
        let helper = Arc::new(helper);
        self.all().insert(disk, Arc::clone(&helper));
        NewHelper { disk, helper, stage }
    }

    /// A helper of which nothing is left.
    pub(crate) fn leave(&self, disk: OwnedDisk) {
        self.all().remove(&disk);
    }

    /// Has room made for one more of this holder's: the one that was used least lately of those that
    /// nobody uses ends; where all are used, the one that gives way to it.
    async fn make_room(&self, holder: &str) -> Result<(), HelperError> {
        let of_holder: Vec<_> = self.listed(|helper| helper.holder == holder);
        if of_holder.len() >= MAX_PER_HOLDER {
            let idle = least_used(of_holder).ok_or(HelperError::HolderFull)?;
            self.end(idle).await;
        }
        let all = self.listed(|_| true);
        if all.len() >= MAX_HELPERS {
            let busy_one = || {
                let busy = all.iter().map(|(disk, helper)| (*disk, helper.holder.as_str(), helper.begun.elapsed()));
                gives_way(&busy.collect::<Vec<_>>(), holder)
            };
            let ends = least_used(all.clone()).or_else(busy_one).ok_or(HelperError::Full(None))?;
            self.end(ends).await;
        }
        Ok(())
    }

    fn listed(&self, which: impl Fn(&Helper) -> bool) -> Vec<(OwnedDisk, Arc<Helper>)> {
        let all = self.all();
        all.iter().filter(|(_, helper)| which(helper)).map(|(disk, helper)| (*disk, Arc::clone(helper))).collect()
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<OwnedDisk, Arc<Helper>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Of those that nobody uses, the one that was used least lately.
fn least_used(helpers: Vec<(OwnedDisk, Arc<Helper>)>) -> Option<OwnedDisk> {
    let idle = helpers.into_iter().filter(|(_, helper)| helper.is_idle());
    idle.min_by_key(|(_, helper)| helper.idle_left()).map(|(disk, _)| disk)
}

/// Of helpers that are all used, with their holders and ages, the one that ends for a holder that has none: the oldest of
/// whoever has most, and where nobody has several, the oldest that has had its turn.
fn gives_way(all: &[(OwnedDisk, &str, Duration)], holder: &str) -> Option<OwnedDisk> {
    let count = |of: &str| all.iter().filter(|(_, holder, _)| *holder == of).count();
    let most = all.iter().map(|(_, holder, _)| count(holder)).max().filter(|_| count(holder) == 0)?;
    let may_end = all.iter().filter(|(_, of, age)| count(of) == most && (most > 1 || *age >= TURN));
    may_end.max_by_key(|(_, _, age)| *age).map(|(disk, _, _)| *disk)
}

/// A helper that is to be begun.
pub(crate) struct NewHelper {
    pub(crate) disk: OwnedDisk,
    pub(crate) helper: Arc<Helper>,
    /// Tells how far it is.
    pub(crate) stage: watch::Sender<Stage>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn disk(number: u64) -> OwnedDisk {
        OwnedDisk::Volume(VolumeId::from_bits(number))
    }

    /// Helpers all of which are called and are as old as their numbers say, in minutes.
    fn ends_for(holders: &[&str], holder: &str) -> Option<OwnedDisk> {
        let all = (1..).zip(holders).map(|(number, of)| (disk(number), *of, Duration::from_mins(number)));
        gives_way(&all.collect::<Vec<_>>(), holder)
    }

    #[test]
    fn the_oldest_of_who_has_most_gives_way_to_a_holder_that_has_none_and_to_no_other() {
        assert_eq!(ends_for(&["a", "b", "b", "c", "c", "d"], "e"), Some(disk(5)));
        assert_eq!(ends_for(&["a", "b", "b", "c", "c", "d"], "a"), None);
        assert_eq!(ends_for(&["a", "b", "c"], "d"), None, "none has had its turn");
    }

    #[test]
    fn where_nobody_has_several_the_oldest_that_has_had_its_turn_gives_way() {
        let holders = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k"];
        assert_eq!(ends_for(&holders[..9], "z"), None);
        assert_eq!(ends_for(&holders, "z"), Some(disk(11)));
        assert_eq!(ends_for(&holders, "k"), None);
    }

    /// A helper as its keeper keeps it: one that is told to end has ended soon.
    fn keep(helpers: &Arc<Helpers>, number: u64, holder: &str) {
        let slot = Slot { run: RunId::from_bits(number), number: u16::try_from(number).unwrap() };
        let NewHelper { disk, helper, stage } = helpers.enter(disk(number), slot, holder);
        stage.send_replace(Stage::Ready);
        let helpers = Arc::clone(helpers);
        tokio::spawn(async move {
            helper.end.cancelled().await;
            helper.close();
            helpers.leave(disk);
            stage.send_replace(Stage::Gone(None));
        });
    }

    #[tokio::test(start_paused = true)]
    async fn a_holder_that_has_no_helper_gets_one_though_others_keep_calls_open_in_all() {
        let helpers = Arc::new(Helpers::default());
        let mut calls = Vec::new();
        let holders = ["a", "b", "c", "d"].into_iter().flat_map(|holder| [holder; MAX_PER_HOLDER]);
        for (number, holder) in (0..).zip(holders) {
            keep(&helpers, number, holder);
            calls.push(helpers.call(disk(number), || std::future::ready(Err(HelperError::Closing))).await.unwrap());
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert!(matches!(helpers.turn("b").await, Err(HelperError::HolderFull)));
        drop(helpers.turn("e").await.unwrap());
        assert!(!helpers.has(disk(0)) && (1..MAX_HELPERS as u64).all(|number| helpers.has(disk(number))));
        keep(&helpers, 9, "e");
        // Who has one already takes none from anybody, and who was left with one keeps it.
        calls.push(helpers.call(disk(9), || std::future::ready(Err(HelperError::Closing))).await.unwrap());
        assert!(matches!(helpers.turn("e").await, Err(HelperError::Full(None))));
        assert!(matches!(helpers.turn("a").await, Err(HelperError::Full(None))));
        drop(helpers.turn("f").await.unwrap());
        assert!(helpers.has(disk(1)) && !helpers.has(disk(2)));
    }
}
