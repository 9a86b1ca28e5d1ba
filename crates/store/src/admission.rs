//! Who may come in: spent messages, reservations, idempotency. One transaction.

use domain::{AgentId, Generation, ImageDigest, Meter, State, Tier, TierName, UnixMillis, Wallet};
use rusqlite::{Connection, OptionalExtension, params};

use crate::codec::{first_change, id_column, id_of, integer};
use crate::error::StoreError;
use crate::record::{Below, Record};
use crate::row::{find, find_live};
use crate::writer::{Command, Tx};

/// How long an idempotency key stands for its first answer.
pub(crate) const KEY_LIFE_MS: u64 = 24 * 60 * 60 * 1000;

/// A signed message that may be used once: the SHA-256 of wallet and text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Which message.
    pub key: [u8; 32],
    /// From when on nobody accepts it any more.
    pub expires_at: UnixMillis,
}

/// A caller's promise that a retry is the same request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idempotency {
    /// The caller's key.
    pub key: String,
    /// The SHA-256 of what was asked.
    pub request: [u8; 32],
}

/// A wish for an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reservation {
    /// The message that asks; spent whatever the answer is.
    pub stamp: Stamp,
    /// The new agent's id.
    pub id: AgentId,
    /// Who asks.
    pub wallet: Wallet,
    /// The name it is spawned by.
    pub agent_type: String,
    /// What it boots.
    pub image: ImageDigest,
    /// The holder's tier.
    pub tier: TierName,
    /// What that tier gives.
    pub tier_config: Tier,
    /// Whether it answers without its bearer token.
    pub public: bool,
    /// The caller's key, if it sent one.
    pub idempotency: Option<Idempotency>,
    /// The time.
    pub now: UnixMillis,
}

/// The answer to a wish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// The wallet's slot is taken for this agent.
    Reserved(Record),
    /// The key was used for the same request before: this is its agent, as it
    /// is now.
    Repeated(Record),
    /// The wallet has a live agent.
    Busy(AgentId),
    /// The key was used for another request.
    Mismatch,
    /// The message was used before.
    Replayed,
}

pub(crate) struct Spend {
    pub(crate) stamp: Stamp,
    /// Whether what it pays for must work on a full disk.
    pub(crate) essential: bool,
}

impl Command for Spend {
    type Answer = ();
    const NAME: &'static str = "spend a message";

    fn is_essential(&self) -> bool {
        self.essential
    }

    fn apply(&self, tx: &Tx<'_>) -> Result<(), StoreError> {
        if spend(tx.conn, &self.stamp)? { Ok(()) } else { Err(StoreError::Replayed) }
    }
}

/// Writes something, and leaves nothing behind: whether the disk takes it.
pub(crate) struct Probe;

impl Command for Probe {
    type Answer = ();
    const NAME: &'static str = "try the disk";

    fn apply(&self, tx: &Tx<'_>) -> Result<(), StoreError> {
        let sql = |error| StoreError::sql(Self::NAME, error);
        // Past its expiry: it is nobody's message, and would be forgotten if it stayed.
        tx.conn
            .prepare_cached("INSERT OR REPLACE INTO spent (key, expires_at) VALUES (zeroblob(32), 0)")
            .map_err(sql)?
            .execute(())
            .map_err(sql)?;
        let mut gone = tx.conn.prepare_cached("DELETE FROM spent WHERE key = zeroblob(32)").map_err(sql)?;
        gone.execute(()).map(drop).map_err(sql)
    }
}

impl Command for Reservation {
    type Answer = Admission;
    const NAME: &'static str = "reserve an agent";

    fn apply(&self, tx: &Tx<'_>) -> Result<Admission, StoreError> {
        if !spend(tx.conn, &self.stamp)? {
            return Ok(Admission::Replayed);
        }
        if let Some(answer) = self.repeated(tx.conn)? {
            return Ok(answer);
        }
        if !self.insert(tx)? {
            return self.conflict(tx.conn);
        }
        self.remember_key(tx.conn)?;
        let record = self.record(tx);
        tx.rows.keep(&record);
        tx.announce(self.id, first_change(self.now));
        Ok(Admission::Reserved(record))
    }
}

/// Whether the message was fresh. It is spent from here on.
fn spend(conn: &Connection, stamp: &Stamp) -> Result<bool, StoreError> {
    let sql = |error| StoreError::sql(Spend::NAME, error);
    let mut insert = conn
        .prepare_cached("INSERT INTO spent (key, expires_at) VALUES (?1, ?2) ON CONFLICT DO NOTHING")
        .map_err(sql)?;
    let fresh = insert.execute((&stamp.key, integer(stamp.expires_at.0))).map_err(sql)?;
    Ok(fresh == 1)
}

impl Reservation {
    /// The answer that the caller's key stands for, if any.
    fn repeated(&self, conn: &Connection) -> Result<Option<Admission>, StoreError> {
        let Some(idempotency) = &self.idempotency else { return Ok(None) };
        let sql = |error| StoreError::sql(Self::NAME, error);
        let kept: Option<([u8; 32], i64)> = conn
            .prepare_cached("SELECT request, agent FROM idempotency WHERE wallet = ?1 AND key = ?2 AND expires_at > ?3")
            .map_err(sql)?
            .query_row((&self.wallet.0, &idempotency.key, integer(self.now.0)), |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()
            .map_err(sql)?;
        let Some((request, agent)) = kept else { return Ok(None) };
        if request != idempotency.request {
            return Ok(Some(Admission::Mismatch));
        }
        let agent = find(conn, Self::NAME, id_of(agent))?.ok_or(StoreError::Value("a key without its agent"))?;
        Ok(Some(Admission::Repeated(agent)))
    }

    /// Whether the slot and the id were free. They are taken from here on.
    fn insert(&self, tx: &Tx<'_>) -> Result<bool, StoreError> {
        let sql = |error| StoreError::sql(Self::NAME, error);
        let mut insert = tx
            .conn
            .prepare_cached(
                "INSERT INTO agents (id, wallet, generation, state, agent_type, image, tier, tier_min, cores, \
                 memory_mib, public, spawned_at, epoch) \
                 VALUES (?1, ?2, ?3, 'reserved', ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12) ON CONFLICT DO NOTHING",
            )
            .map_err(sql)?;
        let row = params![
            id_column(self.id),
            &self.wallet.0,
            integer(Generation::FIRST.0),
            self.agent_type,
            &self.image.0,
            self.tier.as_str(),
            integer(self.tier_config.min),
            self.tier_config.cores,
            self.tier_config.memory,
            self.public,
            integer(self.now.0),
            tx.epoch.0.cast_signed(),
        ];
        Ok(insert.execute(row).map_err(sql)? == 1)
    }

    fn conflict(&self, conn: &Connection) -> Result<Admission, StoreError> {
        match find_live(conn, Self::NAME, &self.wallet)? {
            Some(live) => Ok(Admission::Busy(live.id)),
            None => Err(StoreError::IdTaken(self.id)),
        }
    }

    fn remember_key(&self, conn: &Connection) -> Result<(), StoreError> {
        let Some(idempotency) = &self.idempotency else { return Ok(()) };
        let sql = |error| StoreError::sql(Self::NAME, error);
        // An expired key that was not pruned yet is taken over.
        conn.prepare_cached(
            "INSERT OR REPLACE INTO idempotency (wallet, key, request, agent, expires_at) VALUES (?1, ?2, ?3, ?4, ?5)",
        )
        .map_err(sql)?
        .execute(params![
            &self.wallet.0,
            idempotency.key,
            &idempotency.request,
            id_column(self.id),
            integer(self.now.plus(KEY_LIFE_MS).0)
        ])
        .map_err(sql)?;
        Ok(())
    }

    fn record(&self, tx: &Tx<'_>) -> Record {
        Record {
            id: self.id,
            wallet: self.wallet,
            generation: Generation::FIRST,
            state: State::Reserved,
            agent_type: self.agent_type.clone(),
            image: self.image,
            tier: self.tier.clone(),
            tier_config: self.tier_config,
            public: self.public,
            spawned_at: self.now,
            ended_at: None,
            node: None,
            runtime: None,
            restarts: 0,
            epoch: tx.epoch,
            meter: Meter::default(),
            was_ready: false,
            below: Below::default(),
            changes: 1,
            data_kept_until: None,
        }
    }
}
