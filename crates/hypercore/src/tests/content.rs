//! Files of disks that no run has: reached through helpers, of which there are few, and which are
//! gone as soon as anybody else wants the disk.

use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::{Method, Request, StatusCode};
use domain::{OwnedDisk, PodId, VolumeId};
use fixtures::until_holds;
use serde_json::{Value, json};
use tower::ServiceExt;
use wire::v1::node::{DataPolicy, SandboxSpec, SandboxVolume};

use super::node::{Daemon, TestNode, id, spec};
use super::pod::PodBehavior;

const VOLUMES: [&str; 3] = ["0000000000000007", "0000000000000008", "0000000000000009"];

async fn ask(daemon: &Daemon, method: Method, path: &str, holder: &str, body: Body) -> (StatusCode, String) {
    let request = Request::builder().method(method).uri(path).header("palatine-holder", holder);
    let request = request.header("cookie", "not for a guest").header("authorization", "Bearer caller's");
    let response = daemon.router().oneshot(request.body(body).unwrap()).await.unwrap();
    let status = response.status();
    let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

async fn stat(daemon: &Daemon, volume: &str, holder: &str) -> (StatusCode, String) {
    let path = format!("/v1/volumes/{volume}/content/path?path=/a%20b");
    ask(daemon, Method::GET, &path, holder, Body::empty()).await
}

fn code(body: &str) -> Value {
    serde_json::from_str::<Value>(body).map_or(Value::Null, |body| body["code"].clone())
}

/// A node with three volumes.
async fn with_volumes(host: &TestNode) -> Daemon {
    let daemon = host.daemon().await;
    for volume in VOLUMES {
        let body = Body::from(json!({"size_mib": 64}).to_string());
        let path = format!("/v1/volumes/{volume}");
        assert_eq!(ask(&daemon, Method::PUT, &path, "", body).await.0, StatusCode::CREATED);
    }
    daemon
}

fn node() -> TestNode {
    let mut host = TestNode::new(PodBehavior::Good);
    host.config.layer_mib = 64;
    host.config.data_mib = 64;
    host
}

/// A call of this volume that goes on until its sender is dropped.
fn endless(
    daemon: &Daemon,
    volume: &str,
    holder: &str,
) -> (tokio::sync::mpsc::Sender<()>, tokio::task::JoinHandle<()>) {
    endless_at(daemon, &format!("/v1/volumes/{volume}/content/file?path=/x"), holder)
}

/// The same at another path.
fn endless_at(
    daemon: &Daemon,
    path: &str,
    holder: &str,
) -> (tokio::sync::mpsc::Sender<()>, tokio::task::JoinHandle<()>) {
    let (sender, mut receiver) = tokio::sync::mpsc::channel::<()>(1);
    let body = Body::from_stream(futures_util::stream::poll_fn(move |context| {
        receiver.poll_recv(context).map(|_| None::<Result<axum::body::Bytes, std::io::Error>>)
    }));
    let request = Request::builder().method(Method::PUT).uri(path).header("palatine-holder", holder);
    let (router, request) = (daemon.router(), request.body(body).unwrap());
    let call = tokio::spawn(async move {
        let answer = router.oneshot(request).await.unwrap();
        let _ = to_bytes(answer.into_body(), 1 << 20).await;
    });
    (sender, call)
}

fn helpers(host: &TestNode) -> usize {
    host.machine.running().iter().filter(|slot| slot.run.bits() >> 22 == u64::MAX >> 22).count()
}

#[tokio::test]
async fn one_helper_answers_for_a_volume_takes_its_share_of_memory_and_ends_when_nobody_calls() {
    let host = node();
    let daemon = with_volumes(&host).await;
    let free = async || {
        let (_, info) = ask(&daemon, Method::GET, "/v1/node", "", Body::empty()).await;
        serde_json::from_str::<Value>(&info).unwrap()["free_memory_mib"].as_u64().unwrap()
    };
    let before = free().await;
    for _ in 0..2 {
        let (status, said) = stat(&daemon, VOLUMES[0], "w").await;
        // The caller's credentials are gone, its query is there.
        assert_eq!((status, said.as_str()), (StatusCode::OK, "/v1/content/path?path=/a%20b false -\n"));
    }
    assert_eq!(helpers(&host), 1);
    let slot = host.machine.running()[0];
    assert_eq!(host.guests.with(slot.run, |guest| guest.mounts), 1);
    assert_eq!(before - free().await, 256 + sandbox::fake::OVERHEAD_MIB);
    let path = format!("/v1/volumes/{}", VOLUMES[0]);
    let (_, shown) = ask(&daemon, Method::GET, &path, "", Body::empty()).await;
    assert!(serde_json::from_str::<Value>(&shown).unwrap()["sandbox"].is_null(), "{shown}");
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(31)).await;
    tokio::time::resume();
    until_holds("no helper", || helpers(&host) == 0).await;
    until_holds("its share is free", || daemon.node.shared.registry.load().sandboxes == 0).await;
    assert_eq!(free().await, before);
}

#[tokio::test]
async fn a_snapshot_has_the_volumes_helper_ended_and_takes_what_it_has_written() {
    let host = node();
    let daemon = with_volumes(&host).await;
    stat(&daemon, VOLUMES[0], "w").await;
    assert_eq!(helpers(&host), 1);
    let body = || Body::from(json!({"volume": VOLUMES[0]}).to_string());
    let (status, said) = ask(&daemon, Method::PUT, "/v1/snapshots/0000000000000001", "", body()).await;
    assert!(status.is_success(), "{said}");
    assert_eq!(helpers(&host), 0);
    until_holds("another helper", || !daemon.node.copies.are_of(VolumeId::from_bits(7))).await;
    assert_eq!(stat(&daemon, VOLUMES[0], "w").await.0, StatusCode::OK);
}

fn with_volume() -> SandboxSpec {
    let id = VolumeId::from_bits(7);
    let volume = SandboxVolume { id, name: "work".parse().unwrap(), path: "/workspace".parse().unwrap() };
    SandboxSpec { volumes: vec![volume], ..spec() }
}

#[tokio::test]
async fn a_run_that_starts_has_the_volumes_helper_ended_and_answers_for_the_volume_itself() {
    let host = node();
    let daemon = with_volumes(&host).await;
    stat(&daemon, VOLUMES[0], "w").await;
    let (open, call) = endless(&daemon, VOLUMES[0], "w");
    let disk = OwnedDisk::Volume(VolumeId::from_bits(7));
    until_holds("it is called", || daemon.node.shared.helpers.calls(disk) == 1).await;
    daemon.offer(id(1), &with_volume()).await.unwrap();
    assert_eq!(helpers(&host), 0, "two writers");
    daemon.ready(id(1)).await;
    drop(open);
    call.await.unwrap();
    let (status, said) = stat(&daemon, VOLUMES[0], "w").await;
    assert_eq!((status, said.as_str()), (StatusCode::OK, "/v1/volumes/work/path?path=/a%20b false -\n"));
    assert_eq!(helpers(&host), 0);
    let end = "/v1/sandboxes/00000000-0000-0001?grace_ms=0&data=erase";
    assert_eq!(ask(&daemon, Method::DELETE, end, "", Body::empty()).await.0, StatusCode::OK);
    assert_eq!(stat(&daemon, VOLUMES[0], "w").await.0, StatusCode::OK);
    assert_eq!(helpers(&host), 1);
    // So has whoever grows or erases it.
    let path = format!("/v1/volumes/{}", VOLUMES[0]);
    let grown = ask(&daemon, Method::PUT, &path, "", Body::from(json!({"size_mib": 128, "exists": true}).to_string()));
    assert_eq!((grown.await.0, helpers(&host)), (StatusCode::OK, 0));
    stat(&daemon, VOLUMES[0], "w").await;
    assert_eq!(ask(&daemon, Method::DELETE, &path, "", Body::empty()).await.0, StatusCode::NO_CONTENT);
    assert_eq!(helpers(&host), 0);
    assert_eq!(code(&stat(&daemon, VOLUMES[0], "w").await.1), "no_volume");
}

#[tokio::test]
async fn of_one_holder_few_helpers_run_and_an_idle_one_makes_room() {
    let host = node();
    let daemon = with_volumes(&host).await;
    for volume in VOLUMES {
        assert_eq!(stat(&daemon, volume, "w").await.0, StatusCode::OK);
    }
    assert_eq!(helpers(&host), 2);
    let held: Vec<_> = [VOLUMES[1], VOLUMES[2]].map(|volume| endless(&daemon, volume, "w")).into();
    let busy = || {
        let calls = [8, 9].map(|bits| daemon.node.shared.helpers.calls(OwnedDisk::Volume(VolumeId::from_bits(bits))));
        calls == [1, 1]
    };
    until_holds("both are called", busy).await;
    let (status, said) = stat(&daemon, VOLUMES[0], "w").await;
    assert_eq!((status, code(&said)), (StatusCode::TOO_MANY_REQUESTS, json!("rate_limited")), "{said}");
    assert_eq!(stat(&daemon, VOLUMES[0], "another").await.0, StatusCode::OK);
    assert_eq!(helpers(&host), 3);
    drop(held);
}

#[tokio::test]
async fn a_helper_is_nobodys_after_its_daemon() {
    let host = node();
    let daemon = with_volumes(&host).await;
    stat(&daemon, VOLUMES[0], "w").await;
    daemon.kill().await;
    assert_eq!(helpers(&host), 1, "as a kill leaves it");
    let next = host.daemon().await;
    assert_eq!(helpers(&host), 0);
    assert_eq!(next.node.shared.registry.load().sandboxes, 0);
    assert_eq!(stat(&next, VOLUMES[0], "w").await.0, StatusCode::OK);
    next.node.end_helpers().await;
    assert_eq!(helpers(&host), 0);
}

#[tokio::test]
async fn a_damaged_disk_is_told_and_the_next_call_looks_again() {
    let host = node();
    let daemon = with_volumes(&host).await;
    host.guests.behave(PodBehavior::Hopeless);
    for _ in 0..2 {
        let (status, said) = stat(&daemon, VOLUMES[0], "w").await;
        assert_eq!((status, code(&said)), (StatusCode::CONFLICT, json!("wrong_state")), "{said}");
        assert!(said.contains("its file system is damaged"), "{said}");
    }
    until_holds("no helper", || helpers(&host) == 0).await;
    host.guests.behave(PodBehavior::Good);
    assert_eq!(stat(&daemon, VOLUMES[0], "w").await.0, StatusCode::OK);
    for path in ["/v1/volumes/x/content/path?path=/", "/v1/volumes/0000000000000007/content/other?path=/"] {
        let (status, said) = ask(&daemon, Method::GET, path, "w", Body::empty()).await;
        assert!(status.is_client_error() && said.contains("\"message\""), "{said}");
    }
}

#[tokio::test]
async fn what_is_kept_of_a_pod_is_reached_until_its_next_run_takes_it_back() {
    let host = node();
    let daemon = host.daemon().await;
    let pod = PodId::minted(id(1));
    let path = format!("/v1/pods/{pod}/data/dir?path=/");
    let list = async || ask(&daemon, Method::GET, &path, "w", Body::empty()).await;
    assert_eq!(code(&list().await.1), "no_data");
    daemon.create(id(1)).await;
    daemon.ready(id(1)).await;
    assert_eq!(code(&list().await.1), "pod_running");
    daemon.node.delete(id(1), None, Duration::ZERO, DataPolicy::Keep).await.unwrap();
    let (status, said) = list().await;
    assert_eq!((status, said.as_str()), (StatusCode::OK, "/v1/content/dir?path=/ false -\n"));
    assert_eq!(helpers(&host), 1);
    daemon.offer_run(id(2), &SandboxSpec { pod, ..spec() }).await.unwrap();
    assert_eq!(helpers(&host), 0);
    daemon.ready(id(2)).await;
    daemon.node.delete(id(2), None, Duration::ZERO, DataPolicy::Keep).await.unwrap();
    list().await;
    daemon.node.erase_data(pod).await.unwrap();
    assert_eq!(helpers(&host), 0);
    assert_eq!(code(&list().await.1), "no_data");
}

#[tokio::test]
async fn a_helper_that_a_full_disk_has_stopped_is_ended_and_gives_its_calls_and_its_place_back() {
    let host = node();
    let daemon = with_volumes(&host).await;
    stat(&daemon, VOLUMES[0], "w").await;
    let disk = OwnedDisk::Volume(VolumeId::from_bits(7));
    let (sender, call) = endless(&daemon, VOLUMES[0], "w");
    until_holds("a call", || daemon.node.shared.helpers.calls(disk) == 1).await;
    let slot = host.machine.running()[0];
    host.machine.pause(slot.run, Some(domain::NodeShortage::Disk));
    until_holds("no helper", || helpers(&host) == 0).await;
    tokio::time::timeout(Duration::from_secs(20), call).await.expect("the call breaks off").unwrap();
    drop(sender);
    assert_eq!(stat(&daemon, VOLUMES[0], "w").await.0, StatusCode::OK);
}

#[tokio::test]
async fn nobody_waits_for_the_end_of_a_helper_whose_disk_is_anothers() {
    let host = node();
    let daemon = host.daemon().await;
    let pod = PodId::minted(id(1));
    daemon.create(id(1)).await;
    daemon.ready(id(1)).await;
    daemon.node.delete(id(1), None, Duration::ZERO, DataPolicy::Keep).await.unwrap();
    // A call that goes on as long as it may.
    let (sender, call) = endless_at(&daemon, &format!("/v1/pods/{pod}/data/file?path=/x"), "w");
    let disk = OwnedDisk::Data(pod);
    until_holds("a call", || daemon.node.shared.helpers.calls(disk) == 1).await;
    let starts = async { daemon.offer_run(id(2), &SandboxSpec { pod, ..spec() }).await.unwrap() };
    let other = async {
        until_holds("it is to end", || daemon.node.shared.helpers.is_to_end(disk)).await;
        daemon.offer(id(3), &spec()).await.unwrap();
        daemon.node.shared.helpers.has(disk)
    };
    let (_, went_on) = tokio::join!(starts, other);
    assert!(went_on, "the other one began after the helper's end");
    drop(sender);
    call.await.unwrap();
}
