//! A node in a process of its own, which a test may kill.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use client::{LogSource, NodeClient};
use domain::{Generation, ImageDigest, PodId, RunId};
use http_body_util::{BodyExt, Full};
use serde_json::json;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};
use wire::connect::Envelope;
use wire::process::{ProcessEventFrame, STREAM_TYPE};
use wire::v1::node::{DataDisk, DataPolicy, RuntimeName, Sandbox, SandboxPhase, SandboxSpec};
use wire::{Environment, Secret};

use crate::machine;

/// How long a guest may take to be ready, on a machine that does other things too.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);

/// A node of this test alone.
pub(crate) struct NodeProcess {
    pub(crate) name: &'static str,
    pub(crate) dir: TempDir,
    pub(crate) image: ImageDigest,
    /// What its runs are to be in, where that is said.
    pub(crate) runtime: Option<RuntimeName>,
    /// What its daemon is told by its environment, from its next start on.
    pub(crate) environment: Vec<(&'static str, String)>,
    daemon: Option<Child>,
}

impl NodeProcess {
    /// A node named so, with the tenth `number` of addresses and users.
    pub(crate) async fn new(name: &'static str, number: u32, more: &str) -> Self {
        let mut node = Self::plan(name, number, more, "uplinks = [\"lo\"]");
        node.start().await;
        node
    }

    /// The same, not yet started, with more in its sections `[node]` and `[network]`.
    pub(crate) fn plan(name: &'static str, number: u32, more: &str, network: &str) -> Self {
        needs::needs!(root, network, tun, cgroups);
        let dir = tempfile::tempdir().expect("a folder");
        let (images, image) = machine::echo();
        let (state, socket, pod) = (dir.path().join("node"), dir.path().join("socket"), fixtures::assets().join("pod"));
        let config = format!(
            "[node]\nname = \"{name}\"\nstate = {state:?}\nsocket = {socket:?}\npod = {pod:?}\naccelerator = \"tcg\"\n\
             memory_mib = 4096\nlayer_mib = 128\ndata_mib = 64\ndisk_free_mib = 64\nfirst_uid = {}\nfirst_container_uid = {}\nrestarts = 3\n\
             health_period_ms = 500\nboot_deadline_ms = 150000\nvcpus_per_core = 8\n{more}\n\
             [network]\nname = \"{name}\"\nrange = \"10.{}.0.0/24\"\nresolvers = [\"9.9.9.9\"]\n{network}\n\
             [images]\nstore = {images:?}\n[log]\nfilter = \"info\"\n",
            1_879_148_192 + number * 100_000,
            first_container_uid(number),
            220 + number,
        );
        std::fs::write(dir.path().join("palatine.toml"), config).expect("a file");
        Self { name, dir, image, runtime: None, environment: Vec::new(), daemon: None }
    }

    /// Starts the daemon, which must not come up, and gives what it said.
    pub(crate) async fn refused(&mut self) -> String {
        let mut daemon = self.spawn(&[]);
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = daemon.try_wait().expect("a child") {
                assert!(!status.success());
                return self.log();
            }
            if self.client().health().await.is_ok() || Instant::now() > until {
                self.daemon = Some(daemon);
                panic!("it came up: {}", self.log());
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) fn client(&self) -> NodeClient {
        NodeClient::new(self.dir.path().join("socket"))
    }

    /// Starts the daemon and waits until it answers.
    pub(crate) async fn start(&mut self) {
        self.start_by(&[]).await;
    }

    /// The same through other programs, which end by becoming the daemon.
    pub(crate) async fn start_by(&mut self, entry: &[&str]) {
        self.daemon = Some(self.spawn(entry));
        assert!(self.comes_up().await, "the daemon has ended: {}", self.log());
    }

    /// Starts the daemon where none is; says whether it answers, or has ended before it could.
    pub(crate) async fn comes_up(&mut self) -> bool {
        if self.daemon.is_none() {
            self.daemon = Some(self.spawn(&[]));
        }
        let until = Instant::now() + PATIENCE;
        while self.client().health().await.is_err() {
            if self.has_died() {
                return false;
            }
            assert!(Instant::now() < until, "the daemon does not answer: {}", self.log());
            sleep(Duration::from_millis(20)).await;
        }
        true
    }

    /// Whether the daemon has ended; one that has is forgotten.
    pub(crate) fn has_died(&mut self) -> bool {
        let died = self.daemon.as_mut().is_none_or(|daemon| daemon.try_wait().expect("a child").is_some());
        if died {
            self.daemon = None;
        }
        died
    }

    /// Changes a line of its configuration, for its next start.
    pub(crate) fn configure(&self, line: &str, instead: &str) {
        let config = self.dir.path().join("palatine.toml");
        let text = std::fs::read_to_string(&config).expect("a file");
        assert!(text.lines().any(|own| own == line), "there is no line {line:?}: {text}");
        std::fs::write(config, text.replacen(line, instead, 1)).expect("a file");
    }

    fn spawn(&self, entry: &[&str]) -> Child {
        let log = std::fs::File::options().create(true).append(true).open(self.dir.path().join("log")).expect("a log");
        let words: Vec<&str> = entry.iter().copied().chain([env!("CARGO_BIN_EXE_hypercore"), "--config"]).collect();
        let daemon = Command::new(words[0])
            .args(&words[1..])
            .arg(self.dir.path().join("palatine.toml"))
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stderr(log)
            .spawn();
        daemon.expect("the daemon")
    }

    /// `kill -9`, at this instant.
    pub(crate) fn kill(&mut self) {
        let mut daemon = self.daemon.take().expect("a daemon");
        daemon.kill().expect("it lives");
        daemon.wait().expect("a child");
    }

    /// Asks it to end, and waits.
    pub(crate) fn stop(&mut self) {
        let mut daemon = self.daemon.take().expect("a daemon");
        let pid = rustix::process::Pid::from_child(&daemon);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it lives");
        assert!(daemon.wait().expect("a child").success(), "{}", self.log());
    }

    pub(crate) fn daemon_pid(&self) -> u32 {
        self.daemon.as_ref().expect("a daemon").id()
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// A run of this POD.
    pub(crate) fn spec(&self, pod: PodId) -> SandboxSpec {
        let env = Environment([("CANARY".to_owned(), Secret::from(CANARY.to_owned()))].into());
        let (data, generation) = (DataDisk::KeptOrEmpty, Generation::FIRST);
        let (volumes, runtime) = (Vec::new(), self.runtime);
        SandboxSpec { pod, data, generation, image: self.image, cores: 1, memory_mib: 128, volumes, runtime, env }
    }

    /// The first run of the POD that is minted for it.
    pub(crate) async fn create(&self, id: RunId) -> Sandbox {
        self.client()
            .create(id, &self.spec(PodId::minted(id)), None)
            .await
            .unwrap_or_else(|error| panic!("{error}: {}", self.log()))
    }

    pub(crate) async fn ready(&self, id: RunId) -> Sandbox {
        self.until(id, |sandbox| sandbox.phase == SandboxPhase::Ready).await
    }

    pub(crate) async fn until(&self, id: RunId, holds: impl Fn(&Sandbox) -> bool) -> Sandbox {
        let until = Instant::now() + PATIENCE;
        loop {
            let sandbox = self.client().get(id).await.expect("an answer").expect("a sandbox");
            if holds(&sandbox) {
                return sandbox;
            }
            if Instant::now() > until {
                let console = self.said(id, LogSource::Console).await;
                panic!("still {sandbox:?}\n--- console\n{console}\n--- node\n{}", self.log());
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    pub(crate) async fn delete(&self, id: RunId) {
        let grace = Duration::from_secs(5);
        self.client()
            .delete(id, id.into(), grace, DataPolicy::Erase)
            .await
            .unwrap_or_else(|error| panic!("{error}: {}", self.log()));
    }

    /// What an agent or its console has said so far.
    pub(crate) async fn said(&self, id: RunId, source: LogSource) -> String {
        let body = self.client().logs(id, source, false).await.expect("logs");
        String::from_utf8_lossy(&body.collect().await.expect("lines").to_bytes()).into_owned()
    }

    /// Runs a command in the guest; what it printed.
    pub(crate) async fn run(&self, id: RunId, words: &[&str]) -> String {
        self.try_run(id, words).await.expect("a stream from pod")
    }

    /// The same, where `pod` may go away before the command has ended.
    pub(crate) async fn try_run(&self, id: RunId, words: &[&str]) -> Option<String> {
        let request = json!({ "process": { "cmd": words[0], "args": words[1..], "envs": {} }, "stdin": false });
        let mut body = BytesMut::new();
        Envelope { end: false, message: Bytes::from(request.to_string()) }.encode(&mut body);
        let request = http::Request::post("/").header("content-type", STREAM_TYPE).body(Full::new(body.freeze()));
        let answer = self.client().forward(id, "/process.Process/Start", request.expect("a request")).await.ok()?;
        let mut said = BytesMut::from(&answer.into_body().collect().await.ok()?.to_bytes()[..]);
        let mut printed = String::new();
        while let Ok(Some(envelope)) = Envelope::decode(&mut said) {
            if let Ok(frame) = serde_json::from_slice::<ProcessEventFrame>(&envelope.message) {
                printed.push_str(&output(&frame));
            }
        }
        Some(printed)
    }

    /// Ends everything and checks that nothing is left.
    pub(crate) fn end(mut self, before: &machine::Residue) {
        self.stop_clean(before);
    }

    /// The same, for who has more to check.
    pub(crate) fn stop_clean(&mut self, before: &machine::Residue) {
        self.stop();
        assert_eq!(&machine::Residue::of(self.name), before);
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            let pid = rustix::process::Pid::from_child(&daemon);
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            let _ = daemon.wait();
        }
        // A test that failed leaves its guests to nobody.
        machine::sweep(self.name);
    }
}

/// The first user of the containers of the node with this number, which has as many slots as its
/// range has addresses for.
pub(crate) const fn first_container_uid(number: u32) -> u32 {
    0x0400_0000 + number * 0x40_0000
}

/// What must be nowhere.
pub(crate) const CANARY: &str = "canary-4242-hush";

fn output(frame: &ProcessEventFrame) -> String {
    use base64::Engine as _;
    let value = serde_json::to_value(frame).expect("JSON");
    let data = &value["event"]["data"];
    let text =
        |kind: &str| data[kind].as_str().and_then(|it| base64::engine::general_purpose::STANDARD.decode(it).ok());
    ["stdout", "stderr"]
        .iter()
        .filter_map(|kind| text(kind))
        .map(|it| String::from_utf8_lossy(&it).into_owned())
        .collect()
}

pub(crate) const fn id(bits: u64) -> RunId {
    RunId::from_bits(bits)
}
