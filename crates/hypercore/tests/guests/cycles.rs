//! Made and deleted again, at every stage of a boot.

use std::time::Duration;

use tokio::time::sleep;

use crate::machine::Residue;
use crate::node::{NodeProcess, id};

#[tokio::test]
async fn five_cycles_leave_the_machine_as_it_was() {
    let before = Residue::of("pltz");
    let mut node = NodeProcess::new("pltz", 2, "").await;
    let idle = Residue::of("pltz");
    for bits in 1..=5 {
        node.create(id(bits)).await;
        if bits == 1 {
            node.ready(id(bits)).await;
        } else {
            // Somewhere in its boot.
            sleep(Duration::from_millis(150 * (bits - 2))).await;
        }
        node.delete(id(bits)).await;
        assert_eq!(Residue::of("pltz"), idle, "after cycle {bits}");
    }
    for folder in ["guests", "sandboxes"] {
        assert_eq!(std::fs::read_dir(node.dir.path().join("node").join(folder)).unwrap().count(), 0);
    }
    // The same when the daemon is killed in the middle of a start.
    node.create(id(6)).await;
    sleep(Duration::from_millis(20)).await;
    node.kill();
    node.start().await;
    node.delete(id(6)).await;
    assert_eq!(Residue::of("pltz"), idle);
    node.end(&before);
}
