//! Payments for requests.

use domain::payment::{
    Authorization, PaidRequestHash, Payment, PaymentKey, PaymentLease, PaymentReservation, PaymentState,
    SignedAuthorization,
};
use domain::{Address, B256, Signature, U256, UnixMillis, Usdc};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row, query};

use super::database::{Command, Postgres, Statement, Tx};
use super::purposes;
use crate::codec::{integer, millis, natural};
use crate::error::StoreError;
use crate::payments::{NextPaymentState, PaymentStepOutcome, PaymentStore, RecordedPayment, seconds, state_columns};
use crate::purposes::AuthorizationPurpose;

macro_rules! select_payments {
    ($tail:literal) => {
        concat!(
            "SELECT chain_id, asset, payer, nonce, payee, value, valid_after, valid_before, signature, request, ",
            "resource, seen_at, stage, tx, reason, claim, claim_until FROM payments ",
            $tail
        )
    };
}

const FIND: &str = select_payments!("WHERE chain_id = $1 AND asset = $2 AND payer = $3 AND nonce = $4");
const LOCK: &str = select_payments!("WHERE chain_id = $1 AND asset = $2 AND payer = $3 AND nonce = $4 FOR UPDATE");

impl PaymentStore for Postgres {
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
        let release = of_key(
            "UPDATE payments SET claim = NULL, claim_until = NULL, claim_epoch = NULL \
             WHERE chain_id = $1 AND asset = $2 AND payer = $3 AND nonce = $4 AND claim = $5",
            &key,
        );
        self.execute("let go of a payment", release.bind(lease.cast_signed())).await.map(drop)
    }

    async fn release_payments(&self) -> Result<(), StoreError> {
        // Those of gateways that are there are worked on.
        let release = query(
            "UPDATE payments SET claim = NULL, claim_until = NULL, claim_epoch = NULL WHERE claim IS NOT NULL \
             AND NOT EXISTS (SELECT 1 FROM gateways WHERE epoch = claim_epoch AND holds_until > now())",
        );
        self.execute("let go of payments", release).await.map(drop)
    }

    async fn find_payment(&self, key: PaymentKey) -> Result<Option<(Payment, PaymentState)>, StoreError> {
        let found = self.one("read a payment", of_key(FIND, &key), decode).await?;
        Ok(found.map(|known| (known.payment, known.state)))
    }

    async fn open_payments(&self, now: UnixMillis, limit: u32) -> Result<Vec<Payment>, StoreError> {
        self.write(Open { now, limit }).await
    }
}

/// A statement whose first four arguments name a payment.
fn of_key(sql: &'static str, key: &PaymentKey) -> Statement<'static> {
    query(sql).bind(integer(key.chain_id)).bind(key.asset.0.0).bind(key.payer.0.0).bind(key.nonce.0)
}

struct Reserve {
    payment: Payment,
    lease: PaymentLease,
    now: UnixMillis,
}

impl Command for Reserve {
    type Answer = PaymentReservation;
    const NAME: &'static str = "reserve a payment";

    async fn apply(&self, tx: &mut Tx) -> Result<PaymentReservation, StoreError> {
        let met = self.meet(tx).await.map_err(|error| StoreError::postgres(Self::NAME, error))?;
        // A copy was faster: it is met the next time.
        met.ok_or_else(|| StoreError::tie(Self::NAME))
    }
}

impl Reserve {
    async fn meet(&self, tx: &mut Tx) -> sqlx::Result<Option<PaymentReservation>> {
        let key = self.payment.key();
        let known = of_key(LOCK, &key).fetch_optional(tx.conn()).await?;
        if let Some(known) = known {
            let (outcome, is_taken) = decode(&known)?.meet(&self.payment, self.now);
            if is_taken {
                self.take_lease(tx, &key).await?;
            }
            return Ok(Some(outcome));
        }
        let valid_before = self.payment.signed.authorization.valid_before;
        if !purposes::note(tx.conn(), &key, AuthorizationPurpose::Request, valid_before).await? {
            return Ok(Some(PaymentReservation::Conflict));
        }
        let new = self.insert(tx).await?;
        Ok(new.then_some(PaymentReservation::New))
    }

    async fn insert(&self, tx: &mut Tx) -> sqlx::Result<bool> {
        let Payment { signed, request, resource, seen_at } = &self.payment;
        let of = &signed.authorization;
        let insert = of_key(
            "INSERT INTO payments (chain_id, asset, payer, nonce, payee, value, valid_after, valid_before, \
             signature, request, resource, seen_at, looked_at, stage, claim, claim_until, claim_epoch) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $12, 'reserved', $13, $14, $15) \
             ON CONFLICT DO NOTHING",
            &of.key(),
        )
        .bind(of.to.0.0)
        .bind(of.value.0.cast_signed())
        .bind(bounded(of.valid_after)?)
        .bind(bounded(of.valid_before)?)
        .bind(signed.signature.as_bytes())
        .bind(request.0.0)
        .bind(resource)
        .bind(integer(seen_at.0))
        .bind(self.lease.id.cast_signed())
        .bind(integer(self.lease.until.0))
        .bind(tx.epoch.0.cast_signed());
        Ok(insert.execute(tx.conn()).await?.rows_affected() == 1)
    }

    async fn take_lease(&self, tx: &mut Tx, key: &PaymentKey) -> sqlx::Result<()> {
        let lease = of_key(
            "UPDATE payments SET claim = $5, claim_until = $6, claim_epoch = $7 \
             WHERE chain_id = $1 AND asset = $2 AND payer = $3 AND nonce = $4",
            key,
        );
        let lease = lease.bind(self.lease.id.cast_signed()).bind(integer(self.lease.until.0));
        lease.bind(tx.epoch.0.cast_signed()).execute(tx.conn()).await.map(drop)
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

    async fn apply(&self, tx: &mut Tx) -> Result<bool, StoreError> {
        self.take(tx.conn()).await.map_err(|error| StoreError::postgres(Self::NAME, error))
    }
}

impl Move {
    async fn take(&self, conn: &mut PgConnection) -> sqlx::Result<bool> {
        let known = of_key(LOCK, &self.key).fetch_optional(&mut *conn).await?;
        let Some(known) = known.map(|row| decode(&row)).transpose()? else { return Ok(false) };
        match known.take(&self.step) {
            PaymentStepOutcome::Done => Ok(true),
            PaymentStepOutcome::Refused => Ok(false),
            PaymentStepOutcome::To(state) => self.write(conn, &state).await,
        }
    }

    async fn write(&self, conn: &mut PgConnection, to: &PaymentState) -> sqlx::Result<bool> {
        let (tx, reason) = state_columns(to);
        let write = of_key(
            "UPDATE payments SET stage = $5, tx = $6, reason = $7 \
             WHERE chain_id = $1 AND asset = $2 AND payer = $3 AND nonce = $4",
            &self.key,
        );
        let write = write.bind(to.name()).bind(tx.map(|tx| tx.0)).bind(reason.map(str::to_owned));
        write.execute(conn).await?;
        Ok(true)
    }
}

struct Open {
    now: UnixMillis,
    limit: u32,
}

impl Command for Open {
    type Answer = Vec<Payment>;
    const NAME: &'static str = "list open payments";

    async fn apply(&self, tx: &mut Tx) -> Result<Vec<Payment>, StoreError> {
        self.list(tx.conn()).await.map_err(|error| StoreError::postgres(Self::NAME, error))
    }
}

impl Open {
    async fn list(&self, conn: &mut PgConnection) -> sqlx::Result<Vec<Payment>> {
        // Whom another gateway looks at in this instant it may have.
        let open = query(select_payments!(
            "WHERE stage = 'reserved' AND coalesce(claim_until, 0) <= $1 ORDER BY looked_at, seen_at LIMIT $2 \
             FOR UPDATE SKIP LOCKED"
        ));
        let rows = open.bind(integer(self.now.0)).bind(i64::from(self.limit)).fetch_all(&mut *conn).await?;
        let open: Vec<_> = rows.iter().map(|row| Ok(decode(row)?.payment)).collect::<sqlx::Result<_>>()?;
        for payment in &open {
            let looked = of_key(
                "UPDATE payments SET looked_at = $5 WHERE chain_id = $1 AND asset = $2 AND payer = $3 AND nonce = $4",
                &payment.key(),
            );
            looked.bind(integer(self.now.0)).execute(&mut *conn).await?;
        }
        Ok(open)
    }
}

fn decode(row: &PgRow) -> sqlx::Result<RecordedPayment> {
    let address = |column| row.try_get::<[u8; 20], usize>(column).map(Address::from);
    let hash = |column| row.try_get::<[u8; 32], usize>(column).map(B256::from);
    // All 64 bits of these are the payer's to choose.
    let whole = |column| row.try_get::<i64, usize>(column).map(i64::cast_unsigned);
    let authorization = Authorization {
        chain_id: natural(row.try_get(0)?),
        asset: address(1)?,
        from: address(2)?,
        nonce: hash(3)?,
        to: address(4)?,
        value: Usdc(whole(5)?),
        valid_after: U256::from(whole(6)?),
        valid_before: U256::from(whole(7)?),
    };
    let signature =
        Signature::from_raw(row.try_get(8)?).map_err(|error| sqlx::Error::Decode(error.to_string().into()))?;
    let payment = Payment {
        signed: SignedAuthorization { authorization, signature },
        request: PaidRequestHash(hash(9)?),
        resource: row.try_get(10)?,
        seen_at: millis(row.try_get(11)?),
    };
    let (lease, until): (Option<i64>, Option<i64>) = (row.try_get(15)?, row.try_get(16)?);
    let lease = lease.zip(until).map(|(id, until)| PaymentLease { id: id.cast_unsigned(), until: millis(until) });
    Ok(RecordedPayment { payment, state: state(row)?, lease })
}

fn bounded(time: U256) -> sqlx::Result<i64> {
    seconds(time).ok_or_else(|| sqlx::Error::Encode("a time of more than 64 bits".into()))
}

fn state(row: &PgRow) -> sqlx::Result<PaymentState> {
    let tx = || row.try_get::<[u8; 32], _>(13).map(B256::from);
    match row.try_get::<&str, _>(12)? {
        "reserved" => Ok(PaymentState::Reserved),
        "settled" => Ok(PaymentState::Settled { tx: tx()? }),
        "answered" => Ok(PaymentState::Answered { tx: tx()? }),
        "failed" => Ok(PaymentState::Failed { reason: row.try_get(14)? }),
        other => Err(sqlx::Error::Decode(format!("the state of a payment: {other:?}").into())),
    }
}
