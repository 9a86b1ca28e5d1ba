//! The JSON documents of an image, and the choice among several.

use oci_spec::image::{Arch, Descriptor, Digest, ImageConfiguration, ImageIndex, ImageManifest, MediaType, Os};
use serde::de::DeserializeOwned;

use crate::ImageError;
use crate::digest::BlobDigest;

/// A Docker list of manifests, an OCI index by another name.
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// What a registry is asked for.
pub(crate) const ACCEPTED: [&str; 4] = [
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    DOCKER_LIST,
];
/// The layer types we unpack; what packs them is found out from their bytes.
const LAYERS: [&str; 6] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd",
];

/// A document that is named by one digest: one image, or several to choose from.
pub(crate) enum ManifestDocument {
    Manifest(Box<ImageManifest>),
    Index(Box<ImageIndex>),
}

impl ManifestDocument {
    /// Tells the two apart by what they hold. Something that holds both, which
    /// two readers could take for two images, is refused.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, ImageError> {
        let value: serde_json::Value = json("manifest", bytes)?;
        match (value.get("layers").is_some(), value.get("manifests").is_some()) {
            (true, false) => Ok(Self::Manifest(Box::new(json("manifest", bytes)?))),
            (false, true) => Ok(Self::Index(Box::new(json("index", bytes)?))),
            _ => Err(ImageError::document("manifest", "it is neither a manifest nor an index")),
        }
    }
}

pub(crate) fn json<T: DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<T, ImageError> {
    serde_json::from_slice(bytes).map_err(|error| ImageError::document(what, error))
}

/// The image for this platform among those of an index: the first, as the
/// specification says.
pub(crate) fn ours(index: &ImageIndex) -> Result<&Descriptor, ImageError> {
    if let [only] = &index.manifests()[..]
        && only.platform().is_none()
    {
        return Ok(only);
    }
    let found = index.manifests().iter().find(|descriptor| fits(descriptor) && descriptor.platform().is_some());
    found.ok_or_else(|| ImageError::Platform(platforms(index.manifests())))
}

/// Whether a descriptor may be for this platform.
pub(crate) fn fits(descriptor: &Descriptor) -> bool {
    descriptor.platform().as_ref().is_none_or(|p| *p.os() == Os::Linux && *p.architecture() == Arch::Amd64)
}

pub(crate) fn is_index(descriptor: &Descriptor) -> bool {
    match descriptor.media_type() {
        MediaType::ImageIndex => true,
        MediaType::Other(other) => other == DOCKER_LIST,
        _ => false,
    }
}

/// A descriptor of a blob that we hold.
pub(crate) fn descriptor(kind: MediaType, sum: BlobDigest, size: u64) -> Descriptor {
    let digest: Digest = sum.to_string().parse().expect("a SHA-256 sum is a digest");
    Descriptor::new(kind, size, digest)
}

pub(crate) fn platforms(descriptors: &[Descriptor]) -> String {
    let named = descriptors.iter().filter_map(|descriptor| descriptor.platform().as_ref());
    let names: Vec<_> = named.map(|p| format!("{}/{}", p.os(), p.architecture())).collect();
    if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
}

/// Bytes of these together; more than there is a number for is as much as there is one for.
pub(crate) fn bytes_of(descriptors: &[Descriptor]) -> u64 {
    descriptors.iter().fold(0, |sum, one| sum.saturating_add(one.size()))
}

/// Refuses a manifest with too many layers, or layers of other kinds.
pub(crate) fn check_layers(manifest: &ImageManifest, at_most: usize) -> Result<(), ImageError> {
    if manifest.layers().len() > at_most {
        return Err(ImageError::Layers(manifest.layers().len(), at_most));
    }
    let odd = manifest.layers().iter().map(|layer| layer.media_type().to_string());
    odd.into_iter()
        .find(|kind| !LAYERS.contains(&kind.as_str()))
        .map_or(Ok(()), |kind| Err(ImageError::MediaType(kind)))
}

/// Refuses a config for another platform, or one that does not fit its manifest.
pub(crate) fn check_config(config: &ImageConfiguration, manifest: &ImageManifest) -> Result<(), ImageError> {
    if *config.os() != Os::Linux || *config.architecture() != Arch::Amd64 {
        return Err(ImageError::Platform(format!("{}/{}", config.os(), config.architecture())));
    }
    let (layers, sums) = (manifest.layers().len(), config.rootfs().diff_ids().len());
    if layers == sums {
        return Ok(());
    }
    Err(ImageError::document("config", format!("it names {sums} layers, the manifest {layers}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn descriptor(os: Option<(&str, &str)>, digit: char) -> serde_json::Value {
        let mut value = json!({
            "mediaType": ACCEPTED[0], "size": 7, "digest": format!("sha256:{}", digit.to_string().repeat(64)),
        });
        if let Some((os, architecture)) = os {
            value["platform"] = json!({"os": os, "architecture": architecture});
        }
        value
    }

    fn index(manifests: &[serde_json::Value]) -> ImageIndex {
        serde_json::from_value(json!({"schemaVersion": 2, "manifests": manifests})).unwrap()
    }

    #[test]
    fn the_first_image_for_linux_on_amd64_is_chosen() {
        let many = index(&[
            descriptor(Some(("unknown", "unknown")), 'a'),
            descriptor(Some(("linux", "arm64")), 'b'),
            descriptor(Some(("linux", "amd64")), 'c'),
            descriptor(Some(("linux", "amd64")), 'd'),
        ]);
        assert!(ours(&many).unwrap().digest().to_string().contains("cccc"));
    }

    #[test]
    fn an_index_without_our_platform_says_what_it_has() {
        let other = index(&[descriptor(Some(("linux", "arm64")), 'a'), descriptor(Some(("windows", "amd64")), 'b')]);
        let error = ours(&other).unwrap_err().to_string();
        assert!(error.contains("linux/arm64, windows/amd64"), "{error}");
        assert!(ours(&index(&[descriptor(None, 'a'), descriptor(None, 'b')])).is_err());
        assert!(ours(&index(&[descriptor(None, 'a')])).is_ok());
    }

    #[test]
    fn a_document_that_is_two_things_at_once_is_refused() {
        let both = json!({"schemaVersion": 2, "manifests": [], "layers": [], "config": descriptor(None, 'a')});
        assert!(ManifestDocument::parse(both.to_string().as_bytes()).is_err());
        assert!(ManifestDocument::parse(b"{}").is_err());
        assert!(ManifestDocument::parse(b"[").is_err());
    }
}
