//! Holders' images: received piece by piece, made, refused, forgotten.

use axum::body::{Body, to_bytes};
use axum::http::{Method, Request};
use bytes::Bytes;
use domain::{ArchiveSum, ImageDigest};
use futures_util::stream;
use image::ImageStore;
use serde_json::{Value, json};
use tokio::time::{Duration, Instant, sleep};
use tower::ServiceExt;
use wire::v1::node::SandboxSpec;

use super::node::{Daemon, SOON, TestNode, id, spec};
use super::pod::PodBehavior;

const ONE: &str = "/v1/images/0000000000000001";
const TWO: &str = "/v1/images/0000000000000002";
const THREE: &str = "/v1/images/0000000000000003";

/// A node that takes images of holders.
fn node() -> TestNode {
    with(image::Config::default())
}

fn with(config: image::Config) -> TestNode {
    needs::needs!(root); // Images are unpacked with their owners.
    let mut host = TestNode::new(PodBehavior::Good);
    let store = ImageStore::open(&image::Config { store: host.dir.join("images"), ..config });
    host.images = Some(store.unwrap());
    host
}

async fn ask(daemon: &Daemon, method: Method, path: &str, offset: Option<usize>, body: Body) -> (u16, Value) {
    let request = Request::builder().method(method).uri(path);
    let request = offset.into_iter().fold(request, |request, offset| request.header("upload-offset", offset));
    let response = daemon.router().oneshot(request.body(body).unwrap()).await.unwrap();
    let status = response.status().as_u16();
    let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
    (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
}

async fn begin(daemon: &Daemon, path: &str, archive: &[u8]) -> (u16, Value) {
    let sha256 = ArchiveSum(archive_sum(archive));
    let spec = json!({"size": archive.len(), "sha256": sha256.to_string()});
    ask(daemon, Method::PUT, path, None, spec.to_string().into()).await
}

fn archive_sum(archive: &[u8]) -> [u8; 32] {
    use sha2::Digest;
    sha2::Sha256::digest(archive).into()
}

async fn append(daemon: &Daemon, path: &str, offset: usize, piece: &[u8]) -> (u16, Value) {
    ask(daemon, Method::PATCH, path, Some(offset), piece.to_vec().into()).await
}

async fn get(daemon: &Daemon, path: &str) -> Value {
    ask(daemon, Method::GET, path, None, Body::empty()).await.1
}

/// Has it made, and waits for what comes of it.
async fn import(daemon: &Daemon, path: &str) -> Value {
    made(daemon, path, json!({"name": "work", "max_mib": 64}), SOON).await
}

async fn made(daemon: &Daemon, path: &str, spec: Value, within: Duration) -> Value {
    let (status, begun) = ask(daemon, Method::POST, &format!("{path}/import"), None, spec.to_string().into()).await;
    assert_eq!(status, 200, "{begun}");
    let end = Instant::now() + within;
    loop {
        let now = get(daemon, path).await;
        if now["name"] != "importing" {
            return now;
        }
        assert!(Instant::now() < end, "still {now}");
        sleep(std::time::Duration::from_millis(10)).await;
    }
}

fn good() -> Vec<u8> {
    fixtures::archive(&[("agent", b"program")])
}

/// What lies in the store's folders that hold images, and beside them.
fn left(host: &TestNode) -> Vec<String> {
    let names = ["blobs/sha256", "disks", "images", "pins", "going", "uploads"].into_iter();
    let entries = names.flat_map(|name| {
        let dir = host.dir.join("images").join(name);
        let listed = dir.read_dir().into_iter().flatten().filter_map(Result::ok);
        listed.map(move |entry| format!("{name}/{}", entry.file_name().to_string_lossy())).collect::<Vec<_>>()
    });
    entries.collect()
}

#[tokio::test]
async fn an_archive_comes_in_pieces_over_a_daemons_death_and_becomes_an_image() {
    let host = node();
    let (daemon, archive) = (host.daemon().await, good());
    let half = archive.len() / 2;
    let empty = json!({"name": "receiving", "offset": 0, "size": archive.len()});
    assert_eq!(begin(&daemon, ONE, &archive).await, (200, empty.clone()));
    assert_eq!(begin(&daemon, ONE, &archive).await, (200, empty));
    let (status, other) = begin(&daemon, ONE, b"another").await;
    assert_eq!((status, &other["code"]), (409, &json!("wrong_state")));
    assert_eq!(append(&daemon, ONE, 0, &archive[..half]).await.1["offset"], json!(half));
    daemon.kill().await;
    let daemon = host.daemon().await;
    let (status, wrong) = append(&daemon, ONE, 0, &archive).await;
    assert_eq!((status, &wrong["code"]), (409, &json!("upload_offset")));
    let early = ask(&daemon, Method::POST, &format!("{ONE}/import"), None, r#"{"name":"w","max_mib":9}"#.into()).await;
    assert_eq!((early.0, &early.1["code"]), (409, &json!("wrong_state")), "{early:?}");
    assert_eq!(append(&daemon, ONE, half, &archive[half..]).await.0, 200);
    let made = import(&daemon, ONE).await;
    assert_eq!(made["name"], "held", "{made}");
    assert!(made["bytes"].as_u64().unwrap() > 0);
    assert_eq!(import(&daemon, ONE).await, made, "asked again");
    assert!(!left(&host).iter().any(|name| name.starts_with("uploads/")), "{:?}", left(&host));
    daemon.kill().await;
    assert_eq!(get(&host.daemon().await, ONE).await, made);
}

#[tokio::test]
async fn what_has_come_of_a_piece_that_breaks_off_stays_and_the_next_one_ends_one_that_hangs() {
    let host = node();
    let daemon = host.daemon().await;
    begin(&daemon, ONE, b"0123456789").await;
    let pieces = [Ok(Bytes::from_static(b"0123")), Err(std::io::Error::other("it breaks off"))];
    let broken = ask(&daemon, Method::PATCH, ONE, Some(0), Body::from_stream(stream::iter(pieces))).await;
    assert_eq!((broken.0, &broken.1["code"]), (400, &json!("invalid_request")));
    assert_eq!(get(&daemon, ONE).await["offset"], 4);
    let (hang, body) = tokio::sync::mpsc::channel::<Result<Bytes, std::io::Error>>(1);
    let body = Body::from_stream(stream::unfold(body, |mut body| async { Some((body.recv().await?, body)) }));
    hang.send(Ok(Bytes::from_static(b"45"))).await.unwrap();
    let router = daemon.router();
    let request = Request::builder().method(Method::PATCH).uri(ONE).header("upload-offset", 4).body(body).unwrap();
    let hanging = tokio::spawn(router.oneshot(request));
    let end = Instant::now() + SOON;
    let (status, next) = loop {
        let next = append(&daemon, ONE, 6, b"6789").await;
        // What hangs may not have begun yet.
        if next.0 == 200 || Instant::now() > end {
            break next;
        }
        sleep(std::time::Duration::from_millis(5)).await;
        if hanging.is_finished() {
            assert_eq!(append(&daemon, ONE, 4, b"45").await.0, 200);
        }
    };
    assert_eq!((status, &next["offset"]), (200, &json!(10)), "{next}");
    assert_eq!(hanging.await.unwrap().unwrap().status().as_u16(), 409);
    let (status, long) = append(&daemon, ONE, 10, b"x").await;
    assert_eq!((status, &long["code"]), (413, &json!("body_too_large")));
    drop(hang);
}

#[tokio::test]
async fn what_is_no_image_is_told_for_its_holder_to_read_and_nothing_of_it_is_left() {
    let host = node();
    let daemon = host.daemon().await;
    let cut = good()[..2_000].to_vec();
    for (archive, said) in [(b"no archive".to_vec(), "neither an OCI layout nor an archive"), (cut, "")] {
        begin(&daemon, ONE, &archive).await;
        append(&daemon, ONE, 0, &archive).await;
        let failed = import(&daemon, ONE).await;
        assert_eq!((&failed["name"], &failed["code"]), (&json!("failed"), &json!("invalid_image")));
        let error = failed["error"].as_str().unwrap();
        assert!(error.contains(said) && !error.contains(&host.dir.display().to_string()), "{error}");
        assert_eq!(get(&daemon, ONE).await, failed);
        assert!(left(&host).iter().all(|name| name.starts_with("uploads/")), "{:?}", left(&host));
        assert_eq!(ask(&daemon, Method::DELETE, ONE, None, Body::empty()).await.0, 204);
        assert_eq!((left(&host), get(&daemon, ONE).await["code"].clone()), (vec![], json!("not_found")));
    }
    begin(&daemon, ONE, &good()).await;
    let other = vec![b'x'; good().len()];
    append(&daemon, ONE, 0, &other).await;
    let failed = import(&daemon, ONE).await;
    assert!(failed["error"].as_str().unwrap().contains("has the digest"), "{failed}");
}

#[tokio::test]
async fn a_forgotten_image_goes_when_nothing_runs_from_it_and_nobody_else_has_it() {
    let host = node();
    let (daemon, archive) = (host.daemon().await, good());
    for path in [ONE, TWO] {
        begin(&daemon, path, &archive).await;
        append(&daemon, path, 0, &archive).await;
        assert_eq!(import(&daemon, path).await["name"], "held");
    }
    let digest: ImageDigest = get(&daemon, ONE).await["digest"].as_str().unwrap().parse().unwrap();
    ask(&daemon, Method::DELETE, ONE, None, Body::empty()).await;
    daemon.node.sweep().await;
    assert_eq!(get(&daemon, TWO).await["name"], "held");
    let store = host.images.clone().unwrap();
    let running = SandboxSpec { image: digest, ..spec() };
    daemon.offer(id(1), &running).await.unwrap();
    ask(&daemon, Method::DELETE, TWO, None, Body::empty()).await;
    assert_eq!(get(&daemon, TWO).await["code"], "not_found");
    daemon.node.sweep().await;
    assert!(store.get(&digest).is_ok(), "a run has it");
    let gone = ask(&daemon, Method::DELETE, "/v1/sandboxes/00000000-0000-0001", None, Body::empty()).await;
    assert_eq!(gone.0, 200, "{gone:?}");
    daemon.node.sweep().await;
    assert!(store.get(&digest).is_err());
    assert_eq!(left(&host), Vec::<String>::new());
}

fn building() -> TestNode {
    needs::needs!(root, cgroups);
    let build_runtimes = vec![wire::v1::images::BuildKind::ContainerBubblewrap];
    with(image::Config { build_runtimes, build_disk_mib: 512, ..image::Config::default() })
}

fn build_spec() -> Value {
    json!({"name": "work", "max_mib": 64, "build": {"context": {"date": 7}}})
}

async fn sent(daemon: &Daemon, path: &str, archive: &[u8]) {
    begin(daemon, path, archive).await;
    assert_eq!(append(daemon, path, 0, archive).await.0, 200);
}

#[tokio::test]
async fn a_context_is_built_in_what_the_answer_names_with_its_log_and_refused_where_nothing_is_built() {
    let host = with(image::Config { build_runtimes: Vec::new(), ..image::Config::default() });
    let daemon = host.daemon().await;
    let archive = fixtures::build_context("RUN echo a line of the build\n");
    sent(&daemon, ONE, &archive).await;
    let build = || Body::from(build_spec().to_string());
    let (status, refused) = ask(&daemon, Method::POST, &format!("{ONE}/import"), None, build()).await;
    assert_eq!((status, &refused["code"]), (403, &json!("image_refused")), "{refused}");
    assert!(refused["error"].as_str().unwrap().contains("images.build_runtimes"));
    daemon.kill().await;

    let host = building();
    let daemon = host.daemon().await;
    sent(&daemon, ONE, &archive).await;
    let late = json!({"name": "work", "max_mib": 64, "build": {"context": {"date": 253_402_300_800_u64}}});
    let (status, wrong) = ask(&daemon, Method::POST, &format!("{ONE}/import"), None, late.to_string().into()).await;
    assert_eq!((status, &wrong["code"]), (400, &json!("invalid_request")), "{wrong}");
    let (_, begun) = ask(&daemon, Method::POST, &format!("{ONE}/import"), None, build()).await;
    assert_eq!((&begun["name"], &begun["runtime"]), (&json!("importing"), &json!("container-bubblewrap")), "{begun}");
    let held = made(&daemon, ONE, build_spec(), BUILT).await;
    assert_eq!(held["name"], "held", "{held} {}", get(&daemon, &format!("{ONE}/log")).await);
    assert_eq!(held["built_in"], "container-bubblewrap", "{held}");
    let log = get(&daemon, &format!("{ONE}/log")).await;
    let text = log["text"].as_str().unwrap();
    assert!(text.contains("a line of the build\n") && text.contains("(container-bubblewrap)"), "{text}");
    let rest = get(&daemon, &format!("{ONE}/log?from={}", log["next"])).await;
    assert_eq!(rest["text"], "");
    // The same context again is the same image, and takes no more room.
    sent(&daemon, TWO, &archive).await;
    assert_eq!(made(&daemon, TWO, build_spec(), BUILT).await["digest"], held["digest"]);
}

/// How long a small build may take on a busy machine.
const BUILT: Duration = Duration::from_secs(120);

#[tokio::test]
async fn a_build_that_fails_says_why_and_one_that_is_forgotten_is_stopped() {
    let host = building();
    let daemon = host.daemon().await;
    sent(&daemon, ONE, &fixtures::build_context("RUN echo so it is && exit 7\n")).await;
    let failed = made(&daemon, ONE, build_spec(), BUILT).await;
    assert_eq!((&failed["name"], &failed["code"]), (&json!("failed"), &json!("invalid_image")), "{failed}");
    let error = failed["error"].as_str().unwrap();
    assert!(error.contains("so it is") && !error.contains(&host.dir.display().to_string()), "{error}");
    ask(&daemon, Method::DELETE, ONE, None, Body::empty()).await;

    sent(&daemon, TWO, &fixtures::build_context("RUN echo for ever; while :; do :; done\n")).await;
    ask(&daemon, Method::POST, &format!("{TWO}/import"), None, build_spec().to_string().into()).await;
    let end = Instant::now() + BUILT;
    while !get(&daemon, &format!("{TWO}/log")).await["text"].as_str().unwrap_or_default().contains("for ever\n") {
        assert!(Instant::now() < end, "it does not begin: {}", get(&daemon, TWO).await);
        sleep(Duration::from_millis(20)).await;
    }
    // An image of another's is taken in meanwhile.
    let archive = good();
    sent(&daemon, ONE, &archive).await;
    assert_eq!(import(&daemon, ONE).await["name"], "held");
    // One that waits for its turn is forgotten before that comes.
    sent(&daemon, THREE, &fixtures::build_context("RUN echo never\n")).await;
    ask(&daemon, Method::POST, &format!("{THREE}/import"), None, build_spec().to_string().into()).await;
    forgotten(&daemon, THREE, end).await;
    assert_eq!(get(&daemon, TWO).await["name"], "importing");
    forgotten(&daemon, TWO, end).await;
}

/// Has it forgotten, and waits for that.
async fn forgotten(daemon: &Daemon, path: &str, end: Instant) {
    loop {
        let (status, gone) = ask(daemon, Method::DELETE, path, None, Body::empty()).await;
        if status == 204 {
            break;
        }
        assert!(status == 409 && Instant::now() < end, "{gone}");
        sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(get(daemon, path).await["code"], "not_found");
}
