//! A conversation: what was said, what of it is sent again, and what a line that is typed means.

use std::collections::VecDeque;

use client::{ChatMessage, ChatPrompt, ChatRole};

/// Questions and answers that are sent again with the next question, at most.
const MAX_TURNS: usize = 50;
/// Bytes of them and of the question, at most: the oldest are left out first.
const MAX_BYTES: usize = 256 * 1024;

/// Bytes of an answer that is kept, at most.
pub(crate) const MAX_ANSWER: usize = 16 * 1024 * 1024;

/// What may be typed besides questions.
pub(crate) const HELP: &str = "\
/help          say this
/model         say which models there are
/model NAME    go on with this one
/clear         begin a new conversation
/exit          leave (as Ctrl-D does)
Ctrl-C ends an answer. What begins with // is a question that begins with one /.";

/// A question, and what was answered.
struct Turn {
    question: String,
    answer: String,
}

impl Turn {
    fn bytes(&self) -> usize {
        self.question.len() + self.answer.len()
    }
}

/// What was said so far, as far as it is sent again.
#[derive(Default)]
pub(crate) struct Conversation {
    turns: VecDeque<Turn>,
}

impl Conversation {
    /// The next question, with what was said before.
    pub(crate) fn prompt(&self, model: &str, question: &str) -> ChatPrompt {
        let mut room = MAX_BYTES.saturating_sub(question.len());
        let fits = |turn: &&Turn| {
            let left = room.checked_sub(turn.bytes());
            room = left.unwrap_or_default();
            left.is_some()
        };
        let sent: Vec<&Turn> = self.turns.iter().rev().take_while(fits).collect();
        let said = |role, content: &str| ChatMessage { role, content: content.to_owned() };
        let before = sent
            .iter()
            .rev()
            .flat_map(|turn| [said(ChatRole::User, &turn.question), said(ChatRole::Assistant, &turn.answer)]);
        let messages = before.chain([said(ChatRole::User, question)]).collect();
        ChatPrompt { model: model.to_owned(), messages }
    }

    /// Notes an answer, or as much of one as was heard.
    pub(crate) fn answered(&mut self, question: String, answer: String) {
        if answer.is_empty() {
            return;
        }
        self.turns.push_back(Turn { question, answer });
        if self.turns.len() > MAX_TURNS {
            self.turns.pop_front();
        }
    }

    /// Forgets what was said.
    pub(crate) fn clear(&mut self) {
        self.turns.clear();
    }
}

/// What a line that was typed means.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// Nothing.
    Empty,
    /// To say what can be typed.
    Help,
    /// To name the models.
    Models,
    /// To go on with this model.
    Model(String),
    /// To begin a new conversation.
    Clear,
    /// To leave.
    Exit,
    /// No word that is known.
    Unknown(String),
    /// A question.
    Question(String),
}

impl Entry {
    pub(crate) fn of(line: &str) -> Self {
        let line = line.trim();
        let Some(command) = line.strip_prefix('/') else {
            return if line.is_empty() { Self::Empty } else { Self::Question(line.to_owned()) };
        };
        if command.starts_with('/') {
            return Self::Question(command.to_owned());
        }
        let (word, rest) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
        match (word, rest.trim()) {
            ("help" | "?", "") => Self::Help,
            ("model" | "models", "") => Self::Models,
            ("model", name) => Self::Model(name.to_owned()),
            ("clear" | "new", "") => Self::Clear,
            ("exit" | "quit", "") => Self::Exit,
            _ => Self::Unknown(format!("/{word}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(prompt: &ChatPrompt) -> Vec<&str> {
        prompt.messages.iter().map(|message| message.content.as_str()).collect()
    }

    #[test]
    fn a_question_is_sent_with_what_was_said_before() {
        let mut conversation = Conversation::default();
        conversation.answered("one?".to_owned(), "1".to_owned());
        // An answer that was ended before its first word is none.
        conversation.answered("two?".to_owned(), String::new());
        let prompt = conversation.prompt("m", "three?");
        assert_eq!((prompt.model.as_str(), words(&prompt)), ("m", vec!["one?", "1", "three?"]));
        let roles: Vec<_> = prompt.messages.iter().map(|message| message.role).collect();
        assert_eq!(roles, [ChatRole::User, ChatRole::Assistant, ChatRole::User]);
        conversation.clear();
        assert_eq!(words(&conversation.prompt("m", "four?")), ["four?"]);
    }

    #[test]
    fn what_is_sent_again_is_bounded_and_the_oldest_is_left_out_first() {
        let mut conversation = Conversation::default();
        for n in 0..60 {
            conversation.answered(format!("{n}?"), format!("{n}"));
        }
        let prompt = conversation.prompt("m", "last?");
        assert_eq!((prompt.messages.len(), words(&prompt)[0]), (101, "10?"));
        conversation.answered("long?".to_owned(), "x".repeat(MAX_BYTES / 2));
        conversation.answered("longer?".to_owned(), "y".repeat(MAX_BYTES / 2));
        conversation.answered("short?".to_owned(), "z".to_owned());
        assert_eq!(words(&conversation.prompt("m", "last?")).first(), Some(&"longer?"));
        // A question that fills it alone is sent alone.
        let large = "q".repeat(2 * MAX_BYTES);
        assert_eq!(words(&conversation.prompt("m", &large)), [large.as_str()]);
    }

    #[test]
    fn a_line_is_a_question_or_one_of_the_words_that_are_known() {
        let question = |text: &str| Entry::Question(text.to_owned());
        assert_eq!(Entry::of(" how are you? \n"), question("how are you?"));
        assert_eq!(Entry::of("//etc/passwd is what?"), question("/etc/passwd is what?"));
        assert_eq!([Entry::of(""), Entry::of(" \n")], [Entry::Empty, Entry::Empty]);
        assert_eq!([Entry::of("/help"), Entry::of("/?")], [Entry::Help, Entry::Help]);
        assert_eq!(
            [Entry::of("/exit"), Entry::of("/quit "), Entry::of("/clear")],
            [Entry::Exit, Entry::Exit, Entry::Clear]
        );
        assert_eq!([Entry::of("/model"), Entry::of("/model  a/b ")], [Entry::Models, Entry::Model("a/b".to_owned())]);
        for line in ["/", "/exit now", "/etc/passwd", "/modell x"] {
            assert!(matches!(Entry::of(line), Entry::Unknown(_)), "{line}");
        }
    }
}
