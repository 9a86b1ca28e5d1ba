//! Images that holders bring: who has which, and what becomes of uploads.
//!
//! A row is there before its node is told, and goes when the node has nothing of it any more:
//! `open` (on its way), `ready`, `failed` (told for a while), `gone` (to be taken from its
//! node).

use domain::{ArchiveSum, ImageDigest, ImageId, ImageRef, UnixMillis, Wallet};

use crate::error::StoreError;
use crate::port::port;

/// For how long it is told that an archive was no image.
pub(crate) const FAILED_TOLD_MS: u64 = 60 * 60 * 1000;
/// Rows of what is over that are given at once, of each node as many as of the others: one that is
/// away for long holds up none of them.
pub(crate) const OVER_BATCH: u32 = 100;
/// Bytes of an error that are kept.
const MAX_ERROR: usize = 2_000;

/// A holder's image, as the store knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldImageRecord {
    /// Its id.
    pub id: ImageId,
    /// What its node knows it by.
    pub pin: ImageId,
    /// Whose it is.
    pub wallet: Wallet,
    /// What they call it.
    pub image: ImageRef,
    /// The node that has it.
    pub node: String,
    /// Bytes of its archive.
    pub size: u64,
    /// The SHA-256 of its archive.
    pub archive: ArchiveSum,
    /// How it is.
    pub state: HeldImageState,
    /// Whether everybody may spawn it.
    pub published: bool,
    /// When its upload was begun, or it was tagged.
    pub created_at: UnixMillis,
    /// When it is over, unless it is ready by then.
    pub expires_at: UnixMillis,
}

/// How a holder's image is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeldImageState {
    /// On its way.
    Open,
    /// There.
    Ready(ReadyImage),
    /// No image that can be taken.
    Failed {
        /// The code of the fault.
        code: String,
        /// Why not.
        error: String,
    },
    /// Its node is still to be told that it goes.
    Gone,
}

/// What a node said of an image that it has made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadyImage {
    /// The digest of its manifest.
    pub digest: ImageDigest,
    /// What it takes of the disk.
    pub bytes: u64,
    /// What it needs, as JSON.
    pub needs: String,
    /// What it was built in, if its node has built it.
    pub built_in: Option<String>,
}

/// What a wallet's images may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageQuota {
    /// Bytes of all, uploads included.
    pub bytes: u64,
    /// Images, tags included, and uploads, also those that have failed and are still told.
    pub images: u32,
    /// Uploads at once.
    pub uploads: u32,
}

/// An upload that is to begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewImageUpload {
    /// Its id, for the node too.
    pub id: ImageId,
    /// Whose it is.
    pub wallet: Wallet,
    /// What the image is to be called.
    pub image: ImageRef,
    /// The node that will have it.
    pub node: String,
    /// Bytes of the archive.
    pub size: u64,
    /// Its SHA-256.
    pub archive: ArchiveSum,
    /// What the wallet's images may be.
    pub quota: ImageQuota,
    /// Now.
    pub now: UnixMillis,
    /// When it is given up.
    pub expires_at: UnixMillis,
}

/// What came of an upload that was to begin, or of a tag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageOutcome {
    /// It is written down.
    New(HeldImageRecord),
    /// The same one was: on its way, or there.
    Existing(HeldImageRecord),
    /// It does not fit what the wallet has.
    OverQuota(OverQuota),
    /// There is no such image to tag.
    Unknown,
}

/// Why an image does not fit what its wallet has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OverQuota {
    /// The others take so many bytes.
    Bytes {
        /// So many.
        used: u64,
    },
    /// There are as many as there may be.
    Images,
    /// As many are on their way as may be.
    Uploads,
}

/// What came of an upload that its node has made an image of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FinishOutcome {
    /// It is there, in place of the one that had its name.
    Ready(Box<HeldImageRecord>),
    /// It is larger than what is left; it goes.
    OverQuota {
        /// What the others take.
        used: u64,
    },
    /// It is none that is on its way.
    Unknown,
}

/// What is over, and is to be taken from its node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OverImage {
    /// Which.
    pub id: ImageId,
    /// What its node knows it by.
    pub pin: ImageId,
    /// The node.
    pub node: String,
    /// Whether another image of the same upload stays: the node keeps it.
    pub shared: bool,
}

port! {
    /// Images that holders bring.
    HeldImageStore {
        /// Begins an upload; where the same archive is on its way under this name, or there,
        /// it is that one. What failed under this name is told no more.
        fn begin_image(&self, upload: NewImageUpload) -> ImageOutcome;

        /// One, however it is, but for those that are gone.
        fn held_image(&self, id: ImageId) -> Option<HeldImageRecord>;

        /// A wallet's, newest first, but for those that are gone.
        fn held_images_of(&self, wallet: Wallet) -> Vec<HeldImageRecord>;

        /// The one of this name that is there.
        fn held_image_named(&self, wallet: Wallet, image: ImageRef) -> Option<HeldImageRecord>;

        /// Those that everybody may spawn, newest first: `most` at most, of each wallet as many as of
        /// the others, so that nobody hides what others have published.
        fn published_images(&self, most: u32) -> Vec<HeldImageRecord>;

        /// An upload has become an image. What had its name is gone.
        fn finish_image(&self, id: ImageId, ready: ReadyImage, quota_bytes: u64, now: UnixMillis) -> FinishOutcome;

        /// An upload is no image that can be taken; `false` if it is none that is on its way.
        fn fail_image(&self, id: ImageId, code: String, error: String, now: UnixMillis) -> bool;

        /// Gives an image that is there another name beside its own. What had that name is
        /// gone.
        fn tag_image(
            &self,
            wallet: Wallet,
            from: ImageRef,
            to: ImageRef,
            id: ImageId,
            quota: ImageQuota,
            now: UnixMillis,
        ) -> ImageOutcome;

        /// Says whether everybody may spawn an image that is there.
        fn publish_image(&self, wallet: Wallet, image: ImageRef, published: bool) -> Option<HeldImageRecord>;

        /// Takes an image that is there from everybody; `false` if there is none of this name.
        /// Works on a full disk too.
        fn remove_image(&self, wallet: Wallet, image: ImageRef) -> bool;

        /// Gives up an upload, or forgets that it failed; `false` if it is neither. Works on a
        /// full disk too.
        fn give_up_image(&self, id: ImageId) -> bool;

        /// What is gone, those included whose time is over from now on: a batch.
        fn images_over(&self, now: UnixMillis) -> Vec<OverImage>;

        /// Its node has nothing of it any more.
        fn forget_image(&self, id: ImageId) -> ();
    }
}

/// A row of `images`, as it lies in the columns.
pub(crate) struct ImageRow {
    pub(crate) ids: (i64, i64),
    pub(crate) wallet: [u8; 32],
    pub(crate) names: (String, String),
    pub(crate) state: String,
    pub(crate) node: String,
    pub(crate) size: i64,
    pub(crate) archive: [u8; 32],
    pub(crate) ready: (Option<[u8; 32]>, Option<i64>, Option<String>),
    pub(crate) failed: (Option<String>, Option<String>),
    pub(crate) published: i64,
    pub(crate) times: (i64, i64),
    pub(crate) built_in: Option<String>,
}

/// In this order in either database.
pub(crate) const COLUMNS: &str = "id, pin, wallet, name, tag, state, node, size, archive, digest, bytes, needs, code, \
                                  error, published, created_at, expires_at, built_in";

impl ImageRow {
    pub(crate) fn record(self) -> Result<HeldImageRecord, StoreError> {
        let wrong = StoreError::Value("a holder's image");
        let id = |column: i64| ImageId::from_bits(column.cast_unsigned());
        let state = match (self.state.as_str(), self.ready, self.failed) {
            ("open", ..) => HeldImageState::Open,
            ("gone", ..) => HeldImageState::Gone,
            ("ready", (Some(digest), Some(bytes), Some(needs)), _) => {
                let (digest, bytes) = (ImageDigest(digest), crate::codec::natural(bytes));
                HeldImageState::Ready(ReadyImage { digest, bytes, needs, built_in: self.built_in })
            }
            ("failed", _, (Some(code), Some(error))) => HeldImageState::Failed { code, error },
            _ => return Err(wrong),
        };
        Ok(HeldImageRecord {
            id: id(self.ids.0),
            pin: id(self.ids.1),
            wallet: Wallet(self.wallet),
            image: ImageRef::new(&self.names.0, &self.names.1).map_err(|_| wrong)?,
            node: self.node,
            size: crate::codec::natural(self.size),
            archive: ArchiveSum(self.archive),
            state,
            published: self.published != 0,
            created_at: crate::codec::millis(self.times.0),
            expires_at: crate::codec::millis(self.times.1),
        })
    }
}

/// What a wallet has.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ImageUse {
    pub(crate) bytes: u64,
    pub(crate) images: u64,
    pub(crate) uploads: u64,
}

impl ImageUse {
    /// Whether one more of so many bytes fits; `uploads` are counted where it is an upload.
    pub(crate) fn exceeded(&self, quota: &ImageQuota, more: u64, is_upload: bool) -> Option<OverQuota> {
        if self.images >= quota.images.into() {
            return Some(OverQuota::Images);
        }
        if is_upload && self.uploads >= quota.uploads.into() {
            return Some(OverQuota::Uploads);
        }
        let fits = self.bytes.checked_add(more).is_some_and(|all| all <= quota.bytes);
        (!fits).then_some(OverQuota::Bytes { used: self.bytes })
    }
}

pub(crate) const fn image_column(id: ImageId) -> i64 {
    id.bits().cast_signed()
}

/// As much of an error as is kept.
pub(crate) fn shortened(error: &str) -> &str {
    &error[..error.floor_char_boundary(MAX_ERROR)]
}

impl NewImageUpload {
    /// What is written.
    pub(crate) fn record(&self) -> HeldImageRecord {
        HeldImageRecord {
            id: self.id,
            pin: self.id,
            wallet: self.wallet,
            image: self.image.clone(),
            node: self.node.clone(),
            size: self.size,
            archive: self.archive,
            state: HeldImageState::Open,
            published: false,
            created_at: self.now,
            expires_at: self.expires_at,
        }
    }
}
