//! A disk that is full, and then is not.

use std::path::Path;

use palatine_store::{Admission, Config, Store, StoreError};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use tempfile::TempDir;

use crate::help::{folder, id, reservation, wallet};

/// Big enough for an empty store, and soon full.
const SIZE: &std::ffi::CStr = c"size=2m,mode=0700";

/// A tiny disk in a mount namespace that only this test's threads see, and that
/// goes with them.
fn tiny_disk() -> TempDir {
    let folder = folder();
    #[expect(unsafe_code, reason = "a namespace of this thread's own; no other thread of the test exists yet")]
    // SAFETY: only the mount table is unshared; no file descriptor is.
    let unshared = unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) };
    unshared.expect("this test makes a mount of its own: run it as root");
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .expect("keep our mounts to ourselves");
    mount("tmpfs", folder.path(), "tmpfs", MountFlags::empty(), SIZE).expect("mount a tiny disk");
    folder
}

fn fill(path: &Path) {
    let chunk = [0_u8; 4096];
    let mut file = std::fs::File::create(path).unwrap();
    while std::io::Write::write_all(&mut file, &chunk).is_ok() {}
}

#[test]
fn a_full_disk_fails_everybody_cleanly_and_room_heals_it() {
    let folder = tiny_disk();
    // Threads started from here on see the tiny disk.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(fill_and_heal(&folder));
}

async fn fill_and_heal(folder: &TempDir) {
    let config = Config { directory: folder.path().join("store"), ..Config::default() };
    let store = Store::open(&config).await.unwrap();
    assert!(matches!(store.reserve(reservation(1, 1)).await.unwrap(), Admission::Reserved(_)));
    let ballast = folder.path().join("ballast");
    fill(&ballast);
    let mut news = store.subscribe();
    let mut told = 0;
    let mut kept = vec![1];
    let mut failed = Vec::new();
    for round in 0..200_u64 {
        let wishes = (0..20).map(|n| 100 + round * 20 + n);
        let asked: Vec<_> = wishes
            .map(|n| {
                let store = store.clone();
                (n, tokio::spawn(async move { store.reserve(reservation(n, n)).await }))
            })
            .collect();
        for (n, answer) in asked {
            match answer.await.unwrap() {
                Ok(Admission::Reserved(_)) => kept.push(n),
                Ok(other) => panic!("{other:?}"),
                Err(error @ (StoreError::Full { .. } | StoreError::Disk { .. })) => {
                    assert!(error.retryable());
                    failed.push(n);
                }
                Err(error) => panic!("{error:?}"),
            }
        }
        while news.try_recv().is_ok() {
            told += 1;
        }
        if failed.len() >= 60 {
            break;
        }
    }
    assert!(failed.len() >= 60, "the disk never got full");
    assert_eq!(told, kept.len() - 1, "whoever listened was told of what was kept, and of nothing else");
    // Reading goes on.
    assert!(store.get(id(1)).await.unwrap().is_some());
    std::fs::remove_file(&ballast).unwrap();
    for n in &failed {
        assert_eq!(store.live_of(wallet(*n)).await.unwrap(), [], "{n} failed and took its slot");
        // Neither was the message spent.
        assert!(matches!(store.reserve(reservation(*n, *n)).await.unwrap(), Admission::Reserved(_)), "{n}");
    }
    drop(store);
    let store = Store::open(&config).await.unwrap();
    for n in kept.iter().chain(&failed) {
        assert!(store.get(id(*n)).await.unwrap().is_some(), "{n}");
    }
}
