//! Whom `palatine ask` asks, what, and by which model, where the command line does not say.

use std::io::{IsTerminal, Read};

use anyhow::{Context, Result, bail};
use client::{AgentEndpoint, ClientError, GatewayClient};
use domain::PodId;
use wire::fault::{Code, Fault};
use wire::v1::public::Agent;

/// Bytes of a question from the standard input, at most.
const MAX_QUESTION: u64 = 1024 * 1024;
/// What leaves the choice of a model to the agent.
const AGENTS_CHOICE: &str = "default";
/// What stands for the standard input.
pub(crate) const STDIN: &str = "-";

/// Whom to ask, and what.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    /// One's own agent; absent where only a URL was named.
    pub(crate) agent: Option<PodId>,
    /// The question; absent where it comes from the standard input.
    pub(crate) question: Option<String>,
}

impl Asked {
    /// Reads the two words of the command line. A single one is an agent of one's own if there
    /// is one of that id, and else the question to the only one that runs.
    pub(crate) async fn of<F>(
        first: Option<String>,
        second: Option<String>,
        own: impl FnOnce() -> F,
        url: bool,
    ) -> Result<Self>
    where
        F: Future<Output = Result<Vec<Agent>, ClientError>>,
    {
        let question = |text: Option<String>| text.filter(|text| text != STDIN);
        if let (Some(agent), Some(text)) = (&first, &second) {
            let agent = agent.parse().with_context(|| format!("{agent:?} is not an agent's id"))?;
            return Ok(Self { agent: Some(agent), question: question(Some(text.clone())) });
        }
        if url {
            return Ok(Self { agent: None, question: question(first) });
        }
        let own = own().await?;
        let is_own = |word: &String| own.iter().find(|agent| agent.id.to_string() == *word).map(|agent| agent.id);
        match first.as_ref().and_then(is_own) {
            Some(id) => Ok(Self { agent: Some(id), question: None }),
            None => Ok(Self { agent: Some(only(&own, "palatine ask <id> <question>")?), question: question(first) }),
        }
    }
}

/// The only agent that runs; where there are several, `naming` is the command that says which.
pub(crate) fn only(own: &[Agent], naming: &str) -> Result<PodId> {
    let live: Vec<PodId> = own.iter().filter(|agent| agent.state.is_live()).map(|agent| agent.id).collect();
    match (&live[..], own.first()) {
        ([one], _) => Ok(*one),
        ([], None) => bail!("you have no agent; start one: palatine spawn --type <type> (palatine tiers lists them)"),
        ([], Some(last)) => {
            bail!("none of your agents runs; start one again: palatine start {}, or make one: palatine spawn", last.id)
        }
        (several, _) => {
            let ids: Vec<String> = several.iter().map(PodId::to_string).collect();
            bail!("you have {} agents; say which: {naming}, with one of {}", ids.len(), ids.join(", "))
        }
    }
}

/// The question, from the standard input.
pub(crate) fn read_question() -> Result<String> {
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        bail!("ask what? say it behind the command, or give it to its standard input");
    }
    let mut text = String::new();
    stdin.lock().take(MAX_QUESTION + 1).read_to_string(&mut text).context("read the question")?;
    checked(text)
}

fn checked(text: String) -> Result<String> {
    if text.len() as u64 > MAX_QUESTION {
        bail!("the question is longer than {MAX_QUESTION} bytes");
    }
    if text.trim().is_empty() {
        bail!("the standard input holds no question");
    }
    Ok(text)
}

/// The model to name for one who pays for an answer, and may not be shown the list: the agent's
/// own choice then.
pub(crate) async fn payers_model(client: &GatewayClient, endpoint: &AgentEndpoint) -> Result<String> {
    let closed = |error: &anyhow::Error| {
        let fault = error.chain().find_map(|cause| cause.downcast_ref::<Fault>());
        fault.is_some_and(|fault| matches!(fault.code, Code::InvalidToken | Code::PaymentRequired))
    };
    match first_model(client, endpoint).await {
        Err(error) if closed(&error) => Ok(AGENTS_CHOICE.to_owned()),
        model => model,
    }
}

/// The first model that the agent lists.
pub(crate) async fn first_model(client: &GatewayClient, endpoint: &AgentEndpoint) -> Result<String> {
    let models = client.models(endpoint).await.context("which models the agent has is not known; --model names one")?;
    models.into_iter().next().context("the agent lists no model at /v1/models; name one with --model")
}

/// An agent's words for a terminal, which shows them and obeys none: lines and tabs stay.
pub(crate) fn not_obeyed(words: &str) -> String {
    words.chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')).collect()
}

/// Text that comes in pieces, for a terminal that obeys none of it.
#[derive(Debug, Default)]
pub(crate) struct ShownPieces {
    /// The beginning of a character whose end has not come yet.
    begun: Vec<u8>,
}

impl ShownPieces {
    /// What of it is to be shown now.
    pub(crate) fn take(&mut self, piece: &[u8]) -> String {
        self.begun.extend_from_slice(piece);
        let last = self.begun.utf8_chunks().last().map_or(&[][..], |chunk| chunk.invalid());
        let is_begun = std::str::from_utf8(last).is_err_and(|error| error.error_len().is_none());
        let whole = self.begun.len() - if is_begun { last.len() } else { 0 };
        let rest = self.begun.split_off(whole);
        let shown = not_obeyed(&String::from_utf8_lossy(&self.begun));
        self.begun = rest;
        shown
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn agent(id: &str, state: &str) -> Agent {
        serde_json::from_value(json!({
            "id": id, "run": "a1b2c3d4-e5f6-7890", "url": "http://x.localhost", "wallet":
            "11111111111111111111111111111111", "tier": "small", "created_at": 1, "spawned_at": 1, "state": state,
            "ephemeral": false, "agent_type": "echo", "image": format!("sha256:{}", "7".repeat(64)), "public": false,
            "restarts": 0,
        }))
        .unwrap()
    }

    async fn of(words: &[&str], own: &[Agent], url: bool) -> Result<(Option<String>, Option<String>), String> {
        let mut words = words.iter().map(|word| (*word).to_owned());
        let (first, second) = (words.next(), words.next());
        let asked = Asked::of(first, second, async || Ok(own.to_vec()), url).await;
        asked.map(|asked| (asked.agent.map(|id| id.to_string()), asked.question)).map_err(|error| format!("{error:#}"))
    }

    fn told(agent: Option<&str>, question: Option<&str>) -> Result<(Option<String>, Option<String>), String> {
        Ok((agent.map(str::to_owned), question.map(str::to_owned)))
    }

    #[tokio::test]
    async fn who_names_no_agent_asks_the_only_one_that_runs() {
        let own = [agent("agent-2", "ready"), agent("agent-1", "stopped")];
        assert_eq!(of(&["how are you?"], &own, false).await, told(Some("agent-2"), Some("how are you?")));
        assert_eq!(of(&["agent-2"], &own, false).await, told(Some("agent-2"), None));
        assert_eq!(of(&["agent-9", "hello"], &own, false).await, told(Some("agent-9"), Some("hello")));
        for words in [&["-"][..], &[]] {
            assert_eq!(of(words, &own, false).await, told(Some("agent-2"), None), "{words:?}");
        }
        assert_eq!(of(&["agent-1", "-"], &own, false).await, told(Some("agent-1"), None));
        assert_eq!(of(&["hello"], &[], true).await, told(None, Some("hello")));
    }

    #[tokio::test]
    async fn where_none_or_several_run_it_is_said_what_to_do() {
        let said = |own: Vec<Agent>| async move { of(&["hello"], &own, false).await.unwrap_err() };
        assert!(said(vec![]).await.contains("palatine spawn"));
        assert!(said(vec![agent("agent-1", "stopped")]).await.contains("palatine start agent-1"));
        let several = said(vec![agent("agent-1", "ready"), agent("agent-2", "booting")]).await;
        assert!(several.contains("agent-1, agent-2"), "{several}");
        assert!(of(&["Not An Id", "hello"], &[], false).await.unwrap_err().contains("is not an agent's id"));
    }

    #[test]
    fn an_answer_moves_no_cursor_and_sets_no_title() {
        assert_eq!(not_obeyed("one\n\ttwo\r\u{1b}]0;x\u{7}\u{9b}2J é"), "one\n\ttwo]0;x2J é");
    }

    #[test]
    fn text_in_pieces_is_shown_as_it_is_and_not_obeyed_wherever_it_is_cut() {
        let text = "one\u{1b}[2J\u{9b}2J é 日本\r\n\u{1b}]0;x\u{7}two\n".as_bytes();
        for size in 1..=text.len() {
            let mut pieces = ShownPieces::default();
            let shown: String = text.chunks(size).map(|piece| pieces.take(piece)).collect();
            assert_eq!(shown, "one[2J2J é 日本\n]0;xtwo\n", "{size}");
        }
        let mut pieces = ShownPieces::default();
        assert_eq!([pieces.take(b"a\xffb\xe6\x97"), pieces.take(b"x")], ["a\u{fffd}b", "\u{fffd}x"]);
    }

    #[test]
    fn a_question_is_not_empty_and_not_without_end() {
        assert_eq!(checked("hello\n".to_owned()).unwrap(), "hello\n");
        assert!(checked(" \n".to_owned()).is_err());
        assert!(checked("x".repeat(1024 * 1024 + 1)).unwrap_err().to_string().contains("1048576 bytes"));
    }
}
