//! What a helper answers: the files of its disk. To the node alone, and without a token, since
//! nothing of anybody's runs in it.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, Request, State};
use axum::middleware::from_fn;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{any, get, post};
use axum::{Json, Router};
use http::StatusCode;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use wire::fault::Code;
use wire::v1::pod::{GuestBoot, HelperConfig};

use super::body::whole;
use super::content::HelperFiles;
use super::error::{ApiError, read};
use crate::check::CheckProgress;
use crate::step::StepError;

/// Whether the files of a disk that is mounted can be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DiskAccess {
    /// They can.
    Written,
    /// They are read alone: a container's, which no machine writes to.
    ReadOnly,
}

/// Nothing until the disk was looked at; then that it is mounted, or why it is not.
pub(crate) type Mounted = watch::Receiver<Option<Result<DiskAccess, String>>>;

/// Makes true what the node tells.
pub(crate) type Begin = Arc<dyn Fn(&HelperConfig) -> Result<(), StepError> + Send + Sync>;

/// What a helper's calls share.
#[derive(Clone)]
pub(crate) struct HelperApi {
    /// The files.
    pub(crate) files: HelperFiles,
    /// Whether they are there.
    pub(crate) mounted: Mounted,
    /// How far its check is.
    pub(crate) check: CheckProgress,
    /// Makes true what the node tells.
    pub(crate) begin: Begin,
    /// Ends the helper.
    pub(crate) stop: CancellationToken,
}

/// All that a helper answers.
pub(crate) fn helper_routes(api: HelperApi) -> Router {
    Router::new()
        .route("/v1/mount", post(mount))
        .route("/v1/stop", post(stop))
        .route("/v1/boot", get(boot))
        .route("/health", get(async || StatusCode::NO_CONTENT))
        .fallback(async || ApiError::new(Code::NotFound, "there is no such path"))
        .method_not_allowed_fallback(async || ApiError::new(Code::MethodNotAllowed, "not with this method"))
        .layer(from_fn(whole))
        .route("/v1/content/{call}", any(content))
        .layer(DefaultBodyLimit::disable())
        .with_state(api)
}

/// `POST /v1/mount`: answers once the disk was looked at.
async fn mount(State(mut api): State<HelperApi>, body: Bytes) -> Result<StatusCode, ApiError> {
    let config: HelperConfig = read(&body)?;
    (api.begin)(&config).map_err(|error| {
        // Nothing in it is secret, and nobody reads a helper's console.
        ApiError::new(Code::Internal, format!("the helper cannot begin: {:#}", anyhow::Error::from(error)))
    })?;
    let looked = api.mounted.wait_for(Option::is_some).await.map(|looked| looked.clone());
    match looked {
        Ok(Some(Err(why))) => Err(ApiError::new(Code::WrongState, why)),
        Ok(_) => Ok(StatusCode::NO_CONTENT),
        Err(_) => Err(ApiError::new(Code::Internal, "the helper ends")),
    }
}

/// `GET /v1/boot`: how far the check is that `mount` waits for.
async fn boot(State(api): State<HelperApi>) -> Json<GuestBoot> {
    Json(GuestBoot { checked: api.check.percent() })
}

async fn stop(State(api): State<HelperApi>) -> StatusCode {
    api.stop.cancel();
    StatusCode::OK
}

async fn content(State(api): State<HelperApi>, Path(call): Path<String>, request: Request) -> Response {
    let Some(Ok(access)) = api.mounted.borrow().clone() else {
        return ApiError::new(Code::WrongState, "the disk is not mounted").into_response();
    };
    api.files.answer(&call, access == DiskAccess::ReadOnly, request).await
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use axum::body::{Body, to_bytes};
    use serde_json::{Value, json};
    use tower::ServiceExt as _;

    use super::*;

    struct Helper {
        dir: tempfile::TempDir,
        looked: watch::Sender<Option<Result<DiskAccess, String>>>,
        told: Arc<Mutex<Vec<u64>>>,
        stop: CancellationToken,
        routes: Router,
    }

    fn helper() -> Helper {
        let dir = tempfile::tempdir().unwrap();
        let (looked, mounted) = watch::channel(None);
        let (told, stop) = (Arc::<Mutex<Vec<u64>>>::default(), CancellationToken::new());
        let hears = Arc::clone(&told);
        let begin = Arc::new(move |config: &HelperConfig| {
            hears.lock().unwrap().push(config.clock_unix_ns);
            Ok(())
        });
        let files = HelperFiles::new(dir.path().to_str().unwrap());
        let routes =
            helper_routes(HelperApi { files, mounted, check: CheckProgress::default(), begin, stop: stop.clone() });
        Helper { dir, looked, told, stop, routes }
    }

    impl Helper {
        async fn ask(&self, call: &str, body: impl Into<Body>) -> (u16, Value, http::HeaderMap) {
            let (method, path) = call.split_once(' ').unwrap();
            let mut request = Request::builder().method(method).uri(path);
            if let Some((path, range)) = path.split_once(" range ") {
                request = request.uri(path).header("range", range);
            }
            let answer = self.routes.clone().oneshot(request.body(body.into()).unwrap()).await.unwrap();
            let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
            let body = to_bytes(answer.into_body(), usize::MAX).await.unwrap();
            let text = || Value::from(String::from_utf8_lossy(&body).into_owned());
            (status, serde_json::from_slice(&body).unwrap_or_else(|_| text()), headers)
        }
    }

    const MOUNT: &str = r#"{"clock_unix_ns": 7, "entropy": ""}"#;

    #[tokio::test]
    async fn files_are_there_once_the_disk_is_mounted_and_why_not_is_said() {
        needs::needs!(root);
        let helper = helper();
        assert_eq!(helper.ask("GET /v1/content/path?path=/", "").await.0, 409);
        assert_eq!(helper.ask("POST /v1/mount", "{}").await.0, 400);
        let (asked, ()) = tokio::join!(helper.ask("POST /v1/mount", MOUNT), async {
            helper.looked.send_replace(Some(Ok(DiskAccess::Written)));
        });
        assert_eq!((asked.0, &helper.told.lock().unwrap()[..]), (204, &[7][..]));
        assert_eq!(helper.ask("GET /v1/content/path?path=/", "").await.1["type"], "directory");
        helper.looked.send_replace(Some(Err("it is damaged".to_owned())));
        let (status, said, _) = helper.ask("POST /v1/mount", MOUNT).await;
        assert_eq!((status, &said["error"]), (409, &json!("it is damaged")));
        assert_eq!(helper.ask("POST /v1/stop", r#"{"grace_ms": 0}"#).await.0, 200);
        assert!(helper.stop.is_cancelled());
    }

    #[tokio::test]
    async fn what_is_kept_of_a_container_is_read_and_who_would_change_it_hears_why_not() {
        needs::needs!(root);
        let helper = helper();
        std::fs::write(helper.dir.path().join("a"), "kept").unwrap();
        helper.looked.send_replace(Some(Ok(DiskAccess::ReadOnly)));
        assert_eq!(helper.ask("GET /v1/content/file?path=a", "").await.1, "kept");
        assert_eq!(helper.ask("GET /v1/content/dir?path=/", "").await.0, 200);
        assert_eq!(helper.ask("GET /v1/content/archive", "").await.0, 200);
        for call in [
            "PUT /v1/content/file?path=b",
            "DELETE /v1/content/path?path=a",
            "POST /v1/content/dir?path=d",
            "PUT /v1/content/archive?replace=true",
            "POST /v1/content/compose",
        ] {
            let (status, said, _) = helper.ask(call, "").await;
            assert_eq!(status, 409, "{call} {said}");
            assert!(said["message"].as_str().unwrap().contains("start the agent"), "{said}");
        }
        assert_eq!(std::fs::read_dir(helper.dir.path()).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn a_disk_is_one_archive_and_becomes_what_another_one_holds() {
        needs::needs!(root);
        let (from, to) = (helper(), helper());
        for helper in [&from, &to] {
            helper.looked.send_replace(Some(Ok(DiskAccess::Written)));
        }
        std::fs::create_dir(from.dir.path().join("d")).unwrap();
        std::fs::write(from.dir.path().join("d/a"), "what it holds").unwrap();
        let archive = async |range: Option<&str>| {
            let mut request = Request::builder().uri("/v1/content/archive");
            if let Some((range, tag)) = range.and_then(|range| range.split_once(' ')) {
                request = request.header("range", range).header("if-range", tag);
            }
            let answer = from.routes.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
            let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
            (status, headers, to_bytes(answer.into_body(), usize::MAX).await.unwrap())
        };
        let (status, headers, whole) = archive(None).await;
        let text = |name: &str| headers[name].to_str().unwrap().to_owned();
        assert_eq!(
            (status, text("content-length"), text("palatine-entries")),
            (200, whole.len().to_string(), "3".into())
        );
        let (status, part, rest) = archive(Some(&format!("bytes=700- {}", text("etag")))).await;
        assert_eq!((status, rest), (206, whole.slice(700..)));
        assert_eq!(part["content-range"], format!("bytes 700-{}/{}", whole.len() - 1, whole.len()));
        assert_eq!(archive(Some("bytes=700- \"other\"")).await.0, 200, "of another disk it is all");
        for (query, status) in
            [("?import=x%2Fy", 400), ("?replace=perhaps", 400), ("?import=one", 201), ("?import=one", 201)]
        {
            let (said, body, _) = to.ask(&format!("PUT /v1/content/archive{query}"), whole.clone()).await;
            assert_eq!(said, status, "{query} {body}");
        }
        assert_eq!(std::fs::read(to.dir.path().join("d/a")).unwrap(), b"what it holds");
        let (status, said, _) = to.ask("PUT /v1/content/archive", whole.clone()).await;
        assert_eq!((status, &said["code"]), (409, &json!("already_exists")), "{said}");
        let (status, said, _) = to.ask("PUT /v1/content/archive?replace=true", "no archive").await;
        assert_eq!((status, &said["code"]), (400, &json!("invalid_request")), "{said}");
        assert_eq!(std::fs::read(to.dir.path().join("d/a")).unwrap(), b"what it holds");
    }

    #[tokio::test]
    async fn several_files_become_one_in_place_of_another() {
        needs::needs!(root);
        let helper = helper();
        helper.looked.send_replace(Some(Ok(DiskAccess::Written)));
        for (name, text) in [("1", "one "), ("2", "two"), ("whole", "old")] {
            std::fs::write(helper.dir.path().join(name), text).unwrap();
        }
        std::os::unix::fs::chown(helper.dir.path().join("whole"), Some(7), Some(8)).unwrap();
        let body = json!({"sources": ["/1", "2"], "path": "whole", "mode": 0o600}).to_string();
        let (status, made, _) = helper.ask("POST /v1/content/compose", body.clone()).await;
        assert_eq!((status, &made["size"], &made["uid"], &made["mode"]), (201, &json!(7), &json!(7), &json!(0o600)));
        assert_eq!(std::fs::read(helper.dir.path().join("whole")).unwrap(), b"one two");
        assert_eq!(std::fs::read_dir(helper.dir.path()).unwrap().count(), 1, "the pieces are gone");
        assert_eq!(helper.ask("POST /v1/content/compose", body).await.0, 404);
        let none = json!({"sources": [], "path": "whole"}).to_string();
        assert_eq!(helper.ask("POST /v1/content/compose", none).await.0, 400);
        assert_eq!(helper.ask("GET /v1/content/compose", "").await.0, 405);
    }

    #[tokio::test]
    async fn the_calls_answer_as_e2bs_do() {
        needs::needs!(root);
        let helper = helper();
        helper.looked.send_replace(Some(Ok(DiskAccess::Written)));
        let (status, made, _) = helper.ask("PUT /v1/content/file?path=/a.txt&mode=384", "what is written").await;
        assert_eq!((status, &made["size"], &made["mode"]), (201, &json!(15), &json!(0o600)), "{made}");
        let (status, said, _) = helper.ask("PUT /v1/content/file?path=/a.txt", "again").await;
        assert_eq!((status, &said["code"]), (409, &json!("already_exists")), "{said}");
        assert!(said["message"].as_str().unwrap().contains("/a.txt"), "{said}");
        assert_eq!(helper.ask("PUT /v1/content/file?path=/a.txt&force=true", "again").await.0, 201);
        let (status, text, headers) = helper.ask("GET /v1/content/file?path=a.txt", "").await;
        assert_eq!(
            (status, text, &headers["content-type"]),
            (200, json!("again"), &"application/octet-stream".parse::<http::HeaderValue>().unwrap())
        );
        assert_eq!(helper.ask("GET /v1/content/file?path=none", "").await.1["code"], "not_found");
        assert_eq!(helper.ask("PUT /v1/content/file?path=none/b", "x").await.0, 404);
        assert_eq!(helper.ask("POST /v1/content/dir?path=d/e", "").await.0, 404);
        assert_eq!(helper.ask("POST /v1/content/dir?path=d/e&force=true", "").await.0, 201);
        let (_, listed, _) = helper.ask("GET /v1/content/dir?path=/&depth=2", "").await;
        let paths: Vec<_> = listed.as_array().unwrap().iter().map(|entry| entry["path"].as_str().unwrap()).collect();
        assert_eq!(paths, ["/a.txt", "/d", "/d/e"]);
        assert_eq!(helper.ask("PATCH /v1/content/path?path=d", r#"{"mode": 448}"#).await.1["mode"], 0o700);
        assert_eq!(helper.ask("PATCH /v1/content/path?path=d", r#"{"mode": 2048}"#).await.0, 400);
        assert_eq!(helper.ask("DELETE /v1/content/path?path=d", "").await.0, 204);
        assert_eq!(helper.ask("DELETE /v1/content/path?path=d", "").await.0, 404);
        assert!(!helper.dir.path().join("d").exists());
        for (call, status) in [
            ("GET /v1/content/other?path=/", 404),
            ("GET /v1/content/path", 400),
            ("GET /v1/content/path?path=", 400),
            ("GET /v1/content/dir?path=/a.txt", 400),
            ("GET /v1/content/file?path=/", 400),
            ("PUT /v1/content/path?path=/x", 405),
            ("PUT /v1/content/file?path=/x&uid=-1", 400),
        ] {
            let (answered, said, _) = helper.ask(call, "").await;
            assert_eq!((answered, said["message"].is_string()), (status, true), "{call} {said}");
        }
    }
}
