//! Images that holders bring.

use domain::{ImageId, ImageRef, UnixMillis, Wallet};
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, PgConnection, Row, query};

use super::database::{Command, Postgres, Tx, wallet_lock};
use crate::codec::{integer, natural};
use crate::error::StoreError;
use crate::images::{
    COLUMNS, FAILED_TOLD_MS, FinishOutcome, HeldImageRecord, HeldImageState, HeldImageStore, ImageOutcome, ImageQuota,
    ImageRow, ImageUse, NewImageUpload, OVER_BATCH, OverImage, ReadyImage, image_column, shortened,
};

const READ: &str = "read a holder's images";

/// A question of one's rows, with what it is asked with bound by the caller.
macro_rules! select_images {
    ($at:literal) => {
        query(AssertSqlSafe(format!(concat!("SELECT {} FROM images WHERE ", $at), COLUMNS)))
    };
}

impl HeldImageStore for Postgres {
    async fn begin_image(&self, upload: NewImageUpload) -> Result<ImageOutcome, StoreError> {
        self.write(Begin(upload)).await
    }

    async fn held_image(&self, id: ImageId) -> Result<Option<HeldImageRecord>, StoreError> {
        let select = select_images!("id = $1 AND state <> 'gone'").bind(image_column(id));
        self.one(READ, select, decode).await
    }

    async fn held_images_of(&self, wallet: Wallet) -> Result<Vec<HeldImageRecord>, StoreError> {
        let select = select_images!("wallet = $1 AND state <> 'gone' ORDER BY created_at DESC, id");
        self.many(READ, select.bind(wallet.0), decode).await
    }

    async fn held_image_named(&self, wallet: Wallet, image: ImageRef) -> Result<Option<HeldImageRecord>, StoreError> {
        let select = select_images!("wallet = $1 AND name = $2 AND tag = $3 AND state = 'ready'");
        let select = select.bind(wallet.0).bind(image.name().to_owned()).bind(image.tag().to_owned());
        self.one(READ, select, decode).await
    }

    async fn published_images(&self, most: u32) -> Result<Vec<HeldImageRecord>, StoreError> {
        let select = select_images!(
            "id IN (SELECT id FROM images WHERE published = 1 AND state = 'ready' ORDER BY \
             row_number() OVER (PARTITION BY wallet ORDER BY created_at DESC, id), created_at DESC, id LIMIT $1) \
             ORDER BY created_at DESC, id"
        );
        self.many(READ, select.bind(i64::from(most)), decode).await
    }

    async fn finish_image(
        &self,
        id: ImageId,
        ready: ReadyImage,
        quota_bytes: u64,
        now: UnixMillis,
    ) -> Result<FinishOutcome, StoreError> {
        self.write(Finish { id, ready, quota_bytes, now }).await
    }

    async fn fail_image(&self, id: ImageId, code: String, error: String, now: UnixMillis) -> Result<bool, StoreError> {
        let update = query(
            "UPDATE images SET state = 'failed', code = $2, error = $3, expires_at = $4 \
             WHERE id = $1 AND state = 'open'",
        );
        let until = integer(now.plus(FAILED_TOLD_MS).0);
        let update = update.bind(image_column(id)).bind(code).bind(shortened(&error).to_owned()).bind(until);
        Ok(self.execute("note that an upload is no image", update).await? == 1)
    }

    async fn tag_image(
        &self,
        wallet: Wallet,
        from: ImageRef,
        to: ImageRef,
        id: ImageId,
        quota: ImageQuota,
        now: UnixMillis,
    ) -> Result<ImageOutcome, StoreError> {
        self.write(TagImage { wallet, from, to, id, quota, now }).await
    }

    async fn publish_image(
        &self,
        wallet: Wallet,
        image: ImageRef,
        published: bool,
    ) -> Result<Option<HeldImageRecord>, StoreError> {
        let update = query(AssertSqlSafe(format!(
            "UPDATE images SET published = $4 WHERE wallet = $1 AND name = $2 AND tag = $3 AND state = 'ready' \
             RETURNING {COLUMNS}"
        )));
        let update = update.bind(wallet.0).bind(image.name().to_owned()).bind(image.tag().to_owned());
        self.one("publish an image", update.bind(i64::from(published)), decode).await
    }

    async fn remove_image(&self, wallet: Wallet, image: ImageRef) -> Result<bool, StoreError> {
        self.write(Remove { wallet, image }).await
    }

    async fn give_up_image(&self, id: ImageId) -> Result<bool, StoreError> {
        let update = query("UPDATE images SET state = 'gone' WHERE id = $1 AND state IN ('open', 'failed')");
        Ok(self.execute("give up the upload of an image", update.bind(image_column(id))).await? == 1)
    }

    async fn images_over(&self, now: UnixMillis) -> Result<Vec<OverImage>, StoreError> {
        const NAME: &str = "look for images that are over";
        let end = "UPDATE images SET state = 'gone' WHERE state IN ('open', 'failed') AND expires_at <= $1";
        self.execute(NAME, query(end).bind(integer(now.0))).await?;
        let sql = "SELECT id, pin, node, EXISTS (SELECT 1 FROM images AS other WHERE other.pin = images.pin AND \
                   other.state <> 'gone') FROM images WHERE state = 'gone' \
                   ORDER BY row_number() OVER (PARTITION BY node ORDER BY expires_at, id), expires_at LIMIT $1";
        let id = |column: i64| ImageId::from_bits(column.cast_unsigned());
        let over = |row: &PgRow| {
            let (id, pin) = (id(row.try_get(0)?), id(row.try_get(1)?));
            Ok(OverImage { id, pin, node: row.try_get(2)?, shared: row.try_get(3)? })
        };
        self.many(NAME, query(sql).bind(i64::from(OVER_BATCH)), over).await
    }

    async fn forget_image(&self, id: ImageId) -> Result<(), StoreError> {
        let delete = query("DELETE FROM images WHERE id = $1 AND state = 'gone'").bind(image_column(id));
        self.execute("forget an image", delete).await.map(drop)
    }
}

fn decode(row: &PgRow) -> sqlx::Result<HeldImageRecord> {
    let row = ImageRow {
        ids: (row.try_get(0)?, row.try_get(1)?),
        wallet: row.try_get(2)?,
        names: (row.try_get(3)?, row.try_get(4)?),
        state: row.try_get(5)?,
        node: row.try_get(6)?,
        size: row.try_get(7)?,
        archive: row.try_get(8)?,
        ready: (row.try_get(9)?, row.try_get(10)?, row.try_get(11)?),
        failed: (row.try_get(12)?, row.try_get(13)?),
        published: row.try_get(14)?,
        times: (row.try_get(15)?, row.try_get(16)?),
        built_in: row.try_get(17)?,
    };
    row.record().map_err(|error| sqlx::Error::Decode(Box::new(error)))
}

/// One of this wallet's at a time: each sees what the one before wrote.
async fn take_turn(conn: &mut PgConnection, wallet: &Wallet) -> sqlx::Result<()> {
    query("SELECT pg_advisory_xact_lock($1)").bind(wallet_lock(wallet)).execute(conn).await.map(drop)
}

async fn named(conn: &mut PgConnection, wallet: &Wallet, image: &ImageRef) -> sqlx::Result<Option<HeldImageRecord>> {
    let select = select_images!("wallet = $1 AND name = $2 AND tag = $3 AND state = 'ready'");
    let found = select.bind(wallet.0).bind(image.name()).bind(image.tag()).fetch_optional(conn).await?;
    found.map(|row| decode(&row)).transpose()
}

/// What a wallet has, but for one upload: what shares an upload takes its place once.
async fn used(conn: &mut PgConnection, wallet: &Wallet, but: Option<ImageId>) -> sqlx::Result<ImageUse> {
    let sql = "SELECT coalesce(sum(bytes), 0)::bigint, coalesce(sum(images), 0)::bigint, \
               coalesce(sum(uploads), 0)::bigint FROM (SELECT \
               max(coalesce(bytes, size)) FILTER (WHERE state <> 'failed') AS bytes, \
               count(*) AS images, count(*) FILTER (WHERE state = 'open') AS uploads FROM images \
               WHERE wallet = $1 AND state <> 'gone' AND id IS DISTINCT FROM $2 GROUP BY pin) AS pins";
    let row = query(sql).bind(wallet.0).bind(but.map(image_column)).fetch_one(conn).await?;
    let count = |at: usize| Ok::<_, sqlx::Error>(natural(row.try_get(at)?));
    Ok(ImageUse { bytes: count(0)?, images: count(1)?, uploads: count(2)? })
}

async fn insert(conn: &mut PgConnection, record: &HeldImageRecord) -> sqlx::Result<()> {
    let (state, ready) = match &record.state {
        HeldImageState::Ready(ready) => ("ready", Some(ready)),
        HeldImageState::Open | HeldImageState::Failed { .. } | HeldImageState::Gone => ("open", None),
    };
    let sql = format!(
        "INSERT INTO images ({COLUMNS}) VALUES \
         ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, NULL, NULL, $13, $14, $15, $16)"
    );
    query(AssertSqlSafe(sql))
        .bind(image_column(record.id))
        .bind(image_column(record.pin))
        .bind(record.wallet.0)
        .bind(record.image.name())
        .bind(record.image.tag())
        .bind(state)
        .bind(&record.node)
        .bind(integer(record.size))
        .bind(record.archive.0)
        .bind(ready.map(|ready| ready.digest.0))
        .bind(ready.map(|ready| integer(ready.bytes)))
        .bind(ready.map(|ready| &ready.needs))
        .bind(i64::from(record.published))
        .bind(integer(record.created_at.0))
        .bind(integer(record.expires_at.0))
        .bind(ready.and_then(|ready| ready.built_in.as_ref()))
        .execute(conn)
        .await
        .map(drop)
}

/// What has this name goes.
async fn replace(conn: &mut PgConnection, wallet: &Wallet, image: &ImageRef) -> sqlx::Result<u64> {
    let sql = "UPDATE images SET state = 'gone' WHERE wallet = $1 AND name = $2 AND tag = $3 AND state = 'ready'";
    let gone = query(sql).bind(wallet.0).bind(image.name()).bind(image.tag()).execute(conn).await?;
    Ok(gone.rows_affected())
}

/// Who brings an image again has read what was wrong with the last one.
async fn forget_failure(conn: &mut PgConnection, wallet: &Wallet, image: &ImageRef) -> sqlx::Result<()> {
    let sql = "UPDATE images SET state = 'gone' WHERE wallet = $1 AND name = $2 AND tag = $3 AND state = 'failed'";
    query(sql).bind(wallet.0).bind(image.name()).bind(image.tag()).execute(conn).await.map(drop)
}

struct Begin(NewImageUpload);

impl Command for Begin {
    type Answer = ImageOutcome;
    const NAME: &'static str = "begin the upload of an image";

    async fn apply(&self, tx: &mut Tx) -> Result<ImageOutcome, StoreError> {
        self.begin(tx.conn()).await.map_err(|error| StoreError::postgres(Self::NAME, error))
    }
}

impl Begin {
    async fn begin(&self, conn: &mut PgConnection) -> sqlx::Result<ImageOutcome> {
        let upload = &self.0;
        take_turn(conn, &upload.wallet).await?;
        let same = select_images!(
            "wallet = $1 AND name = $2 AND tag = $3 AND archive = $4 AND size = $5 AND \
             (state = 'ready' OR (state = 'open' AND expires_at > $6)) ORDER BY state DESC LIMIT 1"
        );
        let same = same.bind(upload.wallet.0).bind(upload.image.name()).bind(upload.image.tag());
        let same = same.bind(upload.archive.0).bind(integer(upload.size)).bind(integer(upload.now.0));
        if let Some(there) = same.fetch_optional(&mut *conn).await? {
            return Ok(ImageOutcome::Existing(decode(&there)?));
        }
        forget_failure(conn, &upload.wallet, &upload.image).await?;
        let used = used(conn, &upload.wallet, None).await?;
        if let Some(over) = used.exceeded(&upload.quota, upload.size, true) {
            return Ok(ImageOutcome::OverQuota(over));
        }
        let record = upload.record();
        insert(conn, &record).await?;
        Ok(ImageOutcome::New(record))
    }
}

struct Finish {
    id: ImageId,
    ready: ReadyImage,
    quota_bytes: u64,
    now: UnixMillis,
}

impl Command for Finish {
    type Answer = FinishOutcome;
    const NAME: &'static str = "take in the image of an upload";

    async fn apply(&self, tx: &mut Tx) -> Result<FinishOutcome, StoreError> {
        self.finish(tx.conn()).await.map_err(|error| StoreError::postgres(Self::NAME, error))
    }
}

impl Finish {
    async fn find(&self, conn: &mut PgConnection) -> sqlx::Result<Option<HeldImageRecord>> {
        let select = select_images!("id = $1 AND state IN ('open', 'ready') FOR UPDATE").bind(image_column(self.id));
        select.fetch_optional(conn).await?.map(|row| decode(&row)).transpose()
    }

    async fn finish(&self, conn: &mut PgConnection) -> sqlx::Result<FinishOutcome> {
        // Whose it is never changes: so much may be read before one's turn.
        let sql = "SELECT wallet FROM images WHERE id = $1";
        let Some(owner) = query(sql).bind(image_column(self.id)).fetch_optional(&mut *conn).await? else {
            return Ok(FinishOutcome::Unknown);
        };
        take_turn(conn, &Wallet(owner.try_get(0)?)).await?;
        let Some(found) = self.find(conn).await? else { return Ok(FinishOutcome::Unknown) };
        if let HeldImageState::Ready(_) = found.state {
            return Ok(FinishOutcome::Ready(Box::new(found)));
        }
        let used = used(conn, &found.wallet, Some(self.id)).await?.bytes;
        if used.saturating_add(self.ready.bytes) > self.quota_bytes {
            return Ok(FinishOutcome::OverQuota { used });
        }
        replace(conn, &found.wallet, &found.image).await?;
        let sql = "UPDATE images SET state = 'ready', digest = $2, bytes = $3, needs = $4, created_at = $5, built_in = $6 \
             WHERE id = $1";
        let ReadyImage { digest, bytes, needs, built_in } = &self.ready;
        let update = query(sql).bind(image_column(self.id)).bind(digest.0).bind(integer(*bytes)).bind(needs);
        update.bind(integer(self.now.0)).bind(built_in).execute(conn).await?;
        let state = HeldImageState::Ready(self.ready.clone());
        Ok(FinishOutcome::Ready(Box::new(HeldImageRecord { state, created_at: self.now, ..found })))
    }
}

struct TagImage {
    wallet: Wallet,
    from: ImageRef,
    to: ImageRef,
    id: ImageId,
    quota: ImageQuota,
    now: UnixMillis,
}

impl Command for TagImage {
    type Answer = ImageOutcome;
    const NAME: &'static str = "tag an image";

    async fn apply(&self, tx: &mut Tx) -> Result<ImageOutcome, StoreError> {
        self.tag(tx.conn()).await.map_err(|error| StoreError::postgres(Self::NAME, error))
    }
}

impl TagImage {
    async fn tag(&self, conn: &mut PgConnection) -> sqlx::Result<ImageOutcome> {
        take_turn(conn, &self.wallet).await?;
        let Some(source) = named(conn, &self.wallet, &self.from).await? else { return Ok(ImageOutcome::Unknown) };
        match named(conn, &self.wallet, &self.to).await? {
            Some(there) if there.pin == source.pin => return Ok(ImageOutcome::Existing(there)),
            Some(_) => {}
            None => {
                let used = used(conn, &self.wallet, None).await?;
                if let Some(over) = used.exceeded(&ImageQuota { bytes: u64::MAX, ..self.quota }, 0, false) {
                    return Ok(ImageOutcome::OverQuota(over));
                }
            }
        }
        let (id, image, created_at) = (self.id, self.to.clone(), self.now);
        let record = HeldImageRecord { id, image, created_at, published: false, ..source };
        replace(conn, &self.wallet, &self.to).await?;
        insert(conn, &record).await?;
        Ok(ImageOutcome::New(record))
    }
}

struct Remove {
    wallet: Wallet,
    image: ImageRef,
}

impl Command for Remove {
    type Answer = bool;
    const NAME: &'static str = "remove an image";

    async fn apply(&self, tx: &mut Tx) -> Result<bool, StoreError> {
        let fail = |error| StoreError::postgres(Self::NAME, error);
        // A tag that is being made of it is before this or after it.
        take_turn(tx.conn(), &self.wallet).await.map_err(fail)?;
        Ok(replace(tx.conn(), &self.wallet, &self.image).await.map_err(fail)? == 1)
    }
}
