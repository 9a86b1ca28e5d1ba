//! What every driver must do, whoever it is. Called by each driver's own test.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use domain::{NodeShortage, PodId, RunId, UnixMillis, VolumeId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep, timeout};
use wire::v1::node::{DataDisk, KeptCause, Retention};
use wire::v1::pod::PORT;

use crate::{
    ContainerFacts, DiskRetention, DriverRefusal, GuestFacts, GuestSpec, GuestState, ObservedRun, ProcessFacts,
    Runtime, RuntimeError, Slot, VmmFacts,
};

/// For how long disks are kept in this suite.
const RETENTION: Retention = Retention { since: UnixMillis(1), until: UnixMillis(2), cause: KeptCause::Found };
/// What is on the `/data` of the suite's POD.
const TEXT: &str = "what the agent wrote";
/// Pause between two looks at a guest that is starting.
const PAUSE: Duration = Duration::from_millis(20);

/// A driver under test, on a machine of its own.
#[async_trait]
pub trait Harness: Send + Sync {
    /// A driver as a daemon makes it at its start; the machine is the same each time.
    async fn driver(&self) -> Arc<dyn Runtime>;
    /// A disk that guests boot from.
    fn base(&self) -> PathBuf;
    /// Ends a guest from outside the driver, as a crash does.
    async fn crash(&self, id: RunId, facts: &GuestFacts);
    /// Writes to the `/data` of a run whose guest does not run.
    async fn write(&self, id: RunId, text: &str);
    /// What was written there, or as many bytes of whatever is there.
    async fn written(&self, id: RunId) -> String;
    /// Makes an empty volume of this id where the driver looks for it; `false` of a driver that has
    /// no volumes, which then must refuse whoever wants one.
    async fn make_volume(&self, _id: VolumeId) -> bool {
        false
    }
    /// How long a guest may take until its first port answers.
    fn boot_deadline(&self) -> Duration;
}

/// The POD whose runs the suite starts.
fn pod() -> PodId {
    PodId::minted(RunId::from_bits(0x0c0f_0000))
}

/// The result of one rule: which was broken, and how.
pub type RuleResult = Result<(), String>;

/// The list of the rules, in the order in which they are tried. Behind `volumes` stands what is
/// asked of those drivers alone that have volumes.
pub const CASES: &str = include_str!("conformance.txt");

/// The rules that a driver must keep.
#[must_use]
pub fn cases(has_volumes: bool) -> Vec<&'static str> {
    let lines = CASES.lines().map(|line| line.strip_prefix("volumes ").ok_or(line));
    lines.filter_map(|rule| if has_volumes { Some(rule.unwrap_or_else(|rule| rule)) } else { rule.err() }).collect()
}

/// The rules that were kept.
#[derive(Default)]
struct Kept(Vec<&'static str>);

/// Tries a rule, and notes by its name that it was kept.
macro_rules! case {
    ($kept:ident, $rule:ident($($with:expr),*)) => {
        $rule($($with),*).await?;
        $kept.0.push(stringify!($rule));
    };
}

/// Runs the suite: two boots, and a VMM that is started once more. The names of the rules that
/// were kept: those of [`cases`], or the driver was not held to all of them.
///
/// # Errors
/// The first rule that the driver breaks.
pub async fn run(harness: &dyn Harness) -> Result<Vec<&'static str>, String> {
    let driver = harness.driver().await;
    let spec = |bits, slot| GuestSpec {
        slot: Slot { run: RunId::from_bits(bits), number: slot },
        pod: pod(),
        data: DataDisk::KeptOrEmpty,
        cores: 1,
        memory_mib: 128,
        runtime: None,
        base: harness.base(),
        volumes: Vec::new(),
        state_dir: "/data".to_owned(),
        ran: false,
    };
    let (mut kept, one) = (Kept::default(), spec(0x0c0f_0001, 1));
    case!(kept, what_was_never_made_can_be_stopped(&*driver, &one));
    case!(kept, what_does_not_run_is_refused(&*driver, &one));
    case!(kept, a_missing_seat_is_refused(&*driver, &spec(0x0c0f_0002, u16::MAX)));
    let guest = done("create", driver.create(&one).await)?;
    case!(kept, a_guest_is_made_once(&*driver, &one));
    case!(kept, a_guest_answers_at_its_port(&*driver, one.slot.run, harness.boot_deadline()));
    case!(kept, a_running_guest_can_be_measured(&*driver, &one));
    case!(kept, a_running_guest_is_said_to_run(&*driver, &one));
    case!(kept, what_is_there_is_seen(&*driver, &one));
    // A daemon ends before the next one begins.
    drop(driver);
    let next = harness.driver().await;
    case!(kept, a_guest_is_adopted_by_its_own_facts_only(&*next, &one, &guest.facts));
    case!(kept, a_sweep_spares_the_known(&*next, &one));
    case!(kept, the_end_of_an_adopted_guest_is_heard_and_it_starts_again(harness, &*next, &one, &guest.facts));
    case!(kept, a_sweep_erases_nothing(&*next));
    case!(kept, what_does_not_run_is_refused(&*next, &one));
    let two = GuestSpec { data: DataDisk::Kept, ..spec(0x0c0f_0004, 2) };
    case!(kept, the_data_of_a_pod_comes_back_in_its_next_run(harness, &*next, &two));
    case!(kept, the_data_of_a_pod_is_kept_at_the_end_of_each_run(harness, &*next, &two));
    case!(kept, what_is_kept_can_be_erased(&*next));
    case!(kept, no_empty_disk_takes_the_place_of_data_that_is_gone(&*next, &two));
    case!(kept, the_end_may_come_twice(&*next, &one));
    let volumes = vec![VolumeId::from_bits(7)];
    let three = GuestSpec { volumes: volumes.clone(), ..spec(0x0c0f_0005, 3) };
    case!(kept, a_guest_without_its_volume_is_not_made(&*next, &three));
    if harness.make_volume(VolumeId::from_bits(7)).await {
        let four = GuestSpec { volumes, ..spec(0x0c0f_0006, 4) };
        case!(kept, a_volume_is_had_by_one_guest_and_outlives_it(&*next, &three, &four));
    }
    done("close", next.close().await)?;
    Ok(kept.0)
}

/// One that a daemon has adopted dies, and is made again; then nobody knows it any more, and the
/// sweep that ends it is heard of too.
async fn the_end_of_an_adopted_guest_is_heard_and_it_starts_again(
    harness: &dyn Harness,
    driver: &dyn Runtime,
    spec: &GuestSpec,
    facts: &GuestFacts,
) -> RuleResult {
    let adopted = done("adopt", driver.adopt(spec, facts).await)?;
    let mut adopted = adopted.ok_or("adopt: a running guest is not found by its facts")?;
    harness.crash(spec.slot.run, facts).await;
    heard("the next driver", timeout(harness.boot_deadline(), adopted.exit.wait()).await)?;
    done("stop(Attached)", driver.stop(spec.slot, DiskRetention::Attached).await)?;
    harness.write(spec.slot.run, TEXT).await;
    let mut guest = done("create after a crash", driver.create(spec).await)?;
    a_sweep_removes_the_unknown(driver, spec).await?;
    heard("the driver that made it", timeout(harness.boot_deadline(), guest.exit.wait()).await)
}

async fn a_guest_without_its_volume_is_not_made(driver: &dyn Runtime, spec: &GuestSpec) -> RuleResult {
    is_not_made("create with a volume that is not there", driver, spec).await
}

async fn a_volume_is_had_by_one_guest_and_outlives_it(
    driver: &dyn Runtime,
    one: &GuestSpec,
    two: &GuestSpec,
) -> RuleResult {
    done("create with a volume", driver.create(one).await)?;
    is_not_made("create with another guest's volume", driver, two).await?;
    done("stop(Erase)", driver.stop(one.slot, DiskRetention::Erase).await)?;
    done("create with a volume that is free again", driver.create(two).await)?;
    done("stop(Erase)", driver.stop(two.slot, DiskRetention::Erase).await)
}

/// A guest that cannot have what it wants is not made, and nothing of it is left.
async fn is_not_made(what: &str, driver: &dyn Runtime, spec: &GuestSpec) -> RuleResult {
    if driver.create(spec).await.is_ok() {
        return Err(format!("{what}: there is a guest"));
    }
    let runs = |run: &ObservedRun| run.runs;
    if done("observed_runs", driver.observed_runs().await)?.get(&spec.slot.run).is_some_and(runs) {
        return Err(format!("{what}: something of it runs"));
    }
    done("stop(Erase)", driver.stop(spec.slot, DiskRetention::Erase).await)
}

async fn what_was_never_made_can_be_stopped(driver: &dyn Runtime, spec: &GuestSpec) -> RuleResult {
    use DiskRetention::{Attached, Erase, KeepAll, KeepData};
    for disks in [Attached, KeepData(RETENTION), KeepAll(RETENTION), Erase] {
        done("stop of what was never made", driver.stop(spec.slot, disks).await)?;
    }
    nothing_is_kept(driver).await
}

async fn what_does_not_run_is_refused(driver: &dyn Runtime, spec: &GuestSpec) -> RuleResult {
    let id = spec.slot.run;
    refuses("stats", driver.stats(id).await, &DriverRefusal::NotRunning)?;
    refuses("console", driver.console(id).await.map(drop), &DriverRefusal::NotRunning)?;
    refuses("connect", driver.connect(id, PORT).await.map(drop), &DriverRefusal::NotRunning)
}

async fn a_missing_seat_is_refused(driver: &dyn Runtime, spec: &GuestSpec) -> RuleResult {
    let slots = driver.info().slots;
    refuses("create", driver.create(spec).await, &DriverRefusal::NoSlot { slot: spec.slot.number, slots })
}

async fn a_guest_is_made_once(driver: &dyn Runtime, spec: &GuestSpec) -> RuleResult {
    refuses("create of what runs", driver.create(spec).await, &DriverRefusal::Runs)
}

async fn a_guest_answers_at_its_port(driver: &dyn Runtime, id: RunId, deadline: Duration) -> RuleResult {
    let until = Instant::now() + deadline;
    loop {
        match timeout(deadline, health(driver, id)).await {
            Ok(Ok(said)) if said.starts_with("HTTP/1.1 204") => return Ok(()),
            Ok(Ok(said)) => return Err(format!("connect: the guest answered {said:?}")),
            other if Instant::now() > until => return Err(format!("connect: no answer in {deadline:?}: {other:?}")),
            _ => sleep(PAUSE).await,
        }
    }
}

async fn health(driver: &dyn Runtime, id: RunId) -> Result<String, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let mut link = driver.connect(id, PORT).await.map_err(|error| text(&error))?;
    let request = "GET /health HTTP/1.1\r\nhost: guest\r\nconnection: close\r\n\r\n";
    link.write_all(request.as_bytes()).await.map_err(|error| text(&error))?;
    let mut said = String::new();
    link.read_to_string(&mut said).await.map_err(|error| text(&error))?;
    Ok(said)
}

async fn a_running_guest_can_be_measured(driver: &dyn Runtime, spec: &GuestSpec) -> RuleResult {
    let stats = done("stats", driver.stats(spec.slot.run).await)?;
    let empty = stats.cpu_us == 0 || stats.memory_bytes == 0 || stats.resident_bytes == 0;
    if empty { Err(format!("stats: a running guest uses nothing: {stats:?}")) } else { Ok(()) }
}

/// Facts of this driver that are of no guest.
fn lies(facts: &GuestFacts) -> Vec<GuestFacts> {
    let others = |process: &ProcessFacts| {
        [
            ProcessFacts { started: process.started + 1, ..process.clone() },
            ProcessFacts { boot: "another boot".to_owned(), ..process.clone() },
            ProcessFacts { pid: std::process::id() + 1_000_000, ..process.clone() },
        ]
    };
    match facts {
        GuestFacts::Qemu(VmmFacts { process }) => {
            others(process).map(|process| GuestFacts::Qemu(VmmFacts { process })).into()
        }
        GuestFacts::Container(ContainerFacts { runtime, process }) => {
            let facts = |process| GuestFacts::Container(ContainerFacts { runtime: *runtime, process });
            others(process).map(facts).into()
        }
    }
}

async fn a_guest_is_adopted_by_its_own_facts_only(
    driver: &dyn Runtime,
    spec: &GuestSpec,
    facts: &GuestFacts,
) -> RuleResult {
    for lie in lies(facts) {
        if done("adopt", driver.adopt(spec, &lie).await)?.is_some() {
            return Err(format!("adopt: {lie:?} was taken for {facts:?}"));
        }
    }
    let stranger = GuestSpec { slot: Slot { run: RunId::from_bits(0x0c0f_0003), ..spec.slot }, ..spec.clone() };
    match done("adopt", driver.adopt(&stranger, facts).await)? {
        Some(_) => Err("adopt: one sandbox was given another's guest".to_owned()),
        None => Ok(()),
    }
}

async fn a_sweep_spares_the_known(driver: &dyn Runtime, spec: &GuestSpec) -> RuleResult {
    // The second is one whose record cannot be read.
    for slot in [Some(spec.slot.number), None] {
        let known = BTreeMap::from([(spec.slot.run, slot)]);
        match done("sweep", driver.sweep(&known, &RETENTION).await)? {
            0 => done("stats after a sweep", driver.stats(spec.slot.run).await)?,
            some => return Err(format!("sweep: {some} removed although all were known")),
        };
    }
    Ok(())
}

async fn what_is_there_is_seen(driver: &dyn Runtime, spec: &GuestSpec) -> RuleResult {
    let remains = done("remains", driver.observed_runs().await)?;
    let wanted = ObservedRun { runs: true, slot: Some(spec.slot.number), pod: Some(spec.pod) };
    match remains.get(&spec.slot.run) {
        Some(found) if *found == wanted => Ok(()),
        other => Err(format!("remains: {other:?} where it should be {wanted:?}")),
    }
}

async fn a_running_guest_is_said_to_run(driver: &dyn Runtime, spec: &GuestSpec) -> RuleResult {
    done("resume of what runs", driver.resume(spec.slot.run).await)?;
    match done("condition", driver.condition(spec.slot.run).await)? {
        GuestState::Running => Ok(()),
        other @ GuestState::Paused(_) => Err(format!("condition: {other:?}")),
    }
}

async fn a_sweep_removes_the_unknown(driver: &dyn Runtime, spec: &GuestSpec) -> RuleResult {
    match done("sweep", driver.sweep(&BTreeMap::new(), &RETENTION).await)? {
        1 => what_does_not_run_is_refused(driver, spec).await,
        some => Err(format!("sweep: {some} removed instead of one")),
    }
}

async fn a_sweep_erases_nothing(driver: &dyn Runtime) -> RuleResult {
    one_is_kept(driver).await?;
    match done("kept_data", driver.kept_data(pod()).await)? {
        Some(1..) => Ok(()),
        other => Err(format!("kept_data: {other:?} where a disk is kept")),
    }
}

async fn the_data_of_a_pod_comes_back_in_its_next_run(
    harness: &dyn Harness,
    driver: &dyn Runtime,
    spec: &GuestSpec,
) -> RuleResult {
    let guest = done("create of the POD's next run", driver.create(spec).await)?;
    // The layer of a run that was swept stays where it is kept.
    if done("kept_data", driver.kept_data(pod()).await)?.is_some() {
        return Err("kept_data: what a run has taken back is still kept".to_owned());
    }
    harness.crash(spec.slot.run, &guest.facts).await;
    let mut exit = guest.exit;
    heard("the driver that made it", timeout(harness.boot_deadline(), exit.wait()).await)?;
    done("stop(Attached)", driver.stop(spec.slot, DiskRetention::Attached).await)?;
    is_written(harness, spec.slot.run).await
}

async fn the_data_of_a_pod_is_kept_at_the_end_of_each_run(
    harness: &dyn Harness,
    driver: &dyn Runtime,
    spec: &GuestSpec,
) -> RuleResult {
    for disk in done("kept", driver.kept(None).await)? {
        done("erase", driver.erase(&disk.name).await)?;
    }
    is_written(harness, spec.slot.run).await?;
    for _ in 0..2 {
        done("stop(KeepData)", driver.stop(spec.slot, DiskRetention::KeepData(RETENTION)).await)?;
    }
    one_is_kept(driver).await
}

async fn what_is_kept_can_be_erased(driver: &dyn Runtime) -> RuleResult {
    for disk in done("kept", driver.kept(Some(pod())).await)? {
        for _ in 0..2 {
            done("erase", driver.erase(&disk.name).await)?;
        }
    }
    nothing_is_kept(driver).await
}

async fn no_empty_disk_takes_the_place_of_data_that_is_gone(driver: &dyn Runtime, spec: &GuestSpec) -> RuleResult {
    match driver.create(spec).await {
        Ok(_) => return Err("create: made on an empty disk, where there must be data".to_owned()),
        Err(error) if error.wait_reason() == NodeShortage::Disk => {}
        Err(error) => return Err(format!("create: said {error}, where the data is gone")),
    }
    done("stop(KeepData)", driver.stop(spec.slot, DiskRetention::KeepData(RETENTION)).await)?;
    nothing_is_kept(driver).await
}

/// One is, of the suite's POD and of no other.
async fn one_is_kept(driver: &dyn Runtime) -> RuleResult {
    let kept = done("kept", driver.kept(Some(pod())).await)?;
    let [disk] = kept.as_slice() else { return Err(format!("kept: {kept:?} instead of one")) };
    if disk.pod != pod() || disk.retention != Some(RETENTION) || disk.bytes == 0 {
        return Err(format!("kept: {disk:?}"));
    }
    let others = done("kept", driver.kept(Some(PodId::minted(RunId::from_bits(0x0c0f_0001)))).await)?;
    if others.is_empty() { Ok(()) } else { Err(format!("kept: {others:?} of another POD")) }
}

async fn nothing_is_kept(driver: &dyn Runtime) -> RuleResult {
    let left = done("kept", driver.kept(None).await)?;
    if left.is_empty() { Ok(()) } else { Err(format!("kept: {left:?}")) }
}

async fn is_written(harness: &dyn Harness, id: RunId) -> RuleResult {
    let found = harness.written(id).await;
    if found == TEXT { Ok(()) } else { Err(format!("/data: {found:?} where it should be {TEXT:?}")) }
}

async fn the_end_may_come_twice(driver: &dyn Runtime, spec: &GuestSpec) -> RuleResult {
    for _ in 0..2 {
        done("stop(Erase)", driver.stop(spec.slot, DiskRetention::Erase).await)?;
    }
    Ok(())
}

fn done<T, E: std::error::Error>(what: &str, result: Result<T, E>) -> Result<T, String> {
    result.map_err(|error| {
        let mut words = format!("{what}: {error}");
        let mut source = error.source();
        while let Some(cause) = source {
            words.push_str(&format!(": {cause}"));
            source = cause.source();
        }
        words
    })
}

fn refuses<T>(what: &str, result: Result<T, RuntimeError>, wanted: &DriverRefusal) -> RuleResult {
    match result {
        Ok(_) => Err(format!("{what}: done, where it should be refused because {wanted}")),
        Err(error) if error.refusal() == Some(wanted) => Ok(()),
        Err(error) => Err(format!("{what}: said {error}, where it should be refused because {wanted}")),
    }
}

fn heard<T, E>(who: &str, end: Result<T, E>) -> RuleResult {
    end.map(drop).map_err(|_| format!("exit: {who} did not hear of the guest's end"))
}
