//! A node in a test: started, asked, killed, started again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use domain::{Generation, ImageDigest, MarkKind, PodId, RunId, SystemClock, UnixMillis};
use image::{ImageError, ImageStore};
use metrics_exporter_prometheus::PrometheusBuilder;
use sandbox::fake::FakeHost;
use tempfile::TempDir;
use tokio::time::timeout;
use wire::v1::node::{AgentMark, DataDisk, ImageNeeds, Sandbox, SandboxPhase, SandboxSpec};
use wire::{Environment, Secret};

use super::pod::{Guests, PodBehavior, run};
use crate::api::{Api, routes};
use crate::context::NodeContext;
use crate::heartbeat::HeartbeatFile;
use crate::helpers::Helpers;
use crate::images::{BaseImage, ImageCatalog};
use crate::journal::Journal;
use crate::ledger::Ledger;
use crate::node::{CreateError, CreateOutcome, Node};
use crate::policy::Capacity;
use crate::registry::Registry;
use crate::uploads::Uploads;
use crate::{Config, reserve};

/// The one image there is.
pub(super) const IMAGE: ImageDigest = ImageDigest([7; 32]);
/// How long a test waits for what must come.
pub(super) const SOON: Duration = Duration::from_secs(20);

/// That image, and those of holders, where they are taken in.
struct OneImage(Option<ImageStore>);

fn needs() -> ImageNeeds {
    ImageNeeds { min_memory_mib: Some(128), ..ImageNeeds::default() }
}

impl ImageCatalog for OneImage {
    fn find(&self, digest: &ImageDigest) -> Result<Option<BaseImage>, ImageError> {
        match &self.0 {
            _ if *digest == IMAGE => Ok(Some(BaseImage { disk: "/dev/null".into(), run: run(), needs: needs() })),
            Some(store) => store.find(digest),
            None => Ok(None),
        }
    }

    fn files(&self, digest: &ImageDigest) -> Result<Option<PathBuf>, ImageError> {
        Ok((*digest == IMAGE).then(|| "/".into()))
    }

    fn named(&self) -> Result<BTreeMap<String, ImageDigest>, ImageError> {
        Ok(BTreeMap::from([("echo".to_owned(), IMAGE)]))
    }

    fn store(&self) -> Option<ImageStore> {
        self.0.clone()
    }
}

/// The machine, the disk and the guests, which outlive a daemon.
pub(super) struct TestNode {
    pub(super) dir: PathBuf,
    _own: Option<TempDir>,
    pub(super) machine: FakeHost,
    pub(super) guests: Guests,
    pub(super) config: Config,
    /// Where holders' images are taken in, if they are.
    pub(super) images: Option<ImageStore>,
}

impl TestNode {
    pub(super) fn new(behavior: PodBehavior) -> Self {
        let own = tempfile::tempdir().expect("a folder");
        let host = Self::at(own.path(), behavior);
        Self { _own: Some(own), ..host }
    }

    /// With the disk of another one.
    pub(super) fn at(dir: &Path, behavior: PodBehavior) -> Self {
        let (guests, machine) = Guests::new(behavior);
        let config = Config {
            name: "test".to_owned(),
            state: dir.to_owned(),
            disk_free_mib: 0,
            boot_deadline_ms: 1_000,
            health_period_ms: 30,
            health_failures: 3,
            restarts: 2,
            backoff_first_ms: 10,
            backoff_longest_ms: 20,
            power_off_ms: 500,
            streams: 4,
            calls: 4,
            ..Config::default()
        };
        Self { dir: dir.to_owned(), _own: None, machine, guests, config, images: None }
    }

    pub(super) fn state(&self) -> &Path {
        &self.dir
    }

    /// A daemon on this machine and this disk.
    pub(super) async fn daemon(&self) -> Daemon {
        self.daemon_with(drop).await
    }

    /// A daemon to whose journal this is done before it takes anything up.
    pub(super) async fn daemon_with(&self, prepare: impl FnOnce(Journal)) -> Daemon {
        let state = self.state();
        let (heartbeat, last_alive) = HeartbeatFile::open(&state.join("heartbeat")).expect("a heartbeat");
        let runtime: Arc<dyn sandbox::Runtime> = Arc::new(self.machine.driver());
        let (runtime_info, offers) = (runtime.info(), runtime.offers());
        let capacity = Capacity {
            cores: 2,
            vcpus: 8,
            memory_mib: 4_096,
            overhead_mib: runtime_info.overhead_mib,
            slots: runtime_info.slots,
            agent_disk_mib: self.config.agent_disk_mib(),
            disk_percent: self.config.disk_percent,
            disk_free_mib: self.config.disk_free_mib,
        };
        let shared = Arc::new(NodeContext {
            config: self.config.clone(),
            runtime,
            offers,
            images: Arc::new(OneImage(self.images.clone())),
            journal: Journal::open(&state.join("marks"), self.config.marks, reserve::of(state)).expect("a journal"),
            clock: Arc::new(SystemClock),
            resolvers: vec!["9.9.9.9".to_owned()],
            registry: Registry::new(capacity),
            helpers: Helpers::default(),
            builders: Default::default(),
            uploads: self.images.clone().map(|store| Arc::new(Uploads::new(store, 0))),
            image_use: tokio::sync::RwLock::new(()),
            kept: tokio::sync::Mutex::new(()),
            disks_changed: tokio::sync::Notify::new(),
        });
        prepare(shared.journal.clone());
        let node = Arc::new(Node::new(shared, Ledger::open(state, reserve::of(state)).expect("a ledger")));
        node.recover(last_alive).await.expect("what is there");
        drop(heartbeat);
        Daemon { node }
    }

    /// Leaves a sandbox that was ready to the next daemon, with this changed in its
    /// record: as a daemon does that is killed in the middle of something.
    pub(super) async fn leaves(&self, id: RunId, change: impl FnOnce(&mut serde_json::Value)) {
        let daemon = self.daemon().await;
        daemon.create(id).await;
        daemon.ready(id).await;
        daemon.kill().await;
        let path = self.state().join("sandboxes").join(id.to_string()).join("record.json");
        let mut record = serde_json::from_slice(&std::fs::read(&path).expect("a record")).expect("JSON");
        change(&mut record);
        std::fs::write(&path, record.to_string()).expect("a record");
    }

    /// Says when the daemon last lived.
    pub(super) fn last_alive(&self, at: UnixMillis) {
        std::fs::write(self.state().join("heartbeat"), at.0.to_string()).expect("a heartbeat");
    }
}

/// A daemon.
pub(super) struct Daemon {
    pub(super) node: Arc<Node>,
}

impl Daemon {
    /// Ends it as `kill -9` does, for all that the disk and the guests can tell.
    pub(super) async fn kill(self) {
        self.node.leave().await;
    }

    pub(super) fn router(&self) -> axum::Router {
        let metrics = PrometheusBuilder::new().build_recorder().handle();
        routes(Api { node: Arc::clone(&self.node), metrics, closing: tokio_util::sync::CancellationToken::new() })
    }

    pub(super) async fn create(&self, id: RunId) -> Sandbox {
        match self.offer(id, &spec()).await {
            Ok(CreateOutcome::New(sandbox) | CreateOutcome::Existing(sandbox)) => sandbox,
            Err(error) => panic!("{error}"),
        }
    }

    /// Offers this, as the first run of the POD that is minted for it.
    pub(super) async fn offer(&self, id: RunId, spec: &SandboxSpec) -> Result<CreateOutcome, CreateError> {
        self.offer_run(id, &SandboxSpec { pod: PodId::minted(id), ..spec.clone() }).await
    }

    /// Offers a run of the POD that the spec names.
    pub(super) async fn offer_run(&self, id: RunId, spec: &SandboxSpec) -> Result<CreateOutcome, CreateError> {
        self.node.create(id, spec.clone(), None).await
    }

    pub(super) fn sandbox(&self, id: RunId) -> Option<Sandbox> {
        self.node.shared.registry.get(id).map(|handle| handle.sandbox())
    }

    /// Waits for a phase.
    pub(super) async fn until(&self, id: RunId, wanted: impl Fn(&Sandbox) -> bool) -> Sandbox {
        let mut view = self.node.shared.registry.get(id).expect("a sandbox").view.clone();
        let found = timeout(SOON, view.wait_for(&wanted)).await;
        let found = found.unwrap_or_else(|_| panic!("still {:?}", self.sandbox(id)));
        found.expect("a task").clone()
    }

    pub(super) async fn ready(&self, id: RunId) -> Sandbox {
        self.until(id, |sandbox| sandbox.phase == SandboxPhase::Ready).await
    }

    /// What the journal says of one agent.
    pub(super) async fn marks(&self, id: RunId) -> Vec<AgentMark> {
        let marks = self.node.shared.journal.after(0, Duration::ZERO).await.marks;
        marks.into_iter().filter(|mark| mark.agent == id).collect()
    }

    pub(super) async fn kinds(&self, id: RunId) -> Vec<MarkKind> {
        self.marks(id).await.iter().map(|mark| mark.mark.kind).collect()
    }
}

/// A spec of the smallest guest, with a secret; of the POD whose first run is `id(1)`.
pub(super) fn spec() -> SandboxSpec {
    spec_of(PodId::minted(id(1)))
}

/// The same, of this POD.
pub(super) fn spec_of(pod: PodId) -> SandboxSpec {
    let env = Environment([("API_KEY".to_owned(), Secret::from("hush-hush".to_owned()))].into());
    let (data, generation) = (DataDisk::KeptOrEmpty, Generation::FIRST);
    let (volumes, runtime) = (Vec::new(), None);
    SandboxSpec { pod, data, generation, image: IMAGE, cores: 1, memory_mib: 128, volumes, runtime, env }
}

pub(super) const fn id(bits: u64) -> RunId {
    RunId::from_bits(bits)
}
