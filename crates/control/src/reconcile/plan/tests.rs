use domain::{EndReason, Generation, ImageDigest, Meter, StopReason, Tier, TierName, Wallet};
use proptest::prelude::*;
use store::{BelowTier, PodRowId, RunExpiry};
use wire::v1::node::RuntimeName;

use super::*;

const NODE: &str = "one";
const EPOCH: GatewayEpoch = GatewayEpoch(7);
/// Another gateway that is there.
const OTHER: GatewayEpoch = GatewayEpoch(8);
const START: UnixMillis = UnixMillis(1_000_000);
const GRACE: GracePeriods = GracePeriods { reserve_ms: 5_000, settle_ms: 2_000, boot_ms: 60_000, lost_ms: 10_000 };

fn id(n: u64) -> RunId {
    RunId::from_bits(n)
}

fn record(n: u64, state: State) -> RunRecord {
    let placed = state != State::Reserved;
    RunRecord {
        id: id(n),
        pod: PodId::minted(id(n)),
        pod_key: PodRowId(n),
        created_at: START,
        ephemeral: false,
        brought: false,
        wallet: Wallet([1; 32]),
        slot: 0,
        generation: Generation::FIRST,
        state,
        agent_type: "echo".to_owned(),
        image: ImageDigest([2; 32]),
        tier: TierName::try_from("basic".to_owned()).unwrap(),
        tier_config: Tier {
            min: 1,
            cores: 1,
            memory: 1024,
            disk: Tier::DEFAULT_DISK_MIB,
            agents: 1,
            images: None,
            runtimes: domain::RuntimeKinds::MACHINES,
        },
        public: false,
        spawned_at: START,
        ended_at: None,
        expiry: None,
        node: placed.then(|| NODE.to_owned()),
        runtime: placed.then(|| RuntimeName::QemuTcg.as_str().to_owned()),
        restarts: 0,
        epoch: EPOCH,
        meter: Meter::default(),
        was_ready: state == State::Ready,
        below: BelowTier::default(),
        changes: 1,
        data: None,
        data_node: None,
    }
}

fn sandbox(n: u64, phase: SandboxPhase) -> Sandbox {
    Sandbox {
        id: id(n),
        pod: PodId::minted(id(n)),
        generation: Generation::FIRST,
        image: ImageDigest([2; 32]),
        cores: 1,
        memory_mib: 1024,
        port: 8080,
        phase,
        runtime: RuntimeName::QemuTcg,
        restarts: 0,
        created_at: START,
        ready_after_ms: None,
        pid: None,
        cause: None,
        guest: None,
    }
}

fn said(sandboxes: Vec<Sandbox>) -> Vec<NodeReport> {
    vec![NodeReport { name: NODE.to_owned(), sandboxes: Some(sandboxes), quarantined: HashSet::new() }]
}

struct Round {
    nodes: Vec<NodeReport>,
    live: Vec<RunRecord>,
    inflight: HashSet<RunId>,
    missing: MissingSince,
    waiting: LastWaiting,
    after_ms: u64,
}

impl Round {
    fn at(nodes: Vec<NodeReport>, live: Vec<RunRecord>, after_ms: u64) -> Self {
        Self {
            nodes,
            live,
            inflight: HashSet::new(),
            missing: MissingSince::new(),
            waiting: LastWaiting::new(),
            after_ms,
        }
    }

    fn plan(&self) -> Plan {
        let snapshot = Snapshot {
            nodes: &self.nodes,
            live: &self.live,
            inflight: &self.inflight,
            missing: &self.missing,
            waiting: &self.waiting,
            epoch: EPOCH,
            others: &BTreeSet::from([OTHER]),
            started_at: START,
            // Counted from 0 on.
            counted_ms: self.live.iter().any(|record| record.expiry.is_some()).then_some(self.after_ms),
            now: START.plus(self.after_ms),
        };
        plan(&snapshot, GRACE)
    }

    fn steps(&self) -> Vec<Step> {
        self.plan().steps
    }
}

fn fail(n: u64, reason: FailReason) -> Vec<Step> {
    vec![Step::Fail { id: id(n), reason }]
}

#[test]
fn a_sandbox_without_a_live_agent_is_removed_even_while_its_id_is_inflight() {
    let mut round = Round::at(said(vec![sandbox(1, SandboxPhase::Ready)]), vec![], 0);
    let removed = vec![Step::Remove { node: NODE.to_owned(), id: id(1), pod: PodId::minted(id(1)) }];
    assert_eq!(round.steps(), removed);
    round.inflight.insert(id(1));
    assert_eq!(round.steps(), removed);
}

#[test]
fn a_sandbox_on_another_node_than_its_agents_is_removed_there_alone() {
    let mut nodes = said(vec![sandbox(1, SandboxPhase::Ready)]);
    nodes.push(NodeReport { name: "two".to_owned(), ..said(vec![sandbox(1, SandboxPhase::Ready)]).remove(0) });
    let round = Round::at(nodes, vec![record(1, State::Ready)], 0);
    assert_eq!(round.steps(), vec![Step::Remove { node: "two".to_owned(), id: id(1), pod: PodId::minted(id(1)) }]);
}

#[test]
fn an_agent_that_is_as_written_down_needs_nothing() {
    let round = Round::at(said(vec![sandbox(1, SandboxPhase::Ready)]), vec![record(1, State::Ready)], 0);
    assert_eq!(round.steps(), vec![]);
}

#[test]
fn a_reservation_of_an_earlier_run_fails_at_once_and_one_of_this_run_after_its_grace() {
    let earlier = RunRecord { epoch: GatewayEpoch(6), ..record(1, State::Reserved) };
    assert_eq!(Round::at(said(vec![]), vec![earlier], 0).steps(), fail(1, FailReason::Interrupted));
    let ours = record(1, State::Reserved);
    assert_eq!(Round::at(said(vec![]), vec![ours.clone()], 4_999).steps(), vec![]);
    assert_eq!(Round::at(said(vec![]), vec![ours.clone()], 5_000).steps(), fail(1, FailReason::Interrupted));
    let mut inflight = Round::at(said(vec![]), vec![ours], 5_000);
    inflight.inflight.insert(id(1));
    assert_eq!(inflight.steps(), vec![]);
}

#[test]
fn a_placed_agent_of_an_earlier_run_fails_once_what_was_sent_has_settled() {
    let earlier = RunRecord { epoch: GatewayEpoch(6), ..record(1, State::Placed) };
    assert_eq!(Round::at(said(vec![]), vec![earlier.clone()], 1_999).steps(), vec![]);
    assert_eq!(Round::at(said(vec![]), vec![earlier], 2_000).steps(), fail(1, FailReason::Interrupted));
}

#[test]
fn what_another_gateway_reserves_or_places_is_left_to_it_while_it_is_there() {
    for state in [State::Reserved, State::Placed] {
        let theirs = RunRecord { epoch: OTHER, ..record(1, state) };
        assert_eq!(Round::at(said(vec![]), vec![theirs], 100_000).steps(), vec![], "{state:?}");
    }
}

#[test]
fn a_placed_agent_that_its_node_runs_is_taken_over() {
    let earlier = RunRecord { epoch: GatewayEpoch(6), runtime: None, ..record(1, State::Placed) };
    let seen = AgentObservation { runtime: "qemu-tcg".to_owned(), restarts: 0 };
    let steps = Round::at(said(vec![sandbox(1, SandboxPhase::Ready)]), vec![earlier], 0).steps();
    assert_eq!(steps, vec![Step::Observe { id: id(1), event: Some(Event::Ready), seen }]);
}

#[test]
fn an_agent_taken_over_that_never_gets_ready_is_overdue() {
    let booting = record(1, State::Booting);
    assert_eq!(Round::at(said(vec![sandbox(1, SandboxPhase::Booting)]), vec![booting.clone()], 59_999).steps(), vec![]);
    let late = Round::at(said(vec![sandbox(1, SandboxPhase::Booting)]), vec![booting], 60_000);
    assert_eq!(late.steps(), fail(1, FailReason::BootTimeout));
    let again = RunRecord { was_ready: true, ..record(1, State::Booting) };
    assert_eq!(Round::at(said(vec![sandbox(1, SandboxPhase::Booting)]), vec![again], 600_000).steps(), vec![]);
}

#[test]
fn a_guest_that_died_is_seen_booting_with_its_restarts() {
    let down = Sandbox { restarts: 3, ..sandbox(1, SandboxPhase::Backoff { at: START }) };
    let seen = AgentObservation { runtime: "qemu-tcg".to_owned(), restarts: 3 };
    let steps = Round::at(said(vec![down]), vec![record(1, State::Ready)], 0).steps();
    assert_eq!(steps, vec![Step::Observe { id: id(1), event: Some(Event::Booting), seen }]);
}

#[test]
fn a_sandbox_that_failed_fails_its_agent_with_the_nodes_reason() {
    let failed = sandbox(1, SandboxPhase::Failed { reason: FailReason::CrashLoop });
    let round = Round::at(said(vec![failed]), vec![record(1, State::Ready)], 0);
    assert_eq!(round.steps(), fail(1, FailReason::CrashLoop));
}

#[test]
fn a_running_agent_is_lost_only_after_its_node_denied_it_long_enough() {
    let mut round = Round::at(said(vec![]), vec![record(1, State::Ready)], 0);
    round.missing = round.plan().missing;
    assert_eq!(round.missing, MissingSince::from([(id(1), START)]));
    round.after_ms = 9_999;
    assert_eq!(round.steps(), vec![]);
    round.after_ms = 10_000;
    assert_eq!(round.steps(), fail(1, FailReason::Lost));
    let back = Round { nodes: said(vec![sandbox(1, SandboxPhase::Ready)]), ..round };
    assert!(back.plan().missing.is_empty());
}

#[test]
fn an_agent_whose_time_to_live_is_over_is_stopped_whatever_else_is_the_matter_and_never_before() {
    let lives = |n, state| {
        let expiry = Some(RunExpiry { at: START, counted_ms: 900 });
        RunRecord { expiry, ..record(n, state) }
    };
    let states = [State::Reserved, State::Placed, State::Booting, State::Waiting(NodeShortage::Disk), State::Ready];
    let live: Vec<RunRecord> = (1..).zip(states).map(|(n, state)| lives(n, state)).collect();
    let silent = vec![NodeReport { sandboxes: None, ..said(vec![]).remove(0) }];
    let mut round = Round::at(silent, live, 899);
    round.inflight = HashSet::from([id(1), id(2)]);
    assert_eq!(round.steps(), vec![]);
    round.after_ms = 900;
    let expire = |n| Step::Expire { id: id(n), counted_ms: 900 };
    assert_eq!(round.steps(), (1..=5).map(expire).collect::<Vec<_>>());
    let ending = lives(1, State::Stopping(EndReason::Failed(FailReason::Lost)));
    assert_eq!(Round::at(said(vec![]), vec![ending], 900).steps(), vec![Step::TearDown { id: id(1) }]);
}

#[test]
fn a_node_that_does_not_answer_changes_nothing_but_what_is_to_end() {
    let silent = vec![NodeReport { sandboxes: None, ..said(vec![]).remove(0) }];
    let states = [State::Placed, State::Booting, State::Ready];
    let live: Vec<RunRecord> = (1..).zip(states).map(|(n, state)| record(n, state)).collect();
    assert_eq!(Round::at(silent.clone(), live, 3_600_000).steps(), vec![]);
    let stopping = record(1, State::Stopping(EndReason::Stopped(StopReason::Requested)));
    assert_eq!(Round::at(silent, vec![stopping], 0).steps(), vec![Step::TearDown { id: id(1) }]);
}

#[test]
fn fault_1_1_an_agent_whose_node_lacks_something_waits_for_as_long_as_that_takes() {
    let lacks = NodeShortage::Disk;
    let waiting = || said(vec![sandbox(1, SandboxPhase::Waiting { lacks, since: START })]);
    let seen = AgentObservation { runtime: "qemu-tcg".to_owned(), restarts: 0 };
    let step = Step::Observe { id: id(1), event: Some(Event::Waiting(lacks)), seen };
    for state in [State::Placed, State::Booting, State::Ready] {
        assert_eq!(Round::at(waiting(), vec![record(1, state)], 3_600_000).steps(), vec![step.clone()]);
    }
    let mut round = Round::at(waiting(), vec![record(1, State::Waiting(lacks))], 3_600_000);
    let plan = round.plan();
    assert_eq!(plan.steps, vec![]);
    // Its first boot is counted from when it could begin.
    round = Round { waiting: plan.waiting, nodes: said(vec![sandbox(1, SandboxPhase::Booting)]), ..round };
    round.live = vec![record(1, State::Booting)];
    round.after_ms += 59_999;
    assert_eq!(round.steps(), vec![]);
    round.after_ms += 1;
    assert_eq!(round.steps(), fail(1, FailReason::BootTimeout));
}

#[test]
fn fault_1_2_an_agent_that_its_node_cannot_read_is_not_gone() {
    let mut nodes = said(vec![]);
    nodes[0].quarantined.insert(id(1));
    for state in [State::Placed, State::Booting, State::Waiting(NodeShortage::Disk), State::Ready] {
        let steps = Round::at(nodes.clone(), vec![record(1, state)], 3_600_000).steps();
        let event = Some(Event::Waiting(NodeShortage::Ledger));
        assert!(matches!(&steps[..], [Step::Observe { event: told, .. }] if *told == event), "{steps:?}");
    }
    let waits = vec![record(1, State::Waiting(NodeShortage::Ledger))];
    assert_eq!(Round::at(nodes.clone(), waits, 3_600_000).steps(), vec![]);
    // Nor is it an orphan.
    assert_eq!(Round::at(nodes, vec![], 3_600_000).steps(), vec![]);
}

fn state() -> impl Strategy<Value = State> {
    prop_oneof![
        Just(State::Reserved),
        Just(State::Placed),
        Just(State::Booting),
        Just(State::Waiting(NodeShortage::Disk)),
        Just(State::Ready),
        Just(State::Stopping(EndReason::Stopped(StopReason::Requested))),
    ]
}

fn phase() -> impl Strategy<Value = SandboxPhase> {
    prop_oneof![
        Just(SandboxPhase::Booting),
        Just(SandboxPhase::Ready),
        Just(SandboxPhase::Backoff { at: START }),
        Just(SandboxPhase::Waiting { lacks: NodeShortage::Network, since: START }),
        Just(SandboxPhase::Stopping),
        Just(SandboxPhase::Failed { reason: FailReason::CrashLoop }),
    ]
}

proptest! {
    #[test]
    fn a_plan_never_harms_a_healthy_agent_and_never_spares_an_orphan(
        agents in proptest::collection::btree_map(0_u64..20, (state(), 6_u64..8, any::<bool>()), 0..20),
        held in proptest::collection::btree_map(0_u64..20, phase(), 0..20),
        answers: bool, after_ms in 0_u64..100_000,
    ) {
        let live: Vec<RunRecord> = agents.iter()
            .map(|(n, (state, epoch, _))| RunRecord { epoch: GatewayEpoch(*epoch), ..record(*n, *state) }).collect();
        let sandboxes: Vec<Sandbox> = held.iter().map(|(n, phase)| sandbox(*n, *phase)).collect();
        let nodes = vec![NodeReport { sandboxes: answers.then_some(sandboxes), ..said(vec![]).remove(0) }];
        let mut round = Round::at(nodes, live, after_ms);
        round.inflight = agents.iter().filter(|(_, (_, _, inflight))| *inflight).map(|(n, _)| id(*n)).collect();
        let steps = round.steps();
        for (n, phase) in held.iter().filter(|_| answers) {
            let removed = steps.contains(&Step::Remove { node: NODE.to_owned(), id: id(*n), pod: PodId::minted(id(*n)) });
            let placed = agents.get(n).map(|(state, _, inflight)| *state != State::Reserved || *inflight);
            prop_assert_eq!(removed, !placed.unwrap_or(false), "{} {:?}", n, phase);
        }
        for step in &steps {
            if let Step::Fail { id: failed, .. } = step {
                prop_assert!(!round.inflight.contains(failed));
                let n = failed.bits();
                let healthy = answers && matches!(held.get(&n), Some(SandboxPhase::Ready))
                    && agents.get(&n).is_some_and(|(state, ..)| *state != State::Reserved);
                prop_assert!(!healthy, "{:?}", step);
            }
        }
    }
}
