//! Payments for requests.

use domain::payment::{
    Authorization, PaidRequestHash, Payment, PaymentKey, PaymentLease, PaymentReservation, PaymentState,
    SignedAuthorization,
};
use domain::{Address, B256, Signature, U256, UnixMillis, Usdc};
use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::handle::Sqlite;
use super::purposes;
use super::writer::{Command, Tx};
use crate::codec::{integer, millis, natural};
use crate::error::StoreError;
use crate::payments::{NextPaymentState, PaymentStepOutcome, PaymentStore, RecordedPayment, seconds, state_columns};
use crate::purposes::AuthorizationPurpose;

impl PaymentStore for Sqlite {
    async fn reserve_payment(
        &self,
        payment: Payment,
        lease: PaymentLease,
        now: UnixMillis,
    ) -> Result<PaymentReservation, StoreError> {
        self.write(Reserve { payment, lease, now }).await
    }

    async fn step_payment(&self, key: PaymentKey, step: NextPaymentState) -> Result<bool, StoreError> {
        self.write(Move { key, step }).await
    }

    async fn release_payment(&self, key: PaymentKey, lease: u64) -> Result<(), StoreError> {
        self.write(Release { key, lease }).await
    }

    async fn release_payments(&self) -> Result<(), StoreError> {
        // Whoever had them has ended: one process at a time has this store.
        self.write(ReleaseAll).await
    }

    async fn find_payment(&self, key: PaymentKey) -> Result<Option<(Payment, PaymentState)>, StoreError> {
        const NAME: &str = "read a payment";
        let found = move |conn: &Connection| find(conn, &key).map_err(|error| StoreError::sql(NAME, error));
        Ok(self.read(NAME, found).await?.map(|known| (known.payment, known.state)))
    }

    async fn open_payments(&self, now: UnixMillis, limit: u32) -> Result<Vec<Payment>, StoreError> {
        const NAME: &str = "list open payments";
        let open = move |conn: &Connection| pending(conn, now, limit).map_err(|error| StoreError::sql(NAME, error));
        let open = self.read(NAME, open).await?;
        if !open.is_empty() {
            self.write(Looked { at: now, keys: open.iter().map(Payment::key).collect() }).await?;
        }
        Ok(open)
    }
}

struct Reserve {
    payment: Payment,
    lease: PaymentLease,
    now: UnixMillis,
}

impl Command for Reserve {
    type Answer = PaymentReservation;
    const NAME: &'static str = "reserve a payment";

    fn apply(&self, tx: &Tx<'_>) -> Result<PaymentReservation, StoreError> {
        self.meet(tx.conn).map_err(|error| StoreError::sql(Self::NAME, error))
    }
}

impl Reserve {
    fn meet(&self, conn: &Connection) -> rusqlite::Result<PaymentReservation> {
        let key = self.payment.key();
        let Some(known) = find(conn, &key)? else {
            if purposes::is_other(conn, &key, AuthorizationPurpose::Request)? {
                return Ok(PaymentReservation::Conflict);
            }
            purposes::note(conn, &key, AuthorizationPurpose::Request, self.payment.signed.authorization.valid_before)?;
            self.insert(conn)?;
            return Ok(PaymentReservation::New);
        };
        let (outcome, is_taken) = known.meet(&self.payment, self.now);
        if is_taken {
            self.take_lease(conn, &key)?;
        }
        Ok(outcome)
    }

    fn insert(&self, conn: &Connection) -> rusqlite::Result<()> {
        let Payment { signed, request, resource, seen_at } = &self.payment;
        let of = &signed.authorization;
        let sql = "INSERT INTO payments (chain_id, asset, payer, nonce, payee, value, valid_after, valid_before, \
                   signature, request, resource, seen_at, looked_at, stage, claim, claim_until) \
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?12, 'reserved', ?13, ?14)";
        conn.prepare_cached(sql)?.execute(params![
            integer(of.chain_id),
            of.asset.0.0,
            of.from.0.0,
            of.nonce.0,
            of.to.0.0,
            of.value.0.cast_signed(),
            bounded(of.valid_after)?,
            bounded(of.valid_before)?,
            signed.signature.as_bytes(),
            request.0.0,
            resource,
            integer(seen_at.0),
            self.lease.id.cast_signed(),
            integer(self.lease.until.0),
        ])?;
        Ok(())
    }

    fn take_lease(&self, conn: &Connection, key: &PaymentKey) -> rusqlite::Result<()> {
        let sql = "UPDATE payments SET claim = ?5, claim_until = ?6 \
                   WHERE chain_id = ?1 AND asset = ?2 AND payer = ?3 AND nonce = ?4";
        let PaymentKey { chain_id, asset, payer, nonce } = key;
        let lease = (self.lease.id.cast_signed(), integer(self.lease.until.0));
        conn.prepare_cached(sql)?.execute((integer(*chain_id), asset.0.0, payer.0.0, nonce.0, lease.0, lease.1))?;
        Ok(())
    }
}

struct Move {
    key: PaymentKey,
    step: NextPaymentState,
}

impl Command for Move {
    /// Whether it did, or was there before.
    type Answer = bool;
    const NAME: &'static str = "move a payment on";

    fn apply(&self, tx: &Tx<'_>) -> Result<bool, StoreError> {
        self.take(tx.conn).map_err(|error| StoreError::sql(Self::NAME, error))
    }
}

impl Move {
    fn take(&self, conn: &Connection) -> rusqlite::Result<bool> {
        let Some(known) = find(conn, &self.key)? else { return Ok(false) };
        match known.take(&self.step) {
            PaymentStepOutcome::Done => Ok(true),
            PaymentStepOutcome::Refused => Ok(false),
            PaymentStepOutcome::To(state) => self.write(conn, &state),
        }
    }

    fn write(&self, conn: &Connection, to: &PaymentState) -> rusqlite::Result<bool> {
        let (tx, reason) = state_columns(to);
        let PaymentKey { chain_id, asset, payer, nonce } = self.key;
        let sql = "UPDATE payments SET stage = ?5, tx = ?6, reason = ?7 \
                   WHERE chain_id = ?1 AND asset = ?2 AND payer = ?3 AND nonce = ?4";
        let tx = tx.map(|tx| tx.0);
        let row = params![integer(chain_id), asset.0.0, payer.0.0, nonce.0, to.name(), tx, reason];
        conn.prepare_cached(sql)?.execute(row)?;
        Ok(true)
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
    lease: u64,
}

impl Command for Release {
    type Answer = ();
    const NAME: &'static str = "let go of a payment";

    fn apply(&self, tx: &Tx<'_>) -> Result<(), StoreError> {
        let PaymentKey { chain_id, asset, payer, nonce } = self.key;
        let sql = "UPDATE payments SET claim = NULL, claim_until = NULL \
                   WHERE chain_id = ?1 AND asset = ?2 AND payer = ?3 AND nonce = ?4 AND claim = ?5";
        let row = (integer(chain_id), asset.0.0, payer.0.0, nonce.0, self.lease.cast_signed());
        let done = tx.conn.prepare_cached(sql).and_then(|mut update| update.execute(row));
        done.map(drop).map_err(|error| StoreError::sql(Self::NAME, error))
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

fn find(conn: &Connection, key: &PaymentKey) -> rusqlite::Result<Option<RecordedPayment>> {
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

fn decode(row: &Row<'_>) -> rusqlite::Result<RecordedPayment> {
    let address = |column| row.get::<_, [u8; 20]>(column).map(Address::from);
    let hash = |column| row.get::<_, [u8; 32]>(column).map(B256::from);
    // All 64 bits of these are the payer's to choose.
    let whole = |column| row.get::<_, i64>(column).map(i64::cast_unsigned);
    let authorization = Authorization {
        chain_id: natural(row.get(0)?),
        asset: address(1)?,
        from: address(2)?,
        nonce: hash(3)?,
        to: address(4)?,
        value: Usdc(whole(5)?),
        valid_after: U256::from(whole(6)?),
        valid_before: U256::from(whole(7)?),
    };
    let signature = Signature::from_raw(&row.get::<_, Vec<u8>>(8)?)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(8, Type::Blob, Box::new(error)))?;
    let payment = Payment {
        signed: SignedAuthorization { authorization, signature },
        request: PaidRequestHash(hash(9)?),
        resource: row.get(10)?,
        seen_at: millis(row.get(11)?),
    };
    let lease: Option<i64> = row.get(15)?;
    let until: Option<i64> = row.get(16)?;
    let lease = lease.zip(until).map(|(id, until)| PaymentLease { id: id.cast_unsigned(), until: millis(until) });
    Ok(RecordedPayment { payment, state: state(row)?, lease })
}

fn bounded(time: U256) -> rusqlite::Result<i64> {
    let too_long = || rusqlite::Error::ToSqlConversionFailure("a time of more than 64 bits".into());
    seconds(time).ok_or_else(too_long)
}

fn state(row: &Row<'_>) -> rusqlite::Result<PaymentState> {
    let tx = || row.get::<_, [u8; 32]>(13).map(B256::from);
    match row.get::<_, String>(12)?.as_str() {
        "reserved" => Ok(PaymentState::Reserved),
        "settled" => Ok(PaymentState::Settled { tx: tx()? }),
        "answered" => Ok(PaymentState::Answered { tx: tx()? }),
        "failed" => Ok(PaymentState::Failed { reason: row.get(14)? }),
        other => Err(rusqlite::Error::InvalidColumnName(format!("the state of a payment: {other:?}"))),
    }
}
