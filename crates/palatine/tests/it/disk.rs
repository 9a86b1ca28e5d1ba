//! A node whose disk is full.

use std::fs;

use fixtures::{Stack, until};
use serde_json::json;

#[tokio::test]
async fn fault_1_6_a_gateway_whose_only_node_has_no_disk_left_says_so_and_stays_where_it_is_reached() {
    let mut stack = Stack::start("[gateway]\nprobe_ms = 200\n").await;
    let path = stack.path("palatine.toml");
    let good = fs::read_to_string(&path).unwrap();
    // No disk has so much: it is as if others had filled it.
    let mut full: toml::Table = good.parse().unwrap();
    full["node"].as_table_mut().unwrap().insert("disk_free_mib".to_owned(), (1_i64 << 40).into());
    for (config, status) in
        [(toml::to_string(&full).unwrap(), "node: no node has disk for another agent"), (good, "ok")]
    {
        fs::write(&path, config).unwrap();
        stack.kill_node();
        stack.start_node().await;
        until(&format!("/ready says: {status}"), async || {
            let ready = stack.get("/ready").await;
            (ready.status == 200 && ready.body["status"] == json!(status)).then_some(())
        })
        .await;
    }
    stack.end();
}
