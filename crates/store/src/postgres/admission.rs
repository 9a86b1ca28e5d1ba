//! Who may come in: spent messages, reservations, idempotency. One transaction.

use domain::{Generation, PodId};
use sqlx::{PgConnection, Row, query};

use super::database::{Command, Postgres, Statement, Tx, wallet_lock};
use super::life::keep_change;
use super::pod::{last_run, look_up, quota};
use super::row::{find, live_of};
use super::volumes::Mounts;
use crate::admission::{Admission, AdmissionStore, KEY_LIFE_MS, PodLookup, ReplayKey, RunPod, RunReservation};
use crate::codec::{id_column, id_of, integer};
use crate::error::StoreError;
use crate::pod::{PodIdStatus, QuotaCheck};
use crate::record::{PodRowId, RunRecord};

const SPEND: &str = "spend a message";

impl AdmissionStore for Postgres {
    async fn spend(&self, replay_key: ReplayKey) -> Result<(), StoreError> {
        let fresh = self.execute(SPEND, insert_replay_key(&replay_key)).await?;
        if fresh == 1 { Ok(()) } else { Err(StoreError::Replayed) }
    }

    async fn spend_essential(&self, replay_key: ReplayKey) -> Result<(), StoreError> {
        // The server's disk has no room that is kept for it.
        self.spend(replay_key).await
    }

    async fn reserve(&self, reservation: RunReservation) -> Result<Admission, StoreError> {
        self.write(Reserve(reservation)).await
    }
}

fn insert_replay_key(replay_key: &ReplayKey) -> Statement<'_> {
    query("INSERT INTO spent (key, expires_at) VALUES ($1, $2) ON CONFLICT DO NOTHING")
        .bind(replay_key.key)
        .bind(integer(replay_key.expires_at.0))
}

struct Reserve(RunReservation);

impl Command for Reserve {
    type Answer = Admission;
    const NAME: &'static str = "reserve an agent";

    async fn apply(&self, tx: &mut Tx) -> Result<Admission, StoreError> {
        let fail = |error| StoreError::postgres(Self::NAME, error);
        if !self.hold_and_spend(tx.conn()).await.map_err(fail)? {
            return Ok(Admission::Replayed);
        }
        if let Some(answer) = self.repeated(tx.conn()).await.map_err(fail)? {
            return Ok(answer);
        }
        if !self.0.may_start {
            return Ok(Admission::Overloaded);
        }
        let place = match self.place(tx.conn()).await.map_err(fail)? {
            Ok(place) => place,
            Err(refused) => return Ok(refused),
        };
        let slot = match self.0.slot(&live_of(tx.conn(), &self.0.wallet).await.map_err(fail)?) {
            Ok(slot) => slot,
            Err(exceeded) => return Ok(self.0.exceeds(exceeded)),
        };
        let mounts = match Mounts::look_up(tx.conn(), &self.0, place.there()).await.map_err(fail)? {
            Ok(mounts) => mounts,
            Err(refused) => return Ok(Admission::NoVolumes(refused)),
        };
        let record = self.0.record(tx.epoch, &place, slot);
        self.take(tx, &place, &mounts, record).await
    }
}

impl Reserve {
    /// Spends the message, if it is fresh; and from here on no other reservation of this
    /// wallet goes on until this one is over. One statement for both: those that follow see
    /// what the one before wrote.
    async fn hold_and_spend(&self, conn: &mut PgConnection) -> sqlx::Result<bool> {
        let lock = wallet_lock(&self.0.wallet);
        let Some(replay_key) = &self.0.replay_key else {
            return query("SELECT pg_advisory_xact_lock($1)").bind(lock).execute(conn).await.map(|_| true);
        };
        let sql = "WITH held AS MATERIALIZED (SELECT pg_advisory_xact_lock($1)) \
                   INSERT INTO spent (key, expires_at) SELECT $2, $3 FROM held ON CONFLICT DO NOTHING";
        let spent = query(sql).bind(lock).bind(replay_key.key).bind(integer(replay_key.expires_at.0));
        Ok(spent.execute(conn).await?.rows_affected() == 1)
    }

    /// Takes slot and id, or says who has them; the message is spent in any case.
    async fn take(
        &self,
        tx: &mut Tx,
        place: &PodLookup,
        mounts: &Mounts,
        record: RunRecord,
    ) -> Result<Admission, StoreError> {
        let fail = |error| StoreError::postgres(Self::NAME, error);
        // Of another holder's POD, or one that is removed meanwhile, it is known late.
        let may_lose = !matches!(place, PodLookup::New { id, .. } if id.first_run().is_some());
        if may_lose {
            query("SAVEPOINT place").execute(tx.conn()).await.map_err(fail)?;
        }
        if !self.insert(tx.conn(), &record).await.map_err(fail)? {
            return self.conflict(tx.conn()).await;
        }
        if !self.write_pod(tx.conn(), place, &record).await.map_err(fail)? {
            query("ROLLBACK TO SAVEPOINT place").execute(tx.conn()).await.map_err(fail)?;
            return Ok(match place {
                PodLookup::New { id, .. } | PodLookup::Again { id, .. } => Admission::IdTaken(*id),
                PodLookup::There(last) => Admission::NoPod(last.pod),
            });
        }
        mounts.attach(tx.conn(), &record).await.map_err(fail)?;
        self.remember_key(tx.conn()).await.map_err(fail)?;
        tx.announce(record.pod, &self.0.change(&record)).await.map_err(fail)?;
        Ok(Admission::Reserved(record))
    }

    /// The answer that the caller's key stands for, if any.
    async fn repeated(&self, conn: &mut PgConnection) -> sqlx::Result<Option<Admission>> {
        let Some(idempotency) = &self.0.idempotency else { return Ok(None) };
        let sql = "SELECT request, run FROM idempotency WHERE wallet = $1 AND key = $2 AND expires_at > $3";
        let kept = query(sql).bind(self.0.wallet.0).bind(&idempotency.key).bind(integer(self.0.now.0));
        let Some(kept) = kept.fetch_optional(&mut *conn).await? else { return Ok(None) };
        if kept.try_get::<[u8; 32], _>(0)? != idempotency.request {
            return Ok(Some(Admission::Mismatch));
        }
        let run = find(conn, id_of(kept.try_get(1)?)).await?;
        Ok(Some(run.map_or(Admission::RepeatedRemoved, Admission::Repeated)))
    }

    /// The POD, if the holder may have this run of it. Nothing is written yet.
    async fn place(&self, conn: &mut PgConnection) -> sqlx::Result<Result<PodLookup, Admission>> {
        let key = PodRowId(self.0.id.bits());
        let (name, ephemeral) = match self.0.pod {
            RunPod::New { name, ephemeral } => (name, ephemeral),
            RunPod::Existing(id) => {
                let last = last_run(conn, &id).await?.filter(|last| last.wallet == self.0.wallet);
                return Ok(match last {
                    None => Err(Admission::NoPod(id)),
                    Some(last) if last.state.is_live() => Err(self.0.running(id)),
                    Some(last) => Ok(PodLookup::There(Box::new(last))),
                });
            }
        };
        if !ephemeral {
            match quota(conn, &self.0.wallet, self.0.tier_config.disk, self.0.now).await? {
                QuotaCheck::Free => {}
                QuotaCheck::Full(kept) => return Ok(Err(Admission::QuotaFull(kept))),
                QuotaCheck::TooMany => return Ok(Err(Admission::TooManyPods)),
            }
        }
        let Some(name) = name else { return Ok(Ok(PodLookup::New { id: PodId::minted(self.0.id), key })) };
        Ok(match look_up(conn, &name, &self.0.wallet).await? {
            PodIdStatus::Free => Ok(PodLookup::New { id: name, key }),
            PodIdStatus::Removed(key) => Ok(PodLookup::Again { id: name, key }),
            PodIdStatus::Taken => Err(Admission::IdTaken(name)),
        })
    }

    /// Writes that the POD is there and runs; `false` if it is not this holder's any more.
    async fn write_pod(&self, conn: &mut PgConnection, place: &PodLookup, record: &RunRecord) -> sqlx::Result<bool> {
        let (key, run) = (record.pod_key.0.cast_signed(), id_column(self.0.id));
        let write = match place {
            PodLookup::New { id, .. } => query(
                "INSERT INTO pods (key, last_run, brought, name, wallet, ephemeral, created_at) \
                 VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING",
            )
            .bind(key)
            .bind(run)
            .bind(self.0.brought)
            .bind(id.first_run().is_none().then(|| id.as_str()))
            .bind(self.0.wallet.0)
            .bind(record.ephemeral)
            .bind(integer(self.0.now.0)),
            PodLookup::Again { .. } => query(
                "UPDATE pods SET last_run = $2, brought = $3, ephemeral = $4, created_at = $5, removed_at = NULL \
                 WHERE key = $1 AND removed_at IS NOT NULL",
            )
            .bind(key)
            .bind(run)
            .bind(self.0.brought)
            .bind(record.ephemeral)
            .bind(integer(self.0.now.0)),
            PodLookup::There(last) => query(
                "UPDATE pods SET last_run = $2, brought = $3, stopped_at = NULL \
                 WHERE key = $1 AND removed_at IS NULL AND last_run = $4",
            )
            .bind(key)
            .bind(run)
            .bind(self.0.brought)
            .bind(id_column(last.id)),
        };
        let written = write.execute(&mut *conn).await?.rows_affected() == 1;
        if written && matches!(place, PodLookup::There(_)) {
            keep_change(conn, record.pod_key, &self.0.change(record)).await?;
        }
        Ok(written)
    }

    /// Whether the slot and the id were free. They are taken from here on.
    async fn insert(&self, conn: &mut PgConnection, record: &RunRecord) -> sqlx::Result<bool> {
        let insert = query(
            "INSERT INTO runs (id, wallet, generation, state, agent_type, image, tier, tier_min, cores, memory_mib, \
             public, spawned_at, epoch, pod, disk_mib, changes, slot, tier_agents, expires_at, expires_counted_ms) \
             VALUES \
             ($1, $2, $3, 'reserved', $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19) \
             ON CONFLICT DO NOTHING",
        )
        .bind(id_column(self.0.id))
        .bind(self.0.wallet.0)
        .bind(integer(Generation::FIRST.0))
        .bind(&self.0.agent_type)
        .bind(self.0.image.0)
        .bind(self.0.tier.as_str())
        .bind(integer(self.0.tier_config.min))
        .bind(i64::from(self.0.tier_config.cores))
        .bind(i64::from(self.0.tier_config.memory))
        .bind(self.0.public)
        .bind(integer(self.0.now.0))
        .bind(record.epoch.0.cast_signed())
        .bind(record.pod_key.0.cast_signed())
        .bind(i64::from(self.0.tier_config.disk))
        .bind(integer(record.changes))
        .bind(i64::from(record.slot))
        .bind(i64::from(self.0.tier_config.agents))
        .bind(record.expiry.map(|expiry| integer(expiry.at.0)))
        .bind(record.expiry.map(|expiry| integer(expiry.counted_ms)));
        Ok(insert.execute(conn).await?.rows_affected() == 1)
    }

    /// Who was faster: a run of this id, or a gateway of the last version, which takes a slot
    /// and holds no wallet. What to say of that one is found out by looking again.
    async fn conflict(&self, conn: &mut PgConnection) -> Result<Admission, StoreError> {
        let fail = |error| StoreError::postgres(Self::NAME, error);
        match find(conn, self.0.id).await.map_err(fail)? {
            Some(_) => Err(StoreError::IdTaken(self.0.id)),
            None => Err(StoreError::tie(Self::NAME)),
        }
    }

    async fn remember_key(&self, conn: &mut PgConnection) -> sqlx::Result<()> {
        let Some(idempotency) = &self.0.idempotency else { return Ok(()) };
        // An expired key that was not pruned yet is taken over.
        query(
            "INSERT INTO idempotency (wallet, key, request, run, expires_at) VALUES ($1, $2, $3, $4, $5) \
             ON CONFLICT (wallet, key) DO UPDATE SET request = $3, run = $4, expires_at = $5",
        )
        .bind(self.0.wallet.0)
        .bind(&idempotency.key)
        .bind(idempotency.request)
        .bind(id_column(self.0.id))
        .bind(integer(self.0.now.plus(KEY_LIFE_MS).0))
        .execute(conn)
        .await
        .map(drop)
    }
}
