//! What the node needs of the images.

use std::collections::BTreeMap;
use std::path::PathBuf;

use domain::ImageDigest;
use image::{ImageError, ImageStore};
use wire::v1::node::ImageNeeds;
use wire::v1::pod::ImageRunConfig;

/// An image, as far as a node needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseImage {
    /// Its disk.
    pub disk: PathBuf,
    /// How it is run.
    pub run: ImageRunConfig,
    /// What it needs.
    pub needs: ImageNeeds,
}

/// Where images are found. Calls may read the disk.
pub trait ImageCatalog: Send + Sync + 'static {
    /// One image; `None` if the node does not have it.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn find(&self, digest: &ImageDigest) -> Result<Option<BaseImage>, ImageError>;

    /// The folder of an image's files, for a container; it is made on first use. `None` if the
    /// node does not have the image.
    ///
    /// # Errors
    /// When the store cannot be read, or not be written.
    fn files(&self, digest: &ImageDigest) -> Result<Option<PathBuf>, ImageError>;

    /// All images that have names.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn named(&self) -> Result<BTreeMap<String, ImageDigest>, ImageError>;

    /// Where holders' images are taken in; `None` where none are.
    fn store(&self) -> Option<ImageStore>;
}

impl ImageCatalog for ImageStore {
    fn find(&self, digest: &ImageDigest) -> Result<Option<BaseImage>, ImageError> {
        match self.get(digest) {
            Ok(image) => Ok(Some(BaseImage { disk: image.disk, run: image.run, needs: image.needs })),
            Err(ImageError::UnknownDigest(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn files(&self, digest: &ImageDigest) -> Result<Option<PathBuf>, ImageError> {
        match self.unpacked(digest) {
            Ok(root) => Ok(Some(root)),
            Err(ImageError::UnknownDigest(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn named(&self) -> Result<BTreeMap<String, ImageDigest>, ImageError> {
        self.names()
    }

    fn store(&self) -> Option<ImageStore> {
        Some(self.clone())
    }
}
