//! Talking to an agent: OpenAI's chat completions, streamed.

use std::error::Error;

use futures_util::stream::{StreamExt, once, unfold};
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Request, Response, StatusCode, Url};
use serde::{Deserialize, Serialize};
use wire::Secret;

use super::http::{is_of, number, refused, whole, within, words};
use super::stream::{EVENT_STREAM, EventStream, events};
use super::{ClientError, GatewayClient};

const OPERATION: &str = "ask the agent";
/// What ends a stream of chunks.
const DONE: &str = "[DONE]";

/// Where an agent answers, and what opens it.
#[derive(Clone, Debug)]
pub struct AgentEndpoint {
    /// The agent's URL, as the gateway tells it.
    pub url: String,
    /// Its bearer token; a public agent needs none.
    pub token: Option<Secret>,
}

/// Somebody who pays for an answer that has a price.
pub trait Payer: Send + Sync {
    /// Pays what a 402 asks for, with these headers and this body: gives the header
    /// to send the same request again with.
    ///
    /// # Errors
    /// Why not; nothing is sent then.
    fn pay(&self, headers: &HeaderMap, body: &[u8]) -> Result<(HeaderName, HeaderValue), Box<dyn Error + Send + Sync>>;

    /// Hears the headers of the answer that was paid for.
    fn paid(&self, headers: &HeaderMap);
}

/// Who says something in a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ChatRole {
    /// Who asks.
    User,
    /// The agent.
    Assistant,
}

/// What was said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ChatMessage {
    /// By whom.
    pub role: ChatRole,
    /// The words.
    pub content: String,
}

/// What to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChatPrompt {
    /// The model to name in the request.
    pub model: String,
    /// What was said before, oldest first, and at the end the question.
    pub messages: Vec<ChatMessage>,
}

impl ChatPrompt {
    /// A question with nothing before it.
    #[must_use]
    pub fn of(model: String, question: String) -> Self {
        Self { model, messages: vec![ChatMessage { role: ChatRole::User, content: question }] }
    }
}

#[derive(Serialize)]
struct ChatRequest<'a> {
    model: &'a str,
    stream: bool,
    messages: &'a [ChatMessage],
}

/// A chunk of a stream, or a whole answer: one has `delta`, the other `message`.
#[derive(Deserialize)]
struct Completion {
    #[serde(default)]
    choices: Vec<Choice>,
    #[serde(default)]
    error: Option<AgentError>,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(alias = "message")]
    delta: Option<Content>,
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Content {
    content: Option<String>,
}

#[derive(Deserialize)]
struct AgentError {
    #[serde(default)]
    message: String,
}

impl GatewayClient {
    /// Asks an agent; its words come as it says them. An answer that has a price is
    /// paid for once.
    ///
    /// # Errors
    /// See [`ClientError`]; an agent that cannot be reached is refused with
    /// `agent_unreachable`, one that says no itself is [`ClientError::Agent`].
    pub async fn ask(
        &self,
        endpoint: &AgentEndpoint,
        question: &ChatPrompt,
        payer: Option<&dyn Payer>,
    ) -> Result<EventStream<String>, ClientError> {
        let url = agent_url(&endpoint.url, CHAT)?;
        let body = ChatRequest { model: &question.model, stream: true, messages: &question.messages };
        let body = serde_json::to_vec(&body).map_err(|error| ClientError::protocol(OPERATION, error))?;
        let mut request = self.http.post(url).header(ACCEPT, EVENT_STREAM).header(CONTENT_TYPE, "application/json");
        if let Some(token) = &endpoint.token {
            request = request.bearer_auth(token.expose());
        }
        let idle = self.limits.answer_idle;
        let request = request.body(body).build().map_err(|error| ClientError::transport(OPERATION, error))?;
        let response = within(OPERATION, idle, self.paying(request, payer)).await?;
        if is_of(&response, EVENT_STREAM) {
            return Ok(said(events(OPERATION, response, idle)));
        }
        // An agent that does not stream answers in one piece.
        let body = within(OPERATION, idle, whole(OPERATION, response)).await?;
        let text = parse(&String::from_utf8_lossy(&body))?.words;
        Ok(once(async { Ok(text) }).boxed())
    }
}

impl GatewayClient {
    /// Sends a request, and once more with a payment if one is asked for.
    async fn paying(&self, request: Request, payer: Option<&dyn Payer>) -> Result<Response, ClientError> {
        let again = request.try_clone();
        let broken = |error| ClientError::transport(OPERATION, error);
        let response = self.http.execute(request).await.map_err(broken)?;
        let (StatusCode::PAYMENT_REQUIRED, Some(mut again), Some(payer)) = (response.status(), again, payer) else {
            return willing(response).await;
        };
        let headers = response.headers().clone();
        let terms = whole(OPERATION, response).await?;
        let (name, value) = payer.pay(&headers, &terms).map_err(ClientError::Payment)?;
        again.headers_mut().insert(name, value);
        let response = willing(self.http.execute(again).await.map_err(broken)?).await?;
        payer.paid(response.headers());
        Ok(response)
    }
}

/// OpenAI's list of models.
#[derive(Deserialize)]
struct Models {
    data: Vec<Model>,
}

#[derive(Deserialize)]
struct Model {
    id: String,
}

impl GatewayClient {
    /// The models that an agent lists, in its order.
    ///
    /// # Errors
    /// See [`ClientError`]; as [`GatewayClient::ask`].
    pub async fn models(&self, endpoint: &AgentEndpoint) -> Result<Vec<String>, ClientError> {
        let operation = "list the agent's models";
        let mut request = self.http.get(agent_url(&endpoint.url, MODELS)?);
        if let Some(token) = &endpoint.token {
            request = request.bearer_auth(token.expose());
        }
        let answer = async {
            let response = request.send().await.map_err(|error| ClientError::transport(operation, error))?;
            whole(operation, willing(response).await?).await
        };
        let body = within(operation, self.limits.read, answer).await?;
        let models: Models = serde_json::from_slice(&body).map_err(|error| ClientError::protocol(operation, error))?;
        Ok(models.data.into_iter().map(|model| model.id).collect())
    }
}

/// OpenAI's paths.
const CHAT: &str = "/v1/chat/completions";
const MODELS: &str = "/v1/models";

fn agent_url(agent: &str, path: &str) -> Result<Url, ClientError> {
    let agent = if agent.contains("://") { agent.to_owned() } else { format!("https://{agent}") };
    let url = Url::parse(&format!("{}{path}", agent.trim_end_matches('/')));
    url.map_err(|_| ClientError::protocol(OPERATION, format!("{agent:?} is not an agent's URL")))
}

/// The answer if the agent is willing; the gateway's or its own words if not.
async fn willing(response: Response) -> Result<Response, ClientError> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let body = whole(OPERATION, response).await?;
    if let Some(refused) = refused(OPERATION, &body) {
        return Err(refused);
    }
    let own = serde_json::from_slice::<Completion>(&body).ok().and_then(|answer| answer.error);
    let message = own.map_or_else(|| words(&body), |error| words(error.message.as_bytes()));
    Err(ClientError::Agent { status: number(status), message })
}

/// One chunk's words, and whether they are the last.
struct Part {
    words: String,
    last: bool,
}

fn parse(data: &str) -> Result<Part, ClientError> {
    let chunk: Completion = serde_json::from_str(data).map_err(|error| ClientError::protocol(OPERATION, error))?;
    if let Some(error) = chunk.error {
        return Err(ClientError::Agent { status: 200, message: words(error.message.as_bytes()) });
    }
    let last = chunk.choices.iter().any(|choice| choice.finish_reason.is_some());
    let words = chunk.choices.into_iter().filter_map(|choice| choice.delta?.content).collect();
    Ok(Part { words, last })
}

/// The words of a stream of chunks. One that ends before it says so broke off.
fn said(events: EventStream<sse_stream::Sse>) -> EventStream<String> {
    struct State {
        events: EventStream<sse_stream::Sse>,
        finished: bool,
        over: bool,
    }
    let state = State { events, finished: false, over: false };
    unfold(state, |mut state| async move {
        while !state.over {
            let part = match state.events.next().await {
                None if state.finished => return None,
                None => Err(ClientError::BrokenOff(OPERATION)),
                Some(Err(error)) => Err(error),
                Some(Ok(event)) => match event.data.as_deref() {
                    None | Some("") => continue,
                    Some(DONE) => return None,
                    Some(data) => parse(data),
                },
            };
            state.over = part.is_err();
            state.finished |= part.as_ref().is_ok_and(|part| part.last);
            match part {
                Ok(part) if part.words.is_empty() => {}
                other => return Some((other.map(|part| part.words), state)),
            }
        }
        None
    })
    .boxed()
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use futures_util::stream::iter;
    use sse_stream::Sse;

    use super::*;

    fn flow(data: &[&str]) -> EventStream<Sse> {
        let events: VecDeque<_> = data.iter().map(|data| Ok(Sse::default().data(*data))).collect();
        iter(events).boxed()
    }

    async fn heard(data: &[&str]) -> Vec<Result<String, String>> {
        said(flow(data)).map(|part| part.map_err(|error| error.to_string())).collect().await
    }

    #[tokio::test]
    async fn words_are_heard_until_the_end_is_told() {
        let first = r#"{"choices":[{"delta":{"role":"assistant","content":"Hel"}}]}"#;
        let second = r#"{"choices":[{"delta":{"content":"lo"},"finish_reason":null}]}"#;
        let last = r#"{"choices":[{"delta":{},"finish_reason":"stop"}]}"#;
        let usage = r#"{"choices":[],"usage":{"total_tokens":3}}"#;
        let hello = vec![Ok("Hel".to_owned()), Ok("lo".to_owned())];
        assert_eq!(heard(&[first, second, last, usage, DONE, first]).await, hello);
        assert_eq!(heard(&[first, second, last]).await, hello);
    }

    #[tokio::test]
    async fn an_answer_that_breaks_off_is_an_error_after_its_words() {
        let first = r#"{"choices":[{"delta":{"content":"Hel"}}]}"#;
        let heard = heard(&[first]).await;
        assert_eq!(heard[0], Ok("Hel".to_owned()));
        assert!(heard[1].as_ref().is_err_and(|said| said.contains("broke off")), "{heard:?}");
    }

    #[tokio::test]
    async fn an_agents_error_in_mid_stream_ends_it() {
        let heard = heard(&[r#"{"error":{"message":"quota"}}"#, DONE]).await;
        assert_eq!(heard, [Err("the agent answered with status 200: quota".to_owned())]);
    }

    #[test]
    fn an_agents_url_may_lack_its_scheme_as_the_seeds_do() {
        let url = |agent| agent_url(agent, CHAT).unwrap().to_string();
        assert_eq!(url("a1b2c3d4-e5f6-7890.romulus.ai"), "https://a1b2c3d4-e5f6-7890.romulus.ai/v1/chat/completions");
        assert_eq!(url("http://x.localhost:8080"), "http://x.localhost:8080/v1/chat/completions");
        // An agent's root may be a path.
        assert_eq!(url("http://127.0.0.1:8081/an-id/"), "http://127.0.0.1:8081/an-id/v1/chat/completions");
    }
}
