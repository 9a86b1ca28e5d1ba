//! OCI image layouts, as a directory or in an archive.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use oci_spec::image::{Descriptor, ImageIndex, ImageManifest};

use super::archive::Files;
use super::docker;
use crate::blobs::{BlobStore, MAX_DOCUMENT};
use crate::digest::BlobDigest;
use crate::document::{self, ManifestDocument};
use crate::signature::{self, FoundSignature, MAX_PAYLOAD, MAX_SIGNATURES, SignatureError, TrustedKeys};
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

    /// What lies in it as signatures, of whatever image: which one, each says itself.
    fn signatures(&self, index: &ImageIndex) -> Result<Vec<FoundSignature>, ImageError> {
        let mut found = Vec::new();
        for one in index.manifests().iter().filter(|one| signature::is_of_signatures(one)).take(MAX_SIGNATURES) {
            let manifest: ImageManifest = document::json("signatures", &self.small(one, MAX_DOCUMENT)?)?;
            for (at, signature) in signature::named(&manifest).take(MAX_SIGNATURES - found.len()) {
                let payload = self.small(at, MAX_PAYLOAD)?;
                found.push(FoundSignature { payload, signature: signature.to_owned() });
            }
        }
        Ok(found)
    }

    /// A small blob as a whole, verified.
    fn small(&self, descriptor: &Descriptor, at_most: u64) -> Result<Vec<u8>, ImageError> {
        let (sum, mut bytes) = (BlobDigest::named(descriptor)?, Vec::new());
        let read = self.blob(sum)?.take(at_most).read_to_end(&mut bytes);
        read.map_err(|source| ImageError::file("read", Path::new(&sum.hex()), source))?;
        let found = BlobDigest::of(&bytes);
        if found == sum { Ok(bytes) } else { Err(ImageError::mismatch(sum, found)) }
    }
}

/// Copies the image at `path` into the blobs, and returns its manifest. Archives
/// are unpacked into `scratch`. Where there are several images, `name` chooses. Where there are
/// trusted keys, one of them must have signed it.
pub(crate) fn import(
    path: &Path,
    name: &str,
    blobs: &BlobStore,
    scratch: &Path,
    bounds: &crate::Config,
    trusted: Option<&TrustedKeys>,
    to: &dyn Progress,
) -> Result<BlobDigest, ImageError> {
    let layout = if path.join("oci-layout").is_file() {
        Layout::Directory(path.to_owned())
    } else if path.is_file() {
        let files = Files::unpack(path, scratch, bounds.max_image_bytes(), to)?;
        match Form::of(&files)? {
            Form::Layout => Layout::Archive(files),
            Form::Docker if trusted.is_some() => return Err(SignatureError::NoPlace.into()),
            Form::Docker => return docker::import(&files, name, blobs, bounds, to),
            Form::Unknown => return Err(ImageError::NotAnImage(path.to_owned())),
        }
    } else {
        return Err(ImageError::NotAnImage(path.to_owned()));
    };
    let index = layout.index()?;
    let image = find_image(&layout, choose(&index, name)?, blobs)?;
    if let Some(trusted) = trusted {
        to.step("verify its signature", None);
        trusted.verify(&image.digests, &layout.signatures(&index)?)?;
    }
    copy_image(&layout, &image, blobs, bounds, to)
}

/// Which documents an archive names its images in.
enum Form {
    Layout,
    /// Docker's own: `manifest.json`.
    Docker,
    Unknown,
}

impl Form {
    fn of(files: &Files) -> Result<Self, ImageError> {
        Ok(match (files.has("index.json"), files.has("manifest.json")) {
            // Docker 25 names an image that was saved by its id in its own document alone.
            (true, true) if names_nothing(&files.document("index.json")?) => Self::Docker,
            (true, _) => Self::Layout,
            (false, true) => Self::Docker,
            (false, false) => Self::Unknown,
        })
    }
}

/// Whether an index is one, and has no manifest in it.
fn names_nothing(index: &[u8]) -> bool {
    let index: Result<serde_json::Value, _> = serde_json::from_slice(index);
    index.is_ok_and(|index| {
        let manifests = index.get("manifests").unwrap_or(&serde_json::Value::Null);
        index.is_object() && (manifests.is_null() || manifests.as_array().is_some_and(Vec::is_empty))
    })
}

/// The manifest of an image, and how it was found.
struct ChosenImage {
    manifest: ImageManifest,
    /// Its own, and before it those of the indexes that led to it.
    digests: Vec<BlobDigest>,
}

fn find_image(layout: &Layout, descriptor: &Descriptor, blobs: &BlobStore) -> Result<ChosenImage, ImageError> {
    let (mut descriptor, mut digests) = (descriptor.clone(), Vec::new());
    for _ in 0..MAX_INDEXES {
        let (sum, document) = layout.document(&descriptor, blobs)?;
        digests.push(sum);
        match document {
            ManifestDocument::Index(index) => descriptor = document::ours(&index)?.clone(),
            ManifestDocument::Manifest(manifest) => return Ok(ChosenImage { manifest: *manifest, digests }),
        }
    }
    Err(ImageError::document("index", "indexes are nested too deep"))
}

fn copy_image(
    layout: &Layout,
    image: &ChosenImage,
    blobs: &BlobStore,
    bounds: &crate::Config,
    to: &dyn Progress,
) -> Result<BlobDigest, ImageError> {
    let (manifest, own) = (&image.manifest, image.digests.last());
    document::check_layers(manifest, bounds.max_layers)?;
    layout.copy(manifest.config(), blobs, &crate::NoProgress)?;
    to.step("copy the layers", Some(document::bytes_of(manifest.layers())));
    for layer in manifest.layers() {
        layout.copy(layer, blobs, to)?;
    }
    own.copied().ok_or_else(|| ImageError::document("index", "it names no image"))
}

/// The layout's one image for this platform, or the one of this name.
fn choose<'a>(index: &'a ImageIndex, name: &str) -> Result<&'a Descriptor, ImageError> {
    let images = index.manifests().iter().filter(|one| !signature::is_of_signatures(one));
    let ours: Vec<_> = images.filter(|one| document::is_index(one) || document::fits(one)).collect();
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
