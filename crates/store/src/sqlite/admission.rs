//! Who may come in: spent messages, reservations, idempotency. One transaction.

use domain::{Generation, PodId};
use rusqlite::{Connection, OptionalExtension, params};

use super::handle::Sqlite;
use super::life::keep_change;
use super::pod::{self, look_up, quota};
use super::row::{find, live_of};
use super::volumes::Mounts;
use super::writer::{Command, Tx};
use crate::admission::{Admission, AdmissionStore, KEY_LIFE_MS, PodLookup, ReplayKey, RunPod, RunReservation};
use crate::codec::{id_column, id_of, integer};
use crate::error::StoreError;
use crate::pod::{PodIdStatus, QuotaCheck};
use crate::record::{PodRowId, RunRecord};

impl AdmissionStore for Sqlite {
    async fn spend(&self, replay_key: ReplayKey) -> Result<(), StoreError> {
        self.write(Spend { replay_key, essential: false }).await
    }

    async fn spend_essential(&self, replay_key: ReplayKey) -> Result<(), StoreError> {
        self.write(Spend { replay_key, essential: true }).await
    }

    async fn reserve(&self, reservation: RunReservation) -> Result<Admission, StoreError> {
        self.write(reservation).await
    }
}

pub(crate) struct Spend {
    pub(crate) replay_key: ReplayKey,
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
        if spend(tx.conn, &self.replay_key)? { Ok(()) } else { Err(StoreError::Replayed) }
    }
}

impl Command for RunReservation {
    type Answer = Admission;
    const NAME: &'static str = "reserve an agent";

    fn apply(&self, tx: &Tx<'_>) -> Result<Admission, StoreError> {
        if let Some(replay_key) = &self.replay_key
            && !spend(tx.conn, replay_key)?
        {
            return Ok(Admission::Replayed);
        }
        if let Some(answer) = self.repeated(tx.conn)? {
            return Ok(answer);
        }
        if !self.may_start {
            return Ok(Admission::Overloaded);
        }
        let place = match self.place(tx.conn)? {
            Ok(place) => place,
            Err(refused) => return Ok(refused),
        };
        // Nobody else writes between this and the insertion.
        let slot = match self.slot(&live_of(tx.conn, Self::NAME, &self.wallet)?) {
            Ok(slot) => slot,
            Err(exceeded) => return Ok(self.exceeds(exceeded)),
        };
        let mounts = match Mounts::look_up(tx.conn, self, place.there())? {
            Ok(mounts) => mounts,
            Err(refused) => return Ok(Admission::NoVolumes(refused)),
        };
        let record = self.record(tx.epoch, &place, slot);
        if !self.insert(tx, &record)? {
            return Err(StoreError::IdTaken(self.id));
        }
        let written = self.write_pod(tx.conn, &place, &record).and_then(|()| mounts.attach(tx.conn, &record));
        written.map_err(|error| StoreError::sql(Self::NAME, error))?;
        self.remember_key(tx.conn)?;
        tx.cache.keep(&record);
        tx.announce(record.pod, self.change(&record));
        Ok(Admission::Reserved(record))
    }
}

/// Whether the message was fresh. It is spent from here on.
fn spend(conn: &Connection, replay_key: &ReplayKey) -> Result<bool, StoreError> {
    let sql = |error| StoreError::sql(Spend::NAME, error);
    let mut insert = conn
        .prepare_cached("INSERT INTO spent (key, expires_at) VALUES (?1, ?2) ON CONFLICT DO NOTHING")
        .map_err(sql)?;
    let fresh = insert.execute((&replay_key.key, integer(replay_key.expires_at.0))).map_err(sql)?;
    Ok(fresh == 1)
}

impl RunReservation {
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
    fn place(&self, conn: &Connection) -> Result<Result<PodLookup, Admission>, StoreError> {
        let sql = |error| StoreError::sql(Self::NAME, error);
        let key = PodRowId(self.id.bits());
        let (name, ephemeral) = match self.pod {
            RunPod::New { name, ephemeral } => (name, ephemeral),
            RunPod::Existing(id) => {
                let last = pod::last_run(conn, Self::NAME, &id)?.filter(|last| last.wallet == self.wallet);
                return Ok(match last {
                    None => Err(Admission::NoPod(id)),
                    Some(last) if last.state.is_live() => Err(self.running(id)),
                    Some(last) => Ok(PodLookup::There(Box::new(last))),
                });
            }
        };
        if !ephemeral {
            match quota(conn, &self.wallet, self.tier_config.disk, self.now)? {
                QuotaCheck::Free => {}
                QuotaCheck::Full(kept) => return Ok(Err(Admission::QuotaFull(kept))),
                QuotaCheck::TooMany => return Ok(Err(Admission::TooManyPods)),
            }
        }
        let Some(name) = name else { return Ok(Ok(PodLookup::New { id: PodId::minted(self.id), key })) };
        Ok(match look_up(conn, &name, &self.wallet).map_err(sql)? {
            PodIdStatus::Free => Ok(PodLookup::New { id: name, key }),
            PodIdStatus::Removed(key) => Ok(PodLookup::Again { id: name, key }),
            PodIdStatus::Taken => Err(Admission::IdTaken(name)),
        })
    }

    /// Writes that the POD is there and runs.
    fn write_pod(&self, conn: &Connection, place: &PodLookup, record: &RunRecord) -> rusqlite::Result<()> {
        let (key, run, now) = (record.pod_key.0.cast_signed(), id_column(self.id), integer(self.now.0));
        match place {
            PodLookup::New { id, .. } => conn
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
            PodLookup::Again { .. } => conn
                .prepare_cached(
                    "UPDATE pods SET last_run = ?2, brought = ?3, ephemeral = ?4, created_at = ?5, removed_at = NULL \
                     WHERE key = ?1",
                )?
                .execute((key, run, self.brought, record.ephemeral, now)),
            PodLookup::There(_) => {
                let started = conn
                    .prepare_cached("UPDATE pods SET last_run = ?2, brought = ?3, stopped_at = NULL WHERE key = ?1")?
                    .execute((key, run, self.brought))?;
                keep_change(conn, record.pod_key, &self.change(record))?;
                Ok(started)
            }
        }
        .map(drop)
    }

    /// Whether the slot and the id were free. They are taken from here on.
    fn insert(&self, tx: &Tx<'_>, record: &RunRecord) -> Result<bool, StoreError> {
        let sql = |error| StoreError::sql(Self::NAME, error);
        let mut insert = tx
            .conn
            .prepare_cached(
                "INSERT INTO runs (id, wallet, generation, state, agent_type, image, tier, tier_min, cores, \
                 memory_mib, public, spawned_at, epoch, pod, disk_mib, changes, slot, tier_agents, expires_at, \
                 expires_counted_ms) VALUES \
                 (?1, ?2, ?3, 'reserved', ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19) \
                 ON CONFLICT DO NOTHING",
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
            record.slot,
            self.tier_config.agents,
            record.expiry.map(|expiry| integer(expiry.at.0)),
            record.expiry.map(|expiry| integer(expiry.counted_ms)),
        ];
        Ok(insert.execute(row).map_err(sql)? == 1)
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
}
