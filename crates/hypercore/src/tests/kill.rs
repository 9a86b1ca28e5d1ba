//! `kill -9` of the daemon at each of its durable writes: the next one comes back,
//! with the agent as it was before or after, and bills on without a gap.
//!
//! The killed process is this test binary again; the guests die with it, as they do
//! when a machine loses its power.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use domain::MarkKind;
use fixtures::until_holds;
use wire::v1::node::{AgentMark, DataPolicy};

use super::node::{TestNode, id};
use super::pod::PodBehavior;
use crate::retention;

const STATE: &str = "PALATINE_TEST_NODE_STATE";

/// The whole lives of two sandboxes, from wherever the daemon before was killed: one is
/// erased, the other's disks are kept, and then erased.
#[tokio::test]
#[ignore = "a child process of other tests"]
async fn the_daemon_that_is_killed() {
    let Some(state) = std::env::var_os(STATE).map(PathBuf::from) else { return };
    let host = TestNode::at(&state, PodBehavior::Good);
    let daemon = host.daemon().await;
    // A deletion that was cut off is finished first.
    for bits in [1, 2] {
        let record = fs::read_to_string(state.join("sandboxes").join(id(bits).to_string()).join("record.json"));
        if record.is_ok_and(|record| record.contains("\"wanted\": \"gone")) {
            until_holds("gone", || daemon.sandbox(id(bits)).is_none()).await;
        }
    }
    daemon.create(id(1)).await;
    daemon.ready(id(1)).await;
    daemon.kill().await;
    let daemon = host.daemon().await;
    daemon.ready(id(1)).await;
    daemon.node.delete(id(1), None, Duration::ZERO, DataPolicy::Erase).await.unwrap();
    assert!(daemon.sandbox(id(1)).is_none());
    daemon.create(id(2)).await;
    daemon.ready(id(2)).await;
    daemon.node.delete(id(2), None, Duration::ZERO, DataPolicy::Keep).await.unwrap();
    let ages = state.join("kept.ages");
    for kept in [1, 0] {
        let mut aged = retention::read_ages(&ages);
        retention::expire(&daemon.node.shared, &mut aged, Duration::from_secs(1)).await.unwrap();
        assert_eq!(host.machine.kept().len(), kept);
        retention::write_ages(ages.clone(), aged).await.unwrap();
        daemon.node.delete(id(2), None, Duration::ZERO, DataPolicy::Erase).await.unwrap();
    }
}

/// Runs that life in a process of its own; says whether it was killed.
fn live(state: &Path, variable: &str, value: &str) -> bool {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", "tests::kill::the_daemon_that_is_killed", "--nocapture"])
        .env(STATE, state)
        .env(variable, value)
        .output()
        .unwrap();
    let killed = output.status.signal() == Some(9);
    assert!(killed || output.status.success(), "{value}: {}", String::from_utf8_lossy(&output.stderr));
    killed
}

/// The points a life passes, and how often.
fn points() -> BTreeMap<String, usize> {
    let (state, list) = (tempfile::tempdir().unwrap(), tempfile::NamedTempFile::new().unwrap());
    assert!(!live(state.path(), durable::SEEN, list.path().to_str().unwrap()));
    let mut points = BTreeMap::new();
    for point in fs::read_to_string(list.path()).unwrap().lines() {
        *points.entry(point.to_owned()).or_default() += 1;
    }
    points
}

fn marks(state: &Path) -> Vec<AgentMark> {
    let text = fs::read_to_string(state.join("marks")).unwrap();
    text.lines().skip(1).map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// What a whole life leaves: no sandbox, and marks that begin, end, and have no gap.
fn check(point: &str, state: &Path) {
    let left: Vec<_> = fs::read_dir(state.join("sandboxes")).unwrap().collect();
    assert!(left.is_empty(), "{point} leaves {left:?}");
    let marks = marks(state);
    for (number, mark) in (1..).zip(&marks) {
        assert_eq!(mark.mark.seq, number, "{point}: {marks:?}");
    }
    for bits in [1, 2] {
        let its = marks.iter().filter(|mark| mark.agent == id(bits));
        let kinds: Vec<_> = its.map(|mark| mark.mark.kind).collect();
        assert_eq!(kinds.first(), Some(&MarkKind::Booting), "{point}: {kinds:?}");
        assert_eq!(kinds.last(), Some(&MarkKind::Gone), "{point}: {kinds:?}");
        assert!(kinds.windows(2).all(|two| two[0] != two[1]), "{point}: {kinds:?}");
    }
}

#[test]
fn fault_1_4_a_node_killed_at_any_durable_write_starts_again_and_bills_without_a_gap() {
    let points = points();
    for needed in [
        "node.key.written",
        "node.key.linked",
        "record.torn",
        "secrets.zeroed",
        "marks.torn",
        "marks.kept",
        "ages.renamed",
    ] {
        assert!(points.contains_key(needed), "{needed} is not passed: {points:?}");
    }
    for (point, times) in &points {
        // The first time, and the last: a record is written when it is made, and when it goes.
        for time in [1, *times] {
            let state = tempfile::tempdir().unwrap();
            let at = format!("{point}#{time}");
            assert!(live(state.path(), durable::AT, &at), "not killed at {at}");
            assert!(!live(state.path(), "PALATINE_UNUSED", ""), "killed without a cause after {at}");
            check(&at, state.path());
        }
    }
}
