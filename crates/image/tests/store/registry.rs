//! Pulls from a registry on loopback that this test is.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use palatine_image::{Credentials, Image, ImageError, NoProgress, RegistryError};
use serde_json::json;

use crate::fixture::{CreatedInodes, INDEX, MANIFEST, Place, Tar, descriptor, digest, story};

/// What the registry does.
#[derive(Default)]
pub(crate) struct Registry {
    blobs: HashMap<String, Vec<u8>>,
    /// Whether it wants a token; with the realm to send people to.
    realm: Option<String>,
    /// Answers that fail before one that does not.
    failures: AtomicU32,
    asked: Mutex<Vec<String>>,
}

impl Registry {
    pub(crate) fn of(blobs: &[&[u8]]) -> Self {
        Self { blobs: blobs.iter().map(|blob| (digest(blob), blob.to_vec())).collect(), ..Self::default() }
    }

    /// Has this manifest by a tag, too.
    pub(crate) fn name(&mut self, tag: &str, manifest: &[u8]) {
        self.blobs.insert(tag.to_owned(), manifest.to_vec());
    }

    pub(crate) async fn start(mut self, guarded: bool) -> (Arc<Self>, String) {
        drop(rustls::crypto::ring::default_provider().install_default());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        if guarded {
            self.realm.get_or_insert(format!("http://{address}/token"));
        }
        let registry = Arc::new(self);
        let routes = Router::new()
            .route("/v2/team/agent/manifests/{digest}", get(blob))
            .route("/v2/team/agent/blobs/{digest}", get(blob))
            .route("/token", get(token))
            .with_state(registry.clone());
        tokio::spawn(async move { axum::serve(listener, routes).await });
        (registry, address)
    }
}

async fn blob(State(registry): State<Arc<Registry>>, Path(digest): Path<String>, headers: HeaderMap) -> Response {
    registry.asked.lock().unwrap().push(digest.clone());
    if registry.failures.load(Ordering::SeqCst) > 0 {
        registry.failures.fetch_sub(1, Ordering::SeqCst);
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    let token = headers.get("authorization").and_then(|value| value.to_str().ok());
    if let Some(realm) = &registry.realm
        && token != Some("Bearer let-me-in")
    {
        let challenge = format!(r#"Bearer realm="{realm}",service="test",scope="repository:team/agent:pull""#);
        return (StatusCode::UNAUTHORIZED, [("www-authenticate", challenge)]).into_response();
    }
    registry
        .blobs
        .get(&digest)
        .cloned()
        .map_or_else(|| StatusCode::NOT_FOUND.into_response(), IntoResponse::into_response)
}

async fn token(Query(query): Query<HashMap<String, String>>, headers: HeaderMap) -> Response {
    let asked = (query.get("service").map(String::as_str), query.get("scope").map(String::as_str));
    assert_eq!(asked, (Some("test"), Some("repository:team/agent:pull")));
    match headers.get("authorization").and_then(|value| value.to_str().ok()) {
        // me:canary
        Some("Basic bWU6Y2FuYXJ5") => axum::Json(json!({"token": "let-me-in"})).into_response(),
        _ => StatusCode::UNAUTHORIZED.into_response(),
    }
}

fn image() -> CreatedInodes {
    CreatedInodes::of(vec![Tar::new().file("a", &vec![1; 300 << 10]).done()])
}

async fn pull(place: &Place, reference: &str, credentials: Option<Credentials>) -> Result<Image, ImageError> {
    place.store.pull(reference, Some("test"), credentials, Arc::new(NoProgress)).await
}

#[tokio::test]
async fn an_image_is_pulled_by_digest_and_not_again() {
    let place = Place::new();
    let (registry, address) = Registry::of(&image().blobs()).start(false).await;
    let reference = format!("{address}/team/agent@{}", image().digest());
    let taken = pull(&place, &reference, None).await.unwrap();
    assert_eq!(taken.digest.to_string(), image().digest());
    let asked = registry.asked.lock().unwrap().len();
    assert_eq!(pull(&place, &reference, None).await.unwrap(), taken);
    assert_eq!(registry.asked.lock().unwrap().len(), asked, "what is here was asked for again");
}

#[tokio::test]
async fn an_index_is_followed_to_this_machines_image() {
    let place = Place::new();
    let made = image();
    let mut ours = descriptor(MANIFEST, &made.manifest);
    ours["platform"] = json!({"os": "linux", "architecture": "amd64"});
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [ours]}).to_string();
    let blobs: Vec<_> = made.blobs().into_iter().chain([index.as_bytes()]).collect();
    let (_registry, address) = Registry::of(&blobs).start(false).await;
    let taken = pull(&place, &format!("{address}/team/agent@{}", digest(index.as_bytes())), None).await.unwrap();
    assert_eq!(taken.digest.to_string(), made.digest());
}

#[tokio::test]
async fn a_reference_without_a_digest_is_refused() {
    let place = Place::new();
    for reference in ["localhost:1/team/agent:latest", "localhost:1/team/agent", "@@", "", "localhost:1/a@sha256:00"] {
        let error = pull(&place, reference, None).await.unwrap_err();
        assert!(matches!(error, ImageError::Reference(_) | ImageError::Digest(_)), "{reference}: {}", story(&error));
    }
}

#[tokio::test]
async fn a_registry_that_gives_other_bytes_is_not_believed() {
    let made = image();
    for wrong in [made.digest(), digest(&made.config), digest(&made.layers[0])] {
        let place = Place::new();
        let mut registry = Registry::of(&made.blobs());
        let lie = registry.blobs.get_mut(&wrong).unwrap();
        *lie.last_mut().unwrap() ^= 1;
        let (_registry, address) = registry.start(false).await;
        let error = pull(&place, &format!("{address}/team/agent@{}", made.digest()), None).await.unwrap_err();
        assert!(matches!(error, ImageError::Mismatch { .. }), "{}", story(&error));
        place.assert_no_image();
    }
}

#[tokio::test]
async fn a_blob_longer_than_announced_is_cut_off() {
    let place = Place::new();
    let made = image();
    let mut registry = Registry::of(&made.blobs());
    registry.blobs.get_mut(&digest(&made.layers[0])).unwrap().extend([0; 100]);
    let (_registry, address) = registry.start(false).await;
    let error = pull(&place, &format!("{address}/team/agent@{}", made.digest()), None).await.unwrap_err();
    assert!(matches!(error, ImageError::Size { .. }), "{}", story(&error));
    place.assert_no_image();
}

#[tokio::test]
async fn a_registry_that_stumbles_is_asked_again_and_one_without_the_image_is_not() {
    let place = Place::new();
    let registry = Registry::of(&image().blobs());
    registry.failures.store(2, Ordering::SeqCst);
    let (registry, address) = registry.start(false).await;
    pull(&place, &format!("{address}/team/agent@{}", image().digest()), None).await.unwrap();
    let asked = registry.asked.lock().unwrap().len();
    let error = pull(&place, &format!("{address}/team/agent@{}", digest(b"other")), None).await.unwrap_err();
    assert!(story(&error).contains("404"), "{}", story(&error));
    assert_eq!(registry.asked.lock().unwrap().len(), asked + 1);
}

#[tokio::test]
async fn a_token_is_asked_for_with_the_credentials_that_were_given() {
    let place = Place::new();
    let (_registry, address) = Registry::of(&image().blobs()).start(true).await;
    let reference = format!("{address}/team/agent@{}", image().digest());
    let refused = pull(&place, &reference, None).await.unwrap_err();
    assert!(story(&refused).contains("401"), "{}", story(&refused));
    let credentials = Credentials { user: "me".into(), password: "canary".to_owned().into() };
    assert!(!format!("{credentials:?}").contains("canary"));
    pull(&place, &reference, Some(credentials)).await.unwrap();
}

#[tokio::test]
async fn credentials_are_not_sent_to_a_realm_that_is_not_safe() {
    let place = Place::new();
    let registry = Registry { realm: Some("http://192.0.2.1/token".into()), ..Registry::of(&image().blobs()) };
    let (_registry, address) = registry.start(true).await;
    let credentials = Credentials { user: "me".into(), password: "canary".to_owned().into() };
    let error =
        pull(&place, &format!("{address}/team/agent@{}", image().digest()), Some(credentials)).await.unwrap_err();
    assert!(matches!(error, ImageError::Registry(RegistryError::Challenge { .. })), "{}", story(&error));
}

#[tokio::test]
async fn a_registry_that_never_answers_is_given_up() {
    let place = Place::with(|config| {
        config.registry_timeout_ms = 100;
        config.pull_timeout_s = 1;
    });
    drop(rustls::crypto::ring::default_provider().install_default());
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let reference = format!("{}/team/agent@{}", silent.local_addr().unwrap(), image().digest());
    let error = pull(&place, &reference, None).await.unwrap_err();
    assert!(matches!(error, ImageError::Registry(_)), "{}", story(&error));
}
