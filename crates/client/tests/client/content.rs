//! Files of disks: opened by one signature or by a key, over a gateway of the test's own.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use axum::{Json, Router};
use domain::{OwnedDisk, VolumeId};
use futures_util::stream;
use palatine_client::{ClientError, DiskFiles};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use wire::content::{ArchiveQuery, VolumeEntryChange};

use crate::gateway::client;

const VOLUME: VolumeId = VolumeId::from_bits(7);
const TOKEN: &str = "plv_token";

/// Method, call, query and body of the calls.
type Seen = Arc<Mutex<Vec<(String, String, Value, String)>>>;

async fn served(seen: Seen) -> String {
    let app = Router::new()
        .route("/volumes/{id}", get(opened))
        .route("/volumecontent/{id}/{call}", any(answered))
        .with_state(seen);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    url
}

async fn files() -> (DiskFiles, Seen) {
    let seen = Seen::default();
    let url = served(Arc::clone(&seen)).await;
    (client(&url).volume_files(VOLUME).await.unwrap(), seen)
}

async fn opened(headers: HeaderMap) -> Response {
    assert!(headers.contains_key("x-signature"), "it is signed for, once");
    let volume = json!({
        "volumeID": "0000000000000007", "name": "work", "size_mib": 64, "state": "ready", "created_at": 1,
        "token": TOKEN, "token_expires_at": 2,
    });
    Json(volume).into_response()
}

fn entry(path: &str) -> Value {
    json!({
        "name": path, "type": "file", "path": path, "size": 5, "mode": 420, "uid": 1000, "gid": 1000,
        "atime": "2026-01-01T00:00:00Z", "mtime": "2026-01-01T00:00:00Z", "ctime": "2026-01-01T00:00:00Z",
    })
}

async fn answered(
    State(seen): State<Seen>,
    Path((_, call)): Path<(String, String)>,
    Query(query): Query<HashMap<String, String>>,
    method: Method,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let bearer = headers.get("authorization").unwrap().to_str().unwrap().to_owned();
    assert!(bearer == format!("Bearer {TOKEN}") || bearer.starts_with("Bearer pal_"), "{bearer}");
    let path = query.get("path").cloned().unwrap_or_default();
    let body = String::from_utf8(body.to_vec()).unwrap();
    seen.lock().unwrap().push((method.to_string(), call.clone(), json!(query), body));
    match (method.as_str(), &*call, &*path) {
        (_, _, "/none") => {
            let said = json!({"code": "not_found", "message": "path '/none' does not exist"});
            (StatusCode::NOT_FOUND, Json(said)).into_response()
        }
        (_, _, "/theirs") => {
            let said = json!({"code": "not_found", "error": "not yours", "message": "not yours"});
            (StatusCode::NOT_FOUND, Json(said)).into_response()
        }
        ("GET", "dir", _) => Json(json!([entry("/d/a"), entry("/d/b")])).into_response(),
        ("GET", "file", _) if headers.contains_key("range") => {
            assert_eq!(
                (&headers["range"], &headers["if-range"]),
                (&"bytes=2-".parse().unwrap(), &"\"1\"".parse().unwrap())
            );
            (StatusCode::PARTIAL_CONTENT, [("etag", "\"1\""), ("content-range", "bytes 2-4/5")], "llo").into_response()
        }
        ("GET", "file", _) => ([("etag", "\"1\"")], "hello").into_response(),
        ("GET", "archive", _) if headers.contains_key("range") => {
            (StatusCode::PARTIAL_CONTENT, [("etag", "\"2\""), ("content-range", "bytes 3-6/7")], "hive").into_response()
        }
        ("GET", "archive", _) => {
            ([("etag", "\"2\""), ("palatine-entries", "4"), ("palatine-left-out", "1")], "archive").into_response()
        }
        ("PUT", "archive", _) => {
            let done = json!({"entries": 3, "files": 2, "bytes": 7});
            (StatusCode::CREATED, Json(done)).into_response()
        }
        ("DELETE", ..) => StatusCode::NO_CONTENT.into_response(),
        ("PUT" | "POST", ..) => (StatusCode::CREATED, Json(entry(&path))).into_response(),
        _ => Json(entry(&path)).into_response(),
    }
}

#[tokio::test]
async fn each_call_is_in_e2bs_shape_and_one_signature_opens_them_all() {
    let (files, seen) = files().await;
    assert_eq!(files.disk(), OwnedDisk::Volume(VOLUME));
    assert_eq!(files.stat("/a b").await.unwrap().unwrap().size, 5);
    assert_eq!(files.list("/d").await.unwrap().len(), 2);
    files.make_dir("/d/e").await.unwrap();
    files.change("/a", VolumeEntryChange { mode: Some(0o600), ..VolumeEntryChange::default() }).await.unwrap();
    files.remove("/a").await.unwrap();
    let pieces = stream::iter([Ok(Bytes::from_static(b"he")), Ok(Bytes::from_static(b"llo"))]);
    files.write("/a", 0o640, 5, pieces).await.unwrap();
    let mut read = files.read("/a", Some((2, "\"1\""))).await.unwrap();
    assert_eq!((read.offset, read.chunk().await.unwrap().unwrap()), (2, Bytes::from_static(b"llo")));
    let seen = seen.lock().unwrap();
    let told = |method: &str, call: &str, query: Value, body: &str| {
        (method.to_owned(), call.to_owned(), query, body.to_owned())
    };
    assert_eq!(
        *seen,
        [
            told("GET", "path", json!({"path": "/a b"}), ""),
            told("GET", "dir", json!({"path": "/d"}), ""),
            told("POST", "dir", json!({"path": "/d/e", "force": "true"}), ""),
            told("PATCH", "path", json!({"path": "/a"}), "{\"mode\":384}"),
            told("DELETE", "path", json!({"path": "/a"}), ""),
            told("PUT", "file", json!({"path": "/a", "mode": "416", "force": "true"}), "hello"),
            told("GET", "file", json!({"path": "/a"}), ""),
        ]
    );
}

#[tokio::test]
async fn a_disks_archive_goes_on_where_it_broke_off_and_is_sent_under_a_name() {
    let (files, seen) = files().await;
    let mut whole = files.export(None).await.unwrap();
    assert_eq!((whole.entries, whole.left_out, whole.bytes.length), (4, 1, Some(7)));
    assert_eq!(whole.bytes.chunk().await.unwrap().unwrap(), Bytes::from_static(b"archive"));
    let tag = whole.bytes.tag.unwrap();
    assert_eq!(files.export(Some((3, &tag))).await.unwrap().bytes.offset, 3);
    let query = ArchiveQuery { replace: Some(true), import: Some("abc".to_owned()) };
    let pieces = stream::iter([Ok(Bytes::from_static(b"archive"))]);
    assert_eq!(files.import(&query, Some(7), pieces).await.unwrap().files, 2);
    files.compose(vec!["/d/1".to_owned(), "/d/2".to_owned()], "/d/a", 0o600).await.unwrap();
    let seen = seen.lock().unwrap();
    let asked =
        ("PUT".to_owned(), "archive".to_owned(), json!({"replace": "true", "import": "abc"}), "archive".to_owned());
    assert_eq!(seen[2], asked);
    let list = json!({"sources": ["/d/1", "/d/2"], "path": "/d/a", "mode": 384}).to_string();
    assert_eq!((&*seen[3].1, serde_json::from_str::<Value>(&seen[3].3).unwrap().to_string()), ("compose", list));
}

#[tokio::test]
async fn what_is_not_there_is_told_from_what_is_not_ones_own() {
    let (files, _) = files().await;
    assert!(files.stat("/none").await.unwrap().is_none());
    let refused = files.stat("/theirs").await.unwrap_err();
    assert!(matches!(&refused, ClientError::Refused(_)), "{refused}");
    let absent = files.read("/none", None).await.err().unwrap();
    assert_eq!(absent.guest_status(), Some(404), "{absent}");
    let why = std::error::Error::source(&absent).unwrap().to_string();
    assert!(why.contains("does not exist"), "{absent}: {why}");
}

#[tokio::test]
async fn a_key_opens_a_volume_by_itself() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let seen = Seen::default();
    let url = served(Arc::clone(&seen)).await;
    let keyed = palatine_client::GatewayClient::new(&url).unwrap().with_key("pal_key".to_owned().into());
    let files = keyed.volume_files(VOLUME).await.unwrap();
    files.list("/").await.unwrap();
    assert_eq!(seen.lock().unwrap().len(), 1);
}
