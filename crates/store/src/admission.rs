//! Who may come in: spent messages, reservations, idempotency. One transaction.

use domain::{Generation, ImageDigest, Meter, PodId, RunId, State, Tier, TierName, UnixMillis, Wallet};
use rusqlite::{Connection, OptionalExtension, params};

use crate::codec::{change, first_change, id_column, id_of, integer};
use crate::error::StoreError;
use crate::life::keep_change;
use crate::pod::{self, Found, KeptPod, Quota};
use crate::record::{Below, PodKey, Record};
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

/// Which POD a run is to be of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodChoice {
    /// A new one.
    New {
        /// The id that its holder chose; else it is its first run's.
        name: Option<PodId>,
        /// Whether its holder's stop removes it.
        ephemeral: bool,
    },
    /// One of the holder's that does not run.
    Existing(PodId),
}

/// What a holder asks for: a run, of a new POD or of one it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reservation {
    /// The message that asks; spent whatever the answer is.
    pub stamp: Stamp,
    /// The new run's id.
    pub id: RunId,
    /// The POD it is of.
    pub pod: PodChoice,
    /// Who asks.
    pub wallet: Wallet,
    /// The name it is spawned by.
    pub agent_type: String,
    /// What it boots.
    pub image: ImageDigest,
    /// Whether the holder brought that image, and did not name it by its type.
    pub brought: bool,
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

/// The answer to a [`Reservation`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// The wallet's slot is taken for this run.
    Reserved(Record),
    /// The key was used for the same request before: this is its run, as it
    /// is now.
    Repeated(Record),
    /// The key was used for the same request before, and its POD was removed since.
    RepeatedRemoved,
    /// The wallet has a live run, of this POD.
    Busy(PodId),
    /// The chosen id is in use, or was another holder's.
    IdTaken(PodId),
    /// The holder has no such POD.
    NoPod(PodId),
    /// What is kept of these PODs, the largest first, fills the tier's disk quota.
    QuotaFull(Vec<KeptPod>),
    /// The holder has as many PODs that do not run as it may: [`pod::MAX_STOPPED_PODS`].
    TooManyPods,
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
        let place = match self.place(tx.conn)? {
            Ok(place) => place,
            Err(refused) => return Ok(refused),
        };
        let record = self.record(tx, &place);
        if !self.insert(tx, &record)? {
            return self.conflict(tx.conn);
        }
        self.write_pod(tx.conn, &place, &record).map_err(|error| StoreError::sql(Self::NAME, error))?;
        self.remember_key(tx.conn)?;
        tx.rows.keep(&record);
        let change = match record.changes {
            1 => first_change(self.now),
            seq => change(seq, self.now, State::Reserved),
        };
        tx.announce(record.pod, change);
        Ok(Admission::Reserved(record))
    }
}

/// Where a run's POD is in the tables.
enum Place {
    /// Nowhere yet.
    New { id: PodId, key: PodKey },
    /// Where it was before its holder removed it.
    Again { id: PodId, key: PodKey },
    /// There, with its last run.
    There(Record),
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
            .prepare_cached("SELECT request, run FROM idempotency WHERE wallet = ?1 AND key = ?2 AND expires_at > ?3")
            .map_err(sql)?
            .query_row((&self.wallet.0, &idempotency.key, integer(self.now.0)), |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()
            .map_err(sql)?;
        let Some((request, run)) = kept else { return Ok(None) };
        if request != idempotency.request {
            return Ok(Some(Admission::Mismatch));
        }
        let run = find(conn, Self::NAME, id_of(run))?;
        Ok(Some(run.map_or(Admission::RepeatedRemoved, Admission::Repeated)))
    }

    /// The POD, if the holder may have this run of it. Nothing is written yet.
    fn place(&self, conn: &Connection) -> Result<Result<Place, Admission>, StoreError> {
        let sql = |error| StoreError::sql(Self::NAME, error);
        let key = PodKey(self.id.bits());
        let (name, ephemeral) = match self.pod {
            PodChoice::New { name, ephemeral } => (name, ephemeral),
            PodChoice::Existing(id) => {
                let last = pod::last_run(conn, Self::NAME, &id)?.filter(|last| last.wallet == self.wallet);
                return Ok(match last {
                    None => Err(Admission::NoPod(id)),
                    Some(last) if last.state.is_live() => Err(Admission::Busy(id)),
                    Some(last) => Ok(Place::There(last)),
                });
            }
        };
        if !ephemeral {
            match pod::quota(conn, &self.wallet, self.tier_config.disk, self.now)? {
                Quota::Free => {}
                Quota::Full(kept) => return Ok(Err(Admission::QuotaFull(kept))),
                Quota::TooMany => return Ok(Err(Admission::TooManyPods)),
            }
        }
        let Some(name) = name else { return Ok(Ok(Place::New { id: PodId::minted(self.id), key })) };
        Ok(match pod::look_up(conn, &name, &self.wallet).map_err(sql)? {
            Found::Free => Ok(Place::New { id: name, key }),
            Found::Removed(key) => Ok(Place::Again { id: name, key }),
            Found::Taken => Err(Admission::IdTaken(name)),
        })
    }

    /// Writes that the POD is there and runs.
    fn write_pod(&self, conn: &Connection, place: &Place, record: &Record) -> rusqlite::Result<()> {
        let (key, run, now) = (record.pod_key.0.cast_signed(), id_column(self.id), integer(self.now.0));
        match place {
            Place::New { id, .. } => conn
                .prepare_cached(
                    "INSERT INTO pods (key, name, wallet, last_run, brought, ephemeral, created_at) \
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                )?
                .execute(params![
                    key,
                    id.first_run().is_none().then(|| id.as_str()),
                    &self.wallet.0,
                    run,
                    self.brought,
                    record.ephemeral,
                    now
                ]),
            Place::Again { .. } => conn
                .prepare_cached(
                    "UPDATE pods SET last_run = ?2, brought = ?3, ephemeral = ?4, created_at = ?5, removed_at = NULL \
                     WHERE key = ?1",
                )?
                .execute((key, run, self.brought, record.ephemeral, now)),
            Place::There(_) => {
                let started = conn
                    .prepare_cached("UPDATE pods SET last_run = ?2, brought = ?3, stopped_at = NULL WHERE key = ?1")?
                    .execute((key, run, self.brought))?;
                keep_change(conn, record.pod_key, &change(record.changes, self.now, State::Reserved), State::Reserved)?;
                Ok(started)
            }
        }
        .map(drop)
    }

    /// Whether the slot and the id were free. They are taken from here on.
    fn insert(&self, tx: &Tx<'_>, record: &Record) -> Result<bool, StoreError> {
        let sql = |error| StoreError::sql(Self::NAME, error);
        let mut insert = tx
            .conn
            .prepare_cached(
                "INSERT INTO runs (id, wallet, generation, state, agent_type, image, tier, tier_min, cores, \
                 memory_mib, public, spawned_at, epoch, pod, disk_mib, changes) VALUES \
                 (?1, ?2, ?3, 'reserved', ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15) ON CONFLICT DO NOTHING",
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
            record.pod_key.0.cast_signed(),
            self.tier_config.disk,
            integer(record.changes),
        ];
        Ok(insert.execute(row).map_err(sql)? == 1)
    }

    fn conflict(&self, conn: &Connection) -> Result<Admission, StoreError> {
        match find_live(conn, Self::NAME, &self.wallet)? {
            Some(live) => Ok(Admission::Busy(live.pod)),
            None => Err(StoreError::IdTaken(self.id)),
        }
    }

    fn remember_key(&self, conn: &Connection) -> Result<(), StoreError> {
        let Some(idempotency) = &self.idempotency else { return Ok(()) };
        let sql = |error| StoreError::sql(Self::NAME, error);
        // An expired key that was not pruned yet is taken over.
        conn.prepare_cached(
            "INSERT OR REPLACE INTO idempotency (wallet, key, request, run, expires_at) VALUES (?1, ?2, ?3, ?4, ?5)",
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

    fn record(&self, tx: &Tx<'_>, place: &Place) -> Record {
        let (pod, pod_key, last) = match place {
            Place::New { id, key } | Place::Again { id, key } => (*id, *key, None),
            Place::There(last) => (last.pod, last.pod_key, Some(last)),
        };
        Record {
            id: self.id,
            pod,
            pod_key,
            created_at: last.map_or(self.now, |last| last.created_at),
            ephemeral: match self.pod {
                PodChoice::New { ephemeral, .. } => ephemeral,
                PodChoice::Existing(_) => last.is_some_and(|last| last.ephemeral),
            },
            brought: self.brought,
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
            changes: last.map_or(1, |last| last.changes + 1),
            data: last.and_then(|last| last.data),
            data_node: last.and_then(|last| last.data_node.clone()),
        }
    }
}
