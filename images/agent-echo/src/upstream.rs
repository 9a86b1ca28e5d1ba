//! The model behind this agent, when there is one.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use reqwest::{Client, RequestBuilder};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};

use crate::chat::MODEL;
use crate::openai::Refusal;

const CONNECT: Duration = Duration::from_secs(10);
/// The longest silence of a model that still thinks.
const SILENCE: Duration = Duration::from_secs(300);

/// An OpenAI-compatible server, from `OPENAI_BASE_URL`, `OPENAI_API_KEY` and
/// `OPENAI_MODEL`.
pub(crate) struct Upstream {
    client: Client,
    base: String,
    key: Option<SecretString>,
    model: Option<String>,
}

impl Upstream {
    /// The server the environment names, if it names one.
    pub(crate) fn from_environment() -> Result<Option<Self>, String> {
        let set = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let Some(base) = set("OPENAI_BASE_URL") else { return Ok(None) };
        Ok(Some(Self {
            client: client().map_err(|error| format!("cannot make an HTTP client: {error}"))?,
            base: base.trim_end_matches('/').to_owned(),
            key: set("OPENAI_API_KEY").map(SecretString::from),
            model: set("OPENAI_MODEL"),
        }))
    }

    /// Passes a chat request on, and the answer back as it comes.
    pub(crate) async fn chat(&self, mut request: Value) -> Result<Response, Refusal> {
        let named =
            request.get("model").and_then(Value::as_str).is_some_and(|model| !model.is_empty() && model != MODEL);
        if let (false, Some(model)) = (named, &self.model) {
            request["model"] = json!(model);
        }
        self.pass(self.client.post(format!("{}/chat/completions", self.base)).json(&request)).await
    }

    /// The models there are: the one that is set, or all the server has.
    pub(crate) async fn models(&self) -> Result<Response, Refusal> {
        match &self.model {
            Some(model) => Ok(axum::response::IntoResponse::into_response(axum::Json(models(model)))),
            None => self.pass(self.client.get(format!("{}/models", self.base))).await,
        }
    }

    async fn pass(&self, request: RequestBuilder) -> Result<Response, Refusal> {
        let request = match &self.key {
            Some(key) => request.bearer_auth(key.expose_secret()),
            None => request,
        };
        // The error's text without its URL, which may hold a key.
        let answer = request.send().await.map_err(|error| Refusal::upstream(error.without_url()))?;
        let plain = HeaderValue::from_static("application/json");
        let kind = answer.headers().get(CONTENT_TYPE).cloned().unwrap_or(plain);
        let status = match answer.status() {
            // Our key is not the caller's: its refusal must not look like theirs.
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                return Err(Refusal::upstream("the model's server refuses this agent's key"));
            }
            status => status,
        };
        let mut response = Response::new(Body::from_stream(pieces(answer)));
        *response.status_mut() = status;
        response.headers_mut().insert(CONTENT_TYPE, kind);
        Ok(response)
    }
}

fn pieces(answer: reqwest::Response) -> impl futures_util::Stream<Item = Result<Bytes, reqwest::Error>> {
    answer.bytes_stream()
}

/// One model, as OpenAI lists it.
pub(crate) fn models(name: &str) -> Value {
    json!({"object": "list", "data": [{"id": name, "object": "model", "created": 0, "owned_by": "palatine"}]})
}

/// A client with its own root certificates: the image has no others.
fn client() -> Result<Client, String> {
    let roots = rustls::RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let client = Client::builder().tls_backend_preconfigured(tls).connect_timeout(CONNECT).read_timeout(SILENCE);
    client.build().map_err(|error| error.to_string())
}
