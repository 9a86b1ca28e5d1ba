//! Imports that are killed at any instant leave whole images or none.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use palatine_image::{Config, ImageStore, NoProgress};

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
