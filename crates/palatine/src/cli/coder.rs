//! Coding agents that npm ships: how they are named, installed and started.

use std::str::FromStr;

/// Codex takes its key by this name alone, where it is not logged in.
const CODEX: &str = r#"if [ -z "$CODEX_API_KEY" ] && [ -n "$OPENAI_API_KEY" ]; then export CODEX_API_KEY="$OPENAI_API_KEY"; fi
exec codex "$@"
"#;

/// The coding agents that are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Program {
    Claude,
    Codex,
    Opencode,
}

/// A coding agent, in the version that npm calls so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CodingAgent {
    pub(crate) program: Program,
    pub(crate) version: Option<String>,
}

impl FromStr for CodingAgent {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, version) = text.split_once('@').map_or((text, None), |(name, version)| (name, Some(version)));
        let program = match name {
            "claude" => Program::Claude,
            "codex" => Program::Codex,
            "opencode" => Program::Opencode,
            _ => return Err("expected claude, codex or opencode, or one of them with @ and a version".to_owned()),
        };
        let is_version = |text: &str| {
            text.starts_with(|first: char| first.is_ascii_alphanumeric())
                && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-+".contains(&byte))
        };
        if version.is_some_and(|version| !is_version(version)) {
            return Err("expected a version as npm has it behind @, such as 1.2.3 or latest".to_owned());
        }
        Ok(Self { program, version: version.map(str::to_owned) })
    }
}

impl Program {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Claude => "claude",
            Self::Codex => "codex",
            Self::Opencode => "opencode",
        }
    }

    pub(crate) const fn package(self) -> &'static str {
        match self {
            Self::Claude => "@anthropic-ai/claude-code",
            Self::Codex => "@openai/codex",
            Self::Opencode => "opencode-ai",
        }
    }

    /// How it is started: for a task it asks nobody, for the machine that it may do anything in is its own.
    pub(crate) fn command(self, task: Option<&str>, more: &[String]) -> Vec<String> {
        let words: &[&str] = match (self, task.is_some()) {
            (Self::Claude, true) => &["claude", "--print", "--dangerously-skip-permissions"],
            (Self::Claude, false) => &["claude", "--dangerously-skip-permissions"],
            (Self::Codex, true) => &["sh", "-c", CODEX, "codex", "exec", "--dangerously-bypass-approvals-and-sandbox"],
            (Self::Codex, false) => &["sh", "-c", CODEX, "codex", "--dangerously-bypass-approvals-and-sandbox"],
            (Self::Opencode, true) => &["opencode", "run"],
            (Self::Opencode, false) => &["opencode"],
        };
        // What begins with a dash would be taken for an option.
        let task = task.map(|task| if task.starts_with('-') { format!(" {task}") } else { task.to_owned() });
        words.iter().map(|word| (*word).to_owned()).chain(more.iter().cloned()).chain(task).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_coding_agent_is_named_with_or_without_a_version() {
        let named = |text: &str| text.parse::<CodingAgent>();
        assert_eq!(named("codex").unwrap(), CodingAgent { program: Program::Codex, version: None });
        assert_eq!(named("claude@2.1.0-rc.1").unwrap().version.as_deref(), Some("2.1.0-rc.1"));
        assert!(named("opencode@latest").is_ok());
        for odd in ["", "vim", "codex@", "codex@ 1", "codex@file:/x", "codex@--prefix", "Claude", "codex@npm:evil"] {
            assert!(named(odd).is_err(), "{odd}");
        }
    }

    #[test]
    fn a_task_is_the_last_word_and_no_option() {
        for program in [Program::Claude, Program::Codex, Program::Opencode] {
            let more = ["--model".to_owned(), "m".to_owned()];
            let words = program.command(Some("--help"), &more);
            assert_eq!(words[words.len() - 3..], ["--model", "m", " --help"]);
            assert!(words.contains(&program.name().to_owned()));
            assert!(!program.command(None, &[]).last().unwrap().is_empty());
        }
    }
}
