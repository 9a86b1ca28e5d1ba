//! Signatures of images, in the format of cosign's simple signing.
//!
//! Beside an image lies a manifest (tagged `sha256-<hex>.sig`; `cosign save` marks it `dev.cosignproject.cosign/sigs`)
//! whose layers are payloads, each with a signature over its bytes as an annotation. What is believed of all that is a
//! payload that a trusted key has signed, and of that the digest in it: neither the tag, nor the manifest, nor an entry
//! of a transparency log that comes along says which image a signature is for. Entries of logs and certificates are not
//! looked at, and help nobody.

use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use oci_spec::image::{Descriptor, ImageManifest};
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use rustls_pki_types::SubjectPublicKeyInfoDer;
use rustls_pki_types::pem::PemObject as _;
use serde::Deserialize;

use crate::Config;
use crate::digest::BlobDigest;

/// What such a payload is, as a layer.
const PAYLOAD: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
/// The signature over its bytes: base64 of ECDSA's DER.
const SIGNATURE: &str = "dev.cosignproject.cosign/signature";
/// What a payload says that it is.
const KIND: &str = "cosign container image signature";
/// How `cosign save` marks what it writes into a layout beside the image.
const SAVED: (&str, &str) = ("kind", "dev.cosignproject.cosign/sigs");
/// How layouts name it, as registries tag it.
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// What stands before the point in the DER of every P-256 key (RFC 5480): an ecPublicKey, on prime256v1,
/// of 65 bytes.
const P256: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// The first byte of a point that is written whole, and the bytes of one.
const WHOLE_POINT: u8 = 4;
const POINT: usize = 65;
/// Bytes of a payload, and of a key's file, at most.
pub(crate) const MAX_PAYLOAD: u64 = 64 << 10;
/// Signatures of one image that are looked at, at most.
pub(crate) const MAX_SIGNATURES: usize = 64;

/// Why an image is not taken in, by `images.require_signature`.
#[derive(Debug, thiserror::Error)]
pub enum SignatureError {
    /// There is none.
    #[error(
        "{0} has no signature, and images.require_signature wants one by a key of images.trusted_keys: sign it with \
         cosign, and bring it with its signatures (cosign save, skopeo copy, or from a registry)"
    )]
    Missing(String),
    /// None by a key that is trusted.
    #[error("{found} signatures of {digest} were found, and none is by a key of images.trusted_keys")]
    Untrusted {
        /// The image.
        digest: String,
        /// How many there are.
        found: usize,
    },
    /// A good one, for something else.
    #[error("its signature is by a trusted key, but is for {signed}, not for {digest}")]
    OtherImage {
        /// The image.
        digest: String,
        /// What was signed.
        signed: String,
    },
    /// Signed by a trusted key, and no statement about an image.
    #[error("what a trusted key has signed is no signature of an image: {0}")]
    Payload(String),
    /// An archive that has no place for one.
    #[error(
        "an archive of docker's own format has no place for signatures, and images.require_signature wants one: bring \
         an OCI layout with its signatures (cosign save, skopeo copy)"
    )]
    NoPlace,
    /// A key that cannot be used.
    #[error("images.trusted_keys: {} is no ECDSA P-256 public key in PEM (as cosign.pub is): {why}", path.display())]
    Key {
        /// Its file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

/// The keys one of which must have signed an image.
pub(crate) struct TrustedKeys(Vec<UnparsedPublicKey<Vec<u8>>>);

impl TrustedKeys {
    /// Those of the configuration; `None` where no signature is required.
    pub(crate) fn required(config: &Config) -> Result<Option<Self>, SignatureError> {
        if !config.require_signature {
            return Ok(None);
        }
        config.trusted_keys.iter().map(|path| key(path)).collect::<Result<_, _>>().map(|keys| Some(Self(keys)))
    }

    /// No key at all.
    #[cfg(feature = "fuzz")]
    pub(crate) const fn none() -> Self {
        Self(Vec::new())
    }

    /// Whether one of the signatures is a trusted key's, for one of these digests: the image's own, which is the last,
    /// or that of an index by which it was chosen.
    pub(crate) fn verify(&self, digests: &[BlobDigest], found: &[FoundSignature]) -> Result<(), SignatureError> {
        let digest = digests.last().map(ToString::to_string).unwrap_or_default();
        let mut refused = match found.len() {
            0 => SignatureError::Missing(digest.clone()),
            found => SignatureError::Untrusted { digest: digest.clone(), found },
        };
        for one in found.iter().filter(|one| self.has_signed(one)) {
            match one.signed() {
                Ok(signed) if digests.iter().any(|digest| digest.to_string() == signed) => return Ok(()),
                Ok(signed) => refused = SignatureError::OtherImage { digest: digest.clone(), signed: shown(&signed) },
                Err(why) if !matches!(refused, SignatureError::OtherImage { .. }) => {
                    refused = SignatureError::Payload(why);
                }
                Err(_) => {}
            }
        }
        Err(refused)
    }

    fn has_signed(&self, one: &FoundSignature) -> bool {
        let Ok(signature) = STANDARD.decode(&one.signature) else { return false };
        self.0.iter().any(|key| key.verify(&one.payload, &signature).is_ok())
    }
}

fn key(path: &Path) -> Result<UnparsedPublicKey<Vec<u8>>, SignatureError> {
    let refused = |why: String| SignatureError::Key { path: path.to_owned(), why };
    let data = fs::metadata(path).map_err(|error| refused(error.to_string()))?;
    if data.len() > MAX_PAYLOAD {
        return Err(refused("it is too large".to_owned()));
    }
    let text = fs::read(path).map_err(|error| refused(error.to_string()))?;
    let der = SubjectPublicKeyInfoDer::from_pem_slice(&text).map_err(|error| refused(error.to_string()))?;
    let point = der.strip_prefix(&P256[..]).filter(|point| point.len() == POINT && point[0] == WHOLE_POINT);
    let point = point.ok_or_else(|| refused("it is a key of another kind".to_owned()))?;
    Ok(UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point.to_vec()))
}

/// A payload, and what is said to be its signature.
pub(crate) struct FoundSignature {
    pub(crate) payload: Vec<u8>,
    /// In base64.
    pub(crate) signature: String,
}

impl FoundSignature {
    /// The digest of what the payload is about.
    fn signed(&self) -> Result<String, String> {
        let payload: Payload = serde_json::from_slice(&self.payload).map_err(|error| error.to_string())?;
        if payload.critical.kind != KIND {
            return Err(format!("it says that it is {:?}", shown(&payload.critical.kind)));
        }
        Ok(payload.critical.image.digest)
    }
}

/// The signatures that a manifest of them names: where each payload lies, and its signature.
pub(crate) fn named(manifest: &ImageManifest) -> impl Iterator<Item = (&Descriptor, &str)> {
    manifest.layers().iter().filter_map(|layer| {
        let is_payload = layer.media_type().to_string() == PAYLOAD && layer.size() <= MAX_PAYLOAD;
        let signature = layer.annotations().as_ref()?.get(SIGNATURE)?;
        is_payload.then_some((layer, signature.as_str()))
    })
}

/// Whether a layout's index names signatures here, and no image.
pub(crate) fn is_of_signatures(descriptor: &Descriptor) -> bool {
    let Some(annotations) = descriptor.annotations() else { return false };
    let named = annotations.get(REF_NAME).map(|name| name.rsplit(['/', ':']).next().unwrap_or(name));
    annotations.get(SAVED.0).is_some_and(|kind| kind == SAVED.1)
        || named.is_some_and(|name| name.starts_with("sha256-") && name.ends_with(".sig"))
}

/// What a registry tags the signatures of this digest.
pub(crate) fn tag(digest: BlobDigest) -> String {
    format!("sha256-{}.sig", digest.hex())
}

/// So much of a stranger's word.
fn shown(text: &str) -> String {
    text.chars().take(100).collect()
}

#[derive(Deserialize)]
struct Payload {
    critical: Critical,
}

#[derive(Deserialize)]
struct Critical {
    image: SignedImage,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
struct SignedImage {
    #[serde(rename = "docker-manifest-digest")]
    digest: String,
}
