//! One task carries one entry to its end, whatever the chain does meanwhile.
//!
//! Each step is written down before it is done, and doing it again under the same
//! key changes nothing: a task that dies with the process is taken up by the next.

use std::collections::hash_map::Entry as Slot;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use alloy_primitives::B256;
use chain::evm::calls;
use domain::Backoff;
use domain::payment::{Authorization, AuthorizationState};
use domain::relay::{
    CollectedFee, FinalStatus, RelayEntry, RelayJournalError, RelayOutcome, RelayState, RelayTransaction,
};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Instant, sleep, timeout_at};

use crate::chain::{ChainError, Simulation, TransactionReceipt, TransactionState};
use crate::error::RelayError;
use crate::outcome;
use crate::request::VerifiedRequest;
use crate::state::{EntryProgress, Inner};
use crate::text::printable;

/// How long the chain is asked to wait for a transaction at a time.
const LOOK: Duration = Duration::from_secs(30);
/// The pauses after failed steps.
const BACKOFF: Backoff = Backoff { first: Duration::from_millis(250), longest: Duration::from_secs(10) };
/// Failures in a row after which a task gives up. Its entry stays open, and is
/// taken up again by the next look or the same request.
const MAX_FAILURES: u32 = 360;

/// Why a step could not be taken just now.
#[derive(Debug, thiserror::Error)]
enum StepError {
    #[error(transparent)]
    Chain(#[from] ChainError),
    #[error(transparent)]
    Journal(#[from] RelayJournalError),
    #[error("the entry before it is not in the journal any more")]
    PredecessorGone,
    #[error("the sender has no record of a transaction that it took")]
    Lost,
}

impl Inner {
    /// The progress of an entry that stands in the journal.
    pub(crate) fn watch(self: &Arc<Self>, entry: RelayEntry) -> watch::Receiver<EntryProgress> {
        if entry.state.is_open() {
            return Self::start(self, entry, None);
        }
        watch::channel(EntryProgress { entry, tx: None }).1
    }

    /// Starts an entry's task, unless it has one.
    pub(crate) fn start(
        inner: &Arc<Self>,
        entry: RelayEntry,
        permit: Option<OwnedSemaphorePermit>,
    ) -> watch::Receiver<EntryProgress> {
        let id = entry.id;
        let mut running = inner.running.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = match running.entry(id) {
            Slot::Occupied(slot) => return slot.get().clone(),
            Slot::Vacant(slot) => slot,
        };
        let (sender, receiver) = watch::channel(EntryProgress { entry: entry.clone(), tx: None });
        slot.insert(receiver.clone());
        let inner = Arc::clone(inner);
        tokio::spawn(async move {
            inner.carry(entry, &sender).await;
            inner.running.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
            drop(permit);
        });
        receiver
    }

    /// Waits until an entry has ended, as long as answers may take.
    pub(crate) async fn wait(&self, progress: watch::Receiver<EntryProgress>) -> EntryProgress {
        self.wait_until(progress, Instant::now() + Duration::from_millis(self.config.wait_ms)).await
    }

    /// The same for many, all together.
    pub(crate) async fn wait_all(&self, all: Vec<watch::Receiver<EntryProgress>>) -> Vec<EntryProgress> {
        let until = Instant::now() + Duration::from_millis(self.config.wait_ms);
        let mut ended = Vec::with_capacity(all.len());
        for progress in all {
            ended.push(self.wait_until(progress, until).await);
        }
        ended
    }

    async fn wait_until(&self, mut progress: watch::Receiver<EntryProgress>, until: Instant) -> EntryProgress {
        let over = |it: &EntryProgress| !it.entry.state.is_open();
        // Both a task that gave up and a time-out leave the newest state behind.
        let _ = timeout_at(until, progress.wait_for(over)).await;
        let newest = progress.borrow();
        newest.clone()
    }

    async fn carry(self: &Arc<Self>, mut entry: RelayEntry, progress: &watch::Sender<EntryProgress>) {
        let mut failures = 0;
        while entry.state.is_open() && failures < MAX_FAILURES {
            match self.step(&entry, progress).await {
                Ok(next) => {
                    (entry, failures) = (next, 0);
                    progress.send_modify(|it| it.entry = entry.clone());
                }
                Err(error) => {
                    tracing::warn!(id = %entry.id, %error, "the next step of a relayed call failed; it is tried again");
                    failures += 1;
                    sleep(BACKOFF.after(failures)).await;
                }
            }
        }
        self.note(&entry);
    }

    async fn step(
        self: &Arc<Self>,
        entry: &RelayEntry,
        progress: &watch::Sender<EntryProgress>,
    ) -> Result<RelayEntry, StepError> {
        let next = match &entry.state {
            RelayState::Paying => self.collect(entry, progress).await?,
            RelayState::Sending { fee } => {
                let outcome = self.send(entry, progress).await?;
                outcome.map(|outcome| RelayState::Done { fee: *fee, outcome })
            }
            RelayState::Done { .. } | RelayState::Unpaid { .. } => None,
        };
        match next {
            Some(next) => Ok(self.journal.step(entry.id, &next).await?),
            None => Ok(entry.clone()),
        }
    }

    /// Collects the fee. `None` while that is not known.
    async fn collect(
        &self,
        entry: &RelayEntry,
        progress: &watch::Sender<EntryProgress>,
    ) -> Result<Option<RelayState>, StepError> {
        let Some(fee) = &entry.payment else { return Ok(Some(unpaid("no payment is written down"))) };
        let authorization = &fee.signed.authorization;
        let call = calls::transfer_with_authorization(&fee.signed);
        let transaction = RelayTransaction { to: call.to, value: call.value, data: call.data, gas: fee.gas };
        let state = match self.carry_out(fee.key(), &transaction).await? {
            TransactionState::Pending(tx) => {
                progress.send_modify(|it| it.tx = tx);
                return Ok(None);
            }
            TransactionState::Mined(mined) if mined.succeeded && authorization.is_paid_by(&mined.logs) => {
                paid(authorization, mined.tx)
            }
            TransactionState::Unknown => return Err(StepError::Lost),
            TransactionState::Mined(_) => self.paid_otherwise(authorization, "the token refused it").await?,
            TransactionState::Dropped(why) => self.paid_otherwise(authorization, &why).await?,
        };
        Ok(Some(state))
    }

    /// Anyone can have sent the authorization before us; then we are paid all the
    /// same.
    async fn paid_otherwise(&self, authorization: &Authorization, why: &str) -> Result<RelayState, StepError> {
        Ok(match self.chain.authorization(authorization).await? {
            AuthorizationState::Paid { tx } => paid(authorization, tx),
            AuthorizationState::Unused { .. } | AuthorizationState::Void => unpaid(why),
        })
    }

    /// Sends the call. `None` while its outcome is not known.
    async fn send(
        self: &Arc<Self>,
        entry: &RelayEntry,
        progress: &watch::Sender<EntryProgress>,
    ) -> Result<Option<RelayOutcome>, StepError> {
        if let Some(before) = entry.after
            && let Some(outcome) = self.take_turn(entry, before).await?
        {
            return Ok(Some(outcome));
        }
        match self.carry_out(entry.key(), &entry.transaction).await? {
            TransactionState::Pending(tx) => {
                progress.send_modify(|it| it.tx = tx);
                Ok(None)
            }
            TransactionState::Mined(mined) => self.judge(entry, &mined).await.map(Some),
            TransactionState::Unknown => Err(StepError::Lost),
            TransactionState::Dropped(why) => Ok(Some(outcome::never(&printable(&why)))),
        }
    }

    /// Waits for the entry before; how this one ends if it must not be sent then.
    async fn take_turn(self: &Arc<Self>, entry: &RelayEntry, before: B256) -> Result<Option<RelayOutcome>, StepError> {
        let before = self.journal.find(before).await?.ok_or(StepError::PredecessorGone)?;
        let mut before = self.watch(before);
        let over = |it: &EntryProgress| !it.entry.state.is_open();
        let state = before.wait_for(over).await.map_err(|_| StepError::PredecessorGone)?.entry.state.clone();
        if !matches!(&state, RelayState::Done { outcome, .. } if outcome.status.is_final()) {
            return Ok(Some(outcome::never(
                "an earlier request of this signer was not carried out; this one was not sent",
            )));
        }
        self.try_again(entry).await
    }

    /// Tries a request right before it is sent, unless it was handed over before.
    async fn try_again(&self, entry: &RelayEntry) -> Result<Option<RelayOutcome>, StepError> {
        let Some(request) = VerifiedRequest::restore(entry) else { return Ok(None) };
        if self.chain.outcome(entry.key(), Duration::ZERO).await? != TransactionState::Unknown {
            return Ok(None);
        }
        match self.try_out(&request).await {
            Ok(_) => Ok(None),
            Err(RelayError::Chain(error)) => Err(error.into()),
            Err(refusal) => Ok(Some(outcome::never(&printable(&refusal.to_string())))),
        }
    }

    async fn judge(&self, entry: &RelayEntry, mined: &TransactionReceipt) -> Result<RelayOutcome, StepError> {
        let Some(used) = &entry.nonce else { return Ok(outcome::of_call(mined)) };
        let Some(mut outcome) = outcome::of_request(mined, used) else {
            return Ok(outcome::skipped(mined, self.chain.nonce(used.from).await? > used.nonce));
        };
        if outcome.status == FinalStatus::Reverted {
            outcome.reason = self.why(entry).await.or(outcome.reason);
        }
        Ok(outcome)
    }

    /// What the called contract says when it is asked once more; the forwarder keeps
    /// no reasons.
    async fn why(&self, entry: &RelayEntry) -> Option<String> {
        let request = VerifiedRequest::restore(entry)?;
        match self.chain.simulate(&self.inner_call(&request)).await {
            Ok(Simulation::Reverted(why)) => Some(printable(&format!("the called contract reverted: {why}"))),
            Ok(Simulation::Done(_)) | Err(_) => None,
        }
    }

    /// Hands a transaction to the chain, and asks what became of it.
    async fn carry_out(&self, key: B256, transaction: &RelayTransaction) -> Result<TransactionState, StepError> {
        match self.chain.submit(key, transaction).await {
            Ok(()) => Ok(self.chain.outcome(key, LOOK).await?),
            Err(ChainError::Refused(why)) => Ok(TransactionState::Dropped(why)),
            Err(error @ ChainError::Unavailable(_)) => Err(error.into()),
        }
    }

    fn note(&self, entry: &RelayEntry) {
        let outcome = match &entry.state {
            RelayState::Paying | RelayState::Sending { .. } => "waits",
            RelayState::Unpaid { .. } => "unpaid",
            RelayState::Done { outcome, .. } => match outcome.status {
                FinalStatus::Executed => "executed",
                FinalStatus::Reverted => "reverted",
                FinalStatus::Failed => "failed",
                FinalStatus::Superseded => "superseded",
            },
        };
        let millis = self.clock.now().since(entry.at);
        self.latency.note(millis);
        metrics::counter!("palatine_relayed_total", "outcome" => outcome).increment(1);
        metrics::histogram!("palatine_relay_seconds").record(Duration::from_millis(millis).as_secs_f64());
        tracing::info!(id = %entry.id, outcome, millis, "a relayed call ended");
    }
}

const fn paid(authorization: &Authorization, tx: B256) -> RelayState {
    RelayState::Sending { fee: Some(CollectedFee { amount: authorization.value, tx }) }
}

fn unpaid(why: &str) -> RelayState {
    RelayState::Unpaid { why: printable(why) }
}
