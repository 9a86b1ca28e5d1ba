//! Coding agents that npm ships: how they are named, installed and started.

use std::iter;
use std::str::FromStr;

/// Codex takes its key from no variable but this one, and that for a task alone: at a terminal it wants to be logged in.
/// Where its model is, and which, it takes from its configuration; of OpenAI's own provider it would ask for a WebSocket.
const CODEX: &str = r#"first=$1
key=${CODEX_API_KEY:-$OPENAI_API_KEY}
if [ -n "$key" ]; then export CODEX_API_KEY="$key"; fi
if [ -n "$OPENAI_MODEL" ]; then set -- -c "model=\"$OPENAI_MODEL\"" "$@"; fi
if [ -n "$OPENAI_BASE_URL" ]; then
  if [ -n "$key" ]; then set -- -c model_providers.given.env_key=CODEX_API_KEY "$@"; fi
  set -- -c model_provider=given -c model_providers.given.name=OPENAI_BASE_URL \
    -c model_providers.given.base_url="$OPENAI_BASE_URL" "$@"
elif [ -n "$key" ] && [ "$first" != exec ] && ! codex login status > /dev/null 2>&1; then
  printf '%s\n' "$key" | codex login --with-api-key > /dev/null
fi
exec codex "$@"
"#;
/// Claude refuses root all permissions, but where it is told that it is shut in.
const CLAUDE: [&str; 3] = ["env", "IS_SANDBOX=1", "claude"];

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
        let (words, for_a_task, always): (&[&str], &[&str], &[&str]) = match self {
            Self::Claude => (&CLAUDE, &["--print"], &["--dangerously-skip-permissions"]),
            Self::Codex => (&["sh", "-c", CODEX, "codex"], &["exec"], &["--dangerously-bypass-approvals-and-sandbox"]),
            Self::Opencode => (&["opencode"], &["run"], &[]),
        };
        let words = [words, if task.is_some() { for_a_task } else { &[] }, always].concat();
        let task = task.map(|task| self.said(task)).unwrap_or_default();
        words.into_iter().map(str::to_owned).chain(more.iter().cloned()).chain(task).collect()
    }

    /// The task as the coding agent's last words.
    fn said(self, task: &str) -> Vec<String> {
        match self {
            // It puts together what it is told, in quotes what has a space in it: the model would read them.
            Self::Opencode => iter::once("--").chain(task.split(' ')).map(str::to_owned).collect(),
            // What begins with a dash would be taken for an option.
            Self::Claude | Self::Codex if task.starts_with('-') => vec![format!(" {task}")],
            Self::Claude | Self::Codex => vec![task.to_owned()],
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::process::Command;

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

    /// What a program called `codex` is told, with these variables.
    fn told(task: Option<&str>, variables: &[(&str, &str)]) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        let (program, log) = (dir.path().join("codex"), dir.path().join("log"));
        // It is not logged in, and takes a key where it is given one.
        let script = "#!/bin/sh\n[ \"$2\" != status ] || exit 1\nprintf '%s\\n' \"key $CODEX_API_KEY\" \"$@\" >> \"$LOG\"\n\
                      if [ \"$1\" = login ]; then cat >> \"$LOG\"; fi\n";
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let words = Program::Codex.command(task, &[]);
        let path = format!("{}:{}", dir.path().display(), std::env::var("PATH").unwrap());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).env_clear().env("PATH", path).env("LOG", &log).envs(variables.iter().copied());
        assert!(command.status().unwrap().success());
        fs::read_to_string(log).unwrap().lines().map(str::to_owned).collect()
    }

    #[test]
    fn codex_is_told_of_the_key_the_model_and_its_place_that_other_agents_take_from_these_variables() {
        const ALWAYS: &str = "--dangerously-bypass-approvals-and-sandbox";
        assert_eq!(told(Some("do it"), &[]), ["key ", "exec", ALWAYS, "do it"]);
        let (url, key, model) =
            (("OPENAI_BASE_URL", "http://10.0.0.1:1/v1"), ("OPENAI_API_KEY", "sk-a"), ("OPENAI_MODEL", "m 1"));
        assert_eq!(told(Some("do it"), &[key]), ["key sk-a", "exec", ALWAYS, "do it"]);
        let given = [
            "-c",
            "model_provider=given",
            "-c",
            "model_providers.given.name=OPENAI_BASE_URL",
            "-c",
            "model_providers.given.base_url=http://10.0.0.1:1/v1",
        ];
        let asked = ["-c", "model=\"m 1\"", "exec", ALWAYS, "do it"];
        assert_eq!(told(Some("do it"), &[url, model]), [&["key "][..], &given, &asked].concat());
        let with_key = ["-c", "model_providers.given.env_key=CODEX_API_KEY"];
        let all = [url, key, model, ("CODEX_API_KEY", "sk-b")];
        assert_eq!(told(Some("do it"), &all), [&["key sk-b"][..], &given, &with_key, &asked].concat());
        // At a terminal it is logged in first, but for another's model.
        assert_eq!(told(None, &[key]), ["key sk-a", "login", "--with-api-key", "sk-a", "key sk-a", ALWAYS]);
        assert_eq!(told(None, &[url]), [&["key "][..], &given, &[ALWAYS]].concat());
    }

    #[test]
    fn a_task_is_the_last_that_is_said_and_no_option() {
        let more = ["--model".to_owned(), "m".to_owned()];
        let said = |program: Program, task: &str| {
            let words = program.command(Some(task), &more);
            assert!(words.contains(&program.name().to_owned()));
            let at = words.iter().rposition(|word| *word == more[1]).unwrap();
            assert_eq!(words[at - 1..=at], more);
            words[at + 1..].to_vec()
        };
        for program in [Program::Claude, Program::Codex] {
            assert_eq!(said(program, "--help  me\nnow"), [" --help  me\nnow"]);
            assert_eq!(said(program, "help me"), ["help me"]);
        }
        assert_eq!(said(Program::Opencode, "--help  me\nnow"), ["--", "--help", "", "me\nnow"]);
        for program in [Program::Claude, Program::Codex, Program::Opencode] {
            assert!(!program.command(None, &[]).last().unwrap().is_empty());
        }
    }
}
