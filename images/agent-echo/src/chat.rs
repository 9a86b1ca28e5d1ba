//! The echo: what it answers depends on the request and on nothing else.

use std::convert::Infallible;

use axum::Json;
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::openai::{ChatRequest, Refusal};

/// The model's name.
pub(crate) const MODEL: &str = "echo";
/// Messages of one request at most.
const MAX_MESSAGES: usize = 4096;

/// Answers a chat request by giving its last message back.
pub(crate) fn answer(request: &ChatRequest) -> Result<Response, Refusal> {
    if request.messages.len() > MAX_MESSAGES {
        return Err(Refusal::invalid("more than 4096 messages"));
    }
    let last = request.messages.iter().rev().find(|message| message.role == "user");
    let said = last.and_then(|message| message.content.as_ref()).map(crate::openai::Content::text);
    let said = said.ok_or_else(|| Refusal::invalid("messages: there is none of the role user"))?;
    let reply = Reply::to(request, &said);
    if request.stream {
        let usage = request.stream_options.as_ref().is_some_and(|options| options.include_usage);
        let events = reply.chunks(usage).into_iter().map(|chunk| Event::default().data(chunk));
        return Ok(Sse::new(stream::iter(events.map(Ok::<_, Infallible>))).into_response());
    }
    Ok(Json(reply.whole()).into_response())
}

/// An answer, before it is written as one document or as many.
struct Reply {
    id: String,
    model: String,
    text: String,
    prompt_words: usize,
}

impl Reply {
    fn to(request: &ChatRequest, said: &str) -> Self {
        let words = |text: &str| text.split_whitespace().count();
        let texts = request.messages.iter().filter_map(|message| message.content.as_ref());
        let mut id = hex::encode(Sha256::digest(said));
        id.truncate(24);
        Self {
            id: format!("chatcmpl-{id}"),
            model: request.model.clone().unwrap_or_else(|| MODEL.to_owned()),
            text: format!("echo: {said}"),
            prompt_words: texts.map(|content| words(&content.text())).sum(),
        }
    }

    fn usage(&self) -> Value {
        let completion = self.text.split_whitespace().count();
        json!({
            "prompt_tokens": self.prompt_words,
            "completion_tokens": completion,
            "total_tokens": self.prompt_words + completion,
        })
    }

    fn whole(&self) -> Value {
        json!({
            "id": self.id, "object": "chat.completion", "created": 0, "model": self.model,
            "choices": [{
                "index": 0, "message": {"role": "assistant", "content": self.text}, "finish_reason": "stop",
            }],
            "usage": self.usage(),
        })
    }

    /// The data of the events of a streamed answer: one word each.
    fn chunks(&self, usage: bool) -> Vec<String> {
        let chunk = |choices: Value| {
            json!({
                "id": self.id, "object": "chat.completion.chunk", "created": 0, "model": self.model,
                "choices": choices,
            })
        };
        let delta = |delta: Value, end: Value| chunk(json!([{"index": 0, "delta": delta, "finish_reason": end}]));
        let mut chunks = vec![delta(json!({"role": "assistant", "content": ""}), Value::Null)];
        let words = self.text.split_inclusive(char::is_whitespace);
        chunks.extend(words.map(|word| delta(json!({"content": word}), Value::Null)));
        chunks.push(delta(json!({}), json!("stop")));
        if usage {
            let mut last = chunk(json!([]));
            last["usage"] = self.usage();
            chunks.push(last);
        }
        chunks.iter().map(Value::to_string).chain(["[DONE]".to_owned()]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(request: &Value) -> Reply {
        let request: ChatRequest = serde_json::from_value(request.clone()).unwrap();
        let said = request.messages.last().unwrap().content.as_ref().unwrap().text();
        Reply::to(&request, &said)
    }

    #[test]
    fn the_same_question_has_the_same_answer() {
        let question = json!({"messages": [{"role": "user", "content": "hello  there"}]});
        assert_eq!(reply(&question).whole(), reply(&question).whole());
        assert_eq!(reply(&question).whole()["choices"][0]["message"]["content"], "echo: hello  there");
    }

    #[test]
    fn the_pieces_of_a_stream_make_the_whole_answer() {
        let question = json!({"messages": [{"role": "user", "content": [{"type": "text", "text": "a b\nc"}]}]});
        let chunks = reply(&question).chunks(true);
        assert_eq!(chunks.last().unwrap(), "[DONE]");
        let parsed = chunks[..chunks.len() - 1].iter().map(|chunk| serde_json::from_str::<Value>(chunk).unwrap());
        let (mut text, mut usage) = (String::new(), 0);
        for chunk in parsed {
            text += chunk["choices"][0]["delta"]["content"].as_str().unwrap_or_default();
            usage += usize::from(chunk["usage"].is_object());
        }
        assert_eq!((text.as_str(), usage), ("echo: a b\nc", 1));
    }
}
