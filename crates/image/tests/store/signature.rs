//! Images that must be signed: what a trusted key has said of this image, and nothing else.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use domain::ArchiveSum;
use palatine_image::{Config, Image, ImageError, ImageStore, NoProgress, SignatureError};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::archive::docker_archive;
use crate::fixture::{CONFIG, CreatedInodes, INDEX, MANIFEST, Place, Tar, descriptor, digest, layout};
use crate::registry::Registry;

const PAYLOAD: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
const TAG: &str = "org.opencontainers.image.ref.name";

/// What signs: made anew for each test.
pub(crate) struct Signer(EcdsaKeyPair);

impl Signer {
    pub(crate) fn new() -> Self {
        let made = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new()).unwrap();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, made.as_ref(), &SystemRandom::new());
        Self(key.unwrap())
    }

    /// As cosign writes it beside the private key.
    fn pem(&self) -> String {
        let prefix = hex::decode("3059301306072a8648ce3d020106082a8648ce3d030107034200").unwrap();
        let text = STANDARD.encode([prefix.as_slice(), self.0.public_key().as_ref()].concat());
        format!("-----BEGIN PUBLIC KEY-----\n{}\n{}\n-----END PUBLIC KEY-----\n", &text[..64], &text[64..])
    }
}

fn image(word: &[u8]) -> CreatedInodes {
    CreatedInodes::of(vec![Tar::new().file("a", word).done()])
}

/// What cosign signs of an image.
pub(crate) fn payload(of: &str) -> Vec<u8> {
    let critical = json!({
        "identity": {"docker-reference": "example.org/team/agent"},
        "image": {"docker-manifest-digest": of},
        "type": "cosign container image signature",
    });
    json!({"critical": critical, "optional": null}).to_string().into_bytes()
}

/// A manifest of signatures, with its blobs.
pub(crate) struct Signed {
    pub(crate) manifest: Vec<u8>,
    blobs: Vec<Vec<u8>>,
}

impl Signed {
    pub(crate) fn by(key: &Signer, payload: Vec<u8>) -> Self {
        let signature = key.0.sign(&SystemRandom::new(), &payload).unwrap();
        Self::of(payload, &STANDARD.encode(signature))
    }

    fn of(payload: Vec<u8>, signature: &str) -> Self {
        let config = b"{}".to_vec();
        let mut layer = descriptor(PAYLOAD, &payload);
        // A log's entry comes along, and says nothing here.
        layer["annotations"] = json!({
            "dev.cosignproject.cosign/signature": signature,
            "dev.sigstore.cosign/bundle": "{\"Payload\":{\"body\":\"e30=\"}}",
        });
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "config": descriptor(CONFIG, &config), "layers": [layer],
        });
        Self { manifest: manifest.to_string().into_bytes(), blobs: vec![payload, config] }
    }

    pub(crate) fn blobs(&self) -> impl Iterator<Item = &[u8]> {
        self.blobs.iter().map(Vec::as_slice).chain([&self.manifest[..]])
    }

    /// As a registry's tag for this digest would name it in a layout.
    fn tagged(&self, of: &str) -> Value {
        let mut named = descriptor(MANIFEST, &self.manifest);
        named["annotations"] = json!({TAG: tag(of)});
        named
    }
}

pub(crate) fn tag(of: &str) -> String {
    format!("{}.sig", of.replace(':', "-"))
}

/// A store that takes in what the key has signed.
pub(crate) fn trusting(place: &Place, key: &Signer) -> ImageStore {
    let path = place.dir.path().join("cosign.pub");
    std::fs::write(&path, key.pem()).unwrap();
    ImageStore::open(&required(place, path)).unwrap()
}

/// A store that takes in nothing: nobody has its key.
pub(crate) fn guarded(place: &Place) -> ImageStore {
    trusting(place, &Signer::new())
}

fn required(place: &Place, key: PathBuf) -> Config {
    Config { require_signature: true, trusted_keys: vec![key], ..place.config.clone() }
}

/// Takes in a layout of this image and what else is named in it.
fn take(
    store: &ImageStore,
    place: &Place,
    made: &CreatedInodes,
    beside: &[(&Signed, Value)],
) -> Result<Image, ImageError> {
    let blobs: Vec<_> = made.blobs().into_iter().chain(beside.iter().flat_map(|(signed, _)| signed.blobs())).collect();
    let named: Vec<_> =
        [descriptor(MANIFEST, &made.manifest)].into_iter().chain(beside.iter().map(|(_, at)| at.clone())).collect();
    store.import(&layout(place.dir.path(), &blobs, &named), "test", &NoProgress)
}

#[track_caller]
fn refused(taken: Result<Image, ImageError>, store: &ImageStore) -> SignatureError {
    assert!(store.list().unwrap().is_empty());
    match taken {
        Err(ImageError::Signature(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_image_that_a_trusted_key_has_signed_is_taken_in_however_its_layout_names_the_signature() {
    let key = Signer::new();
    let made = image(b"1");
    let signed = Signed::by(&key, payload(&made.digest()));
    let mut saved = descriptor(MANIFEST, &signed.manifest);
    saved["annotations"] = json!({"kind": "dev.cosignproject.cosign/sigs"});
    for named in [signed.tagged(&made.digest()), saved] {
        let place = Place::new();
        let taken = take(&trusting(&place, &key), &place, &made, &[(&signed, named)]).unwrap();
        assert_eq!(taken.digest.to_string(), made.digest());
    }
    // Where nobody wants one, a signature is no second image.
    let place = Place::new();
    assert!(take(&place.store, &place, &made, &[(&signed, signed.tagged(&made.digest()))]).is_ok());
}

#[test]
fn an_image_without_a_signature_or_with_a_strangers_is_refused_and_leaves_no_image() {
    let key = Signer::new();
    let (place, made) = (Place::new(), image(b"1"));
    let store = trusting(&place, &key);
    let missing = refused(take(&store, &place, &made, &[]), &store);
    assert!(matches!(&missing, SignatureError::Missing(digest) if *digest == made.digest()), "{missing}");
    assert!(missing.to_string().contains("images.trusted_keys"));
    let strange = Signed::by(&Signer::new(), payload(&made.digest()));
    let error = refused(take(&store, &place, &made, &[(&strange, strange.tagged(&made.digest()))]), &store);
    assert!(matches!(&error, SignatureError::Untrusted { found: 1, .. }), "{error}");
    // The right signature, over other bytes.
    let good = Signed::by(&key, payload(&made.digest()));
    let stolen = serde_json::from_slice::<Value>(&good.manifest).unwrap();
    let stolen = &stolen["layers"][0]["annotations"]["dev.cosignproject.cosign/signature"];
    let altered = Signed::of([payload(&made.digest()), b" ".to_vec()].concat(), stolen.as_str().unwrap());
    let error = refused(take(&store, &place, &made, &[(&altered, altered.tagged(&made.digest()))]), &store);
    assert!(matches!(error, SignatureError::Untrusted { .. }), "{error}");
    for broken in ["", "no base64!", "AAAA"] {
        let broken = Signed::of(payload(&made.digest()), broken);
        let error = refused(take(&store, &place, &made, &[(&broken, broken.tagged(&made.digest()))]), &store);
        assert!(matches!(error, SignatureError::Untrusted { .. }), "{error}");
    }
}

#[test]
fn a_good_signature_of_another_image_helps_none_whatever_its_tag_says() {
    let key = Signer::new();
    let (place, made, other) = (Place::new(), image(b"1"), image(b"2"));
    let store = trusting(&place, &key);
    let of_other = Signed::by(&key, payload(&other.digest()));
    let error = refused(take(&store, &place, &made, &[(&of_other, of_other.tagged(&made.digest()))]), &store);
    assert!(
        matches!(&error, SignatureError::OtherImage { digest, signed } if *digest == made.digest() && *signed == other.digest()),
        "{error}"
    );
    // Beside a stranger's for the right one, and swapped: both are refused.
    let strange = Signed::by(&Signer::new(), payload(&made.digest()));
    let beside = [(&strange, strange.tagged(&made.digest())), (&of_other, of_other.tagged(&made.digest()))];
    assert!(matches!(refused(take(&store, &place, &made, &beside), &store), SignatureError::OtherImage { .. }));
    // A statement of another kind by the same key.
    let odd = json!({"critical": {"image": {"docker-manifest-digest": made.digest()}, "type": "something else"}});
    let odd = Signed::by(&key, odd.to_string().into_bytes());
    let error = refused(take(&store, &place, &made, &[(&odd, odd.tagged(&made.digest()))]), &store);
    assert!(matches!(&error, SignatureError::Payload(why) if why.contains("something else")), "{error}");
    // And with a good one beside all these, it is taken in.
    let good = Signed::by(&key, payload(&made.digest()));
    let all = [&odd, &of_other, &strange, &good].map(|one| (one, one.tagged(&made.digest())));
    assert!(take(&store, &place, &made, &all).is_ok());
}

#[test]
fn a_signature_of_the_index_by_which_an_image_was_chosen_is_one_of_the_image() {
    let key = Signer::new();
    let (place, made) = (Place::new(), image(b"1"));
    let mut ours = descriptor(MANIFEST, &made.manifest);
    ours["platform"] = json!({"os": "linux", "architecture": "amd64"});
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [ours]}).to_string().into_bytes();
    let signed = Signed::by(&key, payload(&digest(&index)));
    let blobs: Vec<_> = made.blobs().into_iter().chain([&index[..]]).chain(signed.blobs()).collect();
    let named = [descriptor(INDEX, &index), signed.tagged(&digest(&index))];
    let root = layout(place.dir.path(), &blobs, &named);
    assert_eq!(trusting(&place, &key).import(&root, "test", &NoProgress).unwrap().digest.to_string(), made.digest());
}

#[test]
fn a_holders_archive_and_dockers_own_format_are_held_to_it_too() {
    let key = Signer::new();
    let (place, made) = (Place::new(), image(b"1"));
    let store = trusting(&place, &key);
    let signed = Signed::by(&key, payload(&made.digest()));
    let archive = |beside: &[&Signed]| {
        let dir = tempfile::tempdir().unwrap();
        let blobs: Vec<_> = made.blobs().into_iter().chain(beside.iter().flat_map(|one| one.blobs())).collect();
        let named = [descriptor(MANIFEST, &made.manifest)].into_iter();
        let named: Vec<_> = named.chain(beside.iter().map(|one| one.tagged(&made.digest()))).collect();
        let mut archive = tar::Builder::new(Vec::new());
        archive.append_dir_all("", layout(dir.path(), &blobs, &named)).unwrap();
        archive.into_inner().unwrap()
    };
    let push = |bytes: &[u8]| {
        let path = place.dir.path().join("part");
        std::fs::write(&path, bytes).unwrap();
        let sum = ArchiveSum(Sha256::digest(bytes).into());
        store.import_held(&path, sum, "work", domain::ImageId::from_bits(1), 64, &NoProgress)
    };
    assert!(matches!(refused(push(&archive(&[])), &store), SignatureError::Missing(_)));
    let two = CreatedInodes::of(vec![Tar::new().done(), Tar::new().done()]);
    assert!(matches!(refused(push(&docker_archive(&two, &["x:1"])), &store), SignatureError::NoPlace));
    assert_eq!(push(&archive(&[&signed])).unwrap().digest.to_string(), made.digest());
}

#[tokio::test]
async fn a_registrys_image_is_taken_in_with_the_signature_that_lies_beside_it() {
    let key = Signer::new();
    let (made, other) = (image(b"1"), image(b"2"));
    let good = Signed::by(&key, payload(&made.digest()));
    let of_other = Signed::by(&key, payload(&other.digest()));
    for (signed, is_taken) in [(Some(&good), true), (Some(&of_other), false), (None, false)] {
        let place = Place::new();
        let store = trusting(&place, &key);
        let blobs: Vec<_> = made.blobs().into_iter().chain(signed.into_iter().flat_map(Signed::blobs)).collect();
        let mut registry = Registry::of(&blobs);
        if let Some(signed) = signed {
            registry.name(&tag(&made.digest()), &signed.manifest);
        }
        let (_registry, address) = registry.start(false).await;
        let reference = format!("{address}/team/agent@{}", made.digest());
        let pulled = store.pull(&reference, Some("test"), None, Arc::new(NoProgress)).await;
        match is_taken {
            true => assert_eq!(pulled.unwrap().digest.to_string(), made.digest()),
            false => drop(refused(pulled, &store)),
        }
    }
}

#[test]
fn a_key_that_is_none_is_named_before_anything_is_taken_in() {
    let place = Place::new();
    let path = place.dir.path().join("key.pub");
    for text in ["", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"] {
        std::fs::write(&path, text).unwrap();
        let error = ImageStore::open(&required(&place, path.clone())).unwrap_err().to_string();
        assert!(error.contains("images.trusted_keys") && error.contains("key.pub"), "{error}");
    }
    let gone = ImageStore::open(&required(&place, Path::new("/nowhere/cosign.pub").to_owned()));
    assert!(gone.unwrap_err().to_string().contains("/nowhere/cosign.pub"));
}

/// A layout and a key that cosign 2.6.5 has written (`generate-key-pair`, `sign --tlog-upload=false`, `save --dir`).
#[test]
fn what_cosign_itself_has_signed_and_saved_is_taken_in_by_its_key_and_refused_by_another() {
    let saved = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/store/cosign");
    let place = Place::new();
    let digest = "sha256:cdaf34013a47d52e26b311deea2db73dd162c80342125a4df9d305e2b74e1ba9";
    let other = guarded(&place);
    let error = refused(other.import(&saved.join("saved"), "test", &NoProgress), &other);
    assert!(matches!(error, SignatureError::Untrusted { found: 1, .. }), "{error}");
    let store = ImageStore::open(&required(&place, saved.join("cosign.pub"))).unwrap();
    assert_eq!(store.import(&saved.join("saved"), "test", &NoProgress).unwrap().digest.to_string(), digest);
}
