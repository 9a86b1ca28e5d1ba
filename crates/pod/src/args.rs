//! What the command line asks for.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use wire::v1::pod::PORT;

/// Told with every error.
pub(crate) const USAGE: &str = "usage: pod [run [--listen ADDRESS:PORT] [--node ADDRESS]] | --version";

/// What this program does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// Print the version.
    Version,
    /// Boot the virtual machine whose PID 1 it is.
    Machine,
    /// Run as an ordinary process.
    Container(Options),
}

/// How it is reached as an ordinary process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Options {
    /// Where the API listens.
    pub(crate) listen: SocketAddr,
    /// The only address whose connections are taken.
    pub(crate) node: IpAddr,
}

/// The command line makes no sense.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UsageError {
    /// It is not one of ours.
    #[error("there is no argument {0:?}")]
    Unknown(String),
    /// Its value is absent or not an address.
    #[error("{0} wants an address")]
    Address(&'static str),
}

impl Default for Options {
    fn default() -> Self {
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        Self { listen: SocketAddr::new(loopback, PORT), node: loopback }
    }
}

impl Command {
    /// Reads the arguments after the program's name.
    ///
    /// # Errors
    /// They are not understood.
    pub(crate) fn parse(pid: u32, args: impl IntoIterator<Item = String>) -> Result<Self, UsageError> {
        let mut args = args.into_iter();
        match args.next().as_deref() {
            Some("--version") => Ok(Self::Version),
            Some("run") => Options::parse(args).map(Self::Container),
            // The kernel hands PID 1 the words of its own command line that it does not know.
            _ if pid == 1 => Ok(Self::Machine),
            None => Ok(Self::Container(Options::default())),
            Some(other) => Err(UsageError::Unknown(other.to_owned())),
        }
    }
}

impl Options {
    fn parse(mut args: impl Iterator<Item = String>) -> Result<Self, UsageError> {
        let mut options = Self::default();
        while let Some(name) = args.next() {
            match name.as_str() {
                "--listen" => options.listen = address("--listen", args.next())?,
                "--node" => options.node = address("--node", args.next())?,
                _ => return Err(UsageError::Unknown(name)),
            }
        }
        Ok(options)
    }
}

fn address<T: std::str::FromStr>(name: &'static str, value: Option<String>) -> Result<T, UsageError> {
    value.and_then(|value| value.parse().ok()).ok_or(UsageError::Address(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pid: u32, line: &str) -> Result<Command, UsageError> {
        Command::parse(pid, line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn pid_1_boots_a_machine_whatever_words_the_kernel_leaves_it() {
        assert_eq!(parse(1, ""), Ok(Command::Machine));
        assert_eq!(parse(1, "splash --unknown"), Ok(Command::Machine));
        assert_eq!(parse(1, "--version"), Ok(Command::Version));
    }

    #[test]
    fn a_container_is_asked_for_by_name_or_by_not_being_pid_1() {
        let default = Options::default();
        assert_eq!(parse(1, "run"), Ok(Command::Container(default)));
        assert_eq!(parse(7, ""), Ok(Command::Container(default)));
        let options = Options { listen: "10.0.0.2:80".parse().unwrap(), node: "10.0.0.1".parse().unwrap() };
        assert_eq!(parse(7, "run --node 10.0.0.1 --listen 10.0.0.2:80"), Ok(Command::Container(options)));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        assert_eq!(parse(7, "boot"), Err(UsageError::Unknown("boot".to_owned())));
        assert_eq!(parse(7, "run --port 80"), Err(UsageError::Unknown("--port".to_owned())));
        assert_eq!(parse(7, "run --listen"), Err(UsageError::Address("--listen")));
        assert_eq!(parse(7, "run --node node.example"), Err(UsageError::Address("--node")));
    }
}
