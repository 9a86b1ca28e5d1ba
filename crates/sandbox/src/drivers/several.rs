//! Several drivers on one node: each run is one driver's, from its first `create` to its end.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use domain::{PodId, RunId};
use wire::v1::node::{KeptDisk, Retention, RuntimeName};

use super::container::Container;
use super::qemu::Qemu;
use crate::facts::GuestFacts;
use crate::machine::{CONTAINERS, GUESTS, NodeMachine};
use crate::runtime::{
    BuilderSpec, DiskRetention, DiskUsage, Guest, GuestSpec, GuestState, GuestStats, GuestStream, HelperSpec,
    ObservedRun, Runtime, RuntimeInfo, Slot,
};
use crate::{DriverError, RuntimeError};

/// A driver, and where the runs that are its have their folders.
struct Member {
    driver: Arc<dyn Runtime>,
    folder: PathBuf,
}

/// The drivers of a node that has a machine for guests, and containers.
pub struct Several {
    /// The default, which makes machines.
    first: Member,
    second: Member,
}

impl Several {
    /// Both stand on this machine.
    #[must_use]
    pub fn new(machine: &NodeMachine, qemu: Qemu, container: Container) -> Self {
        Self {
            first: Member { driver: Arc::new(qemu), folder: machine.state.join(GUESTS) },
            second: Member { driver: Arc::new(container), folder: machine.state.join(CONTAINERS) },
        }
    }

    fn members(&self) -> [&Member; 2] {
        [&self.first, &self.second]
    }

    /// Whose a run is. Of one that nobody has anything of, the first knows as much as any.
    fn of(&self, id: RunId) -> &dyn Runtime {
        let name = id.to_string();
        let has = |member: &&Member| member.folder.join(&name).exists();
        &*self.members().into_iter().find(has).unwrap_or(&self.first).driver
    }
}

#[async_trait]
impl Runtime for Several {
    fn info(&self) -> RuntimeInfo {
        self.first.driver.info()
    }

    fn offers(&self) -> Vec<RuntimeInfo> {
        self.members().into_iter().flat_map(|member| member.driver.offers()).collect()
    }

    async fn observed_runs(&self) -> Result<BTreeMap<RunId, ObservedRun>, DriverError> {
        let mut runs = self.first.driver.observed_runs().await?;
        runs.extend(self.second.driver.observed_runs().await?);
        Ok(runs)
    }

    async fn sweep(&self, known: &BTreeMap<RunId, Option<u16>>, retention: &Retention) -> Result<usize, DriverError> {
        let first = self.first.driver.sweep(known, retention).await?;
        Ok(first + self.second.driver.sweep(known, retention).await?)
    }

    async fn create(&self, spec: &GuestSpec) -> Result<Guest, RuntimeError> {
        // Which of its kind it is the driver looks at.
        let member = if spec.runtime.is_some_and(RuntimeName::is_container) { &self.second } else { &self.first };
        member.driver.create(spec).await
    }

    async fn create_helper(&self, spec: &HelperSpec) -> Result<Guest, RuntimeError> {
        self.first.driver.create_helper(spec).await
    }

    async fn create_builder(&self, spec: &BuilderSpec) -> Result<Guest, RuntimeError> {
        self.first.driver.create_builder(spec).await
    }

    async fn adopt(&self, spec: &GuestSpec, facts: &GuestFacts) -> Result<Option<Guest>, RuntimeError> {
        let member = match facts {
            GuestFacts::Qemu(_) => &self.first,
            GuestFacts::Container(_) => &self.second,
        };
        member.driver.adopt(spec, facts).await
    }

    async fn console(&self, id: RunId) -> Result<Box<dyn GuestStream>, RuntimeError> {
        self.of(id).console(id).await
    }

    async fn connect(&self, id: RunId, port: u16) -> Result<Box<dyn GuestStream>, RuntimeError> {
        self.of(id).connect(id, port).await
    }

    async fn stats(&self, id: RunId) -> Result<GuestStats, RuntimeError> {
        self.of(id).stats(id).await
    }

    async fn condition(&self, id: RunId) -> Result<GuestState, RuntimeError> {
        self.of(id).condition(id).await
    }

    async fn resume(&self, id: RunId) -> Result<(), RuntimeError> {
        self.of(id).resume(id).await
    }

    async fn disk_usage(&self) -> Result<DiskUsage, DriverError> {
        self.first.driver.disk_usage().await
    }

    async fn kept(&self, of: Option<PodId>) -> Result<Vec<KeptDisk>, DriverError> {
        self.first.driver.kept(of).await
    }

    async fn kept_data(&self, pod: PodId) -> Result<Option<u64>, DriverError> {
        self.first.driver.kept_data(pod).await
    }

    async fn is_kept_of_machine(&self, pod: PodId) -> Result<bool, DriverError> {
        self.first.driver.is_kept_of_machine(pod).await
    }

    async fn erase(&self, name: &str) -> Result<(), DriverError> {
        self.first.driver.erase(name).await
    }

    async fn stop(&self, slot: Slot, disks: DiskRetention) -> Result<(), RuntimeError> {
        self.of(slot.run).stop(slot, disks).await
    }

    async fn reconcile_network(&self) -> Result<(), DriverError> {
        self.first.driver.reconcile_network().await
    }

    async fn close(&self) -> Result<(), DriverError> {
        self.second.driver.close().await?;
        self.first.driver.close().await
    }
}
