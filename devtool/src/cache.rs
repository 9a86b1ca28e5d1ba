//! `./dev`'s cache of builds, which every checkout of this user shares.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

/// Claims the cache for a checkout, as every command of `./dev` that builds does.
fn claim(cache: &Path, checkout: &Path) {
    let setup = crate::root().join("dev.d/setup.sh");
    let status = Command::new("bash")
        .args(["-euc", ". \"$0\" && own_cache"])
        .arg(setup)
        .current_dir(checkout)
        .env("CACHE", cache)
        .env("TARGET", cache.join("target"))
        .status()
        .unwrap();
    assert!(status.success());
}

#[test]
fn fault_3_2_a_cache_that_was_another_checkouts_builds_the_sources_of_this_one() {
    let dir = tempfile::tempdir().unwrap();
    let (cache, ours, theirs) = (dir.path().join("cache"), dir.path().join("ours"), dir.path().join("theirs"));
    let old = SystemTime::now() - Duration::from_secs(3600);
    for checkout in [&ours, &theirs] {
        for part in ["crates", "devtool", "images", "xtask"] {
            fs::create_dir_all(checkout.join(part)).unwrap();
        }
        File::create(checkout.join("crates/lib.rs")).unwrap().set_modified(old).unwrap();
    }
    let aged = |checkout: &Path| fs::metadata(checkout.join("crates/lib.rs")).unwrap().modified().unwrap() == old;
    claim(&cache, &theirs);
    assert!(aged(&theirs), "what was never built is new anyway");
    fs::create_dir_all(cache.join("target")).unwrap();
    claim(&cache, &theirs);
    assert!(aged(&theirs), "one's own cache is warm");
    claim(&cache, &ours);
    assert!(!aged(&ours), "another's is built anew");
}
