//! The words of what has agents work: `run`, `chat`, and how long one lives.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, ValueHint};
use domain::PodId;

use super::Run;
use super::coder::CodingAgent;
use super::key::lifetime;

#[derive(Debug, Args)]
pub(crate) struct RunTask {
    /// What it is to do; - reads it from the standard input. A coding agent without a task is told at the terminal
    #[arg(required_unless_present = "agent")]
    pub(crate) task: Option<String>,
    /// The agent type: a name that `palatine tiers` lists [default with --agent: base]
    #[arg(long = "type", short = 't', required_unless_present = "agent")]
    pub(crate) agent_type: Option<String>,
    /// A coding agent that npm ships, at work on a copy of a folder: claude, codex or opencode
    #[arg(long, value_name = "NAME[@VERSION]", conflicts_with = "model")]
    pub(crate) agent: Option<CodingAgent>,
    /// The folder: what git would not leave out is copied, and the changes come back as a patch [default: .]
    #[arg(long, requires = "agent", value_hint = ValueHint::DirPath)]
    pub(crate) dir: Option<PathBuf>,
    /// Make the coding agent's changes here too
    #[arg(long, requires = "agent")]
    pub(crate) apply: bool,
    /// Leave the agent running, with its data, when it has answered
    #[arg(long)]
    pub(crate) keep: bool,
    /// The model to name in the request [default: the first that the agent lists]
    #[arg(long)]
    pub(crate) model: Option<String>,
    #[command(flatten)]
    pub(crate) run: Run,
    /// What the coding agent is told besides, behind --
    #[arg(last = true, requires = "agent")]
    pub(crate) arguments: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Chat {
    /// The agent [default: the only one that runs]
    #[arg(value_name = "AGENT")]
    pub(crate) agent: Option<PodId>,
    /// The agent's token [default: the one kept when it was spawned from here]
    #[arg(long, env = "PALATINE_AGENT_TOKEN", hide_env_values = true)]
    pub(crate) token: Option<String>,
    /// Its URL, if it is not one of your own
    #[arg(long, value_hint = ValueHint::Url)]
    pub(crate) url: Option<String>,
    /// The model to begin with [default: the first that the agent lists]
    #[arg(long)]
    pub(crate) model: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct SetTimeout {
    /// The agent
    pub(crate) id: PodId,
    /// From now on: 90s, 15m, 12h, 7d; or none: it lives until it is stopped
    pub(crate) time: NewLifetime,
}

/// How long an agent has to live from now on, if not until it is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NewLifetime(pub(crate) Option<Duration>);

impl FromStr for NewLifetime {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self(None)),
            time => lifetime(time).map(|time| Self(Some(time))).map_err(|said| format!("{said}, or none")),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    #[test]
    fn a_time_to_live_is_a_time_or_none() {
        assert_eq!("15m".parse(), Ok(NewLifetime(Some(Duration::from_secs(900)))));
        assert_eq!("none".parse(), Ok(NewLifetime(None)));
        assert!("soon".parse::<NewLifetime>().unwrap_err().ends_with("or none"));
        let spawn = |words: &[&str]| Cli::try_parse_from([&["palatine", "spawn", "-t", "echo"], words].concat());
        let Ok(Cli { command: Command::Spawn(options), .. }) = spawn(&["--timeout", "90s"]) else {
            panic!("it is one")
        };
        assert_eq!(options.run.timeout, Some(Duration::from_secs(90)));
        assert!(spawn(&["--timeout", "none"]).is_err() && spawn(&["--timeout", "90"]).is_err());
    }

    #[test]
    fn a_task_comes_with_what_a_spawn_is_told() {
        let run = |words: &[&str]| Cli::try_parse_from([&["palatine", "run"], words].concat());
        let Ok(Cli { command: Command::Run(options), .. }) = run(&["-t", "nano", "-e", "A=1", "--keep", "say hello"])
        else {
            panic!("it is one")
        };
        assert!(options.keep && options.task.as_deref() == Some("say hello") && options.run.env.len() == 1);
        assert!(run(&["say hello"]).is_err(), "by whom?");
        assert!(run(&["-t", "nano"]).is_err(), "what?");
        assert!(run(&["-t", "nano", "--apply", "say hello"]).is_err(), "to which folder?");
    }

    #[test]
    fn a_coding_agent_needs_a_folder_alone() {
        let run = |words: &[&str]| Cli::try_parse_from([&["palatine", "run"], words].concat());
        assert!(run(&["--agent", "codex", "--dir", "."]).is_ok() && run(&["--agent", "vim"]).is_err());
        let words = ["--agent", "claude@2.1.0", "--apply", "--env-file", "keys", "fix it", "--", "--model", "x"];
        let Ok(Cli { command: Command::Run(options), .. }) = run(&words) else { panic!("it is one") };
        assert_eq!((options.task.as_deref(), options.arguments.len()), (Some("fix it"), 2));
        assert!(options.apply && options.agent_type.is_none());
    }
}
