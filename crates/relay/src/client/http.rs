//! One exchange with a relayer.

use std::time::Duration;

use reqwest::redirect::Policy;
use reqwest::{Client, RequestBuilder, Response, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;
use wire::v1::relay::{RelayRefusal, X_PAYMENT};

use super::ClientError;
use crate::text::printable;

/// Bytes of an answer at most.
const MAX_ANSWER: usize = 256 * 1024;

/// Asks one server, which may take so long.
#[derive(Clone, Debug)]
pub(super) struct HttpClient {
    http: Client,
    base: Url,
}

/// A whole answer.
#[derive(Debug)]
pub(super) struct HttpResponse {
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
}

impl HttpClient {
    pub(super) fn new(url: &str, timeout: Duration) -> Result<Self, ClientError> {
        let base = Url::parse(url).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        let http = Client::builder()
            .timeout(timeout)
            .redirect(Policy::none())
            .user_agent(concat!("palatine/", env!("CARGO_PKG_VERSION")))
            .build();
        Ok(Self { http: http.map_err(|error| ClientError::Client(words(error)))?, base: base.ok_or(ClientError::Url)? })
    }

    pub(super) async fn get(&self, path: &str, query: &[(&str, String)]) -> Result<HttpResponse, ClientError> {
        let mut url = self.at(path);
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        exchange(self.http.get(url)).await
    }

    pub(super) async fn post(
        &self,
        path: &str,
        body: &(impl Serialize + Sync),
        payment: Option<&str>,
    ) -> Result<HttpResponse, ClientError> {
        let request = self.http.post(self.at(path)).json(body);
        exchange(match payment {
            Some(payment) => request.header(X_PAYMENT, payment),
            None => request,
        })
        .await
    }

    /// A route below the server's own path.
    fn at(&self, path: &str) -> Url {
        let mut url = self.base.clone();
        url.set_path(&format!("{}{path}", self.base.path().trim_end_matches('/')));
        url
    }
}

impl HttpResponse {
    pub(super) fn read<T: DeserializeOwned>(&self) -> Result<T, ClientError> {
        serde_json::from_slice(&self.body).map_err(|error| ClientError::Garbage(printable(&error.to_string())))
    }

    /// The body of a success.
    pub(super) fn success<T: DeserializeOwned>(&self) -> Result<T, ClientError> {
        if (200..300).contains(&self.status) { self.read() } else { Err(self.refusal()) }
    }

    fn refusal(&self) -> ClientError {
        #[derive(serde::Deserialize)]
        struct Said {
            error: String,
            message: Option<String>,
        }
        let said = self.read::<RelayRefusal>().map(|it| (it.error, it.message));
        let said = said.or_else(|_| self.read::<Said>().map(|it| (it.error, it.message.unwrap_or_default())));
        let (code, message) = said.unwrap_or_default();
        ClientError::Refused { status: self.status, code: printable(&code), message: printable(&message) }
    }
}

async fn exchange(request: RequestBuilder) -> Result<HttpResponse, ClientError> {
    let response = request.send().await.map_err(unreachable)?;
    let status = response.status().as_u16();
    Ok(HttpResponse { status, body: bounded(response).await? })
}

async fn bounded(mut response: Response) -> Result<Vec<u8>, ClientError> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(unreachable)? {
        if body.len() + chunk.len() > MAX_ANSWER {
            return Err(ClientError::Garbage(format!("more than {MAX_ANSWER} bytes")));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

fn unreachable(error: reqwest::Error) -> ClientError {
    ClientError::Unreachable { why: words(error), paid: None }
}

/// Without the URL, which may hold a key.
fn words(error: reqwest::Error) -> String {
    printable(&error.without_url().to_string())
}
