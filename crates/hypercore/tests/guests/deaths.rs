//! Node daemon or containerd die by `kill -9`, at each step of a container's life and at any
//! instant, with volumes beside: what ran goes on under its id, nothing is left of what ended,
//! no volume has two writers, and nothing is lost that was on a disk.

#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "a test that cannot go on has failed, and says where")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use client::NodeClient;
use domain::{PodId, RunId, VolumeId};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use wire::Secret;
use wire::fault::Code;
use wire::v1::node::{
    DataDisk, DataPolicy, RuntimeName, Sandbox, SandboxPhase, SandboxSpec, SandboxVolume, VolumeSpec,
};

use crate::machine::{Residue, processes_of};
use crate::node::{NodeProcess, PATIENCE, id};

/// From so many rounds on, every point is taken: a soak says so in `PALATINE_ROUNDS`.
const ALL: usize = 20;
/// How long an agent may take to say how far it has counted.
const ANSWER: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(20);
/// Where a node's containers are among containerd's.
const CONTAINERD_NAMESPACE: &str = "palatine";

fn rounds() -> usize {
    std::env::var("PALATINE_ROUNDS").map_or(2, |rounds| rounds.parse().expect("a number"))
}

fn random_below(limit: Duration) -> Duration {
    let mut bytes = [0; 4];
    getrandom::fill(&mut bytes).expect("random bytes");
    limit.mul_f64(f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX))
}

fn kill(pid: u32) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a pid");
    // It may have ended meanwhile.
    let _ = kill_process(pid, Signal::KILL);
}

/// Has the agent count, which it does on its disk before it tells the number.
async fn count(client: &NodeClient, run: RunId) -> Option<u64> {
    let asked = async {
        let mut tunnel = client.tunnel(run, None).await.ok()?;
        let request = "POST /state HTTP/1.1\r\nhost: agent\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        tunnel.write_all(request.as_bytes()).await.ok()?;
        let mut said = String::new();
        tunnel.read_to_string(&mut said).await.ok()?;
        let (head, body) = said.split_once("\r\n\r\n")?;
        let counts: Value = serde_json::from_str(body).ok()?;
        head.starts_with("HTTP/1.1 200 ").then(|| counts["count"].as_u64())?
    };
    timeout(ANSWER, asked).await.ok()?
}

/// What an agent was heard to count, and how often it was asked to.
#[derive(Default)]
struct Counted {
    told: AtomicU64,
    asked: AtomicU64,
}

impl Counted {
    async fn one_more(&self, client: &NodeClient, run: RunId) -> Option<u64> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let before = self.told.load(Ordering::SeqCst);
        let told = count(client, run).await?;
        let most = self.asked.load(Ordering::SeqCst);
        assert!(told > before && told <= most, "{run} has lost what was on its disk: {told} after {before}, of {most}");
        self.told.store(told, Ordering::SeqCst);
        Some(told)
    }
}

/// What is asked of a node until it is so. `None` when the daemon has died meanwhile.
async fn asked<T>(node: &mut NodeProcess, what: &str, ask: impl AsyncFn(&NodeClient) -> Option<T>) -> Option<T> {
    let (client, until) = (node.client(), Instant::now() + PATIENCE);
    loop {
        if node.has_died() {
            return None;
        }
        if let Some(so) = ask(&client).await {
            return Some(so);
        }
        assert!(Instant::now() < until, "not within {PATIENCE:?}: {what}\n{}", node.log());
        sleep(LOOK).await;
    }
}

/// The steps of a container's life. Each may be taken again when its end was not heard of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Begin,
    Crash,
    Keep,
    BeginAgain,
    Erase,
    Over,
}

/// A POD in containers, as far as it has come.
struct Life {
    step: Step,
    pod: PodId,
    counted: Counted,
}

impl Life {
    fn new() -> Self {
        Self { step: Step::Begin, pod: PodId::minted(id(1)), counted: Counted::default() }
    }

    /// Goes on to its end. `None` when the daemon has died on the way.
    async fn go_on(&mut self, node: &mut NodeProcess) -> Option<()> {
        while self.step != Step::Over {
            self.step = match self.step {
                Step::Begin => {
                    self.begin(node, id(1), DataDisk::KeptOrEmpty).await?;
                    Step::Crash
                }
                Step::Crash => {
                    self.crash(node, id(1)).await?;
                    Step::Keep
                }
                Step::Keep => {
                    self.end(node, id(1), DataPolicy::Keep).await?;
                    Step::BeginAgain
                }
                Step::BeginAgain => {
                    self.begin(node, id(2), DataDisk::Kept).await?;
                    Step::Erase
                }
                Step::Erase => {
                    self.end(node, id(2), DataPolicy::Erase).await?;
                    Step::Over
                }
                Step::Over => Step::Over,
            };
        }
        Some(())
    }

    async fn begin(&self, node: &mut NodeProcess, run: RunId, data: DataDisk) -> Option<()> {
        let spec = SandboxSpec { data, ..node.spec(self.pod) };
        asked(node, "a run is made", async |client| client.create(run, &spec, None).await.ok()).await?;
        asked(node, "it is ready", async |client| ready(client, run).await).await?;
        asked(node, "it counts", async |client| self.counted.one_more(client, run).await).await.map(drop)
    }

    async fn crash(&self, node: &mut NodeProcess, run: RunId) -> Option<()> {
        let before = asked(node, "it is ready", async |client| ready(client, run).await).await?;
        kill(before.pid?);
        let again = async |client: &NodeClient| {
            ready(client, run).await.filter(|sandbox| sandbox.pid != before.pid && sandbox.restarts > before.restarts)
        };
        asked(node, "it is started again", again).await?;
        asked(node, "it counts", async |client| self.counted.one_more(client, run).await).await.map(drop)
    }

    async fn end(&self, node: &mut NodeProcess, run: RunId, data: DataPolicy) -> Option<()> {
        let grace = Duration::from_secs(5);
        let delete = async |client: &NodeClient| client.delete(run, self.pod, grace, data).await.ok();
        asked(node, "it is deleted", delete).await.map(drop)
    }
}

async fn ready(client: &NodeClient, run: RunId) -> Option<Sandbox> {
    client.get(run).await.ok()?.filter(|sandbox| sandbox.phase == SandboxPhase::Ready)
}

/// Nothing runs on the node, nothing is kept, and containerd knows of nothing.
async fn nothing_is_left(node: &NodeProcess) {
    let listed = node.client().list().await.expect("a list");
    assert!(listed.sandboxes.is_empty() && listed.quarantined.is_empty(), "{listed:?}");
    assert_eq!(node.client().disks().await.expect("a list").kept, []);
    assert_eq!(known_to_containerd(node), BTreeMap::new());
}

/// What containerd has in its books, by kind.
fn known_to_containerd(node: &NodeProcess) -> BTreeMap<&'static str, BTreeSet<String>> {
    let socket = node.dir.path().join("node/containerd/grpc.sock");
    let list = |kind: &'static str, words: &[&str]| {
        let mut command = Command::new("ctr");
        command.arg("--address").arg(&socket).args(["--namespace", CONTAINERD_NAMESPACE, kind]).args(words);
        // One that was killed by the very last step is being started again.
        let until = Instant::now() + PATIENCE;
        let said = loop {
            let said = command.output().expect("ctr is installed");
            if said.status.success() {
                break said;
            }
            assert!(Instant::now() < until, "{}", String::from_utf8_lossy(&said.stderr));
            std::thread::sleep(LOOK);
        };
        let lines = String::from_utf8_lossy(&said.stdout).into_owned();
        let names = lines.lines().filter(|line| !line.starts_with("KEY ")).map(str::to_owned).collect();
        (kind, names)
    };
    let quiet = &["ls", "-q"][..];
    let all = [list("containers", quiet), list("tasks", quiet), list("leases", quiet), list("snapshots", &["ls"])];
    all.into_iter().filter(|(_, names): &(_, BTreeSet<String>)| !names.is_empty()).collect()
}

/// Disks under a folder that the host has attached, and sockets of the shims of these runs.
fn attached(state: &Path, runs: &[RunId]) -> Vec<String> {
    let mut found = Vec::new();
    for device in fs::read_dir("/sys/block").expect("a folder").flatten() {
        let file = fs::read_to_string(device.path().join("loop/backing_file")).unwrap_or_default();
        found.extend(file.contains(&*state.to_string_lossy()).then_some(file));
    }
    for run in runs {
        let place = state.join("node/containerd/grpc.sock").join(CONTAINERD_NAMESPACE).join(run.to_string());
        let socket =
            Path::new("/run/containerd/s").join(hex::encode(Sha256::digest(place.as_os_str().as_encoded_bytes())));
        found.extend(socket.exists().then(|| socket.display().to_string()));
    }
    found
}

/// Ends the node, after which nothing of it is on the machine.
fn end(mut node: NodeProcess, before: &Residue, runs: &[RunId]) {
    node.stop_clean(before);
    let state = node.dir.path();
    assert_eq!((processes_of(state), attached(state, runs)), (Vec::new(), Vec::new()));
}

/// A point at which a program is killed, when it comes there for the so many-th time.
fn points(passed: &str, skip: usize) -> Vec<String> {
    let mut seen: BTreeMap<&str, (Option<usize>, usize)> = BTreeMap::new();
    for (at, point) in passed.lines().enumerate() {
        let (first, times) = seen.entry(point).or_default();
        *times += 1;
        if at >= skip {
            first.get_or_insert(*times);
        }
    }
    let each = |(point, (first, last)): (&str, (Option<usize>, usize))| {
        let times = BTreeSet::from([first?, last]);
        Some(times.into_iter().map(move |time| format!("{point}#{time}")).collect::<Vec<_>>())
    };
    seen.into_iter().filter_map(each).flatten().collect()
}

/// Who dies.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Dies {
    Node,
    Containerd,
}

const CONTAINERS: &str = "runtimes = [\"container-runc\"]";

async fn survives(dies: Dies, point: &str, plan: impl Fn() -> NodeProcess, before: &Residue) {
    let mut node = plan();
    node.environment = vec![(durable::AT, point.to_owned())];
    if dies == Dies::Containerd {
        node.environment.push((durable::CHILD, "containerd".to_owned()));
    }
    let mut life = Life::new();
    let lived = node.comes_up().await && life.go_on(&mut node).await.is_some();
    if dies == Dies::Node {
        // What a later step passes may come to its last time by chance.
        assert!(!lived || !point.ends_with("#1"), "the node is not killed at {point}");
        node.environment.clear();
        assert!(node.comes_up().await, "the node does not start after {point}: {}", node.log());
        life.go_on(&mut node).await.unwrap_or_else(|| panic!("the node dies after {point}: {}", node.log()));
    } else {
        assert!(lived, "the node dies with containerd at {point}: {}", node.log());
        // Marks are written together as it happens: how often is chance. What ends a life is passed
        // after it was said to be over.
        let until = Instant::now() + PATIENCE;
        while !point.starts_with("marks.") && !node.log().contains("containerd has ended") {
            assert!(Instant::now() < until, "containerd is not killed at {point}");
            sleep(LOOK).await;
        }
    }
    nothing_is_left(&node).await;
    end(node, before, &[id(1), id(2)]);
}

async fn each(dies: Dies, needed: &[&str], plan: impl Fn() -> NodeProcess, before: &Residue) {
    let mut node = plan();
    let list = node.dir.path().join("points");
    node.environment = vec![(durable::SEEN, list.display().to_string())];
    let passed = || fs::read_to_string(&list).expect("a list");
    assert!(node.comes_up().await, "{}", node.log());
    // containerd is not there before.
    let skip = if dies == Dies::Node { 0 } else { passed().lines().count() };
    Life::new().go_on(&mut node).await.expect("nobody is killed");
    let points = points(&passed(), skip);
    end(node, before, &[id(1), id(2)]);
    for point in needed {
        assert!(points.iter().any(|passed| passed.starts_with(point)), "{point} is not passed: {points:?}");
    }
    let some = if rounds() < ALL { rounds() } else { points.len() };
    let stride = (points.len() / some.max(1)).max(1);
    for point in points.iter().step_by(stride).take(some) {
        eprintln!("{point}");
        survives(dies, point, &plan, before).await;
    }
}

const NEEDED: [&str; 8] = [
    "container mounts.layer#",
    "container.made#",
    "container.started#",
    "container.killed#",
    "container.forgotten#",
    "container.unmounted#",
    "record.torn#",
    "kept.taken#",
];

#[tokio::test]
async fn a_node_that_dies_at_a_step_of_a_container_comes_back_to_the_same_one() {
    let before = Residue::of("pltyn");
    let plan = || NodeProcess::plan("pltyn", 26, CONTAINERS, "uplinks = [\"lo\"]");
    each(Dies::Node, &NEEDED, plan, &before).await;
}

#[tokio::test]
async fn a_containerd_that_dies_at_a_step_of_a_container_is_started_again_and_the_step_taken() {
    let before = Residue::of("pltyc");
    let plan = || NodeProcess::plan("pltyc", 27, CONTAINERS, "uplinks = [\"lo\"]");
    each(Dies::Containerd, &NEEDED, plan, &before).await;
}

/// A guest that counts for as long as the test wants.
struct Counting {
    run: RunId,
    counted: Arc<Counted>,
    shown: Sandbox,
}

const VOLUME: VolumeId = VolumeId::from_bits(7);

fn with_volume(node: &NodeProcess, run: RunId) -> SandboxSpec {
    let mount = SandboxVolume { id: VOLUME, name: "work".parse().unwrap(), path: "/workspace".parse().unwrap() };
    let mut spec = SandboxSpec { volumes: vec![mount], runtime: Some(RuntimeName::QemuTcg), ..node.spec(run.into()) };
    // It counts on the volume.
    spec.env.0.insert("STATE_DIR".to_owned(), Secret::from("/workspace".to_owned()));
    spec
}

async fn guests(node: &NodeProcess) -> Vec<Counting> {
    node.client().put_volume(VOLUME, &VolumeSpec { size_mib: 64, exists: false }).await.unwrap();
    let in_container = |runtime| move |run: RunId| SandboxSpec { runtime: Some(runtime), ..node.spec(run.into()) };
    let specs = [
        in_container(RuntimeName::ContainerRunc)(id(1)),
        in_container(RuntimeName::ContainerCrun)(id(2)),
        with_volume(node, id(3)),
    ];
    let mut made = Vec::new();
    for (bits, spec) in (1..).zip(&specs) {
        node.client().create(id(bits), spec, None).await.unwrap();
    }
    for bits in 1..=3 {
        let shown = node.ready(id(bits)).await;
        made.push(Counting { run: id(bits), counted: Arc::default(), shown });
    }
    made
}

/// Counts until it is told to stop.
fn keep_counting(client: NodeClient, guest: &Counting, stop: &Arc<AtomicBool>) -> JoinHandle<()> {
    let (run, counted, stop) = (guest.run, Arc::clone(&guest.counted), Arc::clone(stop));
    tokio::spawn(async move {
        while !stop.load(Ordering::SeqCst) {
            counted.one_more(&client, run).await;
            sleep(LOOK).await;
        }
    })
}

/// Makes and deletes containers until it is told to stop; whose end may not have been heard of.
fn keep_making(client: NodeClient, spec: SandboxSpec, first: u64, stop: &Arc<AtomicBool>) -> JoinHandle<Vec<RunId>> {
    let stop = Arc::clone(stop);
    tokio::spawn(async move {
        let mut made = Vec::new();
        for run in (first..).map(id) {
            if stop.load(Ordering::SeqCst) {
                break;
            }
            made.push(run);
            let spec = SandboxSpec { pod: run.into(), ..spec.clone() };
            let begun = client.create(run, &spec, None).await;
            sleep(random_below(Duration::from_millis(700))).await;
            let ended = client.delete(run, run.into(), Duration::ZERO, DataPolicy::Erase).await;
            if begun.is_err() || ended.is_err() {
                sleep(LOOK).await;
            }
        }
        made
    })
}

/// The VMMs that can write to a file.
fn writers(file: &Path) -> usize {
    let Ok(wanted) = fs::metadata(file) else { return 0 };
    let writes = |process: &Path| {
        let opened = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
        opened
            .filter(|fd| fs::metadata(fd.path()).is_ok_and(|it| (it.dev(), it.ino()) == (wanted.dev(), wanted.ino())))
            .any(|fd| {
                let info = fs::read_to_string(process.join("fdinfo").join(fd.file_name())).unwrap_or_default();
                let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap_or_default().trim();
                u64::from_str_radix(flags, 8).is_ok_and(|flags| flags & 3 != 0)
            })
    };
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.path());
    let vmms = processes.filter(|it| fs::read_to_string(it.join("comm")).is_ok_and(|name| name.starts_with("qemu")));
    vmms.filter(|process| writes(process)).count()
}

/// Looks all the time how many write to a volume; at last says how many there ever were.
fn watch_writers(file: PathBuf, stop: &Arc<AtomicBool>) -> std::thread::JoinHandle<usize> {
    let (stop, most) = (Arc::clone(stop), AtomicUsize::new(0));
    std::thread::spawn(move || {
        while !stop.load(Ordering::SeqCst) {
            most.fetch_max(writers(&file), Ordering::SeqCst);
            std::thread::sleep(LOOK);
        }
        most.into_inner()
    })
}

fn containerds(node: &NodeProcess) -> Vec<u32> {
    processes_of(&node.dir.path().join("node/containerd/config.toml")).iter().map(|pid| pid.parse().unwrap()).collect()
}

/// Node, containerd, or one after the other, at some instant.
async fn die(node: &mut NodeProcess, round: usize) {
    sleep(random_below(Duration::from_millis(1_500))).await;
    if !round.is_multiple_of(3) {
        containerds(node).into_iter().for_each(kill);
    }
    if round % 3 != 1 {
        sleep(random_below(Duration::from_millis(300))).await;
        node.kill();
    }
    sleep(random_below(Duration::from_millis(800))).await;
    assert!(node.comes_up().await, "{}", node.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_and_containerds_that_die_at_any_instant_lose_no_guest_no_volume_and_nothing_that_was_on_a_disk() {
    let before = Residue::of("pltyi");
    let both = "runtimes = [\"qemu\", \"container-runc\", \"container-crun\"]\nbackoff_first_ms = 100";
    let mut node = NodeProcess::plan("pltyi", 28, both, "uplinks = [\"lo\"]");
    node.configure("restarts = 3", "restarts = 100");
    node.start().await;
    let mut guests = guests(&node).await;
    let (over, volume) =
        (Arc::new(AtomicBool::new(false)), node.dir.path().join(format!("node/volumes/{VOLUME}.ext4")));
    assert_eq!(writers(&volume), 1, "the VMM that has the volume is not seen");
    let watcher = watch_writers(volume, &over);
    let passing = SandboxSpec { runtime: Some(RuntimeName::ContainerRunc), ..node.spec(id(1).into()) };
    let mut all: Vec<RunId> = guests.iter().map(|guest| guest.run).collect();
    for round in 0..rounds() {
        let stop = Arc::new(AtomicBool::new(false));
        let counting: Vec<_> = guests.iter().map(|guest| keep_counting(node.client(), guest, &stop)).collect();
        let making = keep_making(node.client(), passing.clone(), 1_000 * (round as u64 + 1), &stop);
        die(&mut node, round).await;
        stop.store(true, Ordering::SeqCst);
        for task in counting {
            task.await.expect("nothing is lost");
        }
        let made = making.await.expect("a list");
        for run in &made {
            node.delete(*run).await;
        }
        all.extend(made);
        as_before(&node, &guests).await;
        let guest = round % guests.len();
        comes_back(&node, &mut guests[guest]).await;
    }
    over.store(true, Ordering::SeqCst);
    assert_eq!(watcher.join().expect("a number"), 1, "writers of the volume at one time");
    for guest in &guests {
        assert!(guest.counted.told.load(Ordering::SeqCst) > 0, "{} has counted nothing", guest.run);
        node.delete(guest.run).await;
    }
    node.client().erase_volume(VOLUME).await.unwrap();
    nothing_is_left(&node).await;
    end(node, &before, &all);
}

/// The same guests run, in the same processes, and no others; and nobody else gets the volume.
async fn as_before(node: &NodeProcess, guests: &[Counting]) {
    for guest in guests {
        let shown = node.ready(guest.run).await;
        assert_eq!((shown.pid, shown.restarts), (guest.shown.pid, guest.shown.restarts), "{shown:?}");
    }
    let listed: Vec<RunId> = node.client().list().await.unwrap().sandboxes.iter().map(|sandbox| sandbox.id).collect();
    assert_eq!(listed, guests.iter().map(|guest| guest.run).collect::<Vec<_>>());
    let other = node.client().create(id(9), &with_volume(node, id(9)), None).await.unwrap_err();
    assert_eq!(other.code(), Some(Code::VolumeAttached), "{other}");
    let containers: BTreeSet<String> = [id(1), id(2)].iter().map(RunId::to_string).collect();
    let known = known_to_containerd(node);
    assert_eq!(known.get("containers"), Some(&containers));
    assert_eq!(known.keys().copied().collect::<Vec<_>>(), ["containers", "tasks"], "{known:?}");
    // What containerd starts to remove a shim that is no more ends by itself.
    let until = Instant::now() + PATIENCE;
    let shims = || processes_of(&node.dir.path().join("node/containerd/grpc.sock"));
    while shims().len() != containers.len() {
        assert!(Instant::now() < until, "{:?} are the shims of {containers:?}", shims());
        sleep(LOOK).await;
    }
}

/// A guest that is killed comes back, and has on its disk whatever it has told.
async fn comes_back(node: &NodeProcess, guest: &mut Counting) {
    kill(guest.shown.pid.expect("it runs"));
    let (before, restarts) = (guest.shown.pid, guest.shown.restarts + 1);
    let is_new = |sandbox: &Sandbox| {
        sandbox.phase == SandboxPhase::Ready && sandbox.restarts == restarts && sandbox.pid != before
    };
    guest.shown = node.until(guest.run, is_new).await;
    let until = Instant::now() + PATIENCE;
    while guest.counted.one_more(&node.client(), guest.run).await.is_none() {
        assert!(Instant::now() < until, "{} does not count: {}", guest.run, node.log());
        sleep(LOOK).await;
    }
}
