//! What is fuzzed of this crate: images of strangers, and packages of kernels.

use std::fs;
use std::path::Path;

use oci_spec::image::ImageConfiguration;

pub use crate::kernel::fuzz::kernel;

use crate::blobs::BlobStore;
use crate::contract::{self, Accounts};
use crate::digest::{BlobDigest, HashingReader};
use crate::document::{self, ManifestDocument};
use crate::layer::{ImageRoot, UnpackBudget, apply, unpack};
use crate::signature::TrustedKeys;
use crate::{Config, NoProgress};

/// Bytes that a layer may unpack to here.
const LAYER_BYTES: u64 = 1 << 20;
/// Entries that a layer may have here.
const LAYER_ENTRIES: u64 = 256;
/// Layers that an image may have here.
const MAX_LAYERS: usize = 8;

/// A layer, packed or plain: nothing outside of its root is touched, and its bounds hold.
///
/// # Panics
/// When the bytes break that.
pub fn layer(bytes: &[u8]) {
    let dir = tempfile::tempdir().expect("a folder can be made");
    let (root, beside) = (dir.path().join("root"), dir.path().join("beside"));
    fs::write(&beside, "untouched").expect("a file can be written");
    let opened = ImageRoot::create(&root).expect("a root can be made");
    let mut budget = UnpackBudget { entries: LAYER_ENTRIES, bytes: LAYER_BYTES, max_entries: LAYER_ENTRIES };
    if let Ok(plain) = unpack(bytes) {
        let _ = apply(&opened, HashingReader::new(plain, 4 * LAYER_BYTES), &mut budget, &NoProgress);
    }
    assert_eq!(fs::read(&beside).ok().as_deref(), Some(&b"untouched"[..]), "a neighbour was changed");
    assert_eq!(names(dir.path()), ["beside", "root"], "something was made beside the root");
    let (entries, size) = held(&root);
    // Directories that a path only implies are not entries of the archive.
    assert!(entries <= 128 * (LAYER_ENTRIES - budget.entries), "{entries} entries");
    assert!(size <= LAYER_BYTES, "{size} bytes");
}

/// The documents of an image: what is chosen is for this platform, what is run is nobody's root.
///
/// # Panics
/// When the bytes break that.
pub fn document(bytes: &[u8]) {
    match ManifestDocument::parse(bytes) {
        Ok(ManifestDocument::Index(index)) => {
            let ours = document::ours(&index);
            assert!(ours.is_ok_and(document::fits) || document::ours(&index).is_err());
        }
        Ok(ManifestDocument::Manifest(manifest)) => {
            let few = document::check_layers(&manifest, MAX_LAYERS).is_ok();
            assert!(!few || manifest.layers().len() <= MAX_LAYERS);
            for descriptor in manifest.layers().iter().chain([manifest.config()]) {
                let named = BlobDigest::named(descriptor);
                assert!(
                    named.is_ok_and(|sum| sum.to_string() == descriptor.digest().to_string())
                        || BlobDigest::named(descriptor).is_err()
                );
            }
        }
        Err(_) => {}
    }
    let Ok(config) = document::json::<ImageConfiguration>("config", bytes) else { return };
    let Ok(run) = contract::run(config.config().as_ref(), &Accounts::default()) else { return };
    assert!(!run.argv.is_empty() && run.cwd.starts_with('/') && run.port != 0);
    let uid = run.user.split(':').next().and_then(|uid| uid.parse::<u32>().ok());
    assert!(uid.is_some(), "{:?}", run.user);
}

/// An archive of an image, as docker and others save them: what is kept is under its own sum, and nothing of it is
/// a signature by nobody's key. It may be the context of a build, too.
///
/// # Panics
/// When the bytes break that.
pub fn archive(bytes: &[u8]) {
    let dir = tempfile::tempdir().expect("a folder can be made");
    let path = |name: &str| dir.path().join(name);
    fs::write(path("archive"), bytes).expect("a file can be written");
    for name in ["blobs", "scratch", "signed", "unpacked"] {
        fs::create_dir(path(name)).expect("a folder can be made");
    }
    let blobs = BlobStore::new(path("blobs"), path("scratch"));
    let bounds = Config { max_image_mib: 1, max_layers: MAX_LAYERS, ..Config::default() };
    let import = |unpacked: &str, trusted: Option<&TrustedKeys>| {
        crate::source::import(&path("archive"), "fuzz", &blobs, &path(unpacked), &bounds, trusted, &NoProgress)
    };
    let imported = import("unpacked", None);
    assert!(import("signed", Some(&TrustedKeys::none())).is_err(), "nobody has signed it");
    if let Ok((text, name)) = crate::build::read_packed(&path("archive"), None, 1 << 20) {
        assert!(text.len() <= 4 << 20 && !name.is_empty(), "a Containerfile is bounded");
        if let Ok(plan) = crate::build::Plan::of(&name, &text) {
            assert!(name != "image.toml" || !plan.script.contains('\0'), "a shell reads all of it");
        }
    }
    assert_eq!(names(dir.path()), ["archive", "blobs", "scratch", "signed", "unpacked"]);
    for name in names(&path("blobs")) {
        let kept = fs::read(path("blobs").join(&name)).expect("a blob is a file");
        assert_eq!(BlobDigest::of(&kept).hex(), name, "a blob is under its own sum");
    }
    assert!(imported.is_err() || imported.is_ok_and(|manifest| blobs.has(manifest)));
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("a folder can be listed");
    let mut names: Vec<String> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Entries below a folder, and the bytes of its files, each counted once.
fn held(dir: &Path) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt;

    let (mut seen, mut held) = (std::collections::HashSet::new(), (0, 0));
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let Ok(data) = entry.path().symlink_metadata() else { continue };
            held.0 += 1;
            match data.is_dir() {
                true => open.push(entry.path()),
                false if data.is_file() && seen.insert(data.ino()) => held.1 += data.len(),
                false => {}
            }
        }
    }
    held
}
