//! `kill -9` of a process that writes: what it was told is there, is there.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};

use palatine_store::{Admission, Config, Store};

use crate::help::{folder, id, reopen, reservation};

const DIRECTORY: &str = "PALATINE_TEST_STORE";
/// Callers in the child, so that transactions hold several reservations.
const CALLERS: u64 = 8;

/// Not a test of its own: the process that the next one kills.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a child process of another test"]
async fn writes_for_ever() {
    let Some(directory) = std::env::var_os(DIRECTORY) else { return };
    let store = Store::open(&Config { directory: PathBuf::from(directory), ..Config::default() }).await.unwrap();
    let from: u64 = u64::try_from(store.live().await.unwrap().len()).unwrap() * 1_000_000;
    let callers = (0..CALLERS).map(|caller| {
        let store = store.clone();
        tokio::spawn(async move {
            for n in (from + caller..).step_by(8) {
                let admission = store.reserve(reservation(n, n)).await.unwrap();
                assert!(matches!(admission, Admission::Reserved(_)));
                // One write a line: the parent never sees half of one.
                std::io::stdout().write_all(format!("kept {n}\n").as_bytes()).unwrap();
            }
        })
    });
    for caller in callers.collect::<Vec<_>>() {
        caller.await.unwrap();
    }
}

fn start(directory: &std::path::Path) -> (Child, BufReader<ChildStdout>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["child::writes_for_ever", "--exact", "--ignored", "--nocapture", "--test-threads=1"])
        .env(DIRECTORY, directory)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap());
    (child, lines)
}

fn kept(line: &str) -> Option<u64> {
    // The harness writes on the same line before the first.
    line.split_once("kept ")?.1.trim().parse().ok()
}

#[tokio::test]
async fn every_acknowledged_reservation_survives_kill_9() {
    let folder = folder();
    let directory = folder.path().join("store");
    let mut acknowledged = Vec::new();
    for round in 1..=5_usize {
        let (mut child, lines) = start(&directory);
        let mut seen = 0;
        for line in lines.lines() {
            let Some(n) = kept(&line.unwrap()) else { continue };
            acknowledged.push(n);
            seen += 1;
            if seen == 100 * round {
                // The rest of its lines, up to its death, is read as well.
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(seen >= 100 * round, "the child died by itself after {seen}");
    }
    let store = reopen(&folder).await;
    for n in &acknowledged {
        assert!(store.get(id(*n)).await.unwrap().is_some(), "reservation {n} was acknowledged and is gone");
    }
    assert!(store.live().await.unwrap().len() >= acknowledged.len());
}
