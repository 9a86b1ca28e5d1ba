//! Imports that are killed at any instant leave whole images or none.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use domain::{ArchiveSum, ImageId};
use palatine_image::{Config, ImageStore, NoProgress};
use sha2::{Digest as _, Sha256};

use crate::fixture::{CreatedInodes, Place, Tar, digest, extract};

const STORE: &str = "PALATINE_TEST_STORE";
const LAYOUT: &str = "PALATINE_TEST_LAYOUT";
/// Imports that are killed, at instants spread over the time one takes.
const KILLS: u32 = 12;

/// What the killed process does: this same program, told by its environment.
#[test]
#[ignore = "a child process of other tests"]
fn an_import_for_the_test_below() {
    let (Some(store), Some(layout)) = (std::env::var_os(STORE), std::env::var_os(LAYOUT)) else { return };
    let config = Config { store: PathBuf::from(store), ..Config::default() };
    ImageStore::open(&config).unwrap().import(&PathBuf::from(layout), "test", &NoProgress).unwrap();
}

fn import(place: &Place, layout: &std::path::Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "--ignored", "crash::an_import_for_the_test_below"])
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.env(STORE, &place.config.store).env(LAYOUT, layout);
    command
}

/// Whatever is there is whole.
fn assert_sound(place: &Place, made: &CreatedInodes) {
    let store = ImageStore::open(&place.config).unwrap();
    for listed in store.list().unwrap() {
        assert_eq!(listed.image.digest.to_string(), made.digest());
        let scratch = tempfile::tempdir().unwrap();
        let root = extract(&listed.image, scratch.path());
        assert_eq!(std::fs::metadata(root.join("large")).unwrap().len(), 24 << 20);
    }
    for blob in std::fs::read_dir(place.config.store.join("blobs/sha256")).unwrap() {
        let path = blob.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        assert_eq!(digest(&std::fs::read(&path).unwrap()), format!("sha256:{name}"));
    }
    // A tool of the killed import may not have begun yet: until it has, it holds what its parent held.
    let until = Instant::now() + Duration::from_secs(20);
    while crate::fixture::files(&place.config.store.join("tmp")) > 0 {
        assert!(Instant::now() < until, "the next start clears away");
        ImageStore::open(&place.config).unwrap();
    }
}

#[test]
fn an_import_killed_at_any_instant_leaves_no_half_image() {
    let place = Place::new();
    let dir = tempfile::tempdir().unwrap();
    let made = CreatedInodes::of(vec![Tar::new().file("large", &vec![5; 24 << 20]).done()]);
    let layout = made.layout(dir.path());
    let start = std::time::Instant::now();
    assert!(import(&place, &layout).status().unwrap().success());
    let whole = start.elapsed();
    assert_sound(&place, &made);
    for kill in 0..KILLS {
        place.store.remove("test", &std::collections::BTreeSet::new()).unwrap();
        place.store.prune(&std::collections::BTreeSet::new()).unwrap();
        let mut child = import(&place, &layout).spawn().unwrap();
        // Not a wait for anything: the instant of the kill is what varies.
        std::thread::sleep(whole * kill / KILLS + Duration::from_millis(1));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_sound(&place, &made);
        place.import(&made).unwrap();
    }
}

const ARCHIVE: &str = "PALATINE_TEST_ARCHIVE";

#[test]
#[ignore = "a child process of the test below"]
fn a_holders_import_for_the_test_below() {
    let (Some(store), Some(archive)) = (std::env::var_os(STORE), std::env::var_os(ARCHIVE)) else { return };
    let config = Config { store: PathBuf::from(store), ..Config::default() };
    let (store, archive) = (ImageStore::open(&config).unwrap(), PathBuf::from(archive));
    let sum = ArchiveSum(Sha256::digest(std::fs::read(&archive).unwrap()).into());
    store.import_held(&archive, sum, "work", ImageId::from_bits(1), 64, &NoProgress).unwrap();
}

/// A holder's import, which is killed at each step, and never asked for again.
#[test]
fn a_holders_import_that_is_killed_leaves_nothing_that_no_sweep_finds() {
    let archive = tempfile::NamedTempFile::new().unwrap();
    let made = CreatedInodes::of(vec![Tar::new().file("a", b"1").done()]);
    std::fs::write(archive.path(), crate::archive::oci_archive(&made)).unwrap();
    let run = |place: &Place, variable: &str, value: &str| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "--ignored", "crash::a_holders_import_for_the_test_below"]);
        command.env(STORE, &place.config.store).env(ARCHIVE, archive.path()).env(variable, value);
        command.output().unwrap().status.success()
    };
    let (place, list) = (Place::new(), tempfile::NamedTempFile::new().unwrap());
    assert!(run(&place, durable::SEEN, list.path().to_str().unwrap()));
    let seen = std::fs::read_to_string(list.path()).unwrap();
    let points: std::collections::BTreeSet<_> = seen.lines().collect();
    assert!(points.contains("image disk.renamed"), "{seen}");
    for point in points {
        let place = Place::new();
        assert!(!run(&place, durable::AT, point), "not killed at {point}");
        let store = ImageStore::open(&place.config).unwrap();
        if store.pinned(ImageId::from_bits(1)).is_some() {
            store.unpin(ImageId::from_bits(1)).unwrap();
        }
        store.sweep(&std::collections::BTreeSet::new()).unwrap().finish().unwrap();
        for name in ["disks", "images", "going", "pins", "blobs/sha256"] {
            let left = place.config.store.join(name).read_dir().map_or(0, Iterator::count);
            assert_eq!(left, 0, "{name} after {point}");
        }
    }
}
