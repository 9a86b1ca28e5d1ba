//! Snapshots: of volumes that nobody has, whole or not there, and put back once for each order.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::http::{Method, StatusCode};
use domain::{DiskChange, MeteredDisk, SnapshotId};
use fixtures::until;
use sandbox::DiskUsage;
use serde_json::{Value, json};

use super::node::{Daemon, TestNode, id};
use super::volumes::{call, node_with, with_volume};

const VOLUME: &str = "/v1/volumes/0000000000000007";
const SNAPSHOT: &str = "/v1/snapshots/0000000000000001";
const AT: u64 = 30 << 20;

fn disk(host: &TestNode) -> PathBuf {
    host.state().join("volumes/0000000000000007.ext4")
}

fn write(host: &TestNode, text: &[u8; 4]) {
    OpenOptions::new().write(true).open(disk(host)).unwrap().write_all_at(text, AT).unwrap();
}

fn read(path: &Path) -> [u8; 4] {
    let mut there = [0; 4];
    File::open(path).unwrap().read_exact_at(&mut there, AT).unwrap();
    there
}

/// Asks until the node is done with it.
async fn done(daemon: &Daemon, method: Method, path: &str, body: Value) -> Value {
    until("it is done", async || {
        let (status, answer) = call(daemon, method.clone(), path, body.clone()).await;
        assert!(status.is_success(), "{answer}");
        (status == StatusCode::OK).then_some(answer)
    })
    .await
}

#[tokio::test]
async fn a_snapshot_is_what_the_volume_was_and_puts_it_back_once_for_each_order() {
    let host = node_with(10_240);
    let daemon = host.daemon().await;
    let of = json!({"volume": "0000000000000007"});
    let missing = call(&daemon, Method::PUT, SNAPSHOT, of.clone()).await;
    assert_eq!(missing.1["code"], "no_volume");
    call(&daemon, Method::PUT, VOLUME, json!({"size_mib": 64})).await;
    write(&host, b"kept");
    let some = OpenOptions::new().write(true).open(disk(&host)).unwrap();
    some.write_all_at(&vec![7; 3 << 20], 40 << 20).unwrap();
    let made = done(&daemon, Method::PUT, SNAPSHOT, of.clone()).await;
    assert_eq!((&made["state"], &made["size_mib"]), (&json!("done"), &json!(64)));
    write(&host, b"new!");
    assert_eq!(done(&daemon, Method::PUT, SNAPSHOT, of).await, made, "it is not made anew");
    let restore = format!("{SNAPSHOT}/restore");
    let order = |order: u64| json!({"volume": "0000000000000007", "order": order});
    done(&daemon, Method::POST, &restore, order(5)).await;
    assert_eq!(read(&disk(&host)), *b"kept");
    write(&host, b"more");
    for late in [5, 4] {
        done(&daemon, Method::POST, &restore, order(late)).await;
    }
    assert_eq!(read(&disk(&host)), *b"more", "what comes late takes nothing back");
    // It is promised of the disk, metered, and there for the next daemon.
    daemon.node.meter_disks(domain::UnixMillis(0)).await.unwrap();
    let marked = daemon.node.shared.journal.after(0, Duration::ZERO).await.disks;
    let snapshot = MeteredDisk::Snapshot(SnapshotId::from_bits(1));
    let mib = made["bytes"].as_u64().unwrap() >> 20;
    assert!(marked.iter().any(|mark| mark.change == DiskChange::Level { disk: snapshot, mib }), "{marked:?}");
    daemon.kill().await;
    std::fs::write(host.state().join("snapshots/0000000000000002.half"), "half of one").unwrap();
    let next = host.daemon().await;
    assert!(!host.state().join("snapshots/0000000000000002.half").exists());
    let (_, node) = call(&next, Method::GET, "/v1/node", Value::Null).await;
    let promised = 64 + made["bytes"].as_u64().unwrap().div_ceil(1 << 20);
    assert_eq!(node["disk"]["promised_mib"], promised, "{node}");
    let (_, all) = call(&next, Method::GET, "/v1/snapshots", Value::Null).await;
    assert_eq!(all["snapshots"], json!([made]));
    for _ in 0..2 {
        assert_eq!(call(&next, Method::DELETE, SNAPSHOT, Value::Null).await.0, StatusCode::NO_CONTENT);
    }
    let gone = call(&next, Method::POST, &restore, order(9)).await;
    assert_eq!((gone.0, &gone.1["code"]), (StatusCode::NOT_FOUND, &json!("not_found")));
    assert_eq!(call(&next, Method::GET, "/v1/node", Value::Null).await.1["disk"]["promised_mib"], 64);
}

#[tokio::test]
async fn a_volume_that_a_sandbox_has_is_not_copied_nor_what_the_disk_has_no_room_for() {
    let host = node_with(10_240);
    let daemon = host.daemon().await;
    call(&daemon, Method::PUT, VOLUME, json!({"size_mib": 64})).await;
    daemon.offer(id(1), &with_volume()).await.unwrap();
    daemon.ready(id(1)).await;
    let refused = call(&daemon, Method::PUT, SNAPSHOT, json!({"volume": "0000000000000007"})).await;
    assert_eq!((refused.0, &refused.1["code"]), (StatusCode::CONFLICT, &json!("volume_attached")));
    assert!(refused.1["error"].as_str().unwrap().contains("attached to the sandbox"), "{refused:?}");
    for (path, body) in [
        ("/v1/snapshots/1", json!({"volume": "0000000000000007"})),
        (SNAPSHOT, json!({"of": "0000000000000007"})),
        (SNAPSHOT, json!({"volume": "7"})),
    ] {
        assert_eq!(call(&daemon, Method::PUT, path, body).await.1["code"], "invalid_request");
    }
    assert!(!host.state().join("snapshots").exists());
    // Twenty MiB are written to a volume on a disk that has promised all but ten.
    let host = node_with(74);
    let daemon = host.daemon().await;
    call(&daemon, Method::PUT, VOLUME, json!({"size_mib": 64})).await;
    let written = vec![7; 20 << 20];
    OpenOptions::new().write(true).open(disk(&host)).unwrap().write_all_at(&written, AT).unwrap();
    host.machine.set_disk_usage(DiskUsage { size: 74 << 20, free: 52 << 20, guests: 0 });
    let full = call(&daemon, Method::PUT, SNAPSHOT, json!({"volume": "0000000000000007"})).await;
    assert!(["no_capacity", "exceeds_capacity"].contains(&full.1["code"].as_str().unwrap()), "{full:?}");
    // It is as free as before.
    let grown = call(&daemon, Method::PUT, VOLUME, json!({"size_mib": 65, "exists": true})).await;
    assert_eq!(grown.0, StatusCode::OK, "{grown:?}");
}
