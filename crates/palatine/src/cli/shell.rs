//! The words of `palatine shell` and `palatine port-forward`.

use std::net::IpAddr;
use std::str::FromStr;

use clap::Args;
use domain::PodId;

/// What opens an agent that is not one's own, or is not to be signed for.
#[derive(Clone, Debug, Args)]
pub(crate) struct AccessToken {
    /// The agent's token [default: by --key, or the wallet signs once to be shown it]
    #[arg(long, env = "PALATINE_AGENT_TOKEN", hide_env_values = true)]
    pub(crate) token: Option<wire::Secret>,
}

#[derive(Debug, Args)]
pub(crate) struct Shell {
    /// The agent [default: the only one that runs]
    pub(crate) id: Option<PodId>,
    /// Another user of the image than the agent's own, such as root
    #[arg(long, short, value_name = "NAME")]
    pub(crate) user: Option<String>,
    /// The working directory
    #[arg(long, short = 'w')]
    pub(crate) cwd: Option<String>,
    /// Attach again to a shell that was left or lost, by the name that was told then
    #[arg(long, value_name = "NAME", conflicts_with_all = ["user", "cwd", "argv"])]
    pub(crate) attach: Option<String>,
    /// Leave ~ to the shell: no escapes
    #[arg(long)]
    pub(crate) no_escape: bool,
    #[command(flatten)]
    pub(crate) token: AccessToken,
    /// A program and its arguments, behind -- [default: the image's bash, or else its sh]
    #[arg(last = true)]
    pub(crate) argv: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct PortForward {
    /// The agent
    pub(crate) id: PodId,
    /// Ports of the agent: [LOCAL:]REMOTE. LOCAL is the same where absent, and any free one where it is 0
    #[arg(required = true, value_name = "[LOCAL:]REMOTE")]
    pub(crate) ports: Vec<PortPair>,
    /// Where to listen here: others reach what is not a loopback address
    #[arg(long, default_value = "127.0.0.1", value_name = "IP")]
    pub(crate) address: Vec<IpAddr>,
    #[command(flatten)]
    pub(crate) token: AccessToken,
}

/// A port here, and the agent's that it leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PortPair {
    /// 0 is any.
    pub(crate) local: u16,
    pub(crate) remote: u16,
}

impl FromStr for PortPair {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (local, remote) = text.split_once(':').map_or((None, text), |(local, remote)| (Some(local), remote));
        let port = |text: &str| text.parse::<u16>().map_err(|_| format!("{text:?} is no port: 1 to 65535"));
        let remote = port(remote)?;
        if remote == 0 {
            return Err("the agent's port cannot be 0".to_owned());
        }
        Ok(Self { local: local.map_or(Ok(remote), port)?, remote })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    #[test]
    fn a_pair_of_ports_is_one_or_two_numbers() {
        let pair = |text: &str| text.parse::<PortPair>().map(|pair| (pair.local, pair.remote));
        assert_eq!(pair("8080"), Ok((8080, 8080)));
        assert_eq!(pair("80:8080"), Ok((80, 8080)));
        assert_eq!(pair("0:8080"), Ok((0, 8080)));
        for text in ["", "0", "80:0", "x", "80:", ":80", "65536", "1:2:3", "-1"] {
            assert!(pair(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_shell_needs_no_agents_name_and_takes_a_program_behind_two_hyphens() {
        let shell = |words: &[&str]| match Cli::try_parse_from([&["palatine", "shell"], words].concat()) {
            Ok(Cli { command: Command::Shell(shell), .. }) => {
                Some((shell.id.map(|id| id.to_string()), shell.argv.join(" ")))
            }
            _ => None,
        };
        assert_eq!(shell(&[]), Some((None, String::new())));
        assert_eq!(shell(&["agent-1"]), Some((Some("agent-1".into()), String::new())));
        assert_eq!(shell(&["--", "top", "-d", "1"]), Some((None, "top -d 1".into())));
        assert_eq!(shell(&["agent-1", "top"]), None);
        assert_eq!(shell(&["agent-1", "--attach", "shell-1", "--", "top"]), None);
    }

    #[test]
    fn ports_are_forwarded_from_loopback_unless_told_otherwise() {
        let forward = |words: &[&str]| match Cli::try_parse_from([&["palatine", "port-forward", "a"], words].concat()) {
            Ok(Cli { command: Command::PortForward(forward), .. }) => Some((forward.address, forward.ports.len())),
            _ => None,
        };
        let loopback: IpAddr = [127, 0, 0, 1].into();
        assert_eq!(forward(&["80", "8080:81"]), Some((vec![loopback], 2)));
        assert_eq!(forward(&["80", "--address", "::1"]), Some((vec!["::1".parse().unwrap()], 1)));
        assert_eq!(forward(&[]), None);
        assert_eq!(forward(&["80", "--address", "localhost"]), None);
    }
}
