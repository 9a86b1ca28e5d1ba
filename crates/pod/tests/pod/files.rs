//! The file protocols, wherever the pod runs.

use http::{Method, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};

use crate::client::{Client, Stream};

/// A call of `/files`, and its whole answer.
async fn files(pod: Client, method: Method, query: &str, headers: &[(&str, &str)], body: &[u8]) -> FilesAnswer {
    let answer = pod.send(method, &format!("/files?{query}"), headers, body.to_vec()).await.unwrap();
    let (head, body) = answer.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes().to_vec();
    FilesAnswer { status: head.status, headers: head.headers, bytes }
}

#[derive(Debug)]
pub(crate) struct FilesAnswer {
    pub(crate) status: StatusCode,
    pub(crate) headers: http::HeaderMap,
    pub(crate) bytes: Vec<u8>,
}

impl FilesAnswer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

const BYTES: [(&str, &str); 1] = [("content-type", "application/octet-stream")];

pub(crate) async fn write(pod: Client, path: &str, bytes: &[u8]) -> FilesAnswer {
    files(pod, Method::POST, &format!("path={path}"), &BYTES, bytes).await
}

pub(crate) async fn read(pod: Client, path: &str) -> FilesAnswer {
    files(pod, Method::GET, &format!("path={path}"), &[], b"").await
}

/// A unary call of the files' protocol.
pub(crate) async fn call(pod: Client, name: &str, message: Value) -> (u16, Value) {
    let (status, body) = pod.post(&format!("/filesystem.Filesystem/{name}"), &message).await;
    (status.as_u16(), serde_json::from_str(&body).unwrap())
}

/// Everything a holder does with files; `home` is where the agent's user is at home.
pub(crate) async fn serves_files(pod: Client, home: &str) {
    bytes_come_back_whole_and_in_parts(pod, home).await;
    a_form_carries_several_files(pod, home).await;
    pieces_become_one_file(pod, home).await;
    folders_are_made_listed_moved_and_removed(pod, home).await;
    what_cannot_be_done_is_told_precisely(pod).await;
    a_watched_folder_is_asked_for_what_happened(pod, home).await;
    a_watched_folder_says_what_happens(pod, home).await;
    watches_are_bounded(pod).await;
    the_guest_tells_what_it_uses(pod).await;
}

async fn bytes_come_back_whole_and_in_parts(pod: Client, home: &str) {
    let metadata = [BYTES[0], ("x-metadata-author", "mish")];
    let done = files(pod, Method::POST, "path=new/a%20b.txt", &metadata, b"hello world").await;
    let path = format!("{home}/new/a b.txt");
    assert_eq!(done.json(), json!([{"path": path, "name": "a b.txt", "type": "file", "metadata": {"author": "mish"}}]));
    let seen = read(pod, "~/new/a%20b.txt").await;
    assert_eq!((seen.status.as_u16(), &seen.bytes[..]), (200, &b"hello world"[..]));
    assert_eq!(seen.headers["content-length"], "11");
    assert_eq!(seen.headers["content-disposition"], "inline; filename*=utf-8''a%20b%2Etxt");
    let tag = seen.headers["etag"].to_str().unwrap();
    let part = |range: &'static str, tag: String| async move {
        let headers = [("range", range), ("if-range", tag.as_str())];
        files(pod, Method::GET, "path=new/a%20b.txt", &headers, b"").await
    };
    let end = part("bytes=6-", tag.to_owned()).await;
    assert_eq!((end.status.as_u16(), &end.bytes[..]), (206, &b"world"[..]));
    assert_eq!(end.headers["content-range"], "bytes 6-10/11");
    assert_eq!(part("bytes=6-", "\"other\"".to_owned()).await.bytes, b"hello world", "of another file's rest");
    let beyond = part("bytes=11-", tag.to_owned()).await;
    assert_eq!(beyond.status, 416);
    assert_eq!(beyond.headers["content-range"], "bytes */11");
    let known = files(pod, Method::GET, "path=new/a%20b.txt", &[("if-none-match", tag)], b"").await;
    assert_eq!((known.status.as_u16(), known.bytes.len()), (304, 0));
    let head = files(pod, Method::HEAD, "path=new/a%20b.txt", &[], b"").await;
    assert_eq!((head.status.as_u16(), head.bytes.len()), (200, 0));
    assert_eq!(head.headers["content-length"], "11");
    // Another upload is another file, and says nothing of the one before.
    write(pod, "new/a%20b.txt", &vec![7; 3 << 20]).await;
    let seen = read(pod, "new/a%20b.txt").await;
    assert_eq!((seen.bytes.len(), seen.headers["etag"] == *tag), (3 << 20, false));
    let (_, entry) = call(pod, "Stat", json!({"path": "new/a b.txt"})).await;
    assert_eq!((&entry["entry"]["size"], &entry["entry"]["metadata"]), (&json!("3145728"), &Value::Null));
    let made = read(pod, "/proc/meminfo").await;
    assert!(String::from_utf8_lossy(&made.bytes).contains("MemTotal"), "{made:?}");
}

async fn a_form_carries_several_files(pod: Client, home: &str) {
    let part = |name: &str, text: &str| {
        format!("--x\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{name}\"\r\n\r\n{text}\r\n")
    };
    let other = "--x\r\nContent-Disposition: form-data; name=\"note\"\r\n\r\nignored\r\n";
    let form = [part("form/1", "one"), other.to_owned(), part("form/2", "two"), "--x--\r\n".to_owned()].concat();
    let kind = [("content-type", "multipart/form-data; boundary=x")];
    let done = files(pod, Method::POST, "", &kind, form.as_bytes()).await;
    let paths: Vec<Value> = done.json().as_array().unwrap().iter().map(|file| file["path"].clone()).collect();
    assert_eq!(paths, [json!(format!("{home}/form/1")), json!(format!("{home}/form/2"))]);
    assert_eq!(read(pod, "form/2").await.bytes, b"two");
    let twice = [part("form/3", "one"), part("form/3", "two"), "--x--\r\n".to_owned()].concat();
    let refused = files(pod, Method::POST, "", &kind, twice.as_bytes()).await;
    assert_eq!((refused.status.as_u16(), read(pod, "form/3").await.bytes), (400, b"one".to_vec()));
    let cut = part("form/4", "half").into_bytes();
    let broken = files(pod, Method::POST, "", &kind, &cut[..cut.len() - 4]).await;
    assert_eq!((broken.status.as_u16(), read(pod, "form/4").await.status.as_u16()), (400, 404), "{broken:?}");
    for (kind, word) in [("text/plain", "octet-stream"), ("multipart/form-data", "octet-stream")] {
        let refused = files(pod, Method::POST, "path=x", &[("content-type", kind)], b"x").await;
        assert_eq!((refused.json()["code"].clone(), refused.status.as_u16()), (json!(400), 400));
        assert!(refused.json()["message"].as_str().unwrap().contains(word), "{refused:?}");
    }
}

async fn pieces_become_one_file(pod: Client, home: &str) {
    for piece in ["1", "2"] {
        write(pod, &format!("pieces/{piece}"), piece.repeat(3).as_bytes()).await;
    }
    let request = json!({"source_paths": ["pieces/1", "pieces/2"], "destination": "pieces/whole"});
    let (status, body) = pod.post("/files/compose", &request).await;
    assert_eq!((status.as_u16(), body.contains(&format!("{home}/pieces/whole"))), (200, true), "{body}");
    assert_eq!(read(pod, "pieces/whole").await.bytes, b"111222");
    let (status, body) = pod.post("/files/compose", &request).await;
    assert_eq!((status.as_u16(), body.contains("pieces/1")), (404, true), "{body}");
    assert_eq!(read(pod, "pieces/whole").await.bytes, b"111222");
}

async fn folders_are_made_listed_moved_and_removed(pod: Client, home: &str) {
    let (status, made) = call(pod, "MakeDir", json!({"path": "tree/b/c"})).await;
    let entry = &made["entry"];
    assert_eq!((status, entry["type"].as_str()), (200, Some("FILE_TYPE_DIRECTORY")));
    assert_eq!(entry["path"], json!(format!("{home}/tree/b/c")));
    assert_eq!((&entry["permissions"], &entry["mode"]), (&json!("drwxr-xr-x"), &json!(0o755)));
    assert_eq!(call(pod, "MakeDir", json!({"path": "tree/b/c"})).await.1["code"], "already_exists");
    let set = |path: &'static str, mode: &'static str| call(pod, "SetMode", json!({"path": path, "mode": mode}));
    let (status, changed) = set("tree/b", "750").await;
    assert_eq!((status, &changed["entry"]["permissions"]), (200, &json!("drwxr-x---")));
    assert_eq!((set("tree/b", "4750").await.0, set("tree/none", "750").await.0), (400, 404));
    write(pod, "tree/a", b"x").await;
    let list = |depth: u32| async move {
        let (_, listed) = call(pod, "ListDir", json!({"path": "tree", "depth": depth})).await;
        let entries = listed["entries"].as_array().unwrap().clone();
        entries.iter().map(|entry| entry["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(
        (list(0).await, list(2).await),
        (vec!["a".into(), "b".into()], vec!["a".into(), "b".into(), "c".into()])
    );
    let (_, moved) = call(pod, "Move", json!({"source": "tree/a", "destination": "tree/new/d"})).await;
    assert_eq!(moved["entry"]["path"], json!(format!("{home}/tree/new/d")));
    assert_eq!(call(pod, "Move", json!({"source": "tree/a", "destination": "tree/x"})).await.1["code"], "not_found");
    for _ in 0..2 {
        assert_eq!(call(pod, "Remove", json!({"path": "tree"})).await, (200, json!({})));
    }
    assert_eq!(call(pod, "Stat", json!({"path": "tree"})).await.1["code"], "not_found");
}

async fn what_cannot_be_done_is_told_precisely(pod: Client) {
    for (query, status) in [
        ("path=absent", 404),
        ("path=/", 400),
        ("path=~other/x", 400),
        ("path=/dev/zero", 400),
        ("path=/etc/hosts&username=nobody-here", 401),
        ("path=/proc/self/environ", 403),
    ] {
        let answer = files(pod, Method::GET, query, &[], b"").await;
        assert_eq!((answer.status.as_u16(), answer.json()["code"].clone()), (status, json!(status)), "{query}");
    }
    for (name, message, code) in [
        ("Stat", json!({"path": "~other"}), "invalid_argument"),
        ("ListDir", json!({"path": "/etc/passwd"}), "invalid_argument"),
        ("Remove", json!({"path": "/"}), "invalid_argument"),
        ("CreateWatcher", json!({"path": "absent"}), "not_found"),
        ("CreateWatcher", json!({"path": "/etc/passwd"}), "invalid_argument"),
        ("GetWatcherEvents", json!({"watcherId": "w1"}), "not_found"),
        ("RemoveWatcher", json!({"watcherId": "w1"}), "not_found"),
        ("Nonsense", json!({}), "unimplemented"),
        ("Stat", json!([]), "invalid_argument"),
    ] {
        let (status, error) = call(pod, name, message).await;
        assert_eq!((error["code"].as_str(), status >= 400), (Some(code), true), "{name}: {error}");
    }
}

/// What happened, as the kind and the name of each event.
fn told(events: &Value) -> Vec<(String, String)> {
    let text = |event: &Value, key: &str| event[key].as_str().unwrap().to_owned();
    let kind = |event: &Value| text(event, "type").trim_start_matches("EVENT_TYPE_").to_owned();
    events.as_array().unwrap().iter().map(|event| (kind(event), text(event, "name"))).collect()
}

fn of(name: &str, kinds: &[&str]) -> Vec<(String, String)> {
    kinds.iter().map(|kind| ((*kind).to_owned(), name.to_owned())).collect()
}

async fn a_watched_folder_is_asked_for_what_happened(pod: Client, home: &str) {
    call(pod, "MakeDir", json!({"path": "watched"})).await;
    let request = json!({"path": "watched", "recursive": true, "includeEntry": true});
    let (_, watcher) = call(pod, "CreateWatcher", request).await;
    let events = || async { call(pod, "GetWatcherEvents", watcher.clone()).await.1["events"].clone() };
    write(pod, "watched/file", b"one").await;
    let seen = events().await;
    assert_eq!(told(&seen), of("file", &["CREATE", "CHMOD", "WRITE"]), "{seen}");
    assert_eq!(seen[2]["entry"]["path"], json!(format!("{home}/watched/file")));
    write(pod, "watched/file", b"two").await;
    assert_eq!(told(&events().await), of("file", &["CHMOD", "WRITE"]));
    call(pod, "MakeDir", json!({"path": "watched/in/side"})).await;
    write(pod, "watched/in/side/file", b"three").await;
    let seen = told(&events().await);
    for expected in [("CREATE", "in"), ("CREATE", "in/side"), ("CREATE", "in/side/file"), ("WRITE", "in/side/file")] {
        assert!(seen.contains(&(expected.0.to_owned(), expected.1.to_owned())), "{expected:?} in {seen:?}");
    }
    call(pod, "Move", json!({"source": "watched/in/side/file", "destination": "watched/moved"})).await;
    let seen = told(&events().await);
    assert_eq!(seen, [of("in/side/file", &["RENAME"]), of("moved", &["CREATE"])].concat());
    call(pod, "Remove", json!({"path": "watched/moved"})).await;
    let seen = events().await;
    assert_eq!((told(&seen), seen[0]["entry"].is_null()), (of("moved", &["REMOVE"]), true));
    assert_eq!(told(&events().await), []);
    assert_eq!(call(pod, "RemoveWatcher", watcher.clone()).await, (200, json!({})));
    assert_eq!(call(pod, "GetWatcherEvents", watcher.clone()).await.1["code"], "not_found");
}

async fn watch_stream(pod: Client, headers: &[(&str, &str)], message: &Value) -> Stream {
    pod.stream_of("/filesystem.Filesystem/WatchDir", headers, message).await
}

async fn a_watched_folder_says_what_happens(pod: Client, home: &str) {
    call(pod, "MakeDir", json!({"path": "stream"})).await;
    let headers = [("keepalive-ping-interval", "1")];
    let mut stream = watch_stream(pod, &headers, &json!({"path": "stream"})).await;
    assert_eq!(stream.next().await.unwrap(), (false, json!({"start": {}})));
    assert_eq!(stream.next().await.unwrap(), (false, json!({"keepalive": {}})));
    let run = crate::exec::run(pod, &["write", &format!("{home}/stream/a")]).await;
    assert_eq!(run, "");
    let mut kinds = Vec::new();
    while kinds.last().is_none_or(|kind| kind != "EVENT_TYPE_WRITE") {
        let (_, frame) = stream.next().await.unwrap();
        if let Some(event) = frame["filesystem"].as_object() {
            assert_eq!(event["name"], "a");
            kinds.push(event["type"].as_str().unwrap().to_owned());
        }
    }
    assert_eq!(kinds[0], "EVENT_TYPE_CREATE");
    call(pod, "Remove", json!({"path": "stream"})).await;
    let error = loop {
        if let (true, end) = stream.next().await.unwrap() {
            break end;
        }
    };
    assert_eq!(error["error"]["code"], "not_found", "{error}");
    let headers = [("connect-timeout-ms", "300")];
    let mut stream = watch_stream(pod, &headers, &json!({"path": "/"})).await;
    let late = loop {
        if let (true, end) = stream.next().await.unwrap() {
            break end;
        }
    };
    assert_eq!(late["error"]["code"], "deadline_exceeded", "{late}");
}

async fn watches_are_bounded(pod: Client) {
    let mut names = Vec::new();
    let error = loop {
        let (status, answer) = call(pod, "CreateWatcher", json!({"path": "~"})).await;
        if status != 200 {
            break answer;
        }
        names.push(answer);
        assert!(names.len() <= 64, "watches are not bounded");
    };
    assert_eq!(error["code"], "resource_exhausted", "{error}");
    for name in names {
        assert_eq!(call(pod, "RemoveWatcher", name).await.0, 200);
    }
    let since = std::time::Instant::now();
    while call(pod, "CreateWatcher", json!({"path": "~"})).await.0 != 200 {
        assert!(since.elapsed() < fixtures::PATIENCE, "places are not given back");
    }
}

async fn the_guest_tells_what_it_uses(pod: Client) {
    let (_, envs) = pod.get("/envs").await;
    assert_eq!(serde_json::from_str::<Value>(&envs).unwrap()["FROM_IMAGE"], "yes", "{envs}");
    let (_, usage) = pod.get("/usage").await;
    let usage: Value = serde_json::from_str(&usage).unwrap();
    assert!(
        usage["mem_total"].as_u64() > usage["mem_used"].as_u64() && usage["cpu_count"].as_u64() > Some(0),
        "{usage}"
    );
}

/// What the agent's user may not do, is not done for it either.
pub(crate) async fn keeps_to_the_users_rights(pod: Client, dir: &std::path::Path, user: u32) {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
    let path = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    fs::create_dir(dir.join("roots")).unwrap();
    fs::write(dir.join("roots/secret"), "secret").unwrap();
    fs::set_permissions(dir.join("roots/secret"), Permissions::from_mode(0o600)).unwrap();
    fs::create_dir(dir.join("users")).unwrap();
    fs::create_dir(dir.join("closed")).unwrap();
    fs::set_permissions(dir.join("closed"), Permissions::from_mode(0o700)).unwrap();
    chown(dir.join("users"), Some(user), Some(user)).unwrap();
    symlink(dir.join("roots/secret"), dir.join("users/link")).unwrap();
    symlink(dir.join("roots"), dir.join("users/folder")).unwrap();
    for name in ["roots/secret", "users/link", "users/folder/secret"] {
        assert_eq!(read(pod, &path(name)).await.status, 403, "{name}");
    }
    for name in ["roots/new", "users/folder/new", "users/folder/deep/new", "users/link"] {
        let refused = write(pod, &path(name), b"x").await;
        assert_eq!((refused.status.as_u16(), refused.json()["code"].clone()), (403, json!(403)), "{name}");
    }
    for (name, message) in [
        ("MakeDir", json!({"path": path("users/folder/new")})),
        ("SetMode", json!({"path": path("users/folder"), "mode": "777"})),
        ("Remove", json!({"path": path("users/folder/secret")})),
        ("Move", json!({"source": path("roots/secret"), "destination": path("users/mine")})),
        ("CreateWatcher", json!({"path": path("closed")})),
    ] {
        let (_, error) = call(pod, name, message).await;
        assert_eq!(error["code"], "permission_denied", "{name}: {error}");
    }
    assert_eq!(fs::read_dir(dir.join("roots")).unwrap().count(), 1);
    assert_eq!(fs::read(dir.join("roots/secret")).unwrap(), b"secret");
    write(pod, &path("users/mine"), b"x").await;
    let mine = fs::metadata(dir.join("users/mine")).unwrap();
    assert_eq!((mine.uid(), mine.gid(), mine.mode() & 0o7777), (user, user, 0o644));
    assert_eq!(call(pod, "MakeDir", json!({"path": path("users/a/b")})).await.0, 200);
    assert_eq!(fs::metadata(dir.join("users/a")).unwrap().uid(), user);
}
