//! Payments for requests: each buys one answer, whatever races.
//!
//! A row is named by chain, token, payer and the payer's number, and goes
//! `reserved → settled → answered`, or `reserved → failed`. A claim keeps copies
//! of one payment apart while one of them is worked on. That its authorization pays
//! for nothing else stands in `purposes`.

use domain::{Address, B256, UnixMillis, Usdc};
use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::codec::{integer, millis, natural};
use crate::error::StoreError;
use crate::handle::Store;
use crate::purposes::{self, Purpose};
use crate::writer::{Command, Tx};

/// What makes a payment itself and no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PaymentKey {
    /// The chain of the token.
    pub chain_id: u64,
    /// The token.
    pub asset: Address,
    /// Who pays.
    pub payer: Address,
    /// The payer's number.
    pub nonce: B256,
}

/// A payment and what it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payment {
    /// What makes it itself.
    pub key: PaymentKey,
    /// Who is paid.
    pub payee: Address,
    /// How much.
    pub value: Usdc,
    /// Unix seconds after which it is valid.
    pub valid_after: u64,
    /// Unix seconds before which it is valid.
    pub valid_before: u64,
    /// The payer's signature: 65 bytes.
    pub signature: Vec<u8>,
    /// Hash of the request it came with.
    pub request: B256,
    /// What it buys.
    pub resource: String,
    /// When it was seen first.
    pub seen_at: UnixMillis,
}

impl Payment {
    /// Whether this is the same payment for the same thing. Two signatures of one
    /// authorization are as good as each other.
    fn is(&self, other: &Self) -> bool {
        let known = Self { signature: Vec::new(), seen_at: UnixMillis(0), ..self.clone() };
        known == Self { signature: Vec::new(), seen_at: UnixMillis(0), ..other.clone() }
    }
}

/// The right to work on a payment, until it ends by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PaymentClaim {
    /// Of one holder alone.
    pub id: u64,
    /// Until when it holds.
    pub until: UnixMillis,
}

/// Where a payment stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PaymentStage {
    /// Not known to be paid.
    Reserved,
    /// Paid, not answered.
    Settled(B256),
    /// Paid, and answered.
    Answered(B256),
    /// Never to be paid.
    Failed(String),
}

impl PaymentStage {
    const fn name(&self) -> &'static str {
        match self {
            Self::Reserved => "reserved",
            Self::Settled(_) => "settled",
            Self::Answered(_) => "answered",
            Self::Failed(_) => "failed",
        }
    }
}

/// What a wish to work on a payment met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PaymentMet {
    /// Nothing: it is new, and the claim is the caller's.
    New,
    /// The same payment for the same thing at this stage; the claim is the
    /// caller's if it is not ended.
    Known(PaymentStage),
    /// The same, and somebody is at work on it.
    Claimed,
    /// The same authorization for something else, here or at the relayer.
    Other,
}

/// Why a payment does not move to a stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PaymentMove {
    /// It did, or was there before.
    Done,
    /// No such payment, or at a stage from which there is no such move.
    Refused,
}

struct Reserve {
    payment: Payment,
    claim: PaymentClaim,
    now: UnixMillis,
}

impl Command for Reserve {
    type Answer = PaymentMet;
    const NAME: &'static str = "reserve a payment";

    fn apply(&self, tx: &Tx<'_>) -> Result<PaymentMet, StoreError> {
        self.meet(tx.conn).map_err(|error| StoreError::sql(Self::NAME, error))
    }
}

impl Reserve {
    fn meet(&self, conn: &Connection) -> rusqlite::Result<PaymentMet> {
        let Some(known) = find(conn, &self.payment.key)? else {
            if purposes::is_other(conn, &self.payment.key, Purpose::Request)? {
                return Ok(PaymentMet::Other);
            }
            purposes::note(conn, &self.payment.key, Purpose::Request, self.payment.valid_before)?;
            self.insert(conn)?;
            return Ok(PaymentMet::New);
        };
        if !known.payment.is(&self.payment) {
            return Ok(PaymentMet::Other);
        }
        match known.stage {
            PaymentStage::Answered(_) | PaymentStage::Failed(_) => Ok(PaymentMet::Known(known.stage)),
            PaymentStage::Reserved | PaymentStage::Settled(_) if known.claimed(self.now) => Ok(PaymentMet::Claimed),
            PaymentStage::Reserved | PaymentStage::Settled(_) => {
                self.claim(conn)?;
                Ok(PaymentMet::Known(known.stage))
            }
        }
    }

    fn insert(&self, conn: &Connection) -> rusqlite::Result<()> {
        let Payment { key, .. } = &self.payment;
        let sql = "INSERT INTO payments (chain_id, asset, payer, nonce, payee, value, valid_after, valid_before, \
                   signature, request, resource, seen_at, looked_at, stage, claim, claim_until) \
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?12, 'reserved', ?13, ?14)";
        conn.prepare_cached(sql)?.execute(params![
            integer(key.chain_id),
            key.asset.0.0,
            key.payer.0.0,
            key.nonce.0,
            self.payment.payee.0.0,
            self.payment.value.0.cast_signed(),
            self.payment.valid_after.cast_signed(),
            self.payment.valid_before.cast_signed(),
            self.payment.signature,
            self.payment.request.0,
            self.payment.resource,
            integer(self.payment.seen_at.0),
            self.claim.id.cast_signed(),
            integer(self.claim.until.0),
        ])?;
        Ok(())
    }

    fn claim(&self, conn: &Connection) -> rusqlite::Result<()> {
        let sql = "UPDATE payments SET claim = ?5, claim_until = ?6 \
                   WHERE chain_id = ?1 AND asset = ?2 AND payer = ?3 AND nonce = ?4";
        let PaymentKey { chain_id, asset, payer, nonce } = self.payment.key;
        let claim = (self.claim.id.cast_signed(), integer(self.claim.until.0));
        conn.prepare_cached(sql)?.execute((integer(chain_id), asset.0.0, payer.0.0, nonce.0, claim.0, claim.1))?;
        Ok(())
    }
}

struct Move {
    key: PaymentKey,
    to: PaymentStage,
    /// The claim that must be held, where one must.
    holding: Option<u64>,
}

impl Command for Move {
    type Answer = PaymentMove;
    const NAME: &'static str = "move a payment on";

    fn apply(&self, tx: &Tx<'_>) -> Result<PaymentMove, StoreError> {
        self.take(tx.conn).map_err(|error| StoreError::sql(Self::NAME, error))
    }
}

impl Move {
    fn take(&self, conn: &Connection) -> rusqlite::Result<PaymentMove> {
        let Some(known) = find(conn, &self.key)? else { return Ok(PaymentMove::Refused) };
        if self.holding.is_some() && self.holding != known.claim.map(|claim| claim.id) {
            return Ok(PaymentMove::Refused);
        }
        use PaymentStage::{Answered, Failed, Reserved, Settled};
        match (&known.stage, &self.to) {
            (Reserved, Settled(_) | Failed(_)) => self.write(conn).map(|()| PaymentMove::Done),
            (Settled(tx), Answered(answered)) if tx == answered => self.write(conn).map(|()| PaymentMove::Done),
            (Settled(old) | Answered(old), Settled(new)) if old == new => Ok(PaymentMove::Done),
            (Failed(_), Failed(_)) => Ok(PaymentMove::Done),
            (Reserved | Settled(_) | Answered(_) | Failed(_), _) => Ok(PaymentMove::Refused),
        }
    }

    fn write(&self, conn: &Connection) -> rusqlite::Result<()> {
        let (tx, reason) = match &self.to {
            PaymentStage::Reserved => (None, None),
            PaymentStage::Settled(tx) | PaymentStage::Answered(tx) => (Some(tx.0), None),
            PaymentStage::Failed(reason) => (None, Some(reason)),
        };
        let PaymentKey { chain_id, asset, payer, nonce } = self.key;
        let sql = "UPDATE payments SET stage = ?5, tx = ?6, reason = ?7 \
                   WHERE chain_id = ?1 AND asset = ?2 AND payer = ?3 AND nonce = ?4";
        let row = params![integer(chain_id), asset.0.0, payer.0.0, nonce.0, self.to.name(), tx, reason];
        conn.prepare_cached(sql)?.execute(row)?;
        Ok(())
    }
}

struct Looked {
    at: UnixMillis,
    keys: Vec<PaymentKey>,
}

impl Command for Looked {
    type Answer = ();
    const NAME: &'static str = "note which payments were looked at";

    fn apply(&self, tx: &Tx<'_>) -> Result<(), StoreError> {
        self.write(tx.conn).map_err(|error| StoreError::sql(Self::NAME, error))
    }
}

impl Looked {
    fn write(&self, conn: &Connection) -> rusqlite::Result<()> {
        let sql = "UPDATE payments SET looked_at = ?5 WHERE chain_id = ?1 AND asset = ?2 AND payer = ?3 AND nonce = ?4";
        let mut update = conn.prepare_cached(sql)?;
        for PaymentKey { chain_id, asset, payer, nonce } in &self.keys {
            update.execute((integer(*chain_id), asset.0.0, payer.0.0, nonce.0, integer(self.at.0)))?;
        }
        Ok(())
    }
}

struct ReleaseAll;

impl Command for ReleaseAll {
    type Answer = ();
    const NAME: &'static str = "let go of all payments";

    fn apply(&self, tx: &Tx<'_>) -> Result<(), StoreError> {
        let sql = "UPDATE payments SET claim = NULL, claim_until = NULL WHERE claim IS NOT NULL";
        let done = tx.conn.execute(sql, ());
        done.map(drop).map_err(|error| StoreError::sql(Self::NAME, error))
    }
}

struct Release {
    key: PaymentKey,
    claim: u64,
}

impl Command for Release {
    type Answer = ();
    const NAME: &'static str = "let go of a payment";

    fn apply(&self, tx: &Tx<'_>) -> Result<(), StoreError> {
        let PaymentKey { chain_id, asset, payer, nonce } = self.key;
        let sql = "UPDATE payments SET claim = NULL, claim_until = NULL \
                   WHERE chain_id = ?1 AND asset = ?2 AND payer = ?3 AND nonce = ?4 AND claim = ?5";
        let row = (integer(chain_id), asset.0.0, payer.0.0, nonce.0, self.claim.cast_signed());
        let done = tx.conn.prepare_cached(sql).and_then(|mut update| update.execute(row));
        done.map(drop).map_err(|error| StoreError::sql(Self::NAME, error))
    }
}

impl Store {
    /// Reserves a payment, or says what it met. An ended claim is nobody's.
    ///
    /// # Errors
    /// Faults of the store.
    pub async fn reserve_payment(
        &self,
        payment: Payment,
        claim: PaymentClaim,
        now: UnixMillis,
    ) -> Result<PaymentMet, StoreError> {
        self.write(Reserve { payment, claim, now }).await
    }

    /// Moves a payment on, if `holding` is still its claim or none is asked for.
    ///
    /// # Errors
    /// Faults of the store.
    pub async fn move_payment(
        &self,
        key: PaymentKey,
        to: PaymentStage,
        holding: Option<u64>,
    ) -> Result<PaymentMove, StoreError> {
        self.write(Move { key, to, holding }).await
    }

    /// Takes a claim off, if it is still there.
    ///
    /// # Errors
    /// Faults of the store.
    pub async fn release_payment(&self, key: PaymentKey, claim: u64) -> Result<(), StoreError> {
        self.write(Release { key, claim }).await
    }

    /// Takes all claims off: whoever had them has ended, since one process at a time
    /// has this store.
    ///
    /// # Errors
    /// Faults of the store.
    pub async fn release_payments(&self) -> Result<(), StoreError> {
        self.write(ReleaseAll).await
    }

    /// A payment, and where it stands.
    ///
    /// # Errors
    /// Faults of the store.
    pub async fn payment(&self, key: PaymentKey) -> Result<Option<(Payment, PaymentStage)>, StoreError> {
        const NAME: &str = "read a payment";
        let found = move |conn: &Connection| find(conn, &key).map_err(|error| StoreError::sql(NAME, error));
        Ok(self.read(NAME, found).await?.map(|known| (known.payment, known.stage)))
    }

    /// Payments that are not known to be paid and that nobody works on, those first
    /// that this has not given for longest: however many stay open, each has its turn.
    ///
    /// # Errors
    /// Faults of the store.
    pub async fn open_payments(&self, now: UnixMillis, limit: u32) -> Result<Vec<Payment>, StoreError> {
        const NAME: &str = "list open payments";
        let open = move |conn: &Connection| pending(conn, now, limit).map_err(|error| StoreError::sql(NAME, error));
        let open = self.read(NAME, open).await?;
        if !open.is_empty() {
            self.write(Looked { at: now, keys: open.iter().map(|payment| payment.key).collect() }).await?;
        }
        Ok(open)
    }
}

struct Known {
    payment: Payment,
    stage: PaymentStage,
    claim: Option<PaymentClaim>,
}

impl Known {
    fn claimed(&self, now: UnixMillis) -> bool {
        self.claim.is_some_and(|claim| claim.until > now)
    }
}

macro_rules! select_payments {
    ($tail:literal) => {
        concat!(
            "SELECT chain_id, asset, payer, nonce, payee, value, valid_after, valid_before, signature, request, ",
            "resource, seen_at, stage, tx, reason, claim, claim_until FROM payments ",
            $tail
        )
    };
}

fn find(conn: &Connection, key: &PaymentKey) -> rusqlite::Result<Option<Known>> {
    conn.prepare_cached(select_payments!("WHERE chain_id = ?1 AND asset = ?2 AND payer = ?3 AND nonce = ?4"))?
        .query_row((integer(key.chain_id), key.asset.0.0, key.payer.0.0, key.nonce.0), decode)
        .optional()
}

fn pending(conn: &Connection, now: UnixMillis, limit: u32) -> rusqlite::Result<Vec<Payment>> {
    let mut rows = conn.prepare_cached(select_payments!(
        "WHERE stage = 'reserved' AND coalesce(claim_until, 0) <= ?1 ORDER BY looked_at, seen_at LIMIT ?2"
    ))?;
    rows.query_map((integer(now.0), limit), |row| Ok(decode(row)?.payment))?.collect()
}

fn decode(row: &Row<'_>) -> rusqlite::Result<Known> {
    let address = |column| row.get::<_, [u8; 20]>(column).map(Address::from);
    let hash = |column| row.get::<_, [u8; 32]>(column).map(B256::from);
    // All 64 bits of these are the payer's to choose.
    let whole = |column| row.get::<_, i64>(column).map(i64::cast_unsigned);
    let key = PaymentKey { chain_id: natural(row.get(0)?), asset: address(1)?, payer: address(2)?, nonce: hash(3)? };
    let payment = Payment {
        key,
        payee: address(4)?,
        value: Usdc(whole(5)?),
        valid_after: whole(6)?,
        valid_before: whole(7)?,
        signature: row.get(8)?,
        request: hash(9)?,
        resource: row.get(10)?,
        seen_at: millis(row.get(11)?),
    };
    let claim: Option<i64> = row.get(15)?;
    let until: Option<i64> = row.get(16)?;
    let claim = claim.zip(until).map(|(id, until)| PaymentClaim { id: id.cast_unsigned(), until: millis(until) });
    Ok(Known { payment, stage: stage(row)?, claim })
}

fn stage(row: &Row<'_>) -> rusqlite::Result<PaymentStage> {
    let tx = || row.get::<_, [u8; 32]>(13).map(B256::from);
    match row.get::<_, String>(12)?.as_str() {
        "reserved" => Ok(PaymentStage::Reserved),
        "settled" => Ok(PaymentStage::Settled(tx()?)),
        "answered" => Ok(PaymentStage::Answered(tx()?)),
        "failed" => Ok(PaymentStage::Failed(row.get(14)?)),
        other => Err(rusqlite::Error::InvalidColumnName(format!("the stage of a payment: {other:?}"))),
    }
}
