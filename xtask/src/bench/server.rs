//! The gateway under test: the real one, the real database; behind it a chain on
//! which everybody holds enough, and a node whose guests are ready at once.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use auth::TokenIssuer;
use chain::fake::FakeBalances;
use control::{ByteStream, Control, LogSource, Node, NodeBody, NodeCopies, NodeError, NodeImages};
use domain::{
    ContentCall, ImageDigest, ImageId, OwnedDisk, PodId, RunId, SnapshotId, SystemClock, Tiers, UnixMillis, VolumeId,
};
use gateway::{GatewayParts, Limits, Listeners, TlsConfig};
use http::{Request, Response};
use store::{Store, StoreUrl};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use wire::v1::images::{ArchiveSpec, BuildLogPart, HeldImage, ImportSpec};
use wire::v1::node::{
    CopyState, DataPolicy, DeleteResponse, MarksPage, NodeInfo, NodeSnapshot, NodeVolume, RestoreSpec, RuntimeName,
    Sandbox, SandboxPhase, SandboxSpec, Sandboxes, SnapshotSpec, VolumeSpec,
};

use super::machine::pin;

/// Whole tokens of everybody: the third tier of the seed's table.
const TOKENS: u64 = 1_000_000;
/// The reconcilers look at all agents; with a hundred thousand on one node that
/// is another figure than this one.
const SELDOM_MS: u64 = 600_000;

/// Serves until it is killed. Prints its port first.
pub(crate) fn run(dir: &Path, store: Option<StoreUrl>) -> Result<()> {
    pin(0)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(dir, store))
}

async fn serve(dir: &Path, url: Option<StoreUrl>) -> Result<()> {
    let shutdown = CancellationToken::new();
    let store = Store::open(&store::Config { url, directory: dir.join("store"), ..store::Config::default() }).await?;
    let balances = Arc::new(FakeBalances::with_default_balance(TOKENS));
    let control = Control::start(
        control::Config { reconcile_ms: SELDOM_MS, ..control::Config::default() },
        store.clone(),
        vec![Arc::new(InstantNode)],
        balances.clone(),
        Tiers::romulus(),
        Arc::new(SystemClock),
        shutdown.clone(),
    );
    let parts = GatewayParts {
        store,
        control,
        balances,
        tiers: Tiers::romulus(),
        tokens: TokenIssuer::new(&seal::generate()?),
        clock: Arc::new(SystemClock),
        treasury: None,
        payments: None,
        metrics: None,
        follow: None,
    };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("listen")?;
    println!("{}", listener.local_addr()?.port());
    let limits = Limits { address_per_second: 10_000_000, ..Limits::default() };
    let listeners = Listeners { plain: vec![listener], ..Listeners::default() };
    gateway::serve(gateway::Config::default(), TlsConfig::default(), limits, listeners, parts, shutdown).await?;
    Ok(())
}

/// A node without an end, whose guests are ready when they are created. What a
/// look at all of them costs is another figure: it is never asked for here.
struct InstantNode;

#[async_trait::async_trait]
impl Node for InstantNode {
    fn name(&self) -> &str {
        "local"
    }

    async fn info(&self) -> Result<NodeInfo, NodeError> {
        Ok(NodeInfo {
            name: "local".to_owned(),
            version: String::new(),
            runtime: RuntimeName::QemuTcg,
            runtime_reason: String::new(),
            runtimes: Vec::new(),
            cores: u32::MAX,
            free_cores: u32::MAX,
            memory_mib: u64::MAX,
            free_memory_mib: u64::MAX,
            most_memory_mib: None,
            disk: None,
            sandboxes: 0,
            images: BTreeMap::from([("echo".to_owned(), ImageDigest([0x11; 32]))]),
            image_needs: BTreeMap::new(),
        })
    }

    async fn create(&self, id: RunId, spec: &SandboxSpec, _: Option<&str>) -> Result<Sandbox, NodeError> {
        Ok(Sandbox {
            id,
            pod: spec.pod,
            generation: spec.generation,
            image: spec.image,
            cores: spec.cores,
            memory_mib: spec.memory_mib,
            port: 8_080,
            phase: SandboxPhase::Ready,
            runtime: RuntimeName::QemuTcg,
            restarts: 0,
            created_at: UnixMillis(0),
            ready_after_ms: Some(0),
            pid: None,
            cause: None,
            guest: None,
        })
    }

    async fn get(&self, _: RunId) -> Result<Option<Sandbox>, NodeError> {
        std::future::pending().await
    }

    async fn wait_ready(&self, _: RunId, _: Duration) -> Result<Option<Sandbox>, NodeError> {
        std::future::pending().await
    }

    async fn delete(&self, id: RunId, _: PodId, _: Duration, _: DataPolicy) -> Result<DeleteResponse, NodeError> {
        Ok(DeleteResponse { id, kept: None })
    }

    async fn erase(&self, _: PodId) -> Result<(), NodeError> {
        Ok(())
    }

    async fn put_volume(&self, _: VolumeId, _: &VolumeSpec) -> Result<NodeVolume, NodeError> {
        std::future::pending().await
    }

    async fn volume(&self, _: VolumeId) -> Result<NodeVolume, NodeError> {
        std::future::pending().await
    }

    async fn erase_volume(&self, _: VolumeId) -> Result<(), NodeError> {
        std::future::pending().await
    }

    async fn list(&self) -> Result<Sandboxes, NodeError> {
        std::future::pending().await
    }

    async fn marks(&self, _: u64, _: Duration) -> Result<MarksPage, NodeError> {
        std::future::pending().await
    }

    async fn tunnel(&self, _: RunId, _: Option<u16>) -> Result<Box<dyn ByteStream>, NodeError> {
        std::future::pending().await
    }

    async fn logs(&self, _: RunId, _: LogSource, _: bool) -> Result<NodeBody, NodeError> {
        std::future::pending().await
    }

    fn copies(&self) -> &dyn NodeCopies {
        self
    }

    fn images(&self) -> &dyn NodeImages {
        self
    }

    async fn content(
        &self,
        _: OwnedDisk,
        _: ContentCall,
        _: &str,
        _: Request<NodeBody>,
    ) -> Result<Response<NodeBody>, NodeError> {
        std::future::pending().await
    }

    async fn forward(&self, _: RunId, _: &str, _: Request<NodeBody>) -> Result<Response<NodeBody>, NodeError> {
        std::future::pending().await
    }
}

#[async_trait::async_trait]
impl NodeCopies for InstantNode {
    async fn make(&self, _: SnapshotId, _: SnapshotSpec) -> Result<NodeSnapshot, NodeError> {
        std::future::pending().await
    }

    async fn restore(&self, _: SnapshotId, _: RestoreSpec) -> Result<CopyState, NodeError> {
        std::future::pending().await
    }

    async fn erase_copy(&self, _: SnapshotId) -> Result<(), NodeError> {
        std::future::pending().await
    }
}

#[async_trait::async_trait]
impl NodeImages for InstantNode {
    async fn begin(&self, _: ImageId, _: ArchiveSpec) -> Result<HeldImage, NodeError> {
        std::future::pending().await
    }

    async fn append(&self, _: ImageId, _: u64, _: NodeBody) -> Result<HeldImage, NodeError> {
        std::future::pending().await
    }

    async fn find(&self, _: ImageId) -> Result<Option<HeldImage>, NodeError> {
        std::future::pending().await
    }

    async fn import(&self, _: ImageId, _: ImportSpec) -> Result<HeldImage, NodeError> {
        std::future::pending().await
    }

    async fn log(&self, _: ImageId, _: u64) -> Result<BuildLogPart, NodeError> {
        std::future::pending().await
    }

    async fn forget(&self, _: ImageId) -> Result<(), NodeError> {
        std::future::pending().await
    }
}
