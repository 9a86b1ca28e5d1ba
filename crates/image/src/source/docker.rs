//! What `docker save` wrote before it wrote OCI layouts, and `podman save` still
//! does: a `manifest.json` that names a config and plain layers. An OCI manifest
//! is made for it, always the same for the same content.

use std::fs::File;
use std::io::Read;

use oci_spec::image::{Descriptor, ImageManifestBuilder, MediaType, SCHEMA_VERSION};
use serde::Deserialize;

use super::archive::Files;
use crate::blobs::BlobStore;
use crate::digest::{BlobDigest, HashingReader};
use crate::document::{self, descriptor};
use crate::{ImageError, Progress};

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    /// Go writes no layers as `null`.
    #[serde(default)]
    layers: Option<Vec<String>>,
}

/// Copies the archive's image into the blobs, and returns its new manifest.
pub(super) fn import(
    files: &Files,
    name: &str,
    blobs: &BlobStore,
    bounds: &crate::Config,
    to: &dyn Progress,
) -> Result<BlobDigest, ImageError> {
    let saved: Vec<Saved> = document::json("manifest.json", &files.document("manifest.json")?)?;
    let image = choose(&saved, name)?;
    let layers = image.layers.as_deref().unwrap_or_default();
    if layers.len() > bounds.max_layers {
        return Err(ImageError::Layers(layers.len(), bounds.max_layers));
    }
    let config = files.document(&image.config)?;
    let config = descriptor(MediaType::ImageConfig, blobs.keep(&config)?, config.len() as u64);
    to.step("copy the layers", None);
    let layers = layers.iter().map(|layer| copy(files, layer, blobs, to)).collect::<Result<Vec<_>, _>>()?;
    let manifest = ImageManifestBuilder::default()
        .schema_version(SCHEMA_VERSION)
        .media_type(MediaType::ImageManifest)
        .config(config)
        .layers(layers)
        .build();
    let manifest = manifest.map_err(|error| ImageError::document("manifest", error))?;
    blobs.keep(&serde_json::to_vec(&manifest).map_err(|error| ImageError::document("manifest", error))?)
}

fn choose<'a>(saved: &'a [Saved], name: &str) -> Result<&'a Saved, ImageError> {
    if let [only] = saved {
        return Ok(only);
    }
    let tags = |image: &'a Saved| image.repo_tags.iter().flatten();
    let found = saved.iter().find(|image| tags(image).any(|tag| is_named(tag, name)));
    let names: Vec<_> = saved.iter().flat_map(tags).map(String::as_str).collect();
    found.ok_or_else(|| ImageError::Several(names.join(", ")))
}

/// Whether `full`, such as `example.org/team/echo:latest`, is called `name`.
pub(super) fn is_named(full: &str, name: &str) -> bool {
    let last = full.rsplit('/').next().unwrap_or(full);
    full == name || last == name || last.split(':').next() == Some(name)
}

fn copy(files: &Files, name: &str, blobs: &BlobStore, to: &dyn Progress) -> Result<Descriptor, ImageError> {
    let path = files.path(name).ok_or_else(|| ImageError::Missing(name.to_owned()))?;
    let failed = |source| ImageError::file("read", path, source);
    let mut head = Vec::new();
    File::open(path).map_err(failed)?.take(2).read_to_end(&mut head).map_err(failed)?;
    let kind = if head == [0x1f, 0x8b] { MediaType::ImageLayerGzip } else { MediaType::ImageLayer };
    let (sum, size) = HashingReader::new(File::open(path).map_err(failed)?, u64::MAX).finish().map_err(failed)?;
    blobs.put(sum, size, File::open(path).map_err(failed)?, to)?;
    Ok(descriptor(kind, sum, size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_found_by_its_last_name_with_or_without_a_tag() {
        for full in ["echo", "echo:latest", "example.org/team/echo:1", "localhost:5000/echo"] {
            assert!(is_named(full, "echo"), "{full}");
        }
        assert!(!is_named("example.org/echo/other:1", "echo"));
    }
}
