//! A model of the contract that says what it does, and a ledger that must follow.

use std::collections::BTreeMap;

use alloy_primitives::{Address, B256};
use proptest::prelude::*;

use super::{InvalidEvent, TaskId, TaskStateName, TaskTerms, VaultEvent as E, VaultLedger, VaultSettings};
use crate::Usdc;

const OWNER: Address = Address::with_last_byte(1);
const AGENT: Address = Address::with_last_byte(2);
const FEES: Address = Address::with_last_byte(3);

fn person(n: u8) -> Address {
    Address::with_last_byte(0x80 | (n % 4))
}

fn terms(creator: Address, amount: Usdc) -> TaskTerms {
    TaskTerms {
        creator,
        evaluator: Address::ZERO,
        arbiter: Address::ZERO,
        fee_recipient: FEES,
        amount,
        min_paid: Usdc::ZERO,
        submit_by: 1,
        review_period: 1,
        arbiter_period: 1,
        default_agent_bps: 0,
        fee_bps: 100,
        metadata_hash: B256::ZERO,
        salt: B256::ZERO,
    }
}

/// The contract, as far as money goes.
#[derive(Default)]
struct Model {
    open: BTreeMap<TaskId, (Address, u64)>,
    submitted: BTreeMap<TaskId, (Address, u64)>,
    disputed: BTreeMap<TaskId, (Address, u64)>,
    credits: BTreeMap<Address, u64>,
    available: u64,
    earned: u64,
    said: Vec<E>,
}

#[derive(Clone, Debug)]
struct Act {
    what: u8,
    who: u8,
    part: u16,
    amount: u32,
}

impl Model {
    fn new() -> Self {
        let created = E::VaultCreated { owner: OWNER, agent_wallet: AGENT, pod_id: "pod".into() };
        Self { said: vec![created], ..Self::default() }
    }

    fn act(&mut self, act: &Act) {
        match act.what % 9 {
            0 | 1 => self.create(act),
            2 => self.submit(),
            3 => self.refund(act),
            4 => self.complete(act, false),
            5 => self.complete(act, true),
            6 => self.dispute(),
            7 => self.resolve(act),
            _ => self.withdraw(act),
        }
    }

    fn create(&mut self, act: &Act) {
        let (creator, amount) = (person(act.who), u64::from(act.amount) + 1);
        let mut id = B256::ZERO;
        id.0[..8].copy_from_slice(&self.said.len().to_be_bytes());
        let task = TaskId(id);
        self.open.insert(task, (creator, amount));
        let amount = Usdc(amount);
        self.said.push(E::TaskCreated { task, amount, creator });
        self.said.push(E::TaskTerms { task, terms: terms(creator, amount), metadata: "m".into() });
    }

    fn submit(&mut self) {
        let Some((task, of)) = self.open.pop_first() else { return };
        self.submitted.insert(task, of);
        self.said.push(E::TaskSubmitted { task, submitter: AGENT, result_hash: B256::ZERO, review_by: 9 });
    }

    fn refund(&mut self, act: &Act) {
        let Some((task, (creator, amount))) = self.open.pop_first() else { return };
        if act.part.is_multiple_of(2) {
            self.said.push(E::TaskDeclined { task, agent: AGENT });
        }
        self.said.push(E::TaskRefunded { task, amount: Usdc(amount) });
        self.credit(creator, amount, task);
    }

    fn complete(&mut self, act: &Act, silent: bool) {
        let Some((task, (creator, amount))) = self.submitted.pop_first() else { return };
        if silent {
            self.said.push(E::TaskClaimed { task, caller: person(act.who) });
        }
        let amount = self.split(task, creator, amount, act.part);
        self.said.push(E::TaskCompleted { task, amount });
    }

    fn dispute(&mut self) {
        let Some((task, of)) = self.submitted.pop_first() else { return };
        self.disputed.insert(task, of);
        self.said.push(E::TaskDisputed { task, reason_hash: B256::ZERO, arbiter_by: 9 });
    }

    fn resolve(&mut self, act: &Act) {
        let Some((task, (creator, amount))) = self.disputed.pop_first() else { return };
        let amount = self.split(task, creator, amount, act.part);
        self.said.push(E::TaskResolved { task, amount, by_default: act.part.is_multiple_of(2) });
    }

    /// Credits come before the event that says the end, as in the contract.
    fn split(&mut self, task: TaskId, creator: Address, amount: u64, part: u16) -> Usdc {
        let paid = amount * u64::from(part) / u64::from(u16::MAX);
        let fee = paid / 100;
        self.credit(FEES, fee, task);
        self.credit(creator, amount - paid, task);
        self.available += paid - fee;
        self.earned += paid - fee;
        Usdc(paid - fee)
    }

    fn credit(&mut self, account: Address, amount: u64, task: TaskId) {
        if amount > 0 {
            *self.credits.entry(account).or_default() += amount;
            self.said.push(E::Credited { account, amount: Usdc(amount), task });
        }
    }

    fn withdraw(&mut self, act: &Act) {
        let account = person(act.who);
        let credit = self.credits.get(&account).copied().unwrap_or_default();
        if act.part.is_multiple_of(2) && self.available > 0 {
            self.said.push(E::EarningsWithdrawn { amount: Usdc(self.available), recipient: OWNER });
            self.available = 0;
        } else if credit > 0 {
            self.said.push(E::CreditWithdrawn { account, amount: Usdc(credit), recipient: account });
            self.credits.insert(account, 0);
        }
    }

    fn locked(&self) -> u64 {
        [&self.open, &self.submitted, &self.disputed].iter().flat_map(|tasks| tasks.values()).map(|(_, sum)| sum).sum()
    }
}

fn model(acts: &[Act]) -> Model {
    let mut model = Model::new();
    acts.iter().for_each(|act| model.act(act));
    model
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = (any::<u8>(), any::<u8>(), any::<u16>(), any::<u32>());
    let act = act.prop_map(|(what, who, part, amount)| Act { what, who, part, amount });
    prop::collection::vec(act, 0..60)
}

/// What the ledger comes to.
fn sums(ledger: &VaultLedger) -> (Vec<u64>, BTreeMap<Address, Usdc>) {
    let vault = ledger.vault().unwrap();
    let figures = vec![vault.available.0, vault.total_earnings.0, vault.locked.0, vault.credited.0, vault.total_tasks];
    (figures, ledger.credits().iter().filter(|(_, sum)| sum.0 > 0).map(|(who, sum)| (*who, *sum)).collect())
}

proptest! {
    #[test]
    fn the_ledger_follows_the_contract_to_the_micro_usdc(acts in acts()) {
        let model = model(&acts);
        let ledger = VaultLedger::of(&model.said).unwrap();
        let vault = ledger.vault().unwrap();
        prop_assert_eq!(vault.available.0, model.available);
        prop_assert_eq!(vault.total_earnings.0, model.earned);
        prop_assert_eq!(vault.locked.0, model.locked());
        prop_assert_eq!(vault.credited.0, model.credits.values().sum::<u64>());
        for (account, credit) in &model.credits {
            prop_assert_eq!(ledger.credit(account).0, *credit);
        }
        prop_assert_eq!(vault.owes().unwrap().0, model.available + model.locked() + vault.credited.0);
    }

    #[test]
    fn an_event_of_money_that_is_left_out_or_told_twice_never_passes_unseen(acts in acts(), at in any::<prop::sample::Index>()) {
        let said = model(&acts).said;
        let at = at.index(said.len());
        prop_assume!(said[at].task().is_some());
        let whole = sums(&VaultLedger::of(&said).unwrap());
        let without: Vec<&E> = said.iter().enumerate().filter(|(n, _)| *n != at).map(|(_, event)| event).collect();
        let twice: Vec<&E> = said.iter().take(at + 1).chain(said.iter().skip(at)).collect();
        for other in [without, twice] {
            let marker = matches!(said[at], E::TaskDeclined { .. } | E::TaskClaimed { .. });
            let open = matches!(said[at], E::TaskSubmitted { .. } | E::TaskDisputed { .. });
            if let Ok(ledger) = VaultLedger::of(other) {
                prop_assert!(marker || open || sums(&ledger) != whole);
            }
        }
    }

    #[test]
    fn any_order_of_events_is_followed_or_refused_and_never_half_posted(acts in acts(), seed in any::<u64>()) {
        let mut said = model(&acts).said;
        let mut state = seed | 1;
        for n in (1..said.len()).rev() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            said.swap(n, usize::try_from(state >> 33).unwrap() % (n + 1));
        }
        let mut ledger = VaultLedger::default();
        for event in &said {
            let before = ledger.clone();
            if ledger.apply(event).is_err() {
                prop_assert_eq!(&ledger, &before);
            }
        }
    }

    #[test]
    fn events_survive_json(acts in acts()) {
        let said = model(&acts).said;
        let text = serde_json::to_string(&said).unwrap();
        prop_assert_eq!(serde_json::from_str::<Vec<E>>(&text).unwrap(), said);
    }
}

fn created() -> VaultLedger {
    VaultLedger::of(&Model::new().said).unwrap()
}

#[test]
fn the_first_event_is_the_vaults_creation_and_it_comes_once() {
    let mut ledger = VaultLedger::default();
    let pause = E::CreationPaused { paused: true };
    assert_eq!(ledger.apply(&pause), Err(InvalidEvent::NoVault("CreationPaused")));
    ledger.apply(&Model::new().said[0]).unwrap();
    assert_eq!(ledger.apply(&Model::new().said[0]), Err(InvalidEvent::VaultTwice));
    ledger.apply(&pause).unwrap();
    assert!(ledger.vault().unwrap().paused);
}

#[test]
fn a_place_is_taken_by_whom_it_was_offered_to() {
    let mut ledger = created();
    let (heir, thief) = (person(0), person(1));
    let take = |owner| E::OwnershipTransferred { previous_owner: OWNER, owner };
    assert_eq!(ledger.apply(&take(heir)), Err(InvalidEvent::Somebody("OwnershipTransferred")));
    ledger.apply(&E::OwnershipTransferStarted { owner: OWNER, pending_owner: heir }).unwrap();
    assert_eq!(ledger.apply(&take(thief)), Err(InvalidEvent::Somebody("OwnershipTransferred")));
    ledger.apply(&take(heir)).unwrap();
    let back = E::AgentWalletProposed { agent_wallet: AGENT, pending_agent_wallet: Address::ZERO };
    ledger.apply(&E::AgentWalletProposed { agent_wallet: AGENT, pending_agent_wallet: heir }).unwrap();
    ledger.apply(&back).unwrap();
    let vault = ledger.vault().unwrap();
    assert_eq!((vault.owner, vault.pending_owner, vault.pending_agent_wallet), (heir, None, None));
    let taken = E::AgentWalletChanged { previous_agent_wallet: AGENT, agent_wallet: heir };
    assert_eq!(ledger.apply(&taken), Err(InvalidEvent::Somebody("AgentWalletChanged")));
}

#[test]
fn operators_and_settings_are_kept() {
    let mut ledger = created();
    ledger.apply(&E::OperatorSet { operator: FEES, authorized: true }).unwrap();
    ledger.apply(&E::OperatorSet { operator: AGENT, authorized: true }).unwrap();
    ledger.apply(&E::OperatorSet { operator: FEES, authorized: false }).unwrap();
    let settings = VaultSettings { arbiter: OWNER, fee_recipient: FEES, fee_bps: 7 };
    ledger.apply(&E::SettingsChanged { settings }).unwrap();
    assert_eq!(ledger.operators().iter().collect::<Vec<_>>(), [&AGENT]);
    assert_eq!(ledger.vault().unwrap().settings, settings);
}

#[test]
fn what_ends_without_its_credits_is_unfinished() {
    let act = |what| Act { what, who: 0, part: 0, amount: 99 };
    let said = model(&[act(0), act(3)]).said;
    let cut = &said[..said.len() - 1];
    assert_eq!(VaultLedger::of(cut), Err(InvalidEvent::Unfinished));
    let half = E::Credited { account: person(0), amount: Usdc(99), task: said[1].task().unwrap() };
    assert_eq!(VaultLedger::of(cut.iter().chain([&half])), Err(InvalidEvent::Unfinished));
    let much = E::Credited { account: person(0), amount: Usdc(101), task: said[1].task().unwrap() };
    let refused = VaultLedger::of(cut.iter().chain([&much]));
    assert_eq!(refused, Err(InvalidEvent::Amount { said: Usdc(101), is: Usdc(100) }));
}

#[test]
fn a_step_that_the_state_does_not_allow_is_named() {
    let act = |what| Act { what, who: 0, part: 0, amount: 99 };
    let mut said = model(&[act(0)]).said;
    let task = said[1].task().unwrap();
    said.push(E::TaskCompleted { task, amount: Usdc(1) });
    let refused = InvalidEvent::Step { event: "TaskCompleted", state: TaskStateName::Funded };
    assert_eq!(VaultLedger::of(&said), Err(refused.clone()));
    assert_eq!(refused.to_string(), "TaskCompleted of a task that is funded");
    let big = E::EarningsWithdrawn { amount: Usdc(1), recipient: OWNER };
    assert_eq!(created().apply(&big), Err(InvalidEvent::Amount { said: Usdc(1), is: Usdc::ZERO }));
}
