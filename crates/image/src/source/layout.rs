//! OCI image layouts, as a directory or in an archive.

use std::fs::File;
use std::path::{Path, PathBuf};

use oci_spec::image::{Descriptor, ImageIndex};

use super::archive::Files;
use super::docker;
use crate::blobs::{BlobStore, MAX_DOCUMENT};
use crate::digest::BlobDigest;
use crate::document::{self, ManifestDocument};
use crate::{ImageError, Progress};

/// The annotations by which layouts name their images: the whole name where
/// there is one (docker), else whatever the specification's own holds.
const NAMES: [&str; 2] = ["io.containerd.image.name", "org.opencontainers.image.ref.name"];
/// Indexes in indexes at most.
const MAX_INDEXES: usize = 4;

/// A layout on this machine.
enum Layout {
    Directory(PathBuf),
    Archive(Files),
}

impl Layout {
    fn path(&self, name: &str) -> Option<PathBuf> {
        match self {
            Self::Directory(root) => Some(root.join(name)).filter(|path| path.is_file()),
            Self::Archive(files) => files.path(name).map(Path::to_owned),
        }
    }

    fn blob(&self, sum: BlobDigest) -> Result<File, ImageError> {
        let path = self.path(&format!("blobs/sha256/{}", sum.hex()));
        let path = path.ok_or_else(|| ImageError::Missing(sum.to_string()))?;
        File::open(&path).map_err(|source| ImageError::file("read", &path, source))
    }

    fn index(&self) -> Result<ImageIndex, ImageError> {
        let path = self.path("index.json").ok_or_else(|| ImageError::Missing("index.json".into()))?;
        let large = std::fs::metadata(&path).is_ok_and(|data| data.len() > MAX_DOCUMENT);
        if large {
            return Err(ImageError::document("index", "it is larger than 4 MiB"));
        }
        let bytes = std::fs::read(&path).map_err(|source| ImageError::file("read", &path, source))?;
        document::json("index", &bytes)
    }

    /// Copies one blob, verified.
    fn copy(&self, descriptor: &Descriptor, blobs: &BlobStore, to: &dyn Progress) -> Result<BlobDigest, ImageError> {
        let sum = BlobDigest::named(descriptor)?;
        blobs.put(sum, descriptor.size(), self.blob(sum)?, to)?;
        Ok(sum)
    }

    fn document(
        &self,
        descriptor: &Descriptor,
        blobs: &BlobStore,
    ) -> Result<(BlobDigest, ManifestDocument), ImageError> {
        if descriptor.size() > MAX_DOCUMENT {
            return Err(ImageError::document("manifest", "it is larger than 4 MiB"));
        }
        let sum = self.copy(descriptor, blobs, &crate::NoProgress)?;
        Ok((sum, ManifestDocument::parse(&blobs.document(sum)?)?))
    }
}

/// Copies the image at `path` into the blobs, and returns its manifest. Archives
/// are unpacked into `scratch`. Where there are several images, `name` chooses.
pub(crate) fn import(
    path: &Path,
    name: &str,
    blobs: &BlobStore,
    scratch: &Path,
    bounds: &crate::Config,
    to: &dyn Progress,
) -> Result<BlobDigest, ImageError> {
    let layout = if path.join("oci-layout").is_file() {
        Layout::Directory(path.to_owned())
    } else if path.is_file() {
        let files = Files::unpack(path, scratch, bounds.max_image_bytes(), to)?;
        match (files.has("index.json"), files.has("manifest.json")) {
            // Docker 25 names an image that was saved by its id in its own document alone.
            (true, true) if names_nothing(&files.document("index.json")?) => {
                return docker::import(&files, name, blobs, bounds, to);
            }
            (true, _) => Layout::Archive(files),
            (false, true) => return docker::import(&files, name, blobs, bounds, to),
            (false, false) => return Err(ImageError::NotAnImage(path.to_owned())),
        }
    } else {
        return Err(ImageError::NotAnImage(path.to_owned()));
    };
    let index = layout.index()?;
    copy_image(&layout, choose(&index, name)?, blobs, bounds, to)
}

/// Whether an index is one, and has no manifest in it.
fn names_nothing(index: &[u8]) -> bool {
    let index: Result<serde_json::Value, _> = serde_json::from_slice(index);
    index.is_ok_and(|index| {
        let manifests = index.get("manifests").unwrap_or(&serde_json::Value::Null);
        index.is_object() && (manifests.is_null() || manifests.as_array().is_some_and(Vec::is_empty))
    })
}

fn copy_image(
    layout: &Layout,
    descriptor: &Descriptor,
    blobs: &BlobStore,
    bounds: &crate::Config,
    to: &dyn Progress,
) -> Result<BlobDigest, ImageError> {
    let mut descriptor = descriptor.clone();
    for _ in 0..MAX_INDEXES {
        match layout.document(&descriptor, blobs)? {
            (_, ManifestDocument::Index(index)) => descriptor = document::ours(&index)?.clone(),
            (sum, ManifestDocument::Manifest(manifest)) => {
                document::check_layers(&manifest, bounds.max_layers)?;
                layout.copy(manifest.config(), blobs, &crate::NoProgress)?;
                to.step("copy the layers", Some(manifest.layers().iter().map(Descriptor::size).sum()));
                for layer in manifest.layers() {
                    layout.copy(layer, blobs, to)?;
                }
                return Ok(sum);
            }
        }
    }
    Err(ImageError::document("index", "indexes are nested too deep"))
}

/// The layout's one image for this platform, or the one of this name.
fn choose<'a>(index: &'a ImageIndex, name: &str) -> Result<&'a Descriptor, ImageError> {
    let ours: Vec<_> = index.manifests().iter().filter(|one| document::is_index(one) || document::fits(one)).collect();
    match ours[..] {
        [] => Err(ImageError::Platform(document::platforms(index.manifests()))),
        [only] => Ok(only),
        [first, ref rest @ ..] if rest.iter().all(|one| one.digest() == first.digest()) => Ok(first),
        _ => {
            let named = |descriptor: &Descriptor| {
                let annotations = descriptor.annotations().as_ref()?;
                NAMES.iter().find_map(|name| annotations.get(*name).cloned())
            };
            let found = ours.iter().find(|one| named(one).is_some_and(|full| docker::is_named(&full, name)));
            let names: Vec<_> = ours.iter().filter_map(|one| named(one)).collect();
            found.copied().ok_or_else(|| ImageError::Several(names.join(", ")))
        }
    }
}
