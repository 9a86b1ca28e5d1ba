//! The task that owns an account's nonces.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use domain::evm::{
    Call, IntentKey, MAX_PENDING, Outbox, OutboxEntry, OutboxEntryState, OutboxError, SenderAccount,
    TransactionAttempt, TransactionOutcome,
};
use domain::{B256, U256};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};

use super::sign::{TransactionFields, attempt};
use super::unsent::SendError;
use super::{Broadcast, CheckedChain, EvmError, GasPrice, SigningKey, TransactionStatus, fees};

/// Attempts of one entry at most: 1.125¹⁵ is a price six times the first.
const MAX_ATTEMPTS: usize = 16;
/// The first pause after something was sent; doubles up to `[evm] poll_ms`.
const FIRST_POLL: Duration = Duration::from_millis(10);
/// Looks that must find no trace of an entry whose nonce is used, before it is
/// lost: an endpoint may know a block before it knows its receipts.
const LOST_CHECKS: u32 = 3;

type Answer<T> = oneshot::Sender<Result<T, SendError>>;

/// What handles ask of the task.
#[derive(Debug)]
pub(super) enum SenderRequest {
    Send { key: IntentKey, call: Call, gas_limit: u64, price: GasPrice, balance_wei: U256, answer: Answer<OutboxEntry> },
    Find { key: IntentKey, answer: Answer<Option<OutboxEntry>> },
    Wait { key: IntentKey, answer: Answer<TransactionOutcome> },
}

/// A pending entry, and what this process knows of it.
#[derive(Debug)]
struct Pending {
    entry: OutboxEntry,
    /// When it was last offered.
    offered: Instant,
    /// Looks that found its nonce used and no trace of it.
    missing_checks: u32,
}

impl Pending {
    fn newest(&self) -> Option<&TransactionAttempt> {
        self.entry.attempts.last()
    }
}

/// What a look at the chain found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Ended(TransactionOutcome),
    InBlock,
    Nowhere,
}

#[derive(Debug)]
pub(super) struct Worker {
    chain: Arc<CheckedChain>,
    outbox: Arc<dyn Outbox>,
    key: SigningKey,
    account: SenderAccount,
    next: u64,
    pending: Vec<Pending>,
    /// A write failed, and may have happened all the same: what is held here is
    /// read again before anything else is done.
    needs_reload: bool,
    /// The present look came soon after something was sent: an endpoint may need
    /// longer than that to know all of a block, so it finds nothing lost.
    too_early: bool,
    waiting: HashMap<IntentKey, Vec<Answer<TransactionOutcome>>>,
    last_error: watch::Sender<Option<String>>,
}

impl Worker {
    /// Reads what is pending and offers it again.
    pub(super) async fn recover(
        chain: Arc<CheckedChain>,
        outbox: Arc<dyn Outbox>,
        key: SigningKey,
        account: SenderAccount,
        last_error: watch::Sender<Option<String>>,
    ) -> Result<Self, SendError> {
        let (next, pending, waiting) = (0, Vec::new(), HashMap::new());
        let mut worker = Self {
            chain,
            outbox,
            key,
            account,
            next,
            pending,
            needs_reload: true,
            too_early: false,
            waiting,
            last_error,
        };
        worker.reload_if_needed().await?;
        Ok(worker)
    }

    /// Reads what is pending, if that is not known for sure, and offers it.
    async fn reload_if_needed(&mut self) -> Result<(), SendError> {
        if !self.needs_reload {
            return Ok(());
        }
        let entries = self.outbox.pending(&self.account).await?;
        let highest = self.outbox.highest_nonce(&self.account).await?;
        let count = self.count().await?;
        self.next = follow(self.account, count, highest, &entries)?;
        let now = Instant::now();
        self.pending = entries.into_iter().map(|entry| Pending { entry, offered: now, missing_checks: 0 }).collect();
        self.needs_reload = false;
        self.offer_all().await;
        self.answer_settled().await
    }

    /// Answers those who wait for what is no longer pending.
    async fn answer_settled(&mut self) -> Result<(), SendError> {
        let ended: Vec<IntentKey> = self.waiting.keys().filter(|key| !self.is_pending(key)).cloned().collect();
        for key in ended {
            for answer in self.waiting.remove(&key).unwrap_or_default() {
                self.wait(key.clone(), answer).await;
            }
        }
        Ok(())
    }

    fn is_pending(&self, key: &IntentKey) -> bool {
        self.pending.iter().any(|pending| pending.entry.key == *key)
    }

    /// A write to the outbox: whatever goes wrong, its effect is not known.
    fn written(&mut self, done: Result<(), OutboxError>) -> Result<(), SendError> {
        self.needs_reload |= done.is_err();
        Ok(done?)
    }

    /// Until the last handle is gone.
    pub(super) async fn run(mut self, mut inbox: mpsc::Receiver<SenderRequest>) {
        let longest = Duration::from_millis(self.chain.evm.config().poll_ms);
        let mut pause = longest;
        let mut next_look = Instant::now();
        loop {
            tokio::select! {
                request = inbox.recv() => match request {
                    Some(request) => {
                        // What was just sent is looked for soon, then ever more rarely.
                        if matches!(request, SenderRequest::Send { .. }) {
                            pause = FIRST_POLL.min(longest);
                            next_look = next_look.min(Instant::now() + pause);
                        }
                        self.serve(request).await;
                    }
                    None => return,
                },
                () = sleep_until(next_look) => {
                    self.too_early = pause < longest;
                    self.look().await;
                    pause = (pause * 2).min(longest);
                    next_look = Instant::now() + pause;
                }
            }
        }
    }

    /// A receiver that is gone needs no answer.
    async fn serve(&mut self, request: SenderRequest) {
        match request {
            SenderRequest::Send { key, call, gas_limit, price, balance_wei, answer } => {
                let entry = self.send(key, call, gas_limit, price, balance_wei).await;
                drop(answer.send(entry));
            }
            SenderRequest::Find { key, answer } => {
                let found = self.outbox.find(&self.account, &key).await;
                drop(answer.send(found.map_err(SendError::from)));
            }
            SenderRequest::Wait { key, answer } => self.wait(key, answer).await,
        }
    }

    async fn wait(&mut self, key: IntentKey, answer: Answer<TransactionOutcome>) {
        let found = self.outbox.find(&self.account, &key).await;
        let settled = match found.map(|entry| entry.map(|entry| entry.state)) {
            Ok(Some(OutboxEntryState::Pending)) => {
                self.waiting.entry(key).or_default().push(answer);
                return;
            }
            Ok(Some(OutboxEntryState::Settled(outcome))) => Ok(outcome),
            Ok(None) => Err(SendError::NoSuchKey(key)),
            Err(error) => Err(error.into()),
        };
        drop(answer.send(settled));
    }

    /// Writes first, then offers. That an offer fails is no failure: it is repeated.
    async fn send(
        &mut self,
        key: IntentKey,
        call: Call,
        gas_limit: u64,
        price: GasPrice,
        balance_wei: U256,
    ) -> Result<OutboxEntry, SendError> {
        self.reload_if_needed().await?;
        if let Some(entry) = self.outbox.find(&self.account, &key).await? {
            return same_call(entry, &call);
        }
        if self.pending.len() >= MAX_PENDING {
            return Err(SendError::Busy);
        }
        self.afford(&call, gas_limit, price, balance_wei)?;
        let frame = TransactionFields { account: self.account, nonce: self.next, gas_limit, price };
        let attempts = vec![attempt(&self.key, &frame, &call)?];
        let (account, nonce, state) = (self.account, self.next, OutboxEntryState::Pending);
        let entry = OutboxEntry { key, account, nonce, call, gas_limit, attempts, state };
        let done = self.outbox.write(&entry).await;
        self.written(done)?;
        self.next += 1;
        self.pending.push(Pending { entry: entry.clone(), offered: Instant::now(), missing_checks: 0 });
        self.offer(self.pending.len() - 1).await;
        Ok(entry)
    }

    fn afford(&self, call: &Call, gas_limit: u64, price: GasPrice, balance_wei: U256) -> Result<(), EvmError> {
        let cost = |gas: u64, fee: u128, value: U256| (U256::from(gas) * U256::from(fee)).saturating_add(value);
        let promised = self.pending.iter().fold(U256::ZERO, |sum, pending| {
            let fee = pending.newest().map_or(0, |attempt| attempt.max_fee);
            sum.saturating_add(cost(pending.entry.gas_limit, fee, pending.entry.call.value))
        });
        let needs = promised.saturating_add(cost(gas_limit, price.max_fee(), call.value));
        if needs <= balance_wei {
            return Ok(());
        }
        let (has, needs) = (balance_wei.saturating_to(), needs.saturating_to());
        Err(EvmError::Unfunded { account: self.account.address, has, needs })
    }

    async fn offer_all(&mut self) {
        for n in 0..self.pending.len() {
            self.offer(n).await;
        }
    }

    /// Broadcasts the newest attempt of an entry.
    async fn offer(&mut self, n: usize) {
        let Some(pending) = self.pending.get_mut(n) else { return };
        pending.offered = Instant::now();
        let Some(raw) = pending.newest().map(|attempt| attempt.raw.clone()) else { return };
        let nonce = pending.entry.nonce;
        let last_error = match self.chain.evm.broadcast(&raw).await {
            Ok(Broadcast::Accepted | Broadcast::NonceUsed) => None,
            Ok(Broadcast::Refused(words)) => Some(format!("nonce {nonce}: no endpoint takes it: {words}")),
            Err(error) => Some(format!("nonce {nonce}: {error}")),
        };
        self.tell(last_error);
    }

    fn tell(&self, last_error: Option<String>) {
        if let Some(last_error) = &last_error {
            tracing::warn!(account = %self.account.address, last_error, "a transaction was not accepted by an endpoint; it is sent again");
        }
        self.last_error.send_replace(last_error);
    }

    /// Looks after everything that is pending.
    async fn look(&mut self) {
        if self.pending.is_empty() && !self.needs_reload {
            return;
        }
        match self.look_once().await {
            Ok(()) => {}
            Err(error) => self.tell(Some(error.to_string())),
        }
    }

    async fn look_once(&mut self) -> Result<(), SendError> {
        self.reload_if_needed().await?;
        let count = self.count().await?;
        self.next = self.next.max(count);
        let nonces: Vec<u64> = self.pending.iter().map(|pending| pending.entry.nonce).collect();
        let mut done = Ok(());
        for nonce in nonces {
            let Some(n) = self.pending.iter().position(|pending| pending.entry.nonce == nonce) else { continue };
            done = self.look_after(n, count).await.and(done);
        }
        done
    }

    /// One entry; what goes wrong with it holds up no other.
    async fn look_after(&mut self, n: usize, count: u64) -> Result<(), SendError> {
        let stuck = Duration::from_millis(self.chain.evm.config().stuck_ms);
        let Some(pending) = self.pending.get(n) else { return Ok(()) };
        let (nonce, is_stuck) = (pending.entry.nonce, pending.offered.elapsed() >= stuck);
        let found = if nonce < count || is_stuck { self.find(n, count).await? } else { Found::Nowhere };
        match found {
            Found::Ended(outcome) => self.settle(n, outcome).await,
            Found::Nowhere if is_stuck && nonce == count => self.raise(n).await,
            Found::Nowhere if is_stuck => {
                self.offer(n).await;
                Ok(())
            }
            Found::InBlock | Found::Nowhere => Ok(()),
        }
    }

    /// Transactions that the account has in blocks, as enough endpoints say alike: a
    /// nonce that is too high would hold up everything after it.
    async fn count(&self) -> Result<u64, SendError> {
        let evm = &self.chain.evm;
        let count = evm.nonce_at(self.account.address, evm.agreed_head().await?).await?;
        let unknown =
            || EvmError::Unknown { method: "eth_getTransactionCount", why: "too few endpoints know".to_owned() };
        Ok(count.ok_or_else(unknown)?)
    }

    /// Where one of an entry's attempts is, the newest first.
    async fn find(&mut self, n: usize, count: u64) -> Result<Found, SendError> {
        let Some(pending) = self.pending.get(n) else { return Ok(Found::Nowhere) };
        let nonce = pending.entry.nonce;
        let hashes: Vec<B256> = pending.entry.attempts.iter().rev().map(|attempt| attempt.hash).collect();
        for hash in hashes {
            match self.chain.evm.transaction_status(hash).await? {
                TransactionStatus::Confirmed(confirmed) => {
                    return Ok(Found::Ended(TransactionOutcome::Mined(confirmed.mined)));
                }
                TransactionStatus::Unconfirmed { .. } => return Ok(Found::InBlock),
                TransactionStatus::NotFound => {}
            }
        }
        let used = if nonce < count { self.used(nonce).await? } else { None };
        let Some(pending) = self.pending.get_mut(n) else { return Ok(Found::Nowhere) };
        pending.missing_checks = if used.is_some() { pending.missing_checks + u32::from(!self.too_early) } else { 0 };
        Ok(used.filter(|_| pending.missing_checks >= LOST_CHECKS).map_or(Found::Nowhere, Found::Ended))
    }

    /// Whether a nonce is used at the depth that is asked for, as enough endpoints
    /// say alike.
    async fn used(&self, nonce: u64) -> Result<Option<TransactionOutcome>, SendError> {
        let evm = &self.chain.evm;
        let deep = (evm.agreed_head().await? + 1).saturating_sub(evm.config().confirmations);
        let count = evm.nonce_at(self.account.address, deep).await?;
        let block = evm.block(deep).await?;
        let lost = block.filter(|_| count.is_some_and(|count| nonce < count));
        Ok(lost.map(|block| TransactionOutcome::Lost { at: block.reference() }))
    }

    async fn settle(&mut self, n: usize, outcome: TransactionOutcome) -> Result<(), SendError> {
        let Some(nonce) = self.pending.get(n).map(|pending| pending.entry.nonce) else { return Ok(()) };
        let done = self.outbox.settle(&self.account, nonce, &outcome).await;
        self.written(done)?;
        let ended = self.pending.remove(n);
        tracing::info!(account = %self.account.address, key = %ended.entry.key, nonce, ?outcome, "a transaction ended");
        self.tell(None);
        for answer in self.waiting.remove(&ended.entry.key).unwrap_or_default() {
            drop(answer.send(Ok(outcome)));
        }
        Ok(())
    }

    /// Replaces a stuck transaction by one that pays more, if the cap allows; else
    /// offers it again.
    async fn raise(&mut self, n: usize) -> Result<(), SendError> {
        let Some(higher) = self.higher(n).await? else {
            self.offer(n).await;
            return Ok(());
        };
        let Some(pending) = self.pending.get(n) else { return Ok(()) };
        let OutboxEntry { account, nonce, gas_limit, .. } = pending.entry;
        let attempt =
            attempt(&self.key, &TransactionFields { account, nonce, gas_limit, price: higher }, &pending.entry.call)?;
        let done = self.outbox.add(&account, nonce, &attempt).await;
        self.written(done)?;
        if let Some(pending) = self.pending.get_mut(n) {
            pending.entry.attempts.push(attempt);
        }
        tracing::info!(account = %account.address, nonce, max_fee = higher.max_fee(), "a stuck transaction pays more");
        self.offer(n).await;
        Ok(())
    }

    async fn higher(&self, n: usize) -> Result<Option<GasPrice>, SendError> {
        let Some(pending) = self.pending.get(n) else { return Ok(None) };
        let Some(newest) = pending.newest().filter(|_| pending.entry.attempts.len() < MAX_ATTEMPTS) else {
            return Ok(None);
        };
        let fresh = match self.chain.evm.price().await {
            Ok(fresh) => fresh,
            Err(EvmError::GasTooDear { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let old = match fresh {
            GasPrice::Dynamic { .. } => GasPrice::Dynamic { max_fee: newest.max_fee, tip: newest.tip },
            GasPrice::Legacy { .. } => GasPrice::Legacy { gas_price: newest.max_fee },
        };
        Ok(fees::bump(old, fresh, self.chain.evm.caps().max_fee))
    }
}

/// The next nonce, from what the chain has and what was written.
fn follow(account: SenderAccount, count: u64, highest: Option<u64>, pending: &[OutboxEntry]) -> Result<u64, SendError> {
    let ours = highest.map_or(0, |highest| highest + 1);
    let settled = |nonce: u64| !pending.iter().any(|entry| entry.nonce == nonce);
    match (count..ours).rev().find(|nonce| settled(*nonce)) {
        Some(ours) => Err(SendError::Forgotten { account: account.address, chain: count, ours }),
        None => Ok(count.max(ours)),
    }
}

/// The entry, if it is of this call.
pub(super) fn same_call(entry: OutboxEntry, call: &Call) -> Result<OutboxEntry, SendError> {
    if entry.call == *call { Ok(entry) } else { Err(SendError::KeyReused(entry.key)) }
}
