//! The disk under the store is full.

use std::path::Path;

use reqwest::Method;
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};

use crate::edge::{Answer, Edge, Setup, holder};

/// Big enough for a store and for the room it keeps.
const SIZE: &std::ffi::CStr = c"size=48m,mode=0700";

/// A small disk in a mount namespace of this test's threads alone.
fn small_disk(at: &Path) {
    #[expect(unsafe_code, reason = "a namespace of this thread's own; no other thread of the test exists yet")]
    // SAFETY: only the mount table is unshared; no file descriptor is.
    let unshared = unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) };
    unshared.expect("this test makes a mount of its own: run it as root");
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .expect("keep our mounts to ourselves");
    mount("tmpfs", at, "tmpfs", MountFlags::empty(), SIZE).expect("mount a small disk");
}

fn fill(path: &Path) {
    let chunk = [0_u8; 4096];
    let mut file = std::fs::File::create(path).unwrap();
    while std::io::Write::write_all(&mut file, &chunk).is_ok() {}
}

async fn ask(edge: &Edge, who: &auth::Keypair, method: Method, path: &str, body: &[u8]) -> Answer {
    Answer::of(edge.signed(who, method, path, body)).await
}

#[test]
fn case_disk_full_what_is_new_waits_and_what_there_is_can_be_seen_and_stopped() {
    let setup = Setup::default();
    small_disk(setup.home.path());
    // Threads started from here on see the small disk.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(full(setup));
}

async fn full(setup: Setup) {
    let ballast = setup.home.path().join("ballast");
    let (edge, owner) = (setup.start().await, holder());
    let echo = br#"{"agent_type":"echo"}"#;
    let spawned = ask(&edge, &owner, Method::POST, "/spawn", echo).await;
    assert_eq!(spawned.status, 200, "{}", spawned.body);
    let id = spawned.body["agent"]["id"].as_str().unwrap().to_owned();
    edge.ready(200, "nothing is wrong yet").await;
    fill(&ballast);
    // What the log's last pages still hold goes first.
    let mut refused = None;
    for n in 10..200_u8 {
        let answer = ask(&edge, &auth::Keypair::generate(&[n; 32]), Method::POST, "/spawn", echo).await;
        if answer.status != 200 {
            refused = Some(answer);
            break;
        }
    }
    let refused = refused.expect("the disk never got full");
    assert_eq!((refused.status, refused.code()), (503, "store_unavailable"), "{}", refused.body);
    assert!(refused.body["retry_after"].as_u64().is_some_and(|seconds| seconds > 0));
    let why = edge.ready(503, "the disk is full").await["status"].clone();
    assert!(why.as_str().is_some_and(|why| why.contains("its disk is full")), "{why}");
    for path in ["/agents".to_owned(), format!("/status/{id}")] {
        for _ in 0..20 {
            let answer = ask(&edge, &owner, Method::GET, &path, b"").await;
            assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        }
    }
    let stopped = ask(&edge, &owner, Method::POST, &format!("/stop/{id}"), b"").await;
    assert_eq!((stopped.status, stopped.body["state"].as_str()), (200, Some("stopped")), "{}", stopped.body);
    // What is new still waits: the room is for stopping alone.
    let again = ask(&edge, &owner, Method::POST, "/spawn", echo).await;
    assert_eq!(again.code(), "store_unavailable");
    std::fs::remove_file(&ballast).unwrap();
    edge.ready(200, "it gets well").await;
    assert_eq!(ask(&edge, &owner, Method::POST, "/spawn", echo).await.status, 200);
}
