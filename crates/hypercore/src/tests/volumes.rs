//! Volumes: promised of the disk, had by one sandbox, erased by their owner's word alone.

use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::{Method, Request, StatusCode};
use domain::{Clock, DiskChange, DiskMark, MeteredDisk, PodId, SystemClock, UnixMillis, VolumeId};
use fixtures::until_holds;
use image::ImageStore;
use sandbox::DiskUsage;
use serde_json::{Value, json};
use tower::ServiceExt;
use wire::v1::node::{DataPolicy, RuntimeName, SandboxSpec, SandboxVolume};

use super::node::{Daemon, TestNode, id, spec};
use super::pod::PodBehavior;
use crate::node::CreateError;

const GIB: u64 = 1 << 30;
const VOLUME: &str = "/v1/volumes/0000000000000007";

pub(super) async fn call(daemon: &Daemon, method: Method, path: &str, body: Value) -> (StatusCode, Value) {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let request = Request::builder().method(method).uri(path).body(Body::from(body)).unwrap();
    let response = daemon.router().oneshot(request).await.unwrap();
    let status = response.status();
    let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
    (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
}

pub(super) fn with_volume() -> SandboxSpec {
    let volume = SandboxVolume {
        id: VolumeId::from_bits(7),
        name: "work".parse().unwrap(),
        path: "/workspace".parse().unwrap(),
    };
    SandboxSpec { volumes: vec![volume], ..spec() }
}

/// A node with this much disk, all of it free, in MiB.
pub(super) fn node_with(mib: u64) -> TestNode {
    let mut host = TestNode::new(PodBehavior::Good);
    host.config.disk_percent = 100;
    host.config.layer_mib = 64;
    host.config.data_mib = 64;
    host.machine.set_disk_usage(DiskUsage { size: mib << 20, free: mib << 20, guests: 0 });
    host
}

#[tokio::test]
async fn a_volume_is_made_once_grown_and_never_shrunk_and_is_there_for_the_next_daemon() {
    let host = node_with(10_240);
    let daemon = host.daemon().await;
    let put = async |daemon: &Daemon, body| call(daemon, Method::PUT, VOLUME, body).await;
    assert_eq!(put(&daemon, json!({"size_mib": 64, "exists": true})).await.1["code"], "no_volume");
    let (status, made) = put(&daemon, json!({"size_mib": 64})).await;
    assert_eq!((status, &made["size_mib"]), (StatusCode::CREATED, &json!(64)));
    assert_eq!(put(&daemon, json!({"size_mib": 64})).await.0, StatusCode::OK);
    assert_eq!(put(&daemon, json!({"size_mib": 128, "exists": true})).await.1["size_mib"], 128);
    for (body, code) in [
        (json!({"size_mib": 64}), "invalid_request"),
        (json!({"size_mib": 1}), "invalid_request"),
        (json!({"size": 64}), "invalid_request"),
    ] {
        assert_eq!(put(&daemon, body).await.1["code"], code);
    }
    let (_, node) = call(&daemon, Method::GET, "/v1/node", Value::Null).await;
    assert_eq!(node["disk"]["promised_mib"], 128);
    daemon.kill().await;
    let next = host.daemon().await;
    let (_, all) = call(&next, Method::GET, "/v1/volumes", Value::Null).await;
    assert_eq!(all["volumes"][0]["size_mib"], 128);
    assert_eq!(call(&next, Method::GET, "/v1/node", Value::Null).await.1["disk"]["promised_mib"], 128);
    for _ in 0..2 {
        assert_eq!(call(&next, Method::DELETE, VOLUME, Value::Null).await.0, StatusCode::NO_CONTENT);
    }
    assert_eq!(call(&next, Method::GET, VOLUME, Value::Null).await.1["code"], "no_volume");
    assert_eq!(call(&next, Method::GET, "/v1/node", Value::Null).await.1["disk"]["promised_mib"], 0);
    assert_eq!(call(&next, Method::GET, "/v1/volumes/x", Value::Null).await.1["code"], "invalid_request");
}

#[tokio::test]
async fn a_volume_is_made_to_its_end_although_its_caller_has_gone() {
    let host = node_with(102_400);
    let daemon = host.daemon().await;
    let put = || call(&daemon, Method::PUT, VOLUME, json!({"size_mib": 64 * 1024}));
    let half = host.state().join("volumes/0000000000000007.half");
    let mut first = Box::pin(put());
    tokio::select! {
        done = &mut first => panic!("nobody could go away meanwhile: {done:?}"),
        () = until_holds("a half", || half.exists()) => {}
    }
    drop(first);
    // Whoever asks again waits for it, and makes no other in its place.
    assert_eq!(put().await.0, StatusCode::OK);
    assert!(!half.exists());
}

#[tokio::test]
async fn who_waits_for_work_on_a_volume_holds_up_nobody_who_has_none() {
    let mut host = node_with(2 * 1024 * 1024);
    let images = tempfile::tempdir().unwrap();
    let store = ImageStore::open(&image::Config { store: images.path().join("store"), ..image::Config::default() });
    host.images = Some(store.unwrap());
    let daemon = host.daemon().await;
    let half = host.state().join("volumes/0000000000000007.half");
    let mut making = Box::pin(call(&daemon, Method::PUT, VOLUME, json!({"size_mib": 1024 * 1024})));
    tokio::select! {
        done = &mut making => panic!("nobody could wait meanwhile: {done:?}"),
        () = until_holds("a half", || half.exists()) => {}
    }
    let (with_one, without) = (with_volume(), spec());
    let mut waits = Box::pin(daemon.offer(id(1), &with_one));
    assert!(futures_util::poll!(&mut waits).is_pending());
    // Whoever removes images waits for those who look for one, and who comes then waits for it.
    let others = async {
        daemon.node.sweep().await;
        daemon.offer(id(2), &without).await
    };
    tokio::select! {
        biased;
        done = &mut making => panic!("it was waited for: {done:?}"),
        made = others => assert!(made.is_ok()),
    }
    drop(making);
    assert!(waits.await.is_ok());
}

#[tokio::test]
async fn a_hundred_gigabytes_are_not_promised_of_a_disk_of_ten() {
    let host = node_with(10 * 1024);
    let daemon = host.daemon().await;
    let (status, fault) = call(&daemon, Method::PUT, VOLUME, json!({"size_mib": 100 * 1024})).await;
    assert_eq!((status, fault["code"].as_str()), (StatusCode::UNPROCESSABLE_ENTITY, Some("exceeds_capacity")));
    assert_eq!(call(&daemon, Method::PUT, VOLUME, json!({"size_mib": 9 * 1024})).await.0, StatusCode::CREATED);
    // Nothing of it is written, and it is promised all the same: to volumes and sandboxes.
    let other = "/v1/volumes/0000000000000008";
    assert_eq!(call(&daemon, Method::PUT, other, json!({"size_mib": 2 * 1024})).await.1["code"], "no_capacity");
    assert_eq!(call(&daemon, Method::PUT, VOLUME, json!({"size_mib": 11 * 1024})).await.1["code"], "no_capacity");
    let mut granted = 0;
    for n in 1..=20 {
        granted += u32::from(daemon.offer(id(n), &spec()).await.is_ok());
    }
    // A GiB is left, and each sandbox is promised two disks of 64 MiB.
    assert_eq!(granted, 8);
    let (_, node) = call(&daemon, Method::GET, "/v1/node", Value::Null).await;
    assert_eq!(node["disk"]["promised_mib"], 10 * 1024);
    // What the empty file system takes is the volume's own.
    assert!(node["disk"]["promisable_mib"].as_u64().unwrap() < 128, "{node}");
    assert!(host.state().join("volumes/0000000000000007.ext4").metadata().unwrap().len() == 9 * GIB);
}

#[tokio::test]
async fn a_volume_has_one_sandbox_and_is_neither_erased_nor_grown_while_that_is_there() {
    let host = node_with(10_240);
    let daemon = host.daemon().await;
    let missing = daemon.offer(id(1), &with_volume()).await;
    assert!(matches!(missing, Err(CreateError::NoVolume { .. })), "it is not here");
    call(&daemon, Method::PUT, VOLUME, json!({"size_mib": 64})).await;
    daemon.offer(id(1), &with_volume()).await.unwrap();
    daemon.ready(id(1)).await;
    let told = host.guests.with(id(1), |guest| guest.identities.last().cloned()).unwrap();
    let volumes: Vec<_> = told.volumes.iter().map(|volume| (volume.name.as_str(), volume.path.as_str())).collect();
    assert_eq!(volumes, [("work", "/workspace")]);
    let in_container = SandboxSpec { runtime: Some(RuntimeName::ContainerRunc), ..with_volume() };
    let (status, fault) = call(&daemon, Method::PUT, "/v1/sandboxes/00000000-0000-0002", json!(in_container)).await;
    let told = (fault["code"].as_str(), fault["field"].as_str());
    assert_eq!((status, told), (StatusCode::BAD_REQUEST, (Some("invalid_request"), Some("volumes"))), "{fault}");
    assert!(fault["error"].as_str().unwrap().contains("needs a machine"), "{fault}");
    // The same again is no other.
    daemon.offer(id(1), &with_volume()).await.unwrap();
    let second = daemon.offer(id(2), &with_volume()).await;
    assert!(matches!(second, Err(CreateError::VolumeAttached { run, .. }) if run == id(1)), "one writer");
    let (_, shown) = call(&daemon, Method::GET, VOLUME, Value::Null).await;
    assert_eq!(shown["sandbox"], json!(id(1)));
    for (method, body) in [(Method::DELETE, Value::Null), (Method::PUT, json!({"size_mib": 128}))] {
        let (status, fault) = call(&daemon, method, VOLUME, body).await;
        assert_eq!((status, fault["code"].as_str()), (StatusCode::CONFLICT, Some("volume_attached")));
    }
    // Whoever takes the sandbox over knows it as well.
    daemon.kill().await;
    let next = host.daemon().await;
    next.ready(id(1)).await;
    assert_eq!(call(&next, Method::DELETE, VOLUME, Value::Null).await.1["code"], "volume_attached");
    let end = "/v1/sandboxes/00000000-0000-0001?grace_ms=0&data=erase";
    assert_eq!(call(&next, Method::DELETE, end, Value::Null).await.0, StatusCode::OK);
    next.offer(id(2), &with_volume()).await.unwrap();
    next.ready(id(2)).await;
}

#[tokio::test]
async fn of_twenty_sandboxes_at_once_one_gets_the_volume() {
    let host = node_with(102_400);
    let daemon = host.daemon().await;
    call(&daemon, Method::PUT, VOLUME, json!({"size_mib": 64})).await;
    let daemon = &daemon;
    let offers = (1..=20).map(|n| async move { daemon.offer(id(n), &with_volume()).await.is_ok() });
    let granted = futures_util::future::join_all(offers).await.into_iter().filter(|granted| *granted).count();
    assert_eq!(granted, 1);
}

async fn disk_marks(daemon: &Daemon) -> Vec<DiskMark> {
    daemon.node.shared.journal.after(0, Duration::ZERO).await.disks
}

fn level(disk: MeteredDisk, mib: u64) -> DiskChange {
    DiskChange::Level { disk, mib }
}

#[tokio::test]
async fn disks_are_metered_when_they_change_and_not_while_the_node_was_down() {
    let host = node_with(10_240);
    let daemon = host.daemon().await;
    let (volume, data) = (MeteredDisk::Volume(VolumeId::from_bits(7)), MeteredDisk::Data(PodId::minted(id(1))));
    let changes = async |daemon: &Daemon| disk_marks(daemon).await.iter().map(|mark| mark.change).collect::<Vec<_>>();
    let mut looked = daemon.node.meter_disks(UnixMillis(0)).await.unwrap();
    assert_eq!(changes(&daemon).await, [], "it holds none");
    call(&daemon, Method::PUT, VOLUME, json!({"size_mib": 64})).await;
    host.machine.set_kept_bytes((5 << 20) + 9);
    daemon.create(id(1)).await;
    daemon.ready(id(1)).await;
    daemon.node.delete(id(1), None, Duration::ZERO, DataPolicy::Keep).await.unwrap();
    for _ in 0..2 {
        looked = daemon.node.meter_disks(looked).await.unwrap();
    }
    assert_eq!(changes(&daemon).await, [level(volume, 64), level(data, 5)]);
    call(&daemon, Method::PUT, VOLUME, json!({"size_mib": 128, "exists": true})).await;
    let before = daemon.node.meter_disks(looked).await.unwrap();
    assert_eq!(changes(&daemon).await[2..], [level(volume, 128)]);
    // What is erased counts to the last look, and no longer.
    call(&daemon, Method::DELETE, VOLUME, Value::Null).await;
    daemon.node.meter_disks(before).await.unwrap();
    let marks = disk_marks(&daemon).await;
    assert_eq!((marks[3].at, marks[3].change), (before, level(volume, 0)));
    daemon.kill().await;
    host.last_alive(UnixMillis(42));
    let next = host.daemon().await;
    let marks = disk_marks(&next).await;
    assert_eq!(marks[4].change, DiskChange::Down { since: UnixMillis(42) });
    assert!(SystemClock.now().since(marks[4].at) < 60_000);
    // What is there again when it comes up is not told anew; what is taken back is.
    next.node.meter_disks(UnixMillis(42)).await.unwrap();
    assert_eq!(disk_marks(&next).await.len(), 5);
    next.node.erase_data(PodId::minted(id(1))).await.unwrap();
    next.node.meter_disks(SystemClock.now()).await.unwrap();
    assert_eq!(changes(&next).await[5..], [level(data, 0)]);
}

#[tokio::test]
async fn the_check_of_a_volume_may_take_longer_than_a_boot_and_how_far_it_is_is_told() {
    let mut host = node_with(10_240);
    host.guests.behave(PodBehavior::Checking);
    host.config.boot_deadline_ms = 2_500;
    let daemon = host.daemon().await;
    assert_eq!(call(&daemon, Method::PUT, VOLUME, json!({"size_mib": 64})).await.0, StatusCode::CREATED);
    daemon.offer_run(id(1), &with_volume()).await.unwrap();
    let path = format!("/v1/sandboxes/{}", id(1));
    let shown = async || call(&daemon, Method::GET, &path, Value::Null).await.1;
    let checked = fixtures::until("it is checked", async || {
        Some(shown().await).filter(|shown| !shown["guest"]["checked"].is_null())
    });
    assert_eq!(checked.await["guest"]["checked"], 40);
    daemon.ready(id(1)).await;
    let ready = shown().await;
    assert_eq!((&ready["restarts"], ready["guest"]["checked"].is_null()), (&json!(0), true), "{ready}");
}

#[tokio::test]
async fn a_guest_without_volumes_has_no_time_for_a_check() {
    let mut host = node_with(10_240);
    host.guests.behave(PodBehavior::Checking);
    host.config.boot_deadline_ms = 1_000;
    let daemon = host.daemon().await;
    daemon.offer_run(id(1), &spec()).await.unwrap();
    let path = format!("/v1/sandboxes/{}", id(1));
    fixtures::until("it is started again", async || {
        let shown = call(&daemon, Method::GET, &path, Value::Null).await.1;
        (shown["restarts"].as_u64() > Some(0)).then_some(())
    })
    .await;
}
