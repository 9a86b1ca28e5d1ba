//! What the store knows of an image.

use std::path::PathBuf;

use domain::ImageDigest;
use serde::{Deserialize, Serialize};
use wire::v1::node::ImageNeeds;
use wire::v1::pod::ImageRunConfig;

/// An image that can be booted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// The digest of its manifest.
    pub digest: ImageDigest,
    /// Its erofs disk, to be attached read-only.
    pub disk: PathBuf,
    /// Bytes of the disk.
    pub disk_bytes: u64,
    /// How it is run.
    pub run: ImageRunConfig,
    /// What it needs.
    pub needs: ImageNeeds,
    /// When it was built, as it says itself (RFC 3339).
    pub created: Option<String>,
    /// Layers it is made of.
    pub layers: usize,
}

/// An image and the names it goes by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageSummary {
    /// Its names, sorted.
    pub names: Vec<String>,
    /// The image.
    pub image: Image,
}

/// What a removal did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Removal {
    /// The image the name meant.
    pub digest: ImageDigest,
    /// Whether the image itself is gone: it had no other name.
    pub gone: bool,
    /// Bytes freed.
    pub freed_bytes: u64,
}

/// `images/<digest>.json`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ImageRecord {
    pub(crate) run: ImageRunConfig,
    #[serde(default)]
    pub(crate) needs: ImageNeeds,
    #[serde(default)]
    pub(crate) created: Option<String>,
    /// The blobs it needs: config and layers.
    pub(crate) blobs: Vec<ImageDigest>,
    pub(crate) layers: usize,
}
