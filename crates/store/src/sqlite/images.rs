//! Images that holders bring.

use domain::{ImageId, ImageRef, UnixMillis, Wallet};
use rusqlite::{Connection, Params, Row, params};

use super::handle::Sqlite;
use super::writer::{Command, Tx};
use crate::codec::{integer, natural};
use crate::error::StoreError;
use crate::images::{
    COLUMNS, FAILED_TOLD_MS, FinishOutcome, HeldImageRecord, HeldImageState, HeldImageStore, ImageOutcome, ImageQuota,
    ImageRow, ImageUse, NewImageUpload, OVER_BATCH, OverImage, ReadyImage, image_column, shortened,
};

impl HeldImageStore for Sqlite {
    async fn begin_image(&self, upload: NewImageUpload) -> Result<ImageOutcome, StoreError> {
        self.write(upload).await
    }

    async fn held_image(&self, id: ImageId) -> Result<Option<HeldImageRecord>, StoreError> {
        self.read(READ, move |conn| one(conn, "id = ?1 AND state <> 'gone'", (image_column(id),))).await
    }

    async fn held_images_of(&self, wallet: Wallet) -> Result<Vec<HeldImageRecord>, StoreError> {
        let at = "wallet = ?1 AND state <> 'gone' ORDER BY created_at DESC, id";
        self.read(READ, move |conn| many(conn, at, (wallet.0,))).await
    }

    async fn held_image_named(&self, wallet: Wallet, image: ImageRef) -> Result<Option<HeldImageRecord>, StoreError> {
        self.read(READ, move |conn| named(conn, &wallet, &image)).await
    }

    async fn published_images(&self, most: u32) -> Result<Vec<HeldImageRecord>, StoreError> {
        let at = "id IN (SELECT id FROM images WHERE published = 1 AND state = 'ready' ORDER BY \
                  row_number() OVER (PARTITION BY wallet ORDER BY created_at DESC, id), created_at DESC, id LIMIT ?1) \
                  ORDER BY created_at DESC, id";
        self.read(READ, move |conn| many(conn, at, (most,))).await
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
        self.write(Fail { id, code, error, now }).await
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
        self.write(Publish { wallet, image, published }).await
    }

    async fn remove_image(&self, wallet: Wallet, image: ImageRef) -> Result<bool, StoreError> {
        self.write(Remove { wallet, image }).await
    }

    async fn give_up_image(&self, id: ImageId) -> Result<bool, StoreError> {
        self.write(GiveUp(id)).await
    }

    async fn images_over(&self, now: UnixMillis) -> Result<Vec<OverImage>, StoreError> {
        self.write(Over(now)).await
    }

    async fn forget_image(&self, id: ImageId) -> Result<(), StoreError> {
        self.write(Forget(id)).await
    }
}

const READ: &str = "read a holder's images";

fn row(row: &Row<'_>) -> rusqlite::Result<ImageRow> {
    Ok(ImageRow {
        ids: (row.get(0)?, row.get(1)?),
        wallet: row.get(2)?,
        names: (row.get(3)?, row.get(4)?),
        state: row.get(5)?,
        node: row.get(6)?,
        size: row.get(7)?,
        archive: row.get(8)?,
        ready: (row.get(9)?, row.get(10)?, row.get(11)?),
        failed: (row.get(12)?, row.get(13)?),
        published: row.get(14)?,
        times: (row.get(15)?, row.get(16)?),
        built_in: row.get(17)?,
    })
}

fn many(conn: &Connection, at: &str, with: impl Params) -> Result<Vec<HeldImageRecord>, StoreError> {
    let fail = |error| StoreError::sql(READ, error);
    let mut select = conn.prepare_cached(&format!("SELECT {COLUMNS} FROM images WHERE {at}")).map_err(fail)?;
    let rows = select.query_map(with, row).map_err(fail)?;
    rows.map(|row| row.map_err(fail)?.record()).collect()
}

fn one(conn: &Connection, at: &str, with: impl Params) -> Result<Option<HeldImageRecord>, StoreError> {
    Ok(many(conn, at, with)?.pop())
}

fn named(conn: &Connection, wallet: &Wallet, image: &ImageRef) -> Result<Option<HeldImageRecord>, StoreError> {
    let at = "wallet = ?1 AND name = ?2 AND tag = ?3 AND state = 'ready'";
    one(conn, at, (wallet.0, image.name(), image.tag()))
}

/// What a wallet has, but for one upload: what shares an upload takes its place once.
fn used(conn: &Connection, wallet: &Wallet, but: Option<ImageId>) -> rusqlite::Result<ImageUse> {
    let sql = "SELECT coalesce(sum(bytes), 0), coalesce(sum(images), 0), coalesce(sum(uploads), 0) FROM \
               (SELECT max(coalesce(bytes, size)) FILTER (WHERE state <> 'failed') AS bytes, count(*) AS images, \
               count(*) FILTER (WHERE state = 'open') AS uploads FROM images \
               WHERE wallet = ?1 AND state <> 'gone' AND id IS NOT ?2 GROUP BY pin)";
    conn.prepare_cached(sql)?.query_row((wallet.0, but.map(image_column)), |row| {
        Ok(ImageUse { bytes: natural(row.get(0)?), images: natural(row.get(1)?), uploads: natural(row.get(2)?) })
    })
}

fn insert(conn: &Connection, record: &HeldImageRecord) -> rusqlite::Result<()> {
    let (state, ready) = match &record.state {
        HeldImageState::Ready(ready) => ("ready", Some(ready)),
        HeldImageState::Open | HeldImageState::Failed { .. } | HeldImageState::Gone => ("open", None),
    };
    let sql = format!(
        "INSERT INTO images ({COLUMNS}) VALUES \
         (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, NULL, NULL, ?13, ?14, ?15, ?16)"
    );
    let row = params![
        image_column(record.id),
        image_column(record.pin),
        record.wallet.0,
        record.image.name(),
        record.image.tag(),
        state,
        record.node,
        integer(record.size),
        record.archive.0,
        ready.map(|ready| ready.digest.0),
        ready.map(|ready| integer(ready.bytes)),
        ready.map(|ready| &ready.needs),
        i64::from(record.published),
        integer(record.created_at.0),
        integer(record.expires_at.0),
        ready.and_then(|ready| ready.built_in.as_ref()),
    ];
    conn.prepare_cached(&sql)?.execute(row).map(drop)
}

/// What has this name goes.
fn replace(conn: &Connection, wallet: &Wallet, image: &ImageRef) -> rusqlite::Result<usize> {
    let sql = "UPDATE images SET state = 'gone' WHERE wallet = ?1 AND name = ?2 AND tag = ?3 AND state = 'ready'";
    conn.prepare_cached(sql)?.execute((wallet.0, image.name(), image.tag()))
}

/// Who brings an image again has read what was wrong with the last one.
fn forget_failure(conn: &Connection, wallet: &Wallet, image: &ImageRef) -> rusqlite::Result<usize> {
    let sql = "UPDATE images SET state = 'gone' WHERE wallet = ?1 AND name = ?2 AND tag = ?3 AND state = 'failed'";
    conn.prepare_cached(sql)?.execute((wallet.0, image.name(), image.tag()))
}

impl Command for NewImageUpload {
    type Answer = ImageOutcome;
    const NAME: &'static str = "begin the upload of an image";

    fn apply(&self, tx: &Tx<'_>) -> Result<ImageOutcome, StoreError> {
        let fail = |error| StoreError::sql(Self::NAME, error);
        let same = "wallet = ?1 AND name = ?2 AND tag = ?3 AND archive = ?4 AND size = ?5 AND \
                    (state = 'ready' OR (state = 'open' AND expires_at > ?6)) ORDER BY state DESC LIMIT 1";
        let names = (self.image.name(), self.image.tag());
        let with = (self.wallet.0, names.0, names.1, self.archive.0, integer(self.size), integer(self.now.0));
        if let Some(there) = one(tx.conn, same, with)? {
            return Ok(ImageOutcome::Existing(there));
        }
        forget_failure(tx.conn, &self.wallet, &self.image).map_err(fail)?;
        let used = used(tx.conn, &self.wallet, None).map_err(fail)?;
        if let Some(over) = used.exceeded(&self.quota, self.size, true) {
            return Ok(ImageOutcome::OverQuota(over));
        }
        let record = self.record();
        insert(tx.conn, &record).map_err(fail)?;
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

    fn apply(&self, tx: &Tx<'_>) -> Result<FinishOutcome, StoreError> {
        let fail = |error| StoreError::sql(Self::NAME, error);
        let Some(found) = one(tx.conn, "id = ?1 AND state IN ('open', 'ready')", (image_column(self.id),))? else {
            return Ok(FinishOutcome::Unknown);
        };
        if let HeldImageState::Ready(_) = found.state {
            return Ok(FinishOutcome::Ready(Box::new(found)));
        }
        let used = used(tx.conn, &found.wallet, Some(self.id)).map_err(fail)?.bytes;
        if used.saturating_add(self.ready.bytes) > self.quota_bytes {
            return Ok(FinishOutcome::OverQuota { used });
        }
        self.write(tx.conn, &found).map_err(fail)?;
        let state = HeldImageState::Ready(self.ready.clone());
        Ok(FinishOutcome::Ready(Box::new(HeldImageRecord { state, created_at: self.now, ..found })))
    }
}

impl Finish {
    fn write(&self, conn: &Connection, found: &HeldImageRecord) -> rusqlite::Result<()> {
        replace(conn, &found.wallet, &found.image)?;
        let sql = "UPDATE images SET state = 'ready', digest = ?2, bytes = ?3, needs = ?4, created_at = ?5, built_in = ?6 \
             WHERE id = ?1";
        let ReadyImage { digest, bytes, needs, built_in } = &self.ready;
        let row = (image_column(self.id), digest.0, integer(*bytes), needs, integer(self.now.0), built_in);
        conn.prepare_cached(sql)?.execute(row).map(drop)
    }
}

struct Fail {
    id: ImageId,
    code: String,
    error: String,
    now: UnixMillis,
}

impl Command for Fail {
    type Answer = bool;
    const NAME: &'static str = "note that an upload is no image";

    fn apply(&self, tx: &Tx<'_>) -> Result<bool, StoreError> {
        let sql = "UPDATE images SET state = 'failed', code = ?2, error = ?3, expires_at = ?4 \
                   WHERE id = ?1 AND state = 'open'";
        let until = integer(self.now.plus(FAILED_TOLD_MS).0);
        let row = (image_column(self.id), &self.code, shortened(&self.error), until);
        let failed = tx.conn.prepare_cached(sql).and_then(|mut update| update.execute(row));
        failed.map(|rows| rows == 1).map_err(|error| StoreError::sql(Self::NAME, error))
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

    fn apply(&self, tx: &Tx<'_>) -> Result<ImageOutcome, StoreError> {
        let fail = |error| StoreError::sql(Self::NAME, error);
        let Some(source) = named(tx.conn, &self.wallet, &self.from)? else { return Ok(ImageOutcome::Unknown) };
        match named(tx.conn, &self.wallet, &self.to)? {
            Some(there) if there.pin == source.pin => return Ok(ImageOutcome::Existing(there)),
            Some(_) => {}
            None => {
                let used = used(tx.conn, &self.wallet, None).map_err(fail)?;
                if let Some(over) = used.exceeded(&ImageQuota { bytes: u64::MAX, ..self.quota }, 0, false) {
                    return Ok(ImageOutcome::OverQuota(over));
                }
            }
        }
        let (id, image, created_at) = (self.id, self.to.clone(), self.now);
        let record = HeldImageRecord { id, image, created_at, published: false, ..source };
        replace(tx.conn, &self.wallet, &self.to).map_err(fail)?;
        insert(tx.conn, &record).map_err(fail)?;
        Ok(ImageOutcome::New(record))
    }
}

struct Publish {
    wallet: Wallet,
    image: ImageRef,
    published: bool,
}

impl Command for Publish {
    type Answer = Option<HeldImageRecord>;
    const NAME: &'static str = "publish an image";

    fn apply(&self, tx: &Tx<'_>) -> Result<Option<HeldImageRecord>, StoreError> {
        let sql = "UPDATE images SET published = ?4 WHERE wallet = ?1 AND name = ?2 AND tag = ?3 AND state = 'ready'";
        let row = (self.wallet.0, self.image.name(), self.image.tag(), i64::from(self.published));
        let done = tx.conn.prepare_cached(sql).and_then(|mut update| update.execute(row));
        done.map_err(|error| StoreError::sql(Self::NAME, error))?;
        named(tx.conn, &self.wallet, &self.image)
    }
}

struct Remove {
    wallet: Wallet,
    image: ImageRef,
}

impl Command for Remove {
    type Answer = bool;
    const NAME: &'static str = "remove an image";

    fn is_essential(&self) -> bool {
        true
    }

    fn apply(&self, tx: &Tx<'_>) -> Result<bool, StoreError> {
        let gone = replace(tx.conn, &self.wallet, &self.image);
        gone.map(|rows| rows == 1).map_err(|error| StoreError::sql(Self::NAME, error))
    }
}

struct GiveUp(ImageId);

impl Command for GiveUp {
    type Answer = bool;
    const NAME: &'static str = "give up the upload of an image";

    fn is_essential(&self) -> bool {
        true
    }

    fn apply(&self, tx: &Tx<'_>) -> Result<bool, StoreError> {
        let sql = "UPDATE images SET state = 'gone' WHERE id = ?1 AND state IN ('open', 'failed')";
        let gone = tx.conn.prepare_cached(sql).and_then(|mut update| update.execute((image_column(self.0),)));
        gone.map(|rows| rows == 1).map_err(|error| StoreError::sql(Self::NAME, error))
    }
}

struct Over(UnixMillis);

impl Command for Over {
    type Answer = Vec<OverImage>;
    const NAME: &'static str = "look for images that are over";

    fn apply(&self, tx: &Tx<'_>) -> Result<Vec<OverImage>, StoreError> {
        self.find(tx.conn).map_err(|error| StoreError::sql(Self::NAME, error))
    }
}

impl Over {
    fn find(&self, conn: &Connection) -> rusqlite::Result<Vec<OverImage>> {
        let end = "UPDATE images SET state = 'gone' WHERE state IN ('open', 'failed') AND expires_at <= ?1";
        conn.prepare_cached(end)?.execute((integer(self.0.0),))?;
        let sql = "SELECT id, pin, node, EXISTS (SELECT 1 FROM images AS other WHERE other.pin = images.pin AND \
                   other.state <> 'gone') FROM images WHERE state = 'gone' \
                   ORDER BY row_number() OVER (PARTITION BY node ORDER BY expires_at, id), expires_at LIMIT ?1";
        let id = |column: i64| ImageId::from_bits(column.cast_unsigned());
        let mut select = conn.prepare_cached(sql)?;
        let rows = select.query_map((OVER_BATCH,), |row| {
            Ok(OverImage { id: id(row.get(0)?), pin: id(row.get(1)?), node: row.get(2)?, shared: row.get(3)? })
        })?;
        rows.collect()
    }
}

struct Forget(ImageId);

impl Command for Forget {
    type Answer = ();
    const NAME: &'static str = "forget an image";

    fn apply(&self, tx: &Tx<'_>) -> Result<(), StoreError> {
        let sql = "DELETE FROM images WHERE id = ?1 AND state = 'gone'";
        let gone = tx.conn.prepare_cached(sql).and_then(|mut delete| delete.execute((image_column(self.0),)));
        gone.map(drop).map_err(|error| StoreError::sql(Self::NAME, error))
    }
}
