//! Images that holders bring: uploaded piece by piece, private until published, within their
//! tier, and gone from the node when nobody has them any more.

use auth::Keypair;
use domain::{ArchiveSum, ImageDigest, ImageId, ImageRef, Tier, TierName, Tiers, UnixMillis, Wallet};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use store::{ImageQuota, NewImageUpload, ReadyImage};

use crate::edge::{Answer, Edge, PATIENCE, Setup, holder};
use crate::raw::send;

/// An upload that was begun.
struct Upload {
    path: String,
    token: String,
}

fn sum(archive: &[u8]) -> String {
    ArchiveSum(Sha256::digest(archive).into()).to_string()
}

fn request(image: &str, archive: &[u8]) -> Value {
    json!({"image": image, "size": archive.len(), "sha256": sum(archive)})
}

impl Upload {
    fn of(answer: &Answer) -> Self {
        let text = |name: &str| answer.body[name].as_str().unwrap().to_owned();
        Self { path: format!("/images/uploads/{}", text("id")), token: text("token") }
    }

    /// Begins one, and must get it.
    async fn begin(edge: &Edge, holder: &Keypair, image: &str, archive: &[u8]) -> Self {
        let begun = edge.post(holder, "/images", &request(image, archive)).await;
        assert_eq!(
            (begun.status, &begun.body["state"]),
            (201, &json!({"name": "receiving", "offset": 0})),
            "{begun:?}"
        );
        let upload = Self::of(&begun);
        assert_eq!(begun.header("location"), upload.path);
        upload
    }

    fn ask(&self, edge: &Edge, method: Method, rest: &str) -> RequestBuilder {
        edge.client.request(method, edge.url(&format!("{}{rest}", self.path))).bearer_auth(&self.token)
    }

    async fn append(&self, edge: &Edge, offset: usize, piece: &[u8]) -> Answer {
        let piece = self.ask(edge, Method::PATCH, "").header("Upload-Offset", offset).body(piece.to_vec());
        Answer::of(piece.header("Content-Type", "application/partial-upload")).await
    }

    async fn commit(&self, edge: &Edge) -> Answer {
        Answer::of(self.ask(edge, Method::POST, "/commit")).await
    }

    async fn build(&self, edge: &Edge, how: Value) -> Answer {
        Answer::of(self.ask(edge, Method::POST, "/commit").body(json!({"build": how}).to_string())).await
    }

    async fn status(&self, edge: &Edge) -> Answer {
        Answer::of(self.ask(edge, Method::GET, "")).await
    }
}

/// Brings an image, and must have it there.
async fn push(edge: &Edge, holder: &Keypair, image: &str, archive: &[u8]) -> Value {
    let upload = Upload::begin(edge, holder, image, archive).await;
    assert_eq!(upload.append(edge, 0, archive).await.status, 200);
    let done = upload.commit(edge).await;
    assert_eq!((done.status, &done.body["state"]["name"]), (200, &json!("imported")), "{done:?}");
    done.body["state"]["image"].clone()
}

async fn change(edge: &Edge, holder: &Keypair, image: &str, change: Value) -> Answer {
    let body = change.to_string();
    Answer::of(edge.signed(holder, Method::PUT, &format!("/images/{image}"), body.as_bytes())).await
}

async fn remove(edge: &Edge, holder: &Keypair, image: &str) -> Answer {
    Answer::of(edge.signed(holder, Method::DELETE, &format!("/images/{image}"), b"")).await
}

async fn spawn(edge: &Edge, holder: &Keypair, kind: &str) -> Answer {
    edge.post(holder, "/spawn", &json!({"agent_type": kind})).await
}

/// Waits until the node has so many images and uploads.
async fn node_has(edge: &Edge, count: usize) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while edge.setup.node.held().len() != count {
        assert!(tokio::time::Instant::now() < deadline, "it has {:?}", edge.setup.node.held());
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn an_image_is_uploaded_in_pieces_and_spawned_by_its_holder_alone_until_it_is_published() {
    let (edge, owner, other) = (Edge::start().await, holder(), holder());
    let archive = b"an archive in two pieces";
    let upload = Upload::begin(&edge, &owner, "work:v2", archive).await;
    let first = upload.append(&edge, 0, &archive[..10]).await;
    assert_eq!((first.status, first.header("upload-offset"), first.header("upload-complete")), (200, "10", "?0"));
    let head = upload.ask(&edge, Method::HEAD, "").send().await.unwrap();
    let told = ["upload-offset", "upload-length"].map(|name| head.headers()[name].to_str().unwrap());
    assert_eq!(told, ["10", "24"]);
    let early = upload.commit(&edge).await;
    assert_eq!((early.status, early.code()), (409, "wrong_state"), "{early:?}");
    let second = upload.append(&edge, 10, &archive[10..]).await;
    assert_eq!((second.header("upload-offset"), second.header("upload-complete")), ("24", "?1"));
    let done = upload.commit(&edge).await;
    let image = &done.body["state"]["image"];
    assert_eq!(image["agent_type"], json!(format!("{}/work:v2", owner.wallet())));
    assert_eq!((&image["bytes"], &image["published"]), (&json!(24), &json!(false)));
    assert_eq!(upload.commit(&edge).await.body["state"], done.body["state"], "asked again");

    let spawned = spawn(&edge, &owner, "work:v2").await;
    assert_eq!((spawned.status, &spawned.body["agent"]["image"]), (200, &image["digest"]), "{spawned:?}");
    let theirs = format!("{}/work:v2", owner.wallet());
    for kind in ["work:v2", &theirs] {
        let refused = spawn(&edge, &other, kind).await;
        assert_eq!((refused.status, refused.code()), (400, "unknown_agent_type"), "as one that is not there");
    }
    let path = format!("/images/work:v2?wallet={}", owner.wallet());
    assert_eq!(edge.get(&other, &path).await.code(), "not_found");
    assert_eq!(edge.get(&other, "/images").await.body["published"], json!([]));

    assert_eq!(change(&edge, &other, "work:v2", json!({"published": true})).await.code(), "not_found");
    let published = change(&edge, &owner, "work:v2", json!({"published": true})).await;
    assert_eq!((published.status, &published.body["image"]["published"]), (200, &json!(true)));
    assert_eq!(edge.get(&other, &path).await.body["image"]["digest"], image["digest"]);
    assert_eq!(edge.get(&other, "/images").await.body["published"][0]["agent_type"], json!(theirs));
    assert_eq!(spawn(&edge, &other, "work:v2").await.code(), "unknown_agent_type", "it is named with its wallet");
    assert_eq!(spawn(&edge, &other, &theirs).await.status, 200);
    let back = change(&edge, &owner, "work:v2", json!({"published": false})).await;
    assert_eq!(back.body["image"]["published"], json!(false));
    assert_eq!(spawn(&edge, &holder(), &theirs).await.code(), "unknown_agent_type");
}

#[tokio::test]
async fn an_upload_goes_on_where_it_is_whoever_lost_count_and_after_a_restart() {
    let (edge, owner) = (Edge::start().await, holder());
    let archive = b"0123456789";
    let upload = Upload::begin(&edge, &owner, "work", archive).await;
    assert_eq!(upload.append(&edge, 0, &archive[..4]).await.status, 200);
    for wrong in [0, 7] {
        let refused = upload.append(&edge, wrong, b"xxx").await;
        assert_eq!((refused.status, refused.code(), refused.header("upload-offset")), (409, "upload_offset", "4"));
    }
    let long = upload.append(&edge, 4, b"456789 and more").await;
    assert_eq!((long.status, long.code()), (413, "body_too_large"), "{long:?}");
    let edge = edge.restart().await;
    let again = edge.post(&owner, "/images", &request("work", archive)).await;
    assert_eq!((again.status, &again.body["state"]), (200, &json!({"name": "receiving", "offset": 4})), "{again:?}");
    let again = Upload::of(&again);
    assert_eq!((&again.path, &again.token), (&upload.path, &upload.token));
    assert_eq!(upload.append(&edge, 4, &archive[4..]).await.status, 200);
    assert_eq!(upload.commit(&edge).await.body["state"]["name"], "imported");
    let there = edge.post(&owner, "/images", &request("work", archive)).await;
    assert_eq!((there.status, &there.body["state"]["name"]), (200, &json!("imported")), "nothing is sent twice");
    assert_eq!(edge.setup.node.held().len(), 1);
}

#[tokio::test]
async fn what_arrived_of_a_broken_piece_stays() {
    let (edge, owner) = (Edge::start().await, holder());
    let upload = Upload::begin(&edge, &owner, "work", b"0123456789").await;
    let head = format!(
        "PATCH {} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\nUpload-Offset: 0\r\n\
         Content-Type: application/partial-upload\r\nContent-Length: 10\r\n\r\n0123",
        upload.path, edge.address, upload.token
    );
    drop(send(&edge, &head).await);
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while upload.status(&edge).await.header("upload-offset") != "4" {
        assert!(tokio::time::Instant::now() < deadline, "{:?}", upload.status(&edge).await);
    }
    assert_eq!(upload.append(&edge, 4, b"456789").await.header("upload-complete"), "?1");
}

#[tokio::test]
async fn an_archive_that_is_no_image_is_told_with_what_is_wrong_and_may_be_brought_again() {
    let (edge, owner) = (Edge::start().await, holder());
    let upload = Upload::begin(&edge, &owner, "work", b"bad").await;
    upload.append(&edge, 0, b"bad").await;
    let failed = json!({"name": "failed", "code": "invalid_image", "error": "it is no image"});
    assert_eq!(upload.commit(&edge).await.body["state"], failed);
    assert_eq!(edge.setup.node.held(), [], "its node keeps nothing of what is no image");
    assert_eq!(upload.status(&edge).await.body["state"], failed);
    let listed = edge.get(&owner, "/images").await;
    assert_eq!((&listed.body["uploads"][0]["state"], &listed.body["used_bytes"]), (&failed, &json!(0)));
    assert_eq!(spawn(&edge, &owner, "work").await.code(), "unknown_agent_type");
    push(&edge, &owner, "work", b"good").await;
}

#[tokio::test]
async fn an_upload_is_opened_by_its_own_token_alone() {
    let (edge, owner) = (Edge::start().await, holder());
    let (upload, other) =
        (Upload::begin(&edge, &owner, "a", b"a").await, Upload::begin(&edge, &holder(), "b", b"b").await);
    let (id, token) = edge.agent(&owner, false).await;
    for wrong in [&other.token, &token, "plu_x"] {
        for (method, rest) in [(Method::GET, ""), (Method::PATCH, ""), (Method::POST, "/commit"), (Method::DELETE, "")]
        {
            let request = edge.client.request(method, edge.url(&format!("{}{rest}", upload.path))).bearer_auth(wrong);
            let refused = Answer::of(request).await;
            assert_eq!((refused.status, refused.code()), (401, "invalid_token"), "{rest}");
        }
    }
    let none = Answer::of(edge.client.get(edge.url(&upload.path))).await;
    assert_eq!((none.status, none.code()), (401, "invalid_token"));
    let by_upload = edge.client.get(edge.url(&format!("/status/{id}"))).bearer_auth(&upload.token);
    assert_eq!(Answer::of(by_upload).await.code(), "missing_signature");
    let piece = upload.ask(&edge, Method::PATCH, "").header("Upload-Offset", 0).body("a");
    let kind = Answer::of(piece.header("Content-Type", "application/json")).await;
    assert_eq!((kind.status, kind.code()), (415, "unsupported_media_type"));
    let piece = upload.ask(&edge, Method::PATCH, "").body("a").header("Content-Type", "application/partial-upload");
    let nowhere = Answer::of(piece).await;
    assert_eq!((nowhere.code(), &nowhere.body["field"]), ("invalid_request", &json!("Upload-Offset")));
}

#[tokio::test]
async fn what_is_asked_of_an_image_has_bounds_that_are_named() {
    let (edge, owner) = (Edge::start().await, holder());
    let good = request("work", b"x");
    let with = |name: &str, value: Value| {
        let mut body = good.clone();
        body[name] = value;
        body
    };
    for (body, field) in [
        (with("image", json!("Work")), "image"),
        (with("image", json!("work:")), "image"),
        (with("size", json!(0)), "size"),
        (with("size", json!(-1)), "size"),
        (with("sha256", json!("abc")), "sha256"),
        (with("more", json!(1)), "more"),
    ] {
        let refused = edge.post(&owner, "/images", &body).await;
        assert_eq!((refused.status, refused.code()), (400, "invalid_request"), "{body}: {refused:?}");
        assert!(refused.body["field"].is_null() || refused.body["field"] == json!(field), "{refused:?}");
    }
    let taken = edge.post(&owner, "/images", &request("echo:v2", b"x")).await;
    assert_eq!((taken.status, taken.code(), &taken.body["field"]), (409, "id_taken", &json!("image")));
    for path in ["/images/Work", "/images/nothing", "/images/a%2fb"] {
        assert_eq!(edge.get(&owner, path).await.code(), "not_found", "{path}");
    }
    assert_eq!(change(&edge, &owner, "work", json!({})).await.code(), "invalid_request");
    assert_eq!(edge.setup.node.held(), []);
}

/// A gateway whose lowest tier gives images this much, and whose middle one nothing.
fn with_quota(mib: u32) -> Setup {
    let row = |name: &str, min, cores, images| {
        let tier = Tier {
            min,
            cores,
            memory: 1024 * cores,
            disk: 1024,
            agents: 1,
            images: Some(images),
            runtimes: domain::RuntimeKinds::MACHINES,
        };
        (TierName::try_from(name.to_owned()).unwrap(), tier)
    };
    let tiers = Tiers::new(vec![row("basic", 1, 1, mib), row("none", 5_000_000, 2, 0)]).unwrap();
    Setup { tiers, ..Setup::default() }
}

#[tokio::test]
async fn images_have_their_tiers_quota_which_one_holder_fills_for_itself_alone() {
    let (edge, owner, other) = (with_quota(2).start().await, holder(), holder());
    let archive = vec![b'x'; 1_500_000];
    push(&edge, &owner, "work", &archive).await;
    let over = edge.post(&owner, "/images", &request("more", &archive[1..])).await;
    assert_eq!((over.status, over.code()), (403, "image_quota"), "{over:?}");
    let said = over.body["error"].as_str().unwrap();
    assert!(said.contains("take 2 of the 2 MiB"), "{said}");
    push(&edge, &other, "work", &archive).await;
    let listed = edge.get(&owner, "/images").await;
    assert_eq!((&listed.body["used_bytes"], &listed.body["quota_bytes"]), (&json!(1_500_000), &json!(2 << 20)));
    edge.setup.balances.set(owner.wallet(), 6_000_000);
    let none = edge.post(&owner, "/images", &request("more", b"x")).await;
    assert_eq!(none.code(), "image_quota");
    edge.setup.balances.set(owner.wallet(), 0);
    assert_eq!(edge.post(&owner, "/images", &request("more", b"x")).await.code(), "insufficient_balance");
    assert_eq!(remove(&edge, &owner, "work").await.status, 200, "what is one's own may always go");
}

#[tokio::test]
async fn one_image_of_a_wallet_is_made_at_a_time_and_what_was_made_counts_for_the_next() {
    let (edge, owner, other) = (with_quota(2).start().await, holder(), holder());
    let (slow, next) = ([&b"slow"[..], &[b'x'; 786_432]].concat(), b"next".to_vec());
    let first = Upload::begin(&edge, &owner, "first", &slow).await;
    let second = Upload::begin(&edge, &owner, "second", &next).await;
    first.append(&edge, 0, &slow).await;
    second.append(&edge, 0, &next).await;
    let begun = first.commit(&edge).await;
    assert_eq!((begun.status, &begun.body["state"]["name"]), (202, &json!("importing")), "{begun:?}");
    let waits = second.commit(&edge).await;
    assert_eq!((waits.status, waits.code()), (429, "rate_limited"), "{waits:?}");
    push(&edge, &other, "second", &next).await;
    edge.setup.node.finish_imports();
    // One that nobody has asked for since it was made counts all the same: less than a MiB is left.
    assert_eq!(second.commit(&edge).await.code(), "image_quota");
    assert_eq!(first.status(&edge).await.body["state"]["name"], "imported");
    assert_eq!(remove(&edge, &owner, "first").await.status, 200);
    assert_eq!(second.commit(&edge).await.body["state"]["name"], "imported");
}

#[tokio::test]
async fn a_wallet_has_so_many_uploads_and_images_and_one_that_is_given_up_makes_room() {
    let mut setup = Setup::default();
    (setup.limits.image_uploads_per_wallet, setup.limits.images_per_wallet) = (2, 3);
    let (edge, owner) = (setup.start().await, holder());
    let first = Upload::begin(&edge, &owner, "a", b"a").await;
    Upload::begin(&edge, &owner, "b", b"b").await;
    let many = edge.post(&owner, "/images", &request("c", b"c")).await;
    assert_eq!((many.status, many.code()), (403, "image_quota"), "{many:?}");
    Upload::begin(&edge, &holder(), "c", b"c").await;
    let given_up = Answer::of(first.ask(&edge, Method::DELETE, "")).await;
    assert_eq!((given_up.status, &given_up.body["success"]), (200, &json!(true)));
    assert_eq!(first.status(&edge).await.code(), "not_found");
    node_has(&edge, 2).await;
    push(&edge, &owner, "c", b"c").await;
    push(&edge, &owner, "d", b"d").await;
    assert_eq!(edge.post(&owner, "/images", &request("e", b"e")).await.code(), "image_quota");
}

#[tokio::test]
async fn of_many_that_begin_one_upload_at_once_all_have_the_same() {
    let (edge, owner) = (Edge::start().await, holder());
    let body = request("work", b"archive").to_string();
    let begun = futures_util::future::join_all(
        (0..20).map(|_| Answer::of(edge.signed(&owner, Method::POST, "/images", body.as_bytes()))),
    );
    let begun = begun.await;
    assert!(begun.iter().all(|answer| answer.body["id"] == begun[0].body["id"]), "{begun:?}");
    assert_eq!(begun.iter().filter(|answer| answer.status == 201).count(), 1);
    assert_eq!(edge.setup.node.held().len(), 1);
}

#[tokio::test]
async fn a_new_image_takes_a_name_and_the_node_forgets_what_nobody_has_any_more() {
    let (edge, owner) = (Edge::start().await, holder());
    let first = push(&edge, &owner, "work", b"one").await;
    let tagged = change(&edge, &owner, "work:v1", json!({"from": "work"})).await;
    assert_eq!((tagged.status, &tagged.body["image"]["digest"]), (200, &first["digest"]), "{tagged:?}");
    let second = push(&edge, &owner, "work", b"two").await;
    assert_eq!(edge.get(&owner, "/images/work").await.body["image"]["digest"], second["digest"]);
    assert_eq!(edge.get(&owner, "/images/work:v1").await.body["image"]["digest"], first["digest"]);
    assert_eq!(edge.get(&owner, "/images").await.body["used_bytes"], json!(6));
    assert_eq!(edge.setup.node.held().len(), 2, "a tag still has the first");
    assert_eq!(remove(&edge, &holder(), "work:v1").await.code(), "not_found");
    let gone = remove(&edge, &owner, "work:v1").await;
    assert_eq!((gone.status, gone.body), (200, json!({"success": true, "image": "work:v1"})));
    node_has(&edge, 1).await;
    assert_eq!(spawn(&edge, &owner, "work:v1").await.code(), "unknown_agent_type");
    assert_eq!(remove(&edge, &owner, "work:v1").await.code(), "not_found");
    let nothing = change(&edge, &owner, "more", json!({"from": "work:v1"})).await;
    assert_eq!((nothing.code(), &nothing.body["field"]), ("not_found", &json!("from")));
}

#[tokio::test]
async fn a_node_that_is_away_loses_nobody_an_image_and_forgets_later() {
    let (edge, owner) = (Edge::start().await, holder());
    push(&edge, &owner, "work", b"one").await;
    let upload = Upload::begin(&edge, &owner, "other", b"two").await;
    edge.setup.node.set_down(true);
    let away = upload.commit(&edge).await;
    assert_eq!((away.status, away.code()), (503, "node_unavailable"), "{away:?}");
    assert_eq!(remove(&edge, &owner, "work").await.status, 200);
    assert_eq!(edge.get(&owner, "/images").await.body["own"], json!([]));
    edge.setup.node.set_down(false);
    assert_eq!(upload.append(&edge, 0, b"two").await.status, 200);
    assert_eq!(upload.commit(&edge).await.body["state"]["name"], "imported");
    node_has(&edge, 1).await;
}

#[tokio::test]
async fn only_a_signature_of_that_very_request_brings_names_or_removes_an_image() {
    let (edge, owner) = (Edge::start().await, holder());
    push(&edge, &owner, "work", b"one").await;
    let body = request("work", b"two").to_string();
    for (method, path, body) in [
        (Method::POST, "/images", body.as_bytes()),
        (Method::PUT, "/images/work", br#"{"published":true}"#),
        (Method::DELETE, "/images/work", b""),
    ] {
        let loose = Answer::of(edge.with(&crate::edge::bare(&owner), method, path, body)).await;
        assert_eq!((loose.status, loose.code()), (401, "unbound_signature"), "{path}");
    }
    assert_eq!(edge.get(&owner, "/images/work").await.body["image"]["published"], json!(false));
}

#[tokio::test]
async fn a_context_is_built_on_what_its_holder_may_build_on_and_the_answer_says_in_what() {
    let (edge, owner, other) = (Edge::start().await, holder(), holder());
    let (own, theirs) = (push(&edge, &owner, "base:v1", b"one").await, push(&edge, &other, "base", b"two").await);
    let archive = b"slow context";
    let upload = Upload::begin(&edge, &owner, "work", archive).await;
    upload.append(&edge, 0, archive).await;
    for (wrong, field) in [(json!({"file": "x"}), "file"), (json!({"date": -1}), ""), (json!("x"), "")] {
        let refused = upload.build(&edge, wrong).await;
        assert_eq!((refused.status, refused.code()), (400, "invalid_request"), "{refused:?}");
        assert_eq!(refused.body["field"].as_str().unwrap_or_default(), field, "{refused:?}");
    }
    let quiet = Answer::of(upload.ask(&edge, Method::GET, "/log?from=5")).await;
    assert_eq!((quiet.status, &quiet.body), (200, &json!({"from": 5, "text": "", "next": 5})));
    let begun = upload.build(&edge, json!({"containerfile": "app/Dockerfile", "date": 7})).await;
    assert_eq!((begun.status, &begun.body["state"]["runtime"]), (202, &json!("container-bubblewrap")), "{begun:?}");
    let said = Answer::of(upload.ask(&edge, Method::GET, "/log")).await;
    let text = said.body["text"].as_str().unwrap();
    let digest = |image: &Value| image["digest"].as_str().unwrap().to_owned();
    assert!(text.contains("app/Dockerfile") && text.contains("base:v1") && text.contains(&digest(&own)), "{text}");
    assert!(!text.contains(&digest(&theirs)), "another's: {text}");
    assert!(text.contains(&owner.wallet().to_string()), "its node knows whose turn it is: {text}");
    let stranger = edge.client.get(edge.url(&format!("{}/log", upload.path))).bearer_auth("no token");
    assert_eq!(Answer::of(stranger).await.status, 401);
    edge.setup.node.finish_imports();
    let done = upload.status(&edge).await;
    assert_eq!(done.body["state"]["name"], "imported", "{done:?}");
    // What it was built in stays with it; what was brought as an archive has none.
    assert_eq!(done.body["state"]["image"]["built_in"], "container-bubblewrap", "{done:?}");
    let listed = edge.get(&owner, "/images").await.body;
    let built = |image: &Value| image["built_in"].as_str().map(str::to_owned);
    let own: Vec<_> = listed["own"].as_array().unwrap().iter().map(built).collect();
    assert_eq!(own, [Some("container-bubblewrap".to_owned()), None], "{listed}");
    assert!(spawn(&edge, &owner, "work").await.status == 200);
}

#[tokio::test]
async fn a_list_of_published_images_that_has_not_all_of_them_says_so() {
    let (edge, owner) = (Edge::start().await, holder());
    let publish = async |number: u64| {
        let (id, wallet) = (ImageId::from_bits(number), Wallet([7; 32]));
        let image = ImageRef::new(&format!("work{number}"), "latest").unwrap();
        let quota = ImageQuota { bytes: u64::MAX / 2, images: 1_000, uploads: 1_000 };
        let (now, expires_at) = (UnixMillis(number), UnixMillis(u64::MAX / 4));
        let archive = ArchiveSum([1; 32]);
        let upload = NewImageUpload {
            id,
            wallet,
            image: image.clone(),
            node: "one".into(),
            size: 1,
            archive,
            quota,
            now,
            expires_at,
        };
        edge.store.begin_image(upload).await.unwrap();
        let ready = ReadyImage { digest: ImageDigest([2; 32]), bytes: 1, needs: "{}".into(), built_in: None };
        edge.store.finish_image(id, ready, quota.bytes, now).await.unwrap();
        edge.store.publish_image(wallet, image, true).await.unwrap().unwrap();
    };
    let seen = async || {
        let listed = edge.get(&owner, "/images").await.body;
        (listed["published"].as_array().unwrap().len(), listed["published_more"].as_bool())
    };
    for number in 1..=500 {
        publish(number).await;
    }
    assert_eq!(seen().await, (500, None));
    publish(501).await;
    assert_eq!(seen().await, (500, Some(true)));
    // One that is left away is there all the same.
    let oldest = edge.get(&owner, &format!("/images/work1?wallet={}", Wallet([7; 32]))).await;
    assert_eq!((oldest.status, &oldest.body["image"]["published"]), (200, &json!(true)), "{oldest:?}");
}
