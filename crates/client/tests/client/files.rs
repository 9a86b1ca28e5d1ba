//! An agent's files: a guest of the test's own, with one file.

use std::sync::{Arc, Mutex};

use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use palatine_client::{AgentFiles, ClientError};
use serde_json::{Value, json};
use std::collections::HashMap;
use tokio::net::TcpListener;

use crate::gateway::{ID, TOKEN, client, is_for_agent, refused as error};

const TAG: &str = "\"1\"";

/// What a test sees of the calls: path, query, body.
type Seen = Arc<Mutex<Vec<(String, Value, Vec<u8>)>>>;

async fn files() -> (AgentFiles, Seen) {
    let seen = Seen::default();
    let app = Router::new()
        .route("/files", get(read).post(write))
        .route("/files/compose", post(compose))
        .route("/filesystem.Filesystem/{call}", post(call))
        .with_state(Arc::clone(&seen));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    let token = TOKEN.to_owned().into();
    (client(&url).access_by(ID.into(), &token).unwrap().files(), seen)
}

/// The headers by which a gateway knows whose files are meant, and who asks.
fn named(headers: &HeaderMap) -> bool {
    is_for_agent(headers) && headers.get("x-access-token").is_some_and(|token| token == TOKEN)
}

async fn read(Query(query): Query<HashMap<String, String>>, headers: HeaderMap) -> Response {
    if !named(&headers) {
        return error(401, "who are you");
    }
    if query["path"] == "/elsewhere" {
        return (StatusCode::PARTIAL_CONTENT, [("etag", TAG), ("content-range", "bytes 0-4/11")], "hello")
            .into_response();
    }
    if query["path"] != "/a b" {
        return error(404, "there is no such file");
    }
    let same = headers.get("if-range").is_some_and(|tag| tag == TAG);
    match headers.get("range").filter(|_| same) {
        Some(range) => {
            assert_eq!(range, "bytes=6-");
            (StatusCode::PARTIAL_CONTENT, [("etag", TAG), ("content-range", "bytes 6-10/11")], "world").into_response()
        }
        None => ([("etag", TAG)], "hello world").into_response(),
    }
}

async fn write(
    State(seen): State<Seen>,
    Query(query): Query<HashMap<String, String>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if !named(&headers) {
        return error(401, "who are you");
    }
    if query["path"] == "/full" {
        return error(507, "not enough disk space");
    }
    let file = json!([{"path": query["path"], "name": "x", "type": "file"}]);
    seen.lock().unwrap().push(("/files".to_owned(), json!(query), body.to_vec()));
    Json(file).into_response()
}

async fn compose(State(seen): State<Seen>, body: Bytes) -> Response {
    seen.lock().unwrap().push(("/files/compose".to_owned(), serde_json::from_slice(&body).unwrap(), Vec::new()));
    Json(json!({"path": "/a", "name": "a", "type": "file"})).into_response()
}

async fn call(Path(call): Path<String>, headers: HeaderMap, Json(request): Json<Value>) -> Response {
    let rpc = |status: StatusCode, code: &str| (status, Json(json!({"code": code, "message": "no"}))).into_response();
    let entry = json!({"name": "x", "type": "FILE_TYPE_FILE", "path": "/x", "size": "7", "mode": 0o600});
    match (call.as_str(), request["path"].as_str()) {
        _ if !named(&headers) => error(401, "who are you"),
        (_, Some("/absent")) => rpc(StatusCode::NOT_FOUND, "not_found"),
        (_, Some("/secret")) => rpc(StatusCode::FORBIDDEN, "permission_denied"),
        ("MakeDir", Some("/there")) => rpc(StatusCode::CONFLICT, "already_exists"),
        ("Stat", _) => Json(json!({"entry": entry})).into_response(),
        ("ListDir", _) => Json(json!({"entries": [entry], "later": 1})).into_response(),
        _ => Json(json!({})).into_response(),
    }
}

async fn all(files: &AgentFiles, from: Option<(u64, &str)>) -> (u64, Vec<u8>) {
    let mut answer = files.read("/a b", from).await.unwrap();
    let mut bytes = Vec::new();
    while let Some(chunk) = answer.chunk().await.unwrap() {
        bytes.extend_from_slice(&chunk);
    }
    assert_eq!(answer.tag.as_deref(), Some(TAG));
    (answer.offset, bytes)
}

#[tokio::test]
async fn a_file_is_read_whole_or_from_where_it_broke_off_while_it_is_the_same() {
    let (files, _) = files().await;
    assert_eq!(all(&files, None).await, (0, b"hello world".to_vec()));
    assert_eq!(all(&files, Some((6, TAG))).await, (6, b"world".to_vec()));
    assert_eq!(all(&files, Some((6, "\"other\""))).await, (0, b"hello world".to_vec()));
}

#[tokio::test]
async fn a_part_that_begins_elsewhere_than_was_asked_is_refused() {
    let (files, _) = files().await;
    for from in [Some((6, TAG)), None] {
        let refused = files.read("/elsewhere", from).await.map(|answer| answer.offset).unwrap_err();
        assert!(matches!(refused, ClientError::Protocol { .. }), "{refused:?}");
    }
}

#[tokio::test]
async fn a_file_is_written_with_its_permissions_and_one_is_made_of_pieces() {
    let (files, seen) = files().await;
    let bytes = |text: &'static str| futures_util::stream::iter([Ok(Bytes::from(text))]);
    files.write("/x y", 0o750, 5, bytes("hello")).await.unwrap();
    files.compose(vec!["/1".to_owned(), "/2".to_owned()], "/a", 0o644).await.unwrap();
    let composed = json!({"source_paths": ["/1", "/2"], "destination": "/a", "mode": "644"});
    assert_eq!(
        *seen.lock().unwrap(),
        [
            ("/files".to_owned(), json!({"path": "/x y", "mode": "750"}), b"hello".to_vec()),
            ("/files/compose".to_owned(), composed, Vec::new()),
        ]
    );
    let full = files.write("/full", 0o644, 1, bytes("x")).await.unwrap_err();
    let ClientError::File { path, source } = &full else { panic!("{full:?}") };
    assert_eq!((path.as_str(), source.code, full.may_pass()), ("/full", 507, false));
}

#[tokio::test]
async fn what_is_not_there_is_none_and_what_is_refused_says_why() {
    let (files, _) = files().await;
    assert!(files.stat("/absent").await.unwrap().is_none());
    assert_eq!(files.stat("/x").await.unwrap().unwrap().size, 7);
    assert_eq!(files.list("/x").await.unwrap()[0].mode, 0o600);
    files.make_dir("/there").await.unwrap();
    files.remove("/x").await.unwrap();
    for refused in [files.stat("/secret").await.map(drop), files.list("/secret").await.map(drop)] {
        let Err(ClientError::File { path, source }) = refused else { panic!("{refused:?}") };
        assert_eq!((path.as_str(), source.code, source.message.as_str()), ("/secret", 403, "no"));
    }
}
