//! The table of routes.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{any, get, post};
use http::StatusCode;
use wire::fault::Code;

use super::auth::token;
use super::body::whole;
use super::error::ApiError;
use super::{agent, content, files, filesystem, guest, input, metrics, rpc, tunnel};
use crate::agent::Pod;
use crate::identity::Platform;

/// Everything `pod` answers.
pub(crate) fn routes(pod: Pod, platform: Arc<dyn Platform>) -> Router {
    let identity = |State(pod): State<Pod>, body: Bytes| agent::identity(pod, platform, body);
    // Their bodies go on as long as they like; all others come whole.
    let streams = Router::new()
        .route("/process.Process/StreamInput", post(input::stream_input))
        .route("/files", get(files::download).post(files::upload))
        .route("/v1/volumes/{name}/{call}", any(content::volume))
        .route_layer(from_fn_with_state(pod.clone(), token));
    Router::new()
        .route("/v1/status", get(agent::status))
        .route("/v1/logs", get(agent::logs))
        .route("/v1/stop", post(agent::stop))
        .route("/v1/tunnel", get(tunnel::tunnel))
        .route("/metrics", get(metrics::metrics))
        .route("/process.Process/{call}", post(rpc::process))
        .route("/filesystem.Filesystem/{call}", post(filesystem::filesystem))
        .route("/files/compose", post(files::compose))
        .route("/envs", get(guest::envs))
        .route("/usage", get(guest::usage))
        .route_layer(from_fn_with_state(pod.clone(), token))
        .route("/v1/identity", post(identity))
        .route("/v1/boot", get(agent::boot))
        .route("/health", get(async || StatusCode::NO_CONTENT))
        .fallback(async || ApiError::new(Code::NotFound, "there is no such path"))
        .method_not_allowed_fallback(async || ApiError::new(Code::MethodNotAllowed, "not with this method"))
        .layer(from_fn(whole))
        .merge(streams)
        .layer(DefaultBodyLimit::disable())
        .with_state(pod)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::{Logs, Plan};
    use crate::identity::ValidGuestConfig;
    use crate::process::{Accounts, Privileges, Reaper};
    use crate::step::StepError;
    use crate::timings::BootStopwatch;
    use std::time::Duration;

    use axum::body::{Body, to_bytes};
    use axum::extract::Request;
    use serde_json::json;
    use tokio::time::timeout;
    use tower::ServiceExt as _;
    use wire::v1::pod::{GuestConfig, PodPhase};

    const TOKEN: &str = "a-token-of-some-length";

    /// For tests whose identities are refused before anything is done.
    #[derive(Debug)]
    struct Untouched;

    impl Platform for Untouched {
        fn apply(&self, _: &GuestConfig, _: &ValidGuestConfig) -> Result<(), StepError> {
            panic!("an identity that is refused is not made true")
        }

        fn mount_volumes(&self, _: &GuestConfig, _: &ValidGuestConfig) -> Result<(), String> {
            panic!("an identity that is refused has no volumes mounted")
        }

        fn privileges(&self) -> Privileges {
            Privileges::Container
        }
    }

    fn booting() -> Pod {
        Pod::new(Logs::new(), Reaper::default(), BootStopwatch::start())
    }

    fn pod() -> Pod {
        let pod = booting();
        pod.set_up(pod.timings());
        pod
    }

    fn assigned() -> Pod {
        let run = json!({
            "argv": ["/agent"], "env": {}, "cwd": "/", "user": "", "port": 8080, "ready_path": "/", "health_path": "/",
            "state_dir": "/data", "stop_signal": "SIGTERM",
        });
        let plan = Plan {
            agent: domain::RunId::from_bits(1).into(),
            run: serde_json::from_value(run).unwrap(),
            trace_id: String::new(),
            stop_signal: rustix::process::Signal::TERM,
            user: Accounts::default().resolve("").unwrap(),
            env: [].into(),
            refused: None,
            volumes: Vec::new(),
        };
        let pod = pod();
        pod.assign(TOKEN.to_owned().into(), plan);
        pod
    }

    async fn ask(pod: &Pod, call: &str, header: (&str, &str), body: impl Into<Body>) -> (u16, String) {
        let (method, path) = call.split_once(' ').unwrap();
        let request = Request::builder().method(method).uri(path).header(header.0, header.1);
        let answer =
            routes(pod.clone(), Arc::new(Untouched)).oneshot(request.body(body.into()).unwrap()).await.unwrap();
        let status = answer.status().as_u16();
        let body = to_bytes(answer.into_body(), usize::MAX).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    const CALLS: [&str; 16] = [
        "GET /v1/status",
        "GET /v1/logs",
        "POST /v1/stop",
        "GET /v1/tunnel?port=8080",
        "GET /metrics",
        "POST /process.Process/Start",
        "POST /process.Process/List",
        "POST /process.Process/Anything",
        "POST /filesystem.Filesystem/Stat",
        "GET /files?path=/etc/passwd",
        "POST /files?path=/tmp/x",
        "POST /files/compose",
        "GET /envs",
        "GET /usage",
        "GET /v1/volumes/work/path?path=/",
        "PUT /v1/volumes/work/file?path=/x",
    ];

    #[tokio::test]
    async fn before_the_identity_no_token_opens_anything() {
        for call in CALLS {
            for token in ["Bearer ", "Bearer x", "Basic eDp5"] {
                let (status, body) = ask(&pod(), call, ("authorization", token), "").await;
                assert_eq!((status, body.contains("invalid_token")), (401, true), "{call} {body}");
            }
        }
        assert_eq!(ask(&pod(), "GET /health", ("x", ""), "").await.0, 204);
    }

    #[tokio::test]
    async fn after_it_only_its_token_does_in_either_header() {
        let pod = assigned();
        for call in CALLS {
            for wrong in ["Bearer", "Bearer a-token-of-some-lengtH", "Bearer a-token-of-some-length ", TOKEN] {
                assert_eq!(ask(&pod, call, ("authorization", wrong), "").await.0, 401, "{call} {wrong}");
            }
        }
        let bearer = format!("Bearer {TOKEN}");
        assert_eq!(ask(&pod, "GET /v1/status", ("authorization", &bearer), "").await.0, 200);
        assert_eq!(ask(&pod, "GET /v1/status", ("x-access-token", TOKEN), "").await.0, 200);
    }

    #[tokio::test]
    async fn what_is_no_identity_is_refused_without_being_quoted_and_may_be_sent_again() {
        let pod = pod();
        for body in ["{\"token\":\"hush", "{\"token\":7,\"env\":\"hush\"}", "[\"hush\"]", ""] {
            let (status, said) = ask(&pod, "POST /v1/identity", ("x", ""), body).await;
            assert_eq!((status, said.contains("hush")), (400, false), "{said}");
        }
        let (status, said) = ask(&pod, "POST /v1/identity", ("x", ""), vec![b' '; 1024 * 1024]).await;
        assert_eq!((status, said.contains("body_too_large")), (413, true), "{said}");
        assert_eq!(pod.status().phase, PodPhase::Waiting);
        let (status, said) = ask(&assigned(), "POST /v1/identity", ("x", ""), "").await;
        assert_eq!((status, said.contains("wrong_state")), (409, true), "{said}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_identity_that_comes_before_the_disks_waits_for_them_and_the_rest_does_not() {
        let pod = booting();
        let call = ask(&pod, "POST /v1/identity", ("x", ""), "");
        tokio::pin!(call);
        assert!(timeout(Duration::from_secs(5), call.as_mut()).await.is_err());
        assert_eq!(ask(&pod, "GET /health", ("x", ""), "").await.0, 204);
        assert_eq!(ask(&pod, "GET /v1/status", ("x-access-token", TOKEN), "").await.0, 401);
        assert!(timeout(Duration::from_secs(5), call.as_mut()).await.is_err());
        pod.set_up(pod.timings());
        assert_eq!(call.await.0, 400, "its body is looked at now");
    }

    #[test]
    fn the_steps_of_the_disks_are_told_beside_those_before_them() {
        let mut timings = BootStopwatch::start();
        timings.note("network", Duration::from_millis(1));
        let pod = Pod::new(Logs::new(), Reaper::default(), timings);
        let mut timings = pod.timings();
        timings.note("disk.base", Duration::from_millis(2));
        pod.set_up(timings);
        let told = pod.status().timings_us;
        assert!(["network", "listening", "disk.base"].iter().all(|step| told.contains_key(*step)), "{told:?}");
    }

    #[tokio::test]
    async fn unknown_paths_methods_and_parameters_are_faults() {
        let pod = assigned();
        assert_eq!(ask(&pod, "GET /nothing", ("x-access-token", TOKEN), "").await.0, 404);
        assert_eq!(ask(&pod, "GET /v1/stop", ("x-access-token", TOKEN), "").await.0, 405);
        for call in ["GET /v1/status?until=never", "GET /v1/logs?after=x", "GET /v1/logs?later=1"] {
            let (status, body) = ask(&pod, call, ("x-access-token", TOKEN), "").await;
            assert_eq!((status, body.contains("invalid_request")), (400, true), "{call} {body}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_for_readiness_ends_with_an_end_of_the_agent_that_is_news_and_tells_it() {
        let pod = assigned();
        let waiting = ask(&pod, "GET /v1/status?until=ready&wait_ms=30000", ("x-access-token", TOKEN), "");
        let acting = async { pod.agent_exited(PodPhase::Backoff, "exit status 3") };
        let ((_, body), ()) = tokio::join!(waiting, acting);
        assert!(body.contains("\"backoff\"") && body.contains("\"exits\":1"), "{body}");
        assert!(body.contains("exit status 3"), "{body}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_for_readiness_ends_with_it_with_its_time_or_with_a_stop() {
        let call = "GET /v1/status?until=ready&wait_ms=30000";
        let late = ask(&assigned(), call, ("x-access-token", TOKEN), "").await;
        assert!(late.1.contains("\"starting\""), "{late:?}");
        for (act, phase) in [
            ((|pod| pod.agent_ready()) as fn(&Pod), "\"ready\""),
            (|pod| pod.agent_exited(PodPhase::Failed, "exit status 1"), "\"failed\""),
            (|pod| pod.stop(Duration::ZERO), "\"stopping\""),
        ] {
            let pod = assigned();
            let waiting = ask(&pod, call, ("x-access-token", TOKEN), "");
            let acting = async { act(&pod) };
            let ((_, body), ()) = tokio::join!(waiting, acting);
            assert!(body.contains(phase), "{body}");
        }
    }

    #[tokio::test]
    async fn a_guest_that_stops_says_so_for_good_and_starts_nothing() {
        let pod = assigned();
        let token = ("x-access-token", TOKEN);
        assert_eq!(ask(&pod, "POST /v1/stop", token, "{\"grace_ms\":1}").await.0, 200);
        pod.agent_ready();
        pod.agent_restarting();
        let (_, body) = ask(&pod, "GET /v1/status", token, "").await;
        assert!(body.contains("\"stopping\""), "{body}");
    }
}
