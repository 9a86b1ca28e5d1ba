//! A record and a token in memory, for tests.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Mutex, PoisonError};

use alloy_primitives::{Signature, keccak256};
use async_trait::async_trait;
use domain::{Address, B256, UnixMillis, Usdc};
use k256::ecdsa::SigningKey;

use crate::{
    Authorization, AuthorizationState, ClientAddr, Payment, PaymentKey, PaymentLease, PaymentReservation, PaymentState,
    Payments, PaymentsError, SignError, SignHash, SignedAuthorization, SubmissionState, TokenReadError, TokenReader,
    TransferError, Transfers,
};

/// Somebody who pays, with a key of his own.
#[derive(Clone, Debug)]
pub struct Payer(SigningKey);

impl Payer {
    /// The payer whose key has this byte throughout.
    ///
    /// # Panics
    /// For 0 and 255, which make no key.
    #[must_use]
    pub fn new(byte: u8) -> Self {
        Self::of_secret(&[byte; 32])
    }

    /// The payer with this key.
    ///
    /// # Panics
    /// When it is none.
    #[must_use]
    #[expect(clippy::expect_used, reason = "a test that names no key has failed")]
    pub fn of_secret(secret: &[u8; 32]) -> Self {
        Self(SigningKey::from_slice(secret).expect("a key"))
    }
}

impl SignHash for Payer {
    fn address(&self) -> Address {
        Address::from_private_key(&self.0)
    }

    fn sign(&self, hash: &B256) -> Result<Signature, SignError> {
        let signed = self.0.sign_prehash_recoverable(hash.as_slice());
        signed.map(Signature::from).map_err(|error| SignError(error.to_string()))
    }
}

/// A record in memory. It is as strict as one on disk.
#[derive(Debug, Default)]
pub struct FakePayments {
    rows: Mutex<Rows>,
}

#[derive(Debug, Default)]
struct Rows {
    rows: BTreeMap<PaymentKey, Row>,
    broken: bool,
}

#[derive(Debug)]
struct Row {
    payment: Payment,
    state: PaymentState,
    lease: Option<PaymentLease>,
    looked_at: UnixMillis,
}

impl Row {
    fn reserve(&mut self, payment: &Payment, lease: PaymentLease, now: UnixMillis) -> PaymentReservation {
        if !self.payment.is_same(payment) {
            return PaymentReservation::Conflict;
        }
        match &self.state {
            PaymentState::Answered { tx } => return PaymentReservation::Answered { tx: *tx },
            PaymentState::Failed { reason } => return PaymentReservation::Failed { reason: reason.clone() },
            PaymentState::Reserved | PaymentState::Settled { .. } => {}
        }
        if self.lease.is_some_and(|held| held.until > now) {
            return PaymentReservation::InFlight;
        }
        self.lease = Some(lease);
        match self.state {
            PaymentState::Settled { tx } => PaymentReservation::Settled { tx },
            _ => PaymentReservation::Resumed,
        }
    }
}

impl FakePayments {
    /// Makes every call fail, or work again.
    pub fn break_down(&self, broken: bool) {
        self.with(|rows| rows.broken = broken);
    }

    /// How many payments are recorded.
    #[must_use]
    pub fn len(&self) -> usize {
        self.with(|rows| rows.rows.len())
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn with<T>(&self, work: impl FnOnce(&mut Rows) -> T) -> T {
        work(&mut self.rows.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn working<T>(&self, work: impl FnOnce(&mut BTreeMap<PaymentKey, Row>) -> T) -> Result<T, PaymentsError> {
        self.with(|rows| {
            if rows.broken {
                Err(PaymentsError::Unavailable("the test said so".into()))
            } else {
                Ok(work(&mut rows.rows))
            }
        })
    }

    fn step(
        &self,
        key: &PaymentKey,
        wanted: &'static str,
        step: impl FnOnce(&mut Row) -> bool,
    ) -> Result<(), PaymentsError> {
        let taken = self.working(|rows| rows.get_mut(key).is_some_and(step))?;
        if taken { Ok(()) } else { Err(PaymentsError::Step { key: Box::new(*key), wanted }) }
    }
}

#[async_trait]
impl Payments for FakePayments {
    async fn reserve(
        &self,
        payment: &Payment,
        lease: PaymentLease,
        now: UnixMillis,
    ) -> Result<PaymentReservation, PaymentsError> {
        self.working(|rows| {
            if let Some(row) = rows.get_mut(&payment.key()) {
                return row.reserve(payment, lease, now);
            }
            let row = Row {
                payment: payment.clone(),
                state: PaymentState::Reserved,
                lease: Some(lease),
                looked_at: payment.seen_at,
            };
            rows.insert(payment.key(), row);
            PaymentReservation::New
        })
    }

    async fn settled(&self, key: &PaymentKey, tx: B256) -> Result<(), PaymentsError> {
        self.step(key, "settled", |row| match row.state {
            PaymentState::Reserved => {
                row.state = PaymentState::Settled { tx };
                true
            }
            PaymentState::Settled { tx: known } | PaymentState::Answered { tx: known } => known == tx,
            PaymentState::Failed { .. } => false,
        })
    }

    async fn failed(&self, key: &PaymentKey, reason: &str) -> Result<(), PaymentsError> {
        self.step(key, "failed", |row| match row.state {
            PaymentState::Reserved => {
                row.state = PaymentState::Failed { reason: reason.to_owned() };
                true
            }
            PaymentState::Failed { .. } => true,
            PaymentState::Settled { .. } | PaymentState::Answered { .. } => false,
        })
    }

    async fn answered(&self, key: &PaymentKey, lease: u64) -> Result<bool, PaymentsError> {
        self.working(|rows| {
            let Some(row) = rows.get_mut(key) else { return false };
            match (&row.state, row.lease) {
                (PaymentState::Settled { tx }, Some(held)) if held.id == lease => {
                    row.state = PaymentState::Answered { tx: *tx };
                    true
                }
                _ => false,
            }
        })
    }

    async fn release(&self, key: &PaymentKey, lease: u64) -> Result<(), PaymentsError> {
        self.working(|rows| {
            if let Some(row) = rows.get_mut(key)
                && row.lease.is_some_and(|held| held.id == lease)
            {
                row.lease = None;
            }
        })
    }

    async fn find(&self, key: &PaymentKey) -> Result<Option<(Payment, PaymentState)>, PaymentsError> {
        self.working(|rows| rows.get(key).map(|row| (row.payment.clone(), row.state.clone())))
    }

    async fn pending(&self, now: UnixMillis, limit: usize) -> Result<Vec<Payment>, PaymentsError> {
        self.working(|rows| {
            let is_open =
                |row: &&mut Row| row.state == PaymentState::Reserved && row.lease.is_none_or(|held| held.until <= now);
            let mut open: Vec<_> = rows.values_mut().filter(is_open).collect();
            open.sort_by_key(|row| (row.looked_at, row.payment.seen_at));
            open.truncate(limit);
            open.iter_mut().for_each(|row| row.looked_at = now);
            open.iter().map(|row| row.payment.clone()).collect()
        })
    }
}

/// What the fake's settlement does next.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum TransferBehavior {
    /// It settles and says so.
    #[default]
    Settles,
    /// It settles, and then never answers.
    SettlesWithoutAnswer,
    /// It settles nothing and never answers.
    NeverAnswers,
    /// It says that it settled, and did not.
    ClaimsFalsely,
    /// It sends nothing.
    Unavailable,
    /// It settles nothing, and does not know.
    UnknownOutcome,
    /// It has sent the transfer, and nothing mines it.
    StaysPending,
}

/// A token in memory with balances and used nonces, and whoever settles on it.
#[derive(Debug, Default)]
pub struct FakeChain {
    state: Mutex<Ledger>,
}

#[derive(Debug, Default)]
struct Ledger {
    balances: HashMap<(Address, Address), Usdc>,
    paid: HashMap<PaymentKey, (Authorization, B256)>,
    cancelled: HashSet<PaymentKey>,
    behavior: TransferBehavior,
    time: u64,
    settlements: usize,
    clients: HashSet<ClientAddr>,
    readings: usize,
    unreadable: bool,
}

impl FakeChain {
    /// For how many seconds [`TransferBehavior::Unavailable`] says that it lasts.
    pub const UNAVAILABLE_S: u64 = 3600;

    /// Gives an account so much of a token.
    pub fn give(&self, asset: Address, owner: Address, amount: Usdc) {
        self.with(|ledger| ledger.balances.insert((asset, owner), amount));
    }

    /// What an account holds.
    #[must_use]
    pub fn holds(&self, asset: Address, owner: Address) -> Usdc {
        self.with(|ledger| ledger.held(asset, owner))
    }

    /// Sets what the settlement does from now on.
    pub fn set_behavior(&self, behavior: TransferBehavior) {
        self.with(|ledger| ledger.behavior = behavior);
    }

    /// Sets the newest block's time, in Unix seconds.
    pub fn set_time(&self, seconds: u64) {
        self.with(|ledger| ledger.time = seconds);
    }

    /// Makes reading fail, or work again.
    pub fn hide(&self, unreadable: bool) {
        self.with(|ledger| ledger.unreadable = unreadable);
    }

    /// Uses a payment's nonce up without paying, as its payer can.
    pub fn cancel(&self, key: PaymentKey) {
        self.with(|ledger| ledger.cancelled.insert(key));
    }

    /// Makes the transfer, as anybody can who has seen the signature.
    ///
    /// # Errors
    /// As the token refuses it.
    pub fn execute(&self, authorization: &Authorization) -> Result<B256, TransferError> {
        self.with(|ledger| ledger.execute(authorization))
    }

    /// How many transfers were asked for.
    #[must_use]
    pub fn settlements(&self) -> usize {
        self.with(|ledger| ledger.settlements)
    }

    /// Whether a transfer was asked for on behalf of this client.
    #[must_use]
    pub fn served(&self, client: ClientAddr) -> bool {
        self.with(|ledger| ledger.clients.contains(&client))
    }

    /// How often the token was asked anything.
    #[must_use]
    pub fn readings(&self) -> usize {
        self.with(|ledger| ledger.readings)
    }

    fn read<T>(&self, work: impl FnOnce(&Ledger) -> T) -> Result<T, TokenReadError> {
        self.with(|ledger| {
            ledger.readings += 1;
            if ledger.unreadable { Err(TokenReadError("the test said so".into())) } else { Ok(work(ledger)) }
        })
    }

    fn with<T>(&self, work: impl FnOnce(&mut Ledger) -> T) -> T {
        work(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The transaction that makes a payment.
fn tx_of(key: &PaymentKey) -> B256 {
    keccak256(key.to_string())
}

impl Ledger {
    fn held(&self, asset: Address, owner: Address) -> Usdc {
        self.balances.get(&(asset, owner)).copied().unwrap_or_default()
    }

    fn execute(&mut self, authorization: &Authorization) -> Result<B256, TransferError> {
        let refused = |why: &str| Err(TransferError::Refused(why.to_owned()));
        let Authorization { asset, from, to, value, .. } = *authorization;
        let key = authorization.key();
        if self.paid.contains_key(&key) || self.cancelled.contains(&key) {
            return refused("authorization is used or canceled");
        }
        let Some(rest) = self.held(asset, from).checked_sub(value) else {
            return refused("transfer amount exceeds balance");
        };
        self.balances.insert((asset, from), rest);
        let sum = Usdc(self.held(asset, to).0 + value.0);
        self.balances.insert((asset, to), sum);
        let tx = tx_of(&key);
        self.paid.insert(key, (*authorization, tx));
        Ok(tx)
    }

    fn spent(&self, authorization: &Authorization) -> AuthorizationState {
        let key = authorization.key();
        match self.paid.get(&key) {
            Some((made, tx)) if made == authorization => AuthorizationState::Paid { tx: *tx },
            Some(_) => AuthorizationState::Void,
            None if self.cancelled.contains(&key) => AuthorizationState::Void,
            None => AuthorizationState::Unused { as_of: self.time },
        }
    }
}

#[async_trait]
impl Transfers for FakeChain {
    async fn transfer(&self, payment: &SignedAuthorization, client: ClientAddr) -> Result<B256, TransferError> {
        let behavior = self.with(|ledger| {
            ledger.settlements += 1;
            ledger.clients.insert(client);
            ledger.behavior.clone()
        });
        // A real one answers later: copies get their chance to race.
        tokio::task::yield_now().await;
        match behavior {
            TransferBehavior::Settles => self.execute(&payment.authorization),
            TransferBehavior::SettlesWithoutAnswer => {
                self.execute(&payment.authorization)?;
                std::future::pending().await
            }
            TransferBehavior::NeverAnswers | TransferBehavior::StaysPending => std::future::pending().await,
            TransferBehavior::ClaimsFalsely => Ok(B256::repeat_byte(0xfa)),
            TransferBehavior::Unavailable => Err(TransferError::Unavailable {
                why: "the test said so".into(),
                retry_after_s: Some(Self::UNAVAILABLE_S),
            }),
            TransferBehavior::UnknownOutcome => Err(TransferError::Unknown("the test said so".into())),
        }
    }

    async fn submission(&self, payment: &SignedAuthorization) -> SubmissionState {
        self.with(|ledger| match ledger.behavior {
            TransferBehavior::StaysPending => SubmissionState::Transaction(tx_of(&payment.authorization.key())),
            TransferBehavior::SettlesWithoutAnswer
            | TransferBehavior::NeverAnswers
            | TransferBehavior::UnknownOutcome => SubmissionState::Unknown,
            TransferBehavior::Settles | TransferBehavior::ClaimsFalsely | TransferBehavior::Unavailable => {
                SubmissionState::None
            }
        })
    }
}

#[async_trait]
impl TokenReader for FakeChain {
    async fn state(&self, authorization: &Authorization) -> Result<AuthorizationState, TokenReadError> {
        // A real one answers later.
        tokio::task::yield_now().await;
        self.read(|ledger| ledger.spent(authorization))
    }

    async fn balance(&self, _chain_id: u64, asset: Address, owner: Address) -> Result<Usdc, TokenReadError> {
        tokio::task::yield_now().await;
        self.read(|ledger| ledger.held(asset, owner))
    }
}
