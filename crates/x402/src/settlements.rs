//! Where money is taken, once per payment: reserve, settle, reconcile.
//!
//! ```text
//!            ┌─ seen by the token before it was seen here, or not covered ─▶ refused, no row
//! verified ──┤
//!            └─▶ Reserved ──settle──▶ Settled ──first byte leaves──▶ Answered
//!                  │  ▲                  ▲
//!                  │  └─ not known: the lease is let go; whoever comes next
//!                  │     (the payer's retry, or `reconcile`) asks the token first
//!                  └─ nonce spent elsewhere, or expired unused ─▶ Failed
//! ```

use std::sync::Arc;
use std::time::Duration;

use domain::{B256, U256, UnixMillis};
use tokio::time::timeout;

use crate::funds::FundsCache;
use crate::permits::{Permit, PermitLimits, Permits};
use crate::{
    Authorization, AuthorizationState, ClientAddr, InvalidReason, Payment, PaymentKey, PaymentLease,
    PaymentReservation, PaymentState, Payments, PaymentsError, SignedAuthorization, SubmissionState, TokenReadError,
    TokenReader, TransferError, Transfers,
};

/// What bounds the taking of money.
#[derive(Clone, Copy, Debug)]
pub struct SettlementLimits {
    /// How long one settlement may take before the token is asked about it.
    pub settle_timeout: Duration,
    /// Payments that are checked or settled at once.
    pub max_settling: usize,
    /// Of these, those that one client has brought.
    pub per_client: usize,
    /// Of these, those of one payer.
    pub per_payer: usize,
}

/// Where money is taken. A seller and a facilitator that settle to the same
/// payees share one.
pub struct Settlements {
    payments: Arc<dyn Payments>,
    transfers: Arc<dyn Transfers>,
    token: Arc<dyn TokenReader>,
    settle_timeout: Duration,
    funds: FundsCache,
    permits: Permits,
}

/// What became of a payment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SettleOutcome {
    /// It is paid, not answered, and the lease is the caller's.
    Paid(B256),
    /// It is paid and has bought its answer.
    Answered(B256),
    /// Somebody else is at work on it.
    InFlight,
    /// It will never be taken.
    Refused(InvalidReason),
    /// Its transfer was sent by this transaction and is not confirmed yet.
    Pending(B256),
    /// It is not taken now, and may be later: the row stays.
    Open(InvalidReason),
}

/// Why nothing can be said of a payment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettlementUnknown {
    /// The record does not work.
    #[error(transparent)]
    Record(#[from] PaymentsError),
    /// The token cannot be read.
    #[error(transparent)]
    Token(#[from] TokenReadError),
    /// [`SettlementLimits`] are reached, and no place came free in time.
    #[error("too many payments are under way")]
    Busy,
    /// Nobody can make the transfer just now, and nobody has: nothing was charged.
    #[error("the transfer cannot be sent now: {why}")]
    Unavailable {
        /// What is lacking.
        why: String,
        /// Seconds after which it is not, where that is known.
        retry_after_s: Option<u64>,
    },
}

/// What a pass over what was left open has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReconcileReport {
    /// Found to be paid.
    pub settled: usize,
    /// Found never to be paid.
    pub failed: usize,
    /// Still open.
    pub open: usize,
}

/// Whether a payment that was sent, or may have been, is decided, by the token's word.
enum Resolution {
    Paid(B256),
    Failed(InvalidReason),
    Undecided,
}

/// A reserved payment, to be settled in a task of its own.
struct SettleJob {
    payment: SignedAuthorization,
    lease: PaymentLease,
    /// Who brought it.
    client: ClientAddr,
    /// It was tried before.
    resumed: bool,
}

/// Why one attempt to make a transfer did not end in a confirmed one.
#[derive(Debug)]
enum TransferFailure {
    /// It took too long, or the token could not be read.
    NoAnswer,
    /// The payer does not hold so much any more; nothing was sent.
    InsufficientFunds,
    /// As whoever makes transfers says.
    Error(TransferError),
}

/// Where the record has a payment that may buy something, or why it buys nothing.
pub(crate) type Precheck = Result<Option<PaymentState>, InvalidReason>;

impl Settlements {
    /// Settlements over a record, whoever makes transfers, and the token.
    #[must_use]
    pub fn new(
        payments: Arc<dyn Payments>,
        transfers: Arc<dyn Transfers>,
        token: Arc<dyn TokenReader>,
        limits: SettlementLimits,
    ) -> Self {
        let SettlementLimits { settle_timeout, max_settling, per_client, per_payer } = limits;
        let permits = Permits::new(PermitLimits { all: max_settling, per_client, per_payer });
        let funds = FundsCache::new(Arc::clone(&token));
        Self { payments, transfers, token, settle_timeout, funds, permits }
    }

    pub(crate) fn payments(&self) -> &Arc<dyn Payments> {
        &self.payments
    }

    /// A place for a verified payment.
    pub(crate) async fn permit(
        &self,
        client: ClientAddr,
        payment: &SignedAuthorization,
    ) -> Result<Permit, SettlementUnknown> {
        self.permits.acquire(client, payment.authorization.from).await.ok_or(SettlementUnknown::Busy)
    }

    /// Looks at a verified payment before it costs anything, at a place that is free
    /// again afterwards: one that is not in the record must be unused, since one that was
    /// spent elsewhere buys nothing here, and its payer must hold enough. Says where the
    /// record has it.
    pub(crate) async fn precheck(
        &self,
        client: ClientAddr,
        payment: &SignedAuthorization,
    ) -> Result<Precheck, SettlementUnknown> {
        let _permit = self.permit(client, payment).await?;
        let authorization = &payment.authorization;
        match self.payments.find(&authorization.key()).await? {
            Some((_, state @ PaymentState::Reserved)) => Ok(self.is_funded(payment).await?.map(|()| Some(state))),
            Some((_, state)) => Ok(Ok(Some(state))),
            None => match self.check_token(authorization).await? {
                Ok(()) => Ok(Ok(None)),
                // A copy of the same request may have settled it meanwhile.
                Err(reason) => {
                    let found = self.payments.find(&authorization.key()).await?;
                    Ok(found.map_or(Err(reason), |(_, state)| Ok(Some(state))))
                }
            },
        }
    }

    /// Whether a payment that was reserved and left has its payer's money behind it, as
    /// one that is new must; what was made, or may be on its way, is another question.
    async fn is_funded(&self, payment: &SignedAuthorization) -> Result<Result<(), InvalidReason>, SettlementUnknown> {
        let authorization = &payment.authorization;
        let backed = self.transfers.submission(payment).await != SubmissionState::None
            || self.funds.is_used(authorization).await?
            || self.funds.covers(authorization).await?;
        Ok(if backed { Ok(()) } else { Err(InvalidReason::Funds) })
    }

    /// Whether the token would take an authorization, as far as it said a moment ago.
    pub(crate) async fn check_token(
        &self,
        authorization: &Authorization,
    ) -> Result<Result<(), InvalidReason>, SettlementUnknown> {
        Ok(if self.funds.is_used(authorization).await? {
            Err(InvalidReason::Used)
        } else if self.funds.covers(authorization).await? {
            Ok(())
        } else {
            Err(InvalidReason::Funds)
        })
    }

    /// Takes a payment that was looked at for its request, or says what it met.
    pub(crate) async fn settle(
        self: &Arc<Self>,
        payment: Payment,
        lease: PaymentLease,
        client: ClientAddr,
    ) -> Result<SettleOutcome, SettlementUnknown> {
        let permit = self.permit(client, &payment.signed).await?;
        let resumed = match self.payments.reserve(&payment, lease, payment.seen_at).await? {
            PaymentReservation::New => false,
            PaymentReservation::Resumed => true,
            PaymentReservation::Settled { tx } => return Ok(SettleOutcome::Paid(tx)),
            PaymentReservation::InFlight => return Ok(SettleOutcome::InFlight),
            PaymentReservation::Answered { tx } => return Ok(SettleOutcome::Answered(tx)),
            PaymentReservation::Failed { .. } | PaymentReservation::Conflict => {
                return Ok(SettleOutcome::Refused(InvalidReason::Used));
            }
        };
        let job = SettleJob { payment: payment.signed, lease, client, resumed };
        self.spawn(job, permit).await
    }

    /// Settles what is reserved. In a task of its own: a payer who hangs up must
    /// not leave a transfer that nobody waits for.
    async fn spawn(self: &Arc<Self>, job: SettleJob, permit: Permit) -> Result<SettleOutcome, SettlementUnknown> {
        let settlements = Arc::clone(self);
        let work = tokio::spawn(async move {
            let _permit = permit;
            settlements.run(&job).await
        });
        // A task that died says nothing: the lease runs out by itself.
        work.await.unwrap_or(Ok(SettleOutcome::Open(InvalidReason::Unsettled)))
    }

    async fn run(&self, job: &SettleJob) -> Result<SettleOutcome, SettlementUnknown> {
        let key = job.payment.authorization.key();
        match self.attempt(job).await {
            (Resolution::Undecided, failure) => {
                self.payments.release(&key, job.lease.id).await?;
                self.left_open(job, failure).await
            }
            (decided, _) => self.record(&key, &decided).await,
        }
    }

    /// Makes the transfer and says what became of it. What was tried before is
    /// looked up first, and its payer asked again whether he has the money.
    async fn attempt(&self, job: &SettleJob) -> (Resolution, TransferFailure) {
        let (payment, authorization) = (&job.payment, &job.payment.authorization);
        if job.resumed {
            match self.resolve(authorization).await {
                Ok(Resolution::Undecided) => {}
                Ok(decided) => return (decided, TransferFailure::NoAnswer),
                Err(_) => return (Resolution::Undecided, TransferFailure::NoAnswer),
            }
            match self.is_funded(payment).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return (Resolution::Undecided, TransferFailure::InsufficientFunds),
                Err(_) => return (Resolution::Undecided, TransferFailure::NoAnswer),
            }
        }
        let failure = match timeout(self.settle_timeout, self.transfers.transfer(payment, job.client)).await {
            Ok(Ok(tx)) => return (Resolution::Paid(tx), TransferFailure::NoAnswer),
            Ok(Err(error)) => TransferFailure::Error(error),
            Err(_) => TransferFailure::NoAnswer,
        };
        tracing::info!(payment = %authorization.key(), ?failure, "a transfer was not confirmed; asking the token");
        (self.resolve(authorization).await.unwrap_or(Resolution::Undecided), failure)
    }

    /// What is said of a payment of which nothing is decided.
    async fn left_open(&self, job: &SettleJob, failure: TransferFailure) -> Result<SettleOutcome, SettlementUnknown> {
        let sent = self.transfers.submission(&job.payment).await;
        match (failure, sent) {
            (TransferFailure::InsufficientFunds, _) => Ok(SettleOutcome::Open(InvalidReason::Funds)),
            (TransferFailure::Error(TransferError::Refused(_)), _) => {
                Ok(SettleOutcome::Open(self.refusal_reason(&job.payment.authorization).await))
            }
            (TransferFailure::Error(TransferError::Unavailable { why, retry_after_s }), SubmissionState::None) => {
                Err(SettlementUnknown::Unavailable { why, retry_after_s })
            }
            // Who cannot tell what was sent before knows of this one attempt.
            (TransferFailure::Error(TransferError::Unavailable { why, retry_after_s }), SubmissionState::Unknown)
                if !job.resumed =>
            {
                Err(SettlementUnknown::Unavailable { why, retry_after_s })
            }
            (TransferFailure::NoAnswer | TransferFailure::Error(_), SubmissionState::Transaction(tx)) => {
                Ok(SettleOutcome::Pending(tx))
            }
            (
                TransferFailure::NoAnswer | TransferFailure::Error(_),
                SubmissionState::None | SubmissionState::Unknown,
            ) => Ok(SettleOutcome::Open(InvalidReason::Unsettled)),
        }
    }

    async fn resolve(&self, authorization: &Authorization) -> Result<Resolution, TokenReadError> {
        Ok(match self.token.state(authorization).await? {
            AuthorizationState::Paid { tx } => Resolution::Paid(tx),
            AuthorizationState::Void => Resolution::Failed(InvalidReason::Used),
            AuthorizationState::Unused { as_of } if U256::from(as_of) >= authorization.valid_before => {
                Resolution::Failed(InvalidReason::ValidBefore)
            }
            AuthorizationState::Unused { .. } => Resolution::Undecided,
        })
    }

    async fn record(&self, key: &PaymentKey, resolution: &Resolution) -> Result<SettleOutcome, SettlementUnknown> {
        match resolution {
            Resolution::Paid(tx) => {
                self.payments.settled(key, *tx).await?;
                Ok(SettleOutcome::Paid(*tx))
            }
            Resolution::Failed(reason) => {
                self.payments.failed(key, reason.code(crate::Dialect::V2)).await?;
                Ok(SettleOutcome::Refused(*reason))
            }
            Resolution::Undecided => Ok(SettleOutcome::Open(InvalidReason::Unsettled)),
        }
    }

    /// Why the token refused: for want of money, or for a reason of its own.
    async fn refusal_reason(&self, authorization: &Authorization) -> InvalidReason {
        let Authorization { chain_id, asset, from, value, .. } = *authorization;
        match self.token.balance(chain_id, asset, from).await {
            Ok(held) if held < value => InvalidReason::Funds,
            _ => InvalidReason::Transfer,
        }
    }

    /// Looks at payments that were reserved and left: by a crash, a time-out, a
    /// payer who never came back. Sends nothing; to be called at start and then
    /// every few seconds.
    ///
    /// # Errors
    /// When the record does not work. A token that cannot be read leaves its
    /// payments open.
    pub async fn reconcile(&self, now: UnixMillis, limit: usize) -> Result<ReconcileReport, PaymentsError> {
        let mut done = ReconcileReport::default();
        for payment in self.payments.pending(now, limit).await? {
            let key = payment.key();
            match self.resolve(&payment.signed.authorization).await.unwrap_or(Resolution::Undecided) {
                Resolution::Paid(tx) => {
                    self.payments.settled(&key, tx).await?;
                    done.settled += 1;
                }
                Resolution::Failed(reason) => {
                    self.payments.failed(&key, reason.code(crate::Dialect::V2)).await?;
                    done.failed += 1;
                }
                Resolution::Undecided => done.open += 1,
            }
        }
        Ok(done)
    }
}
