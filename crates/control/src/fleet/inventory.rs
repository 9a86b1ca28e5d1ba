//! All nodes, and what each said of itself lately.
//!
//! A task per node asks it now and then, and soon after anything that changes what it
//! holds, so that a spawn need not ask. What is known here may be old: the node's own
//! admission decides, and a wrong guess costs one more try.

use std::collections::{BTreeSet, HashMap};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use client::NodeError;
use domain::{Backoff, ImageDigest, NodeView, PlacementError, ResourceRequest, RunId, place};
use futures_util::future::join_all;
use futures_util::stream::{FuturesUnordered, Stream};
use tokio::sync::Notify;
use tokio::time::Instant;
use wire::v1::node::{NodeInfo, RuntimeName};

use crate::config::Config;
use crate::fleet::images::{DemandingImages, ImageTable, demanding, has_disk, merged};
use crate::fleet::node::{Node, within};
use crate::fleet::report::Report;

/// A node that takes longer to say how it is may hang: until it has answered, nothing is
/// placed on it.
pub(crate) const PROMPT: Duration = Duration::from_secs(1);
/// Questions to one node begin this far apart: what was asked for meanwhile is one.
const AT_MOST_EVERY: Duration = Duration::from_millis(250);
/// Periods of the inventory for which an answer is relied on: one that is late is not
/// missed at once.
const FRESH_FOR: u32 = 2;
/// When a node that did not answer is asked again.
const RETRY: Backoff = Backoff { first: Duration::from_millis(200), longest: Duration::from_secs(5) };

const DESCRIBE: &str = "describe the node";

/// The nodes and their inventory.
pub struct Fleet {
    members: Vec<Member>,
    reports: Mutex<HashMap<String, Report>>,
    images: RwLock<Option<Arc<ImageTable>>>,
    demanding: RwLock<Arc<DemandingImages>>,
    period: Duration,
    deadline: Duration,
}

/// One node, and how it is asked.
struct Member {
    node: Arc<dyn Node>,
    /// The last question that came to an end. Whoever asks holds it.
    last: tokio::sync::Mutex<Option<Reading>>,
    /// How many questions were begun.
    begun: AtomicU64,
    /// What it holds has changed.
    changed: Notify,
}

#[derive(Clone)]
struct Reading {
    /// Questions are counted from 1.
    number: u64,
    began: Instant,
    outcome: Result<(), Arc<NodeError>>,
}

/// The nodes that a placement may choose from.
#[derive(Clone, Debug, Default)]
pub(crate) struct NodeSelector {
    /// Only this one.
    pub(crate) only: Option<String>,
    /// None of these, which have refused.
    pub(crate) except: Vec<String>,
    /// None of these, which offer none of `runtimes`.
    pub(crate) unfit: Vec<String>,
    /// What the run may be in.
    pub(crate) runtimes: Vec<RuntimeName>,
}

impl NodeSelector {
    fn matches(&self, node: &str) -> bool {
        let is_out = self.except.iter().chain(&self.unfit).any(|one| one == node);
        self.only.as_deref().is_none_or(|only| only == node) && !is_out
    }
}

/// What a node can promise of its disk.
pub(crate) struct DiskOffer {
    pub(crate) node: Arc<dyn Node>,
    /// Still, in MiB.
    pub(crate) free_mib: u64,
    /// If nothing were promised yet, in MiB.
    pub(crate) whole_mib: u64,
}

/// A node was chosen for a run. As long as this lives the node is about to be told of it;
/// afterwards the node's own word counts.
pub(crate) struct Claim {
    fleet: Arc<Fleet>,
    id: RunId,
    pub(crate) node: Arc<dyn Node>,
    /// What it is to be in there: the strongest that works. Nothing is said to an older node,
    /// which offers one alone.
    pub(crate) runtime: Option<RuntimeName>,
}

impl Claim {
    /// The node did not take the run.
    pub(crate) fn withdraw(self) {
        self.fleet.report(self.node.name(), |report| report.withdraw(self.id));
    }

    /// The node had no room for the run, or was not there: it is other than was thought.
    pub(crate) fn refused(self) {
        self.fleet.silent(self.node.name());
        self.withdraw();
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.fleet.report(self.node.name(), |report| report.settle(self.id, Instant::now()));
        self.fleet.changed(self.node.name());
    }
}

/// The strongest of these runtimes that a node offers.
fn strongest(info: &NodeInfo, runtimes: &[RuntimeName]) -> Option<RuntimeName> {
    info.offers().into_iter().filter(|offered| runtimes.contains(offered)).min()
}

/// How many are stronger.
fn weakness(runtime: RuntimeName) -> u8 {
    let stronger = RuntimeName::ALL.into_iter().filter(|other| *other < runtime).count();
    u8::try_from(stronger).unwrap_or(u8::MAX)
}

impl Fleet {
    pub(crate) fn new(nodes: Vec<Arc<dyn Node>>, config: &Config) -> Self {
        let member = |node| Member {
            node,
            last: tokio::sync::Mutex::default(),
            begun: AtomicU64::new(0),
            changed: Notify::new(),
        };
        Self {
            members: nodes.into_iter().map(member).collect(),
            reports: Mutex::default(),
            images: RwLock::default(),
            demanding: RwLock::default(),
            period: config.inventory(),
            deadline: config.look(),
        }
    }

    /// The node of this name.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<&Arc<dyn Node>> {
        self.nodes().find(|node| node.name() == name)
    }

    /// The images that the nodes hold, by what each said last; `None` before any has
    /// answered.
    #[must_use]
    pub fn images(&self) -> Option<Arc<ImageTable>> {
        self.images.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The images that need something, by what each node said last.
    pub(crate) fn demanding(&self) -> Arc<DemandingImages> {
        Arc::clone(&self.demanding.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The nodes that offer none of these runtimes, by what each said last.
    pub(crate) fn unfit(&self, runtimes: &[RuntimeName]) -> Vec<String> {
        let reports = self.reports();
        let unfit = |node: &&str| {
            let info = reports.get(*node).and_then(Report::info);
            info.is_some_and(|info| strongest(info, runtimes).is_none())
        };
        self.nodes().map(|node| node.name()).filter(unfit).map(str::to_owned).collect()
    }

    /// What the nodes can promise of their disks, by what each said last: the most first. Of
    /// those alone that make machines: no container is given a volume.
    pub(crate) fn disk_offers(&self) -> Vec<DiskOffer> {
        let reports = self.reports();
        let offer = |node: &Arc<dyn Node>| {
            let info = reports.get(node.name()).and_then(Report::info)?;
            let disk = info.disk.filter(|_| info.offers().into_iter().any(|runtime| !runtime.is_container()))?;
            let whole_mib = disk.promisable_mib.saturating_add(disk.promised_mib);
            Some(DiskOffer { node: Arc::clone(node), free_mib: disk.promisable_mib, whole_mib })
        };
        let mut offers: Vec<_> = self.nodes().filter_map(offer).collect();
        offers.sort_by_key(|offer| std::cmp::Reverse(offer.free_mib));
        offers
    }

    /// The runtimes of the nodes, by what each said last.
    pub(crate) fn runtimes(&self) -> BTreeSet<RuntimeName> {
        self.reports().values().filter_map(Report::info).flat_map(NodeInfo::offers).collect()
    }

    /// The node that a holder's image goes to: of those that were heard lately the one with the
    /// most room.
    #[must_use]
    pub fn roomiest(&self) -> Option<Arc<dyn Node>> {
        let (now, fresh_for) = (Instant::now(), self.fresh_for());
        let reports = self.reports();
        let fresh = reports.iter().filter(|(_, report)| report.is_fresh(now, fresh_for));
        let free = |report: &Report| report.info().and_then(|info| info.disk).map_or(0, |disk| disk.free_mib);
        let (name, _) = fresh.max_by_key(|(name, report)| (free(report), std::cmp::Reverse((*name).clone())))?;
        self.node(name).cloned()
    }

    /// What the nodes offer that hold an image, by what each said last.
    pub(crate) fn offers(&self, image: ImageDigest) -> BTreeSet<RuntimeName> {
        let reports = self.reports();
        let holders = reports.values().filter_map(Report::info);
        holders.filter(|info| info.images.values().any(|held| *held == image)).flat_map(NodeInfo::offers).collect()
    }

    /// Whether one of the nodes has disk for an agent, were it the only one there, by
    /// what each said last.
    #[must_use]
    pub fn has_disk(&self) -> bool {
        let reports = self.reports();
        let mut said = reports.values().filter_map(Report::info).peekable();
        said.peek().is_none() || said.any(has_disk)
    }

    /// Returns once every node was asked how it is, whether it answered or not.
    pub async fn asked(&self) {
        let asked = self.members.iter().map(|member| async move {
            // Who asks holds this.
            let was_asked = member.last.lock().await.is_some();
            if !was_asked {
                // What came of it is in the report.
                let _ = self.read(member).await;
            }
        });
        join_all(asked).await;
    }

    /// Whether any node answers: lately, or now that it is asked.
    pub async fn answers(&self) -> bool {
        let now = Instant::now();
        let is_fresh = self.reports().values().any(|report| report.is_fresh(now, self.fresh_for()));
        is_fresh || self.refresh().await
    }

    /// Asks every node how it is; whether any answered. Cheap to call often.
    pub async fn refresh(&self) -> bool {
        join_all(self.members.iter().map(|member| self.read(member))).await.iter().any(Result::is_ok)
    }

    pub(crate) fn nodes(&self) -> impl Iterator<Item = &Arc<dyn Node>> {
        self.members.iter().map(|member| &member.node)
    }

    /// A node's state is no longer what it said: it is asked soon.
    pub(crate) fn changed(&self, node: &str) {
        if let Some(member) = self.members.iter().find(|member| member.node.name() == node) {
            member.changed.notify_one();
        }
    }

    /// A node did not answer: until it does, nothing is placed on it.
    pub(crate) fn silent(&self, node: &str) {
        self.report(node, Report::doubt);
    }

    /// Asks one node now and then, and when it has changed.
    pub(crate) async fn watch(&self, at: usize) {
        let Some(member) = self.members.get(at) else { return };
        let mut pauses = RETRY.pauses();
        loop {
            let pause = match self.read(member).await {
                Ok(()) => {
                    pauses.succeeded();
                    self.period
                }
                Err(error) => {
                    tracing::debug!(node = member.node.name(), %error, "a node does not say how it is");
                    pauses.failed()
                }
            };
            // A pause that ends is as good a reason as a change.
            let _ = tokio::time::timeout(pause, member.changed.notified()).await;
        }
    }

    /// Chooses a node by what is known of those that are selected: by what they said,
    /// less what was placed on them since.
    pub(crate) fn claim(
        self: &Arc<Self>,
        id: RunId,
        ask: ResourceRequest,
        selector: &NodeSelector,
    ) -> Result<Claim, PlacementError> {
        let (now, fresh_for) = (Instant::now(), self.fresh_for());
        self.claim_by(id, ask, selector, |report| report.is_fresh(now, fresh_for), Report::remaining)
    }

    /// The same of those that have answered since. Where what was placed on them leaves no
    /// room, it may be counted twice: then the nodes' own word is what counts.
    pub(crate) fn claim_asked(
        self: &Arc<Self>,
        id: RunId,
        ask: ResourceRequest,
        selector: &NodeSelector,
        since: Instant,
    ) -> Result<Claim, PlacementError> {
        let answered = |report: &Report| report.has_answered_since(since);
        let claim = self.claim_by(id, ask, selector, answered, Report::remaining);
        claim.or_else(|_| self.claim_by(id, ask, selector, answered, Report::view))
    }

    fn claim_by(
        self: &Arc<Self>,
        id: RunId,
        ask: ResourceRequest,
        selector: &NodeSelector,
        is_relied_on: impl Fn(&Report) -> bool,
        view: fn(&Report, &str) -> Option<NodeView>,
    ) -> Result<Claim, PlacementError> {
        let mut reports = self.reports();
        let candidates = reports.iter().filter(|(name, report)| selector.matches(name) && is_relied_on(report));
        let fit = candidates.filter_map(|(name, report)| {
            let runtime = strongest(report.info()?, &selector.runtimes)?;
            Some(NodeView { weakness: weakness(runtime), ..view(report, name)? })
        });
        let views: Vec<_> = fit.collect();
        let chosen = place(&views, ask)?.name.clone();
        let node = self.node(&chosen).cloned().ok_or(PlacementError::NoNodes)?;
        let report = reports.entry(chosen).or_default();
        report.place(id, ask);
        let chooses = report.info().filter(|info| !info.runtimes.is_empty());
        let runtime = chooses.and_then(|info| strongest(info, &selector.runtimes));
        Ok(Claim { fleet: Arc::clone(self), id, node, runtime })
    }

    /// Asks the selected nodes how they are; what comes of it, in the order in which it
    /// comes.
    pub(crate) fn ask<'a>(
        &'a self,
        selector: &NodeSelector,
    ) -> impl Stream<Item = Result<(), Arc<NodeError>>> + Unpin + use<'a> {
        let selected = self.members.iter().filter(|member| selector.matches(member.node.name()));
        let asked = selected.map(move |member| async move {
            // Who was before us at a node that hangs does not hold us up twice.
            let late = NodeError::TimedOut { operation: DESCRIBE, after: self.ask_limit() };
            tokio::time::timeout(self.ask_limit(), self.read(member)).await.unwrap_or_else(|_| Err(Arc::new(late)))
        });
        asked.collect::<FuturesUnordered<_>>()
    }

    /// Asks a node how it is, unless somebody began to ask after this was called and asks
    /// for us as well.
    async fn read(&self, member: &Member) -> Result<(), Arc<NodeError>> {
        let before = member.begun.load(Ordering::Relaxed);
        let mut last = member.last.lock().await;
        if let Some(reading) = &*last {
            if reading.number > before {
                return reading.outcome.clone();
            }
            tokio::time::sleep_until(reading.began + AT_MOST_EVERY).await;
        }
        let (number, began) = (member.begun.fetch_add(1, Ordering::Relaxed) + 1, Instant::now());
        let outcome = match self.describe(member).await {
            Ok(info) => {
                self.report(member.node.name(), |report| report.answered(info, began, Instant::now()));
                self.publish_images();
                Ok(())
            }
            Err(error) => {
                self.silent(member.node.name());
                Err(Arc::new(error))
            }
        };
        *last = Some(Reading { number, began, outcome: outcome.clone() });
        outcome
    }

    /// What a node says of itself. One that takes long is not relied on meanwhile.
    async fn describe(&self, member: &Member) -> Result<NodeInfo, NodeError> {
        let mut said = pin!(within(DESCRIBE, self.deadline, member.node.info()));
        if let Ok(said) = tokio::time::timeout(PROMPT, &mut said).await {
            return said;
        }
        self.report(member.node.name(), Report::late);
        said.await
    }

    /// How long an answer is relied on.
    fn fresh_for(&self) -> Duration {
        self.period * FRESH_FOR
    }

    /// How long a question may take with the one that was under way before it.
    fn ask_limit(&self) -> Duration {
        self.deadline * 2 + AT_MOST_EVERY
    }

    fn publish_images(&self) {
        let reports = self.reports();
        let said: Vec<_> = self.nodes().filter_map(|node| reports.get(node.name())).filter_map(Report::info).collect();
        let demanding = demanding(said.iter().copied());
        let table = merged(said.into_iter());
        let mut known = self.demanding.write().unwrap_or_else(PoisonError::into_inner);
        if **known != demanding {
            *known = Arc::new(demanding);
        }
        drop(known);
        let mut images = self.images.write().unwrap_or_else(PoisonError::into_inner);
        if images.as_deref() != Some(&table) {
            *images = Some(Arc::new(table));
        }
    }

    fn report(&self, node: &str, change: impl FnOnce(&mut Report)) {
        let mut reports = self.reports();
        match reports.get_mut(node) {
            Some(report) => change(report),
            None => change(reports.entry(node.to_owned()).or_default()),
        }
    }

    fn reports(&self) -> MutexGuard<'_, HashMap<String, Report>> {
        self.reports.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
