//! One image of a store elsewhere: its documents first, which say how large it is and who has signed it, then its blobs.

use oci_spec::image::{Descriptor, ImageManifest};

use crate::blobs::{BlobStore, MAX_DOCUMENT};
use crate::digest::BlobDigest;
use crate::document::{self, ManifestDocument};
use crate::signature::{FoundSignature, TrustedKeys};
use crate::{ImageError, Progress};

/// Indexes in indexes at most.
const MAX_INDEXES: usize = 4;

/// A store that is asked for an image. What it gives for a digest has that digest, or is refused.
pub(super) trait RemoteStore {
    /// What is told when its blobs are taken.
    const TAKING: &'static str;

    /// An index or a manifest, whole; its size, where something has said it.
    fn document(
        &self,
        sum: BlobDigest,
        size: Option<u64>,
        blobs: &BlobStore,
    ) -> impl Future<Output = Result<Vec<u8>, ImageError>> + Send;

    /// What it has as signatures of these digests.
    fn signatures(
        &self,
        digests: &[BlobDigest],
    ) -> impl Future<Output = Result<Vec<FoundSignature>, ImageError>> + Send;

    /// Copies a blob into ours.
    fn blob(
        &self,
        descriptor: &Descriptor,
        blobs: &BlobStore,
        to: &dyn Progress,
    ) -> impl Future<Output = Result<(), ImageError>> + Send;
}

/// Copies the image with this digest, or this machine's of an index, into the blobs, and returns its manifest. Where
/// there are trusted keys, one of them must have signed it.
pub(super) async fn image<S: RemoteStore + Sync>(
    store: &S,
    (mut sum, mut size): (BlobDigest, Option<u64>),
    blobs: &BlobStore,
    bounds: &crate::Config,
    trusted: Option<&TrustedKeys>,
    to: &dyn Progress,
) -> Result<BlobDigest, ImageError> {
    let mut digests = Vec::new();
    for _ in 0..MAX_INDEXES {
        digests.push(sum);
        match ManifestDocument::parse(&store.document(sum, size, blobs).await?)? {
            ManifestDocument::Index(index) => {
                let ours = document::ours(&index)?;
                (sum, size) = (BlobDigest::named(ours)?, Some(ours.size()));
            }
            ManifestDocument::Manifest(manifest) => {
                let bytes = bytes_within(&manifest, bounds)?;
                if let Some(trusted) = trusted {
                    to.step("verify its signature", None);
                    trusted.verify(&digests, &store.signatures(&digests).await?)?;
                }
                to.step(S::TAKING, Some(bytes));
                store.blob(manifest.config(), blobs, &crate::NoProgress).await?;
                for layer in manifest.layers() {
                    store.blob(layer, blobs, to).await?;
                }
                return Ok(sum);
            }
        }
    }
    Err(ImageError::document("index", "indexes are nested too deep"))
}

/// Bytes of its layers, which are as many and as large as they may be.
fn bytes_within(manifest: &ImageManifest, bounds: &crate::Config) -> Result<u64, ImageError> {
    document::check_layers(manifest, bounds.max_layers)?;
    let bytes = document::bytes_of(manifest.layers());
    if bytes > bounds.max_image_bytes() || manifest.config().size() > MAX_DOCUMENT {
        return Err(ImageError::TooLarge(bounds.max_image_mib));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn layers_whose_sizes_are_no_number_together_are_too_large() {
        let sum = BlobDigest::of(b"layer").to_string();
        let kind = "application/vnd.oci.image.layer.v1.tar";
        let manifest = |sizes: &[u64]| -> ImageManifest {
            let layers: Vec<_> =
                sizes.iter().map(|size| json!({"mediaType": kind, "digest": sum, "size": size})).collect();
            let config = json!({"mediaType": "application/vnd.oci.image.config.v1+json", "digest": sum, "size": 2});
            serde_json::from_value(json!({"schemaVersion": 2, "config": config, "layers": layers})).unwrap()
        };
        let bounds = crate::Config::default();
        assert_eq!(bytes_within(&manifest(&[3, 4]), &bounds).unwrap(), 7);
        // Their sum begins again at nothing.
        for sizes in [&[u64::MAX, 2][..], &[1 << 63, 1 << 63, 5]] {
            assert!(matches!(bytes_within(&manifest(sizes), &bounds), Err(ImageError::TooLarge(_))), "{sizes:?}");
        }
    }
}
