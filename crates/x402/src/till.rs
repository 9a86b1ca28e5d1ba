//! Where money is taken, once per payment: reserve, settle, reconcile.
//!
//! ```text
//!            ┌─ seen by the token before it was seen here, or not covered ─▶ refused, no row
//! verified ──┤
//!            └─▶ Reserved ──settle──▶ Settled ──first byte leaves──▶ Answered
//!                  │  ▲                  ▲
//!                  │  └─ not known: the claim is let go; whoever comes next
//!                  │     (the payer's retry, or `reconcile`) asks the token first
//!                  └─ nonce spent elsewhere, or expired unused ─▶ Failed
//! ```

use std::sync::Arc;
use std::time::Duration;

use domain::{B256, U256, UnixMillis};
use tokio::time::timeout;

use crate::funds::Funds;
use crate::places::{Place, Places, Room};
use crate::{
    Authorization, AuthorizationState, Authorizations, Client, Payment, PaymentClaim, PaymentKey, PaymentState,
    Payments, PaymentsError, Reason, ReserveOutcome, Sent, SettleError, Settled, Settlement, SignedAuthorization,
    Unread,
};

/// What bounds the taking of money.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
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
pub struct Till {
    payments: Arc<dyn Payments>,
    settlement: Arc<dyn Settlement>,
    chain: Arc<dyn Authorizations>,
    settle_timeout: Duration,
    funds: Funds,
    places: Places,
}

/// What became of a payment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// It is paid, not answered, and the claim is the caller's.
    Paid(B256),
    /// It is paid and has bought its answer.
    Answered(B256),
    /// Somebody else is at work on it.
    InFlight,
    /// It will never be taken.
    Refused(Reason),
    /// Its transfer was sent by this transaction and is not confirmed yet.
    Pending(B256),
    /// It is not taken now, and may be later: the row stays.
    Open(Reason),
}

/// Why nothing can be said of a payment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TillError {
    /// The record does not work.
    #[error(transparent)]
    Record(#[from] PaymentsError),
    /// The token cannot be read.
    #[error(transparent)]
    Unread(#[from] Unread),
    /// [`Limits`] are reached, and no place came free in time.
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
pub struct Reconciled {
    /// Found to be paid.
    pub settled: usize,
    /// Found never to be paid.
    pub failed: usize,
    /// Still open.
    pub open: usize,
}

/// What the token says of a payment that was sent, or may have been.
enum Fate {
    Paid(B256),
    Dead(Reason),
    Open,
}

/// A reserved payment that is to be settled.
struct Collection {
    payment: SignedAuthorization,
    claim: PaymentClaim,
    /// Who brought it.
    client: Client,
    /// It was tried before.
    resumed: bool,
}

/// What one attempt to make a transfer met.
#[derive(Debug)]
enum Met {
    /// Nobody's word: it took too long, or the token could not be read.
    Silence,
    /// A payer who does not hold what he promised, before anything was sent.
    EmptyPurse,
    /// Whoever makes transfers says no.
    No(SettleError),
}

/// Where the record has a payment that may buy something, or why it buys nothing.
pub(crate) type Looked = Result<Option<PaymentState>, Reason>;

impl Till {
    /// A till over a record, whoever makes transfers, and the token.
    #[must_use]
    pub fn new(
        payments: Arc<dyn Payments>,
        settlement: Arc<dyn Settlement>,
        chain: Arc<dyn Authorizations>,
        limits: Limits,
    ) -> Self {
        let Limits { settle_timeout, max_settling, per_client, per_payer } = limits;
        let places = Places::new(Room { all: max_settling, per_client, per_payer });
        let funds = Funds::new(Arc::clone(&chain));
        Self { payments, settlement, chain, settle_timeout, funds, places }
    }

    pub(crate) fn payments(&self) -> &Arc<dyn Payments> {
        &self.payments
    }

    /// A place for a verified payment.
    pub(crate) async fn enter(&self, client: Client, payment: &SignedAuthorization) -> Result<Place, TillError> {
        self.places.enter(client, payment.authorization.from).await.ok_or(TillError::Busy)
    }

    /// Looks at a verified payment before it costs anything, at a place that is free
    /// again afterwards: one that is not in the record must be unused, since one that was
    /// spent elsewhere buys nothing here, and its payer must hold enough. Says where the
    /// record has it.
    pub(crate) async fn look(&self, client: Client, payment: &SignedAuthorization) -> Result<Looked, TillError> {
        let _place = self.enter(client, payment).await?;
        let authorization = &payment.authorization;
        match self.payments.find(&authorization.key()).await? {
            Some((_, state @ PaymentState::Reserved)) => Ok(self.is_backed(payment).await?.map(|()| Some(state))),
            Some((_, state)) => Ok(Ok(Some(state))),
            None => match self.promises(authorization).await? {
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
    async fn is_backed(&self, payment: &SignedAuthorization) -> Result<Result<(), Reason>, TillError> {
        let authorization = &payment.authorization;
        let backed = self.settlement.sent(payment).await != Sent::Never
            || self.funds.is_used(authorization).await?
            || self.funds.covers(authorization).await?;
        Ok(if backed { Ok(()) } else { Err(Reason::Funds) })
    }

    /// Whether the token would take an authorization, as far as it said a moment ago.
    pub(crate) async fn promises(&self, authorization: &Authorization) -> Result<Result<(), Reason>, TillError> {
        Ok(if self.funds.is_used(authorization).await? {
            Err(Reason::Used)
        } else if self.funds.covers(authorization).await? {
            Ok(())
        } else {
            Err(Reason::Funds)
        })
    }

    /// Takes a payment that was looked at for its request, or says what it met.
    pub(crate) async fn take(
        self: &Arc<Self>,
        reservation: Payment,
        claim: PaymentClaim,
        client: Client,
    ) -> Result<Taken, TillError> {
        let place = self.enter(client, &reservation.signed).await?;
        let resumed = match self.payments.reserve(&reservation, claim, reservation.seen_at).await? {
            ReserveOutcome::New => false,
            ReserveOutcome::Resumed => true,
            ReserveOutcome::Settled { tx } => return Ok(Taken::Paid(tx)),
            ReserveOutcome::InFlight => return Ok(Taken::InFlight),
            ReserveOutcome::Answered { tx } => return Ok(Taken::Answered(tx)),
            ReserveOutcome::Failed { .. } | ReserveOutcome::Conflict => return Ok(Taken::Refused(Reason::Used)),
        };
        let order = Collection { payment: reservation.signed, claim, client, resumed };
        self.collect(order, place).await
    }

    /// Settles what is reserved. In a task of its own: a payer who hangs up must
    /// not leave a transfer that nobody waits for.
    async fn collect(self: &Arc<Self>, order: Collection, place: Place) -> Result<Taken, TillError> {
        let till = Arc::clone(self);
        let work = tokio::spawn(async move {
            let _place = place;
            till.settle(&order).await
        });
        // A task that died says nothing: the claim runs out by itself.
        work.await.unwrap_or(Ok(Taken::Open(Reason::Unsettled)))
    }

    async fn settle(&self, order: &Collection) -> Result<Taken, TillError> {
        let key = order.payment.authorization.key();
        match self.send(order).await {
            (Fate::Open, met) => {
                self.payments.release(&key, order.claim.id).await?;
                self.left_open(order, met).await
            }
            (decided, _) => self.note(&key, &decided).await,
        }
    }

    /// Makes the transfer and says what became of it. What was tried before is
    /// looked up first, and its payer asked again whether he has the money.
    async fn send(&self, order: &Collection) -> (Fate, Met) {
        let (payment, authorization) = (&order.payment, &order.payment.authorization);
        if order.resumed {
            match self.fate(authorization).await {
                Ok(Fate::Open) => {}
                Ok(decided) => return (decided, Met::Silence),
                Err(_) => return (Fate::Open, Met::Silence),
            }
            match self.is_backed(payment).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return (Fate::Open, Met::EmptyPurse),
                Err(_) => return (Fate::Open, Met::Silence),
            }
        }
        let met = match timeout(self.settle_timeout, self.settlement.settle(payment, order.client)).await {
            Ok(Ok(Settled { tx })) => return (Fate::Paid(tx), Met::Silence),
            Ok(Err(error)) => Met::No(error),
            Err(_) => Met::Silence,
        };
        tracing::info!(payment = %authorization.key(), error = ?met, "a transfer was not confirmed; asking the token");
        (self.fate(authorization).await.unwrap_or(Fate::Open), met)
    }

    /// What is said of a payment of which nothing is decided.
    async fn left_open(&self, order: &Collection, met: Met) -> Result<Taken, TillError> {
        let sent = self.settlement.sent(&order.payment).await;
        match (met, sent) {
            (Met::EmptyPurse, _) => Ok(Taken::Open(Reason::Funds)),
            (Met::No(SettleError::Refused(_)), _) => Ok(Taken::Open(self.why(&order.payment.authorization).await)),
            (Met::No(SettleError::Unavailable { why, retry_after_s }), Sent::Never) => {
                Err(TillError::Unavailable { why, retry_after_s })
            }
            // Who cannot tell what was sent before knows of this one attempt.
            (Met::No(SettleError::Unavailable { why, retry_after_s }), Sent::Unknown) if !order.resumed => {
                Err(TillError::Unavailable { why, retry_after_s })
            }
            (Met::Silence | Met::No(_), Sent::As(tx)) => Ok(Taken::Pending(tx)),
            (Met::Silence | Met::No(_), Sent::Never | Sent::Unknown) => Ok(Taken::Open(Reason::Unsettled)),
        }
    }

    async fn fate(&self, authorization: &Authorization) -> Result<Fate, Unread> {
        Ok(match self.chain.state(authorization).await? {
            AuthorizationState::Paid { tx } => Fate::Paid(tx),
            AuthorizationState::Void => Fate::Dead(Reason::Used),
            AuthorizationState::Unused { as_of } if U256::from(as_of) >= authorization.valid_before => {
                Fate::Dead(Reason::ValidBefore)
            }
            AuthorizationState::Unused { .. } => Fate::Open,
        })
    }

    async fn note(&self, key: &PaymentKey, fate: &Fate) -> Result<Taken, TillError> {
        match fate {
            Fate::Paid(tx) => {
                self.payments.settled(key, *tx).await?;
                Ok(Taken::Paid(*tx))
            }
            Fate::Dead(reason) => {
                self.payments.failed(key, reason.code(crate::Dialect::V2)).await?;
                Ok(Taken::Refused(*reason))
            }
            Fate::Open => Ok(Taken::Open(Reason::Unsettled)),
        }
    }

    /// Why the token refused: for want of money, or for a reason of its own.
    async fn why(&self, authorization: &Authorization) -> Reason {
        let Authorization { chain_id, asset, from, value, .. } = *authorization;
        match self.chain.balance(chain_id, asset, from).await {
            Ok(held) if held < value => Reason::Funds,
            _ => Reason::Transfer,
        }
    }

    /// Looks at payments that were reserved and left: by a crash, a time-out, a
    /// payer who never came back. Sends nothing; to be called at start and then
    /// every few seconds.
    ///
    /// # Errors
    /// When the record does not work. A token that cannot be read leaves its
    /// payments open.
    pub async fn reconcile(&self, now: UnixMillis, limit: usize) -> Result<Reconciled, PaymentsError> {
        let mut done = Reconciled::default();
        for reservation in self.payments.pending(now, limit).await? {
            let key = reservation.key();
            match self.fate(&reservation.signed.authorization).await.unwrap_or(Fate::Open) {
                Fate::Paid(tx) => {
                    self.payments.settled(&key, tx).await?;
                    done.settled += 1;
                }
                Fate::Dead(reason) => {
                    self.payments.failed(&key, reason.code(crate::Dialect::V2)).await?;
                    done.failed += 1;
                }
                Fate::Open => done.open += 1,
            }
        }
        Ok(done)
    }
}
