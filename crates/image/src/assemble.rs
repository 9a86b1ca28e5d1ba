//! The blobs of an image to a disk and a record.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use domain::ImageDigest;
use oci_spec::image::{ImageConfiguration, ImageManifest};
use wire::v1::node::ImageNeeds;
use wire::v1::pod::ImageRunConfig;

use crate::blobs::{BlobStore, settle};
use crate::contract::{self, Accounts};
use crate::digest::{BlobDigest, HashingReader};
use crate::document;
use crate::image::ImageRecord;
use crate::layer::{self, ImageRoot, LayerError, UnpackBudget, apply};
use crate::progress::CountingReader;
use crate::{Config, ImageError, Progress, disk};

/// Where the layers are unpacked.
const ROOT: &str = "root";
/// What a layer may have beyond its files' bytes: headers and padding.
const OVERHEAD: u64 = 1 << 30;

/// Unpacks the layers below `scratch`, makes the disk of them and gives it its
/// name. The record is returned, not written.
pub(crate) fn assemble(
    manifest: BlobDigest,
    blobs: &BlobStore,
    scratch: &Path,
    disk: &Path,
    bounds: &Config,
    to: &dyn Progress,
) -> Result<ImageRecord, ImageError> {
    let (image, root, grant) = unpacked(manifest, blobs, scratch, bounds, to)?;
    let path = scratch.join(ROOT);
    // Before the disk, which takes longer: most images that fail, fail here.
    let accounts = Accounts::of(&root).map_err(|source| ImageError::file("read the accounts of", &path, source))?;
    let run = contract::run(image.config.config().as_ref(), &accounts)?;
    let needs = contract::needs(image.config.config().as_ref())?;
    to.step("make the disk", None);
    make_disk(&path, &scratch.join("disk"), disk, manifest, grant)?;
    image.record(run, needs)
}

/// Unpacks the layers below `scratch` and makes nothing of them: the folder.
pub(crate) fn unpack(
    manifest: BlobDigest,
    blobs: &BlobStore,
    scratch: &Path,
    bounds: &Config,
    to: &dyn Progress,
) -> Result<PathBuf, ImageError> {
    unpacked(manifest, blobs, scratch, bounds, to)?;
    Ok(scratch.join(ROOT))
}

fn unpacked(
    manifest: BlobDigest,
    blobs: &BlobStore,
    scratch: &Path,
    bounds: &Config,
    to: &dyn Progress,
) -> Result<(Parts, ImageRoot, bool), ImageError> {
    if !rustix::process::geteuid().is_root() {
        return Err(ImageError::NotRoot);
    }
    let image = Parts::read(manifest, blobs, bounds)?;
    let path = scratch.join(ROOT);
    let root = ImageRoot::create(&path).map_err(|source| ImageError::file("create", &path, source))?;
    let grant = image.unpack(&root, blobs, bounds, to)?;
    Ok((image, root, grant))
}

fn make_disk(root: &Path, unfinished: &Path, disk: &Path, image: BlobDigest, grant: bool) -> Result<(), ImageError> {
    disk::make(root, unfinished, image, grant)?;
    let failed = |source| ImageError::file("write", disk, source);
    File::open(unfinished).and_then(|file| settle(&file)).map_err(failed)?;
    durable::failpoint("image disk", "synced");
    durable::move_to("image disk", unfinished, disk).map_err(failed)
}

/// An image's documents.
struct Parts {
    manifest: ImageManifest,
    config: ImageConfiguration,
}

impl Parts {
    fn read(sum: BlobDigest, blobs: &BlobStore, bounds: &Config) -> Result<Self, ImageError> {
        let manifest: ImageManifest = document::json("manifest", &blobs.document(sum)?)?;
        document::check_layers(&manifest, bounds.max_layers)?;
        let config = document::json("config", &blobs.document(BlobDigest::named(manifest.config())?)?)?;
        document::check_config(&config, &manifest)?;
        Ok(Self { manifest, config })
    }

    /// Whether a file of the layers grants capabilities.
    fn unpack(
        &self,
        root: &ImageRoot,
        blobs: &BlobStore,
        bounds: &Config,
        to: &dyn Progress,
    ) -> Result<bool, ImageError> {
        let mut budget = budget(bounds);
        let layers = self.manifest.layers().iter().zip(self.config.rootfs().diff_ids());
        to.step("unpack the layers", Some(document::bytes_of(self.manifest.layers())));
        let mut grant = false;
        for (at, (layer, diff_id)) in layers.enumerate() {
            let (layer, diff_id) = (BlobDigest::named(layer)?, BlobDigest::parse(diff_id)?);
            grant |= one_layer(root, at + 1, (layer, diff_id), blobs, &mut budget, bounds, to)?;
        }
        Ok(grant)
    }

    fn record(&self, run: ImageRunConfig, needs: ImageNeeds) -> Result<ImageRecord, ImageError> {
        let layers = self.manifest.layers();
        let blobs =
            layers.iter().chain([self.manifest.config()]).map(|one| Ok(ImageDigest::from(BlobDigest::named(one)?)));
        Ok(ImageRecord {
            run,
            needs,
            created: self.config.created().clone(),
            blobs: blobs.collect::<Result<_, ImageError>>()?,
            layers: layers.len(),
        })
    }
}

/// What all layers of an image may have together.
pub(crate) fn budget(bounds: &Config) -> UnpackBudget {
    UnpackBudget { entries: bounds.max_entries, max_entries: bounds.max_entries, bytes: bounds.max_image_bytes() }
}

/// Unpacks the layer that is counted so from 1: its blob, and the digest of its plain bytes.
pub(crate) fn one_layer(
    root: &ImageRoot,
    number: usize,
    (blob, diff_id): (BlobDigest, BlobDigest),
    blobs: &BlobStore,
    budget: &mut UnpackBudget,
    bounds: &Config,
    to: &dyn Progress,
) -> Result<bool, ImageError> {
    let applied = applied(root, CountingReader::new(blobs.open(blob)?, to), diff_id, budget, to);
    applied.map_err(|source| match source {
        LayerError::TooLarge => ImageError::TooLarge(bounds.max_image_mib),
        LayerError::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
            ImageError::NoSpace(bounds.store.clone())
        }
        source => ImageError::Layer { number, source },
    })
}

fn applied(
    root: &ImageRoot,
    blob: impl Read,
    expected: BlobDigest,
    budget: &mut UnpackBudget,
    to: &dyn Progress,
) -> Result<bool, LayerError> {
    let malformed = |error: std::io::Error| LayerError::Malformed(error.to_string());
    let at_most = budget.bytes.saturating_add(OVERHEAD);
    let mut plain = HashingReader::new(layer::unpack(blob).map_err(malformed)?, at_most);
    let grant = apply(root, &mut plain, budget, to)?;
    let (found, _) = plain.finish().map_err(malformed)?;
    if found == expected {
        return Ok(grant);
    }
    Err(LayerError::DiffId { expected: expected.to_string(), found: found.to_string() })
}
