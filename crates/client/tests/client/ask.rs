//! Talking to an agent at its own URL.

use axum::body::Body;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use futures_util::StreamExt;
use palatine_client::{AgentEndpoint, ChatPrompt, ClientError};
use serde_json::{Value, json};
use wire::fault::{Code, Fault};

use crate::gateway::{Gateway, ID, Then, body, fault, start};

async fn heard(gateway: &Gateway) -> Vec<Result<String, ClientError>> {
    let url = format!("http://{ID}.localhost:{}", gateway.port);
    let agent = AgentEndpoint { url, token: Some("plt_hush".to_owned().into()) };
    let question = ChatPrompt::of("default".into(), "hi".into());
    match gateway.hasty.ask(&agent, &question, None).await {
        Ok(words) => words.collect().await,
        Err(error) => vec![Err(error)],
    }
}

async fn agent(answer: impl Fn() -> Response + Clone + Send + Sync + 'static) -> Gateway {
    let chat = move |headers: HeaderMap, Json(asked): Json<Value>| async move {
        let host = headers["host"].to_str().unwrap();
        assert!(host.starts_with("a1b2c3d4-e5f6-7890.localhost:"), "{host}");
        assert_eq!(headers["authorization"], "Bearer plt_hush");
        assert!(!headers.contains_key("x-signature"));
        assert_eq!(asked, json!({"model": "default", "stream": true, "messages": [{"role": "user", "content": "hi"}]}));
        answer()
    };
    start(Router::new().route("/v1/chat/completions", post(chat))).await
}

fn sse(pieces: &[&str], then: Then) -> Response {
    ([("content-type", "text/event-stream; charset=utf-8")], body(pieces, then)).into_response()
}

#[tokio::test]
async fn an_answer_streams_from_the_agents_own_host() {
    let gateway = agent(|| {
        let first = "data: {\"choices\":[{\"delta\":{\"content\":\"Hel\"}}]}\n\n";
        let second = "data: {\"choices\":[{\"delta\":{\"content\":\"lö\"}}]}\n\ndata: [DO";
        sse(&[first, second, "NE]\n\n"], Then::Hangs)
    })
    .await;
    let words: Vec<_> = heard(&gateway).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(words, ["Hel", "lö"]);
}

#[tokio::test]
async fn an_agent_that_does_not_stream_is_heard_too() {
    let gateway = agent(|| {
        Json(json!({"choices": [{"message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}]}))
            .into_response()
    })
    .await;
    let words: Vec<_> = heard(&gateway).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(words, ["Hello"]);
}

#[tokio::test]
async fn the_gateways_refusal_and_the_agents_own_are_told_apart() {
    let gateway = agent(|| fault(Fault::new(Code::AgentUnreachable, "dead"))).await;
    let error = heard(&gateway).await.remove(0).unwrap_err();
    assert_eq!(error.code(), Some(Code::AgentUnreachable));

    let gateway = agent(|| {
        (StatusCode::UNAUTHORIZED, Json(json!({"error": {"message": "no key", "code": "invalid"}}))).into_response()
    })
    .await;
    let error = heard(&gateway).await.remove(0).unwrap_err();
    assert_eq!(error.to_string(), "the agent answered with status 401: no key");
}

#[tokio::test]
async fn an_agent_that_dies_or_hangs_in_its_answer_is_said_to_have() {
    let part = "data: {\"choices\":[{\"delta\":{\"content\":\"Hel\"}}]}\n\n";
    for (then, said) in
        [(Then::Ends, "broke off"), (Then::Breaks, "no answer from"), (Then::Hangs, "nothing was heard")]
    {
        let gateway = agent(move || sse(&[part], then)).await;
        let heard = heard(&gateway).await;
        assert_eq!(heard[0].as_ref().unwrap(), "Hel");
        let error = heard[1].as_ref().unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
        assert_eq!(heard.len(), 2);
    }
}

#[tokio::test]
async fn an_answer_that_is_no_chat_is_an_error() {
    let gateway = agent(|| Body::from("hello").into_response()).await;
    assert!(matches!(heard(&gateway).await.remove(0), Err(ClientError::Protocol { .. })));
}
