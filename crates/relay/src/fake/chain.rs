//! A forwarder, a token and targets in memory, as far as the relayer can tell.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use alloy_primitives::{Address, B256, Bytes, Log, U256, keccak256};
use alloy_sol_types::{SolCall, SolEvent};
use async_trait::async_trait;
use chain::evm::Revert;
use domain::payment::{Authorization, AuthorizationState};
use domain::relay::RelayTransaction;

use super::EPOCH_S;
use crate::abi::{ERC2771Forwarder, TestUSDC};
use crate::chain::{
    AccountBalances, Chain, ChainError, ChainParameters, EthCall, Simulation, TransactionReceipt, TransactionState,
};
use crate::payment::recover;
use crate::request::VerifiedRequest;

/// What a simulated call costs.
const GAS: u64 = 150_000;
/// Wei per gas.
const GAS_PRICE: u128 = 5_000_000_000_000;

/// How a target behaves.
#[derive(Clone, Debug, Default)]
pub enum TargetBehavior {
    /// Every call works.
    #[default]
    Works,
    /// Every call reverts, for this reason.
    Reverts(Revert),
    /// Trials work; what is mined reverts.
    RevertsWhenMined,
    /// It does not trust the forwarder.
    Distrusts,
}

/// A call that took effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecutedCall {
    /// In whose name: the signer's, or the relayer's.
    pub from: Address,
    /// Who was called.
    pub to: Address,
    /// The call.
    pub data: Bytes,
}

/// A chain in memory. It mines what it is given when it is asked about it, unless
/// it is held.
#[derive(Debug)]
pub struct FakeChain {
    facts: ChainParameters,
    world: Mutex<ChainState>,
}

#[derive(Debug, Default)]
struct ChainState {
    nonces: HashMap<Address, u64>,
    vaults: HashSet<Address>,
    behaviors: HashMap<Address, TargetBehavior>,
    usdc: HashMap<Address, u64>,
    spent: HashSet<(Address, B256)>,
    moved: HashMap<(Address, B256), B256>,
    intents: HashMap<B256, RelayTransaction>,
    mined: HashMap<B256, TransactionReceipt>,
    passed_on: HashMap<B256, TransactionReceipt>,
    effects: Vec<ExecutedCall>,
    submissions: u64,
    time: u64,
    wei: U256,
    held: bool,
    down: bool,
    dropping: bool,
    token_fails: bool,
}

impl Default for FakeChain {
    fn default() -> Self {
        let facts = ChainParameters {
            chain_id: 338,
            forwarder: Address::repeat_byte(0xf0),
            forwarder_name: "Forwarder".to_owned(),
            factory: Address::repeat_byte(0xfa),
            token: Address::repeat_byte(0x05),
            token_name: "Bridged USDC (Stargate)".to_owned(),
            token_version: "1".to_owned(),
            relayer: Address::repeat_byte(0xee),
        };
        Self::of(facts)
    }
}

impl FakeChain {
    /// A chain of these facts.
    #[must_use]
    pub fn of(facts: ChainParameters) -> Self {
        let wei = U256::from(100) * U256::from(10).pow(U256::from(18));
        Self { facts, world: Mutex::new(ChainState { time: EPOCH_S, wei, ..ChainState::default() }) }
    }

    /// Makes a vault of this address.
    pub fn add_vault(&self, vault: Address) {
        self.with(|world| world.vaults.insert(vault));
    }

    /// Sets how a target behaves.
    pub fn set_behavior(&self, target: Address, behavior: TargetBehavior) {
        self.with(|world| world.behaviors.insert(target, behavior));
    }

    /// Gives somebody micro-USDC.
    pub fn give(&self, to: Address, micros: u64) {
        self.with(|world| *world.usdc.entry(to).or_default() += micros);
    }

    /// Somebody's micro-USDC.
    #[must_use]
    pub fn usdc(&self, of: Address) -> u64 {
        self.with(|world| world.usdc.get(&of).copied().unwrap_or_default())
    }

    /// Sets the relayer's wei.
    pub fn set_wei(&self, wei: U256) {
        self.with(|world| world.wei = wei);
    }

    /// Whether nothing is mined for now.
    pub fn hold(&self, held: bool) {
        self.with(|world| world.held = held);
    }

    /// Whether no question is answered for now.
    pub fn go_down(&self, down: bool) {
        self.with(|world| world.down = down);
    }

    /// Whether what is submitted from now on is dropped.
    pub fn drop_all(&self, dropping: bool) {
        self.with(|world| world.dropping = dropping);
    }

    /// Whether mined transfers of the token fail, though trials work.
    pub fn break_token(&self, fails: bool) {
        self.with(|world| world.token_fails = fails);
    }

    /// Sets the chain's clock, in Unix seconds.
    pub fn set_time(&self, seconds: u64) {
        self.with(|world| world.time = seconds);
    }

    /// Uses up a nonce by another transaction.
    pub fn use_nonce(&self, from: Address) {
        self.with(|world| *world.nonces.entry(from).or_default() += 1);
    }

    /// Lets somebody else execute an authorization, as front-runners do.
    pub fn front_run(&self, authorization: &Authorization) {
        self.with(|world| world.transfer(authorization, B256::repeat_byte(0xff)));
    }

    /// All that took effect, in order.
    #[must_use]
    pub fn effects(&self) -> Vec<ExecutedCall> {
        self.with(|world| world.effects.clone())
    }

    /// How many transactions of the relayer's own were mined.
    #[must_use]
    pub fn transactions(&self) -> usize {
        self.with(|world| world.mined.len())
    }

    fn with<T>(&self, work: impl FnOnce(&mut ChainState) -> T) -> T {
        work(&mut self.world.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn up<T>(&self, work: impl FnOnce(&mut ChainState) -> T) -> Result<T, ChainError> {
        self.with(|world| {
            if world.down {
                return Err(ChainError::Unavailable("the test said so: https://key@host".to_owned()));
            }
            Ok(work(world))
        })
    }
}

impl ChainState {
    fn nonce(&self, of: Address) -> u64 {
        self.nonces.get(&of).copied().unwrap_or_default()
    }

    fn behavior(&self, of: Address) -> TargetBehavior {
        self.behaviors.get(&of).cloned().unwrap_or_default()
    }

    /// What the forwarder would say against this request; `Ok` is the digest's
    /// owner.
    fn validate(&self, facts: &ChainParameters, it: &ERC2771Forwarder::ForwardRequestData) -> Result<(), Revert> {
        if matches!(self.behavior(it.to), TargetBehavior::Distrusts) {
            return Err(Revert::UntrustfulTarget { target: it.to, forwarder: facts.forwarder });
        }
        if it.deadline.saturating_to::<u64>() < self.time {
            return Err(Revert::RequestExpired { deadline: it.deadline.saturating_to() });
        }
        let request = VerifiedRequest {
            from: it.from,
            to: it.to,
            value: it.value,
            gas: it.gas.saturating_to(),
            nonce: U256::from(self.nonce(it.from)),
            deadline: it.deadline.saturating_to(),
            data: it.data.clone(),
            signature: it.signature.clone(),
            digest: B256::ZERO,
        };
        let signer = request.digest(facts).and_then(|digest| recover(&it.signature, digest)).unwrap_or_default();
        if signer == it.from {
            return Ok(());
        }
        Err(Revert::RequestSigner { signer, from: it.from })
    }

    fn try_call(&self, facts: &ChainParameters, call: &EthCall) -> Simulation<Bytes> {
        if call.to == facts.forwarder {
            let Ok(execute) = ERC2771Forwarder::executeCall::abi_decode(&call.data) else {
                return Simulation::Reverted(Revert::Silent);
            };
            if let Err(why) = self.validate(facts, &execute.request) {
                return Simulation::Reverted(why);
            }
            return match self.behavior(execute.request.to) {
                TargetBehavior::Works | TargetBehavior::RevertsWhenMined => Simulation::Done(Bytes::new()),
                TargetBehavior::Reverts(_) | TargetBehavior::Distrusts => {
                    Simulation::Reverted(Revert::ForwardedCallFailed)
                }
            };
        }
        if call.to == facts.token {
            let fits = authorization(facts, &call.data).is_some_and(|it| self.can_move(&it));
            return if fits { Simulation::Done(Bytes::new()) } else { Simulation::Reverted(Revert::Silent) };
        }
        match self.behavior(call.to) {
            TargetBehavior::Reverts(why) => Simulation::Reverted(why),
            TargetBehavior::Works | TargetBehavior::RevertsWhenMined | TargetBehavior::Distrusts => {
                Simulation::Done(Bytes::new())
            }
        }
    }

    fn can_move(&self, it: &Authorization) -> bool {
        let holds = self.usdc.get(&it.from).copied().unwrap_or_default() >= it.value.0;
        let in_time = it.valid_after < U256::from(self.time) && it.valid_before > U256::from(self.time);
        holds && in_time && !self.spent.contains(&(it.from, it.nonce))
    }

    fn transfer(&mut self, it: &Authorization, tx: B256) -> bool {
        if !self.can_move(it) {
            return false;
        }
        *self.usdc.entry(it.from).or_default() -= it.value.0;
        *self.usdc.entry(it.to).or_default() += it.value.0;
        self.spent.insert((it.from, it.nonce));
        self.moved.insert((it.from, it.nonce), tx);
        true
    }

    fn mine(&mut self, facts: &ChainParameters, key: B256, intent: &RelayTransaction) -> TransactionReceipt {
        let tx = keccak256([b"tx".as_slice(), key.as_slice()].concat());
        let (succeeded, logs) = self.run(facts, intent, tx);
        let block = u64::try_from(self.mined.len()).unwrap_or_default() + 1;
        let mined = TransactionReceipt { tx, block, gas_used: GAS, gas_price: GAS_PRICE, succeeded, logs };
        self.mined.insert(key, mined.clone());
        mined
    }

    fn run(&mut self, facts: &ChainParameters, intent: &RelayTransaction, tx: B256) -> (bool, Vec<Log>) {
        if intent.to == facts.forwarder {
            return self.run_batch(facts, intent);
        }
        if intent.to == facts.token {
            return self.run_token(facts, intent, tx);
        }
        let works = matches!(self.behavior(intent.to), TargetBehavior::Works);
        if works {
            self.effects.push(ExecutedCall { from: facts.relayer, to: intent.to, data: intent.data.clone() });
        }
        (works, Vec::new())
    }

    fn run_batch(&mut self, facts: &ChainParameters, intent: &RelayTransaction) -> (bool, Vec<Log>) {
        let Ok(batch) = ERC2771Forwarder::executeBatchCall::abi_decode(&intent.data) else { return (false, vec![]) };
        let mut logs = Vec::new();
        for it in batch.requests {
            if self.validate(facts, &it).is_err() {
                continue;
            }
            let nonce = U256::from(self.nonce(it.from));
            *self.nonces.entry(it.from).or_default() += 1;
            let success = matches!(self.behavior(it.to), TargetBehavior::Works);
            if success {
                self.effects.push(ExecutedCall { from: it.from, to: it.to, data: it.data.clone() });
            }
            let event = ERC2771Forwarder::ExecutedForwardRequest { signer: it.from, nonce, success };
            logs.push(Log { address: facts.forwarder, data: event.encode_log_data() });
        }
        (true, logs)
    }

    fn run_token(&mut self, facts: &ChainParameters, intent: &RelayTransaction, tx: B256) -> (bool, Vec<Log>) {
        let Some(it) = authorization(facts, &intent.data) else { return (false, vec![]) };
        if self.token_fails || !self.transfer(&it, tx) {
            return (false, vec![]);
        }
        let used = TestUSDC::AuthorizationUsed { authorizer: it.from, nonce: it.nonce }.encode_log_data();
        let moved = TestUSDC::Transfer { from: it.from, to: it.to, value: it.value.to_u256() }.encode_log_data();
        (true, [used, moved].map(|data| Log { address: facts.token, data }).to_vec())
    }
}

fn authorization(facts: &ChainParameters, data: &Bytes) -> Option<Authorization> {
    let call = TestUSDC::transferWithAuthorizationCall::abi_decode(data).ok()?;
    Some(Authorization {
        chain_id: facts.chain_id,
        asset: facts.token,
        from: call.from,
        to: call.to,
        value: call.value.try_into().ok()?,
        valid_after: call.validAfter,
        valid_before: call.validBefore,
        nonce: call.nonce,
    })
}

#[async_trait]
impl Chain for FakeChain {
    fn facts(&self) -> &ChainParameters {
        &self.facts
    }

    async fn nonce(&self, from: Address) -> Result<U256, ChainError> {
        self.up(|world| U256::from(world.nonce(from)))
    }

    async fn is_vault(&self, address: Address) -> Result<bool, ChainError> {
        self.up(|world| world.vaults.contains(&address))
    }

    async fn simulate(&self, call: &EthCall) -> Result<Simulation<Bytes>, ChainError> {
        self.up(|world| world.try_call(&self.facts, call))
    }

    async fn estimate(&self, call: &EthCall) -> Result<Simulation<u64>, ChainError> {
        self.up(|world| match world.try_call(&self.facts, call) {
            Simulation::Done(_) => Simulation::Done(GAS),
            Simulation::Reverted(why) => Simulation::Reverted(why),
        })
    }

    async fn gas_price(&self) -> Result<u128, ChainError> {
        self.up(|_| GAS_PRICE)
    }

    async fn holdings(&self, wallet: Address) -> Result<AccountBalances, ChainError> {
        let usdc = U256::from(self.usdc(wallet));
        self.up(|world| AccountBalances { wei: world.wei, usdc })
    }

    async fn spent(&self, payer: Address, nonce: B256) -> Result<bool, ChainError> {
        self.up(|world| world.spent.contains(&(payer, nonce)))
    }

    async fn authorization(&self, authorization: &Authorization) -> Result<AuthorizationState, ChainError> {
        self.up(|world| match world.moved.get(&(authorization.from, authorization.nonce)) {
            Some(tx) => AuthorizationState::Paid { tx: *tx },
            None => AuthorizationState::Unused { as_of: world.time },
        })
    }

    async fn submit(&self, key: B256, transaction: &RelayTransaction) -> Result<(), ChainError> {
        self.up(|world| {
            world.submissions += 1;
            if world.dropping && !world.intents.contains_key(&key) {
                return Err(ChainError::Refused("the test said so".to_owned()));
            }
            world.intents.entry(key).or_insert_with(|| transaction.clone());
            Ok(())
        })?
    }

    async fn outcome(&self, key: B256, wait: Duration) -> Result<TransactionState, ChainError> {
        let outcome = self.up(|world| {
            let Some(intent) = world.intents.get(&key).cloned() else { return TransactionState::Unknown };
            if let Some(mined) = world.mined.get(&key) {
                return TransactionState::Mined(mined.clone());
            }
            if world.held {
                return TransactionState::Pending(Some(keccak256([b"tx".as_slice(), key.as_slice()].concat())));
            }
            TransactionState::Mined(world.mine(&self.facts, key, &intent))
        })?;
        if matches!(outcome, TransactionState::Pending(_)) {
            tokio::time::sleep(wait.min(Duration::from_millis(5))).await;
        }
        Ok(outcome)
    }

    async fn broadcast(&self, raw: &[u8]) -> Result<B256, ChainError> {
        let tx = keccak256(raw);
        let mined =
            TransactionReceipt { tx, block: 1, gas_used: GAS, gas_price: GAS_PRICE, succeeded: true, logs: Vec::new() };
        self.up(|world| world.passed_on.insert(tx, mined))?;
        Ok(tx)
    }

    async fn mined(
        &self,
        tx: B256,
        _confirmations: u64,
        _wait: Duration,
    ) -> Result<Option<TransactionReceipt>, ChainError> {
        self.up(|world| world.passed_on.get(&tx).filter(|_| !world.held).cloned())
    }
}
