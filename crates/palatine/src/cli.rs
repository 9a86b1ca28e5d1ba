//! The words of the command line.

mod coder;
mod image;
mod key;
mod money;
mod pod;
mod shell;
mod volume;
mod work;

use std::convert::Infallible;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueHint};
use domain::{PodId, Usdc, VolumeMount};

pub(crate) use coder::CodingAgent;
pub(crate) use image::{FromContainerd, ImageCommand, ImageStoreArgs};
pub(crate) use key::{CreateKey, KeyCommand};
pub(crate) use money::{CreateTask, Price, Signer, VaultCommand, VaultName, VaultTaskArg, WalletCommand};
pub(crate) use pod::{PodCommand, PodIdentity};
pub(crate) use shell::{AccessToken, PortForward, PortPair, Shell};
pub(crate) use volume::{VolumeCommand, VolumeCopyPath, VolumePath};
pub(crate) use work::{Chat, NewLifetime, RunTask, SetTimeout};

/// The self-hosted cloud for sovereign AI agents.
#[derive(Debug, Parser)]
#[command(name = "palatine", version, arg_required_else_help = true, propagate_version = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) target: Target,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Whom to talk to, and as whom.
#[derive(Clone, Debug, Args)]
pub(crate) struct Target {
    /// The gateway's URL [default: the one `palatine up` runs here, else http://127.0.0.1:8080]
    #[arg(long, global = true, env = "PALATINE_GATEWAY", value_hint = ValueHint::Url)]
    pub(crate) gateway: Option<String>,
    /// A Solana keypair file [default: the dev holder of `palatine up`, else ~/.config/solana/id.json]
    #[arg(long, short, global = true, env = "PALATINE_KEYPAIR", value_hint = ValueHint::FilePath)]
    pub(crate) keypair: Option<PathBuf>,
    /// An API key in place of the keypair; the variable keeps it out of the list of processes
    #[arg(long, global = true, env = "PALATINE_KEY", hide_env_values = true, value_name = "KEY")]
    pub(crate) key: Option<wire::Secret>,
    /// Print JSON, for programs
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Where `palatine up` keeps its state [default: ~/.local/state/palatine]
    #[arg(long, global = true, env = "PALATINE_STATE", value_hint = ValueHint::DirPath)]
    pub(crate) state: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run everything on this machine, for development
    Up(Up),
    /// Stop what `palatine up` started
    Down,
    /// Run the gateway and the control plane
    Serve(ConfigFile),
    /// Show the tiers and the known agent types
    Tiers,
    /// Make an agent and start it
    Spawn(Spawn),
    /// Start an agent again that does not run, with its id, URL, vault, prices and data
    Start(Start),
    /// List your agents, those that do not run included
    Ls,
    /// Show one agent; without an id, what `palatine up` runs here
    Status {
        /// The agent
        id: Option<PodId>,
    },
    /// Wait until an agent is ready that was left to start
    Wait {
        /// The agent
        id: PodId,
    },
    /// Show an agent's output
    Logs(Logs),
    /// Follow an agent's changes of state
    Events {
        /// The agent
        id: PodId,
    },
    /// Run a command inside an agent; its exit code becomes ours
    Exec(Exec),
    /// Open a shell in an agent; ~. at the start of a line ends it, ~? tells more
    Shell(Shell),
    /// Reach an agent's ports from here, until Ctrl-C
    PortForward(PortForward),
    /// Copy files and folders into an agent or out of it; what broke off goes on
    Cp(Cp),
    /// Ask an agent something; the answer streams
    Ask(Ask),
    /// Talk with an agent
    Chat(Chat),
    /// Have a new agent do something: it is spawned, asked and removed again; with --agent, a coding agent on a folder
    Run(RunTask),
    /// Set how long an agent that runs has to live, from now on
    Timeout(SetTimeout),
    /// Stop an agent; its data is kept for a while, unless it was spawned with --rm
    Stop {
        /// The agent
        id: PodId,
    },
    /// Remove agents, running or not, with all that is of them; their ids stay yours
    Rm {
        /// The agents
        #[arg(required = true)]
        ids: Vec<PodId>,
    },
    /// Show what your wallet used
    Usage,
    /// Volumes: disks of yours that outlive every agent
    Volume {
        #[command(subcommand)]
        command: VolumeCommand,
    },
    /// API keys: what your wallet lets programs do in its name
    Key {
        #[command(subcommand)]
        command: KeyCommand,
    },
    /// Vaults and their tasks: what an agent is paid, and earns
    Vault {
        #[command(flatten)]
        signer: Signer,
        #[command(subcommand)]
        command: VaultCommand,
    },
    /// EVM wallets: key files, and whose they are
    Wallet {
        #[command(flatten)]
        signer: Signer,
        #[command(subcommand)]
        command: WalletCommand,
    },
    /// Show or set what requests to an agent cost
    Price(Price),
    /// Images: your own, at the gateway; an operator's, in the store of this machine's node
    Image {
        #[command(flatten)]
        store: ImageStoreArgs,
        #[command(subcommand)]
        command: ImageCommand,
    },
    /// Look after the gateway's PODs, as its operator
    Pod {
        #[command(subcommand)]
        command: PodCommand,
    },
    /// The gateway's database
    Store {
        #[command(subcommand)]
        command: StoreCommand,
    },
    /// Make a Solana keypair file
    Keygen {
        /// Where to write it (never over an existing file)
        #[arg(value_hint = ValueHint::FilePath)]
        outfile: PathBuf,
    },
    /// Print the headers that sign a request, one `Name: value` a line, for cURL
    Sign(Sign),
    /// Look at the configuration
    Config {
        #[command(flatten)]
        config: ConfigFile,
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Print a completion script for your shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum StoreCommand {
    /// Copy it whole to an empty one, SQLite or PostgreSQL; no gateway may use either
    Copy {
        /// The store that is copied: sqlite:///directory or postgres://user:password@host/database
        #[arg(long, env = "PALATINE_COPY_FROM", hide_env_values = true, value_name = "URL")]
        from: store::StoreUrl,
        /// The empty one
        #[arg(long, env = "PALATINE_COPY_TO", hide_env_values = true, value_name = "URL")]
        to: store::StoreUrl,
    },
    /// Seal all keys in it with another sealing key; the gateways must be stopped
    Reseal {
        #[command(flatten)]
        config: ConfigFile,
        /// The other key's file; made where there is none
        #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
        new_key: PathBuf,
    },
    /// Put back agents' keys that forget-lost-keys has set aside; the gateways must be stopped
    RestoreKeys {
        #[command(flatten)]
        config: ConfigFile,
        /// The file that they were written to
        #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
        file: PathBuf,
        /// The sealing key that opens them [default: the store's]
        #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
        sealing_key: Option<PathBuf>,
        /// Put the key of the agents' tokens back too, in the place of the one made since
        #[arg(long)]
        tokens: bool,
    },
    /// Begin again without the keys in it that the sealing key does not open; the gateways must be stopped
    ForgetLostKeys {
        #[command(flatten)]
        config: ConfigFile,
        /// Where they are written, still sealed [default: lost-keys-<time>.json beside the sealing key]
        #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
        aside: Option<PathBuf>,
        /// Do it; else only those that are lost are listed
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Clone, Debug, Args)]
pub(crate) struct ConfigFile {
    /// The configuration [default: ./palatine.toml or /etc/palatine/palatine.toml, if there is one]
    #[arg(long, short, global = true, env = "PALATINE_CONFIG", value_hint = ValueHint::FilePath)]
    pub(crate) config: Option<PathBuf>,
}

/// Where the packages put the assets, seen from the program that runs.
fn installed() -> PathBuf {
    let own = std::env::current_exe().unwrap_or_default();
    own.parent().and_then(std::path::Path::parent).unwrap_or(std::path::Path::new("/usr")).join("lib/palatine")
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Up {
    /// Return when everything is ready
    #[arg(long)]
    pub(crate) detach: bool,
    /// Leave out the trial at the end: an agent that is spawned, asked and stopped
    #[arg(long)]
    pub(crate) no_agent: bool,
    /// Images of packages to build first, if they are not here yet: `nano,coding`, or `all`; `spawn` builds one that it wants
    #[arg(long, value_name = "NAME,…", value_delimiter = ',', value_parser = starter_names())]
    pub(crate) images: Vec<String>,
    /// The gateway's address
    #[arg(long, default_value = "127.0.0.1:8080", value_parser = told_address)]
    pub(crate) listen: std::net::SocketAddr,
    /// A configuration to start from
    #[command(flatten)]
    pub(crate) config: ConfigFile,
    /// Where the guest programs and image recipes lie; by default where the package put them
    #[arg(long, env = "PALATINE_ASSETS", value_hint = ValueHint::DirPath, default_value_os_t = installed(), hide_default_value = true)]
    pub(crate) assets: PathBuf,
}

fn starter_names() -> clap::builder::PossibleValuesParser {
    let names = wire::v1::public::STARTER_IMAGES.into_iter().chain([crate::starters::ALL]);
    clap::builder::PossibleValuesParser::new(names)
}

/// An address that can be told to others before anybody listens there.
fn told_address(text: &str) -> Result<std::net::SocketAddr, String> {
    let address: std::net::SocketAddr = text.parse().map_err(|_| "not an address and a port".to_owned())?;
    if address.port() == 0 {
        return Err("port 0 is any that is free, and agents' URLs name one: say which".to_owned());
    }
    Ok(address)
}

#[derive(Debug, Args)]
pub(crate) struct Spawn {
    /// The agent type: a name that `palatine tiers` lists
    #[arg(long = "type", short = 't')]
    pub(crate) agent_type: String,
    /// The agent's id, for ever yours: small letters, digits and hyphens [default: one is minted]
    #[arg(long, value_name = "ID", value_parser = PodId::chosen)]
    pub(crate) name: Option<PodId>,
    /// Remove the agent when it is stopped: nothing of it is kept
    #[arg(long)]
    pub(crate) rm: bool,
    /// Let the agent answer anyone, without its token
    #[arg(long)]
    pub(crate) public: bool,
    /// A volume of yours that each start of the agent has, and where; may be given several times
    #[arg(long = "volume", short = 'v', value_name = "NAME:PATH", value_parser = volume::mount)]
    pub(crate) volumes: Vec<VolumeMount>,
    #[command(flatten)]
    pub(crate) run: Run,
    /// Whose the agent's vault is to be: deployed as soon as the agent is known
    #[command(flatten)]
    pub(crate) signer: Signer,
    /// Give the agent no vault, even if a key file is known
    #[arg(long)]
    pub(crate) no_vault: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Start {
    /// The agent
    pub(crate) id: PodId,
    /// Another agent type than it was spawned by
    #[arg(long = "type", short = 't')]
    pub(crate) agent_type: Option<String>,
    #[command(flatten)]
    pub(crate) run: Run,
}

/// What is said of one start of an agent.
#[derive(Debug, Args)]
pub(crate) struct Run {
    /// A variable of the agent's environment; without a value it is taken from yours
    #[arg(long, short, value_name = "NAME[=VALUE]")]
    pub(crate) env: Vec<EnvEntry>,
    /// Read variables from a file, as docker does: NAME=VALUE lines, NAME alone takes yours, # begins a comment
    #[arg(long, value_hint = ValueHint::FilePath)]
    pub(crate) env_file: Option<PathBuf>,
    /// Return when the agent is reserved, before it is ready
    #[arg(long)]
    pub(crate) no_wait: bool,
    /// Stop the agent after this time, as `palatine stop` does: 90s, 15m, 12h, 7d
    #[arg(long, value_name = "TIME", value_parser = key::lifetime)]
    pub(crate) timeout: Option<Duration>,
    /// Fewer cores than your tier gives, such as where several agents share it
    #[arg(long, value_name = "CORES")]
    pub(crate) cores: Option<u32>,
    /// Less memory than your tier gives, in MiB, such as where several agents share it
    #[arg(long, value_name = "MIB")]
    pub(crate) memory: Option<u32>,
    /// What it is to run in: qemu, container-runc, … By default what it ran in before, or the strongest that works, of what
    /// your tier allows
    #[arg(long, value_name = "NAME")]
    pub(crate) runtime: Option<String>,
    /// An image of your own, by digest, where the operator lets your tier bring one
    #[arg(long, value_name = "DIGEST")]
    pub(crate) image: Option<String>,
    /// Makes a repeated command return the first answer
    #[arg(long)]
    pub(crate) idempotency_key: Option<String>,
}

/// `NAME=VALUE`, or `NAME` to pass our own on. Secrets are better passed by name:
/// a command line can be read by others.
#[derive(Clone, Debug)]
pub(crate) struct EnvEntry {
    pub(crate) name: String,
    pub(crate) value: Option<wire::Secret>,
}

impl FromStr for EnvEntry {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(wire::Secret::from(value.to_owned()))),
            None => (text, None),
        };
        if name.is_empty() {
            return Err("expected NAME or NAME=VALUE".to_owned());
        }
        Ok(Self { name: name.to_owned(), value })
    }
}

#[derive(Debug, Args)]
pub(crate) struct Logs {
    /// The agent
    pub(crate) id: PodId,
    /// Go on as it writes
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// The guest's console instead: kernel and pod
    #[arg(long)]
    pub(crate) console: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Exec {
    /// The agent
    pub(crate) id: PodId,
    /// Send our standard input
    #[arg(long, short = 'i')]
    pub(crate) stdin: bool,
    /// The working directory
    #[arg(long, short = 'w')]
    pub(crate) cwd: Option<String>,
    #[command(flatten)]
    pub(crate) token: AccessToken,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) argv: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Cp {
    /// What: a path here, or <agent>:<path>
    pub(crate) source: CopyPath,
    /// Where to: the other one of these. In a folder that is there, the copy is called like what is copied
    pub(crate) destination: CopyPath,
    #[command(flatten)]
    pub(crate) token: AccessToken,
}

/// One end of a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CopyPath {
    /// A path here.
    Here(PathBuf),
    /// A path in an agent.
    Agent(PodId, String),
}

impl FromStr for CopyPath {
    type Err = Infallible;

    /// A path here whose beginning looks like an agent's id is written `./…`.
    fn from_str(text: &str) -> Result<Self, Infallible> {
        let agent = text.split_once(':').and_then(|(id, path)| Some((id.parse().ok()?, path.to_owned())));
        Ok(agent.map_or_else(|| Self::Here(text.into()), |(id, path)| Self::Agent(id, path)))
    }
}

#[derive(Debug, Args)]
pub(crate) struct Ask {
    /// The agent [default: the only one that runs]
    #[arg(value_name = "AGENT")]
    pub(crate) agent: Option<String>,
    /// What to ask; - or nothing reads it from the standard input
    pub(crate) question: Option<String>,
    /// The agent's token [default: the one kept when it was spawned from here]
    #[arg(long, env = "PALATINE_AGENT_TOKEN", hide_env_values = true)]
    pub(crate) token: Option<String>,
    /// Its URL, if it is not one of your own
    #[arg(long, value_hint = ValueHint::Url)]
    pub(crate) url: Option<String>,
    /// The model to name in the request [default: the first that the agent lists; its own choice, if you pay and are not shown the list]
    #[arg(long)]
    pub(crate) model: Option<String>,
    /// Pay for the answer by itself, if it costs no more than this, in USDC
    #[arg(long, value_name = "USDC")]
    pub(crate) pay_up_to: Option<Usdc>,
    /// Who pays
    #[command(flatten)]
    pub(crate) signer: Signer,
}

#[derive(Debug, Args)]
pub(crate) struct Sign {
    /// The method
    pub(crate) method: String,
    /// The URL, such as http://127.0.0.1:8080/spawn?wait=false, or its path: then at the gateway's URL
    #[arg(value_hint = ValueHint::Url)]
    pub(crate) url: String,
    /// The body
    #[arg(default_value = "")]
    pub(crate) body: String,
}

#[derive(Clone, Copy, Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Say whether the configuration can be used
    Check,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn fault_1_5_a_gateway_is_told_an_address_that_others_can_be_told() {
        let up = |listen: &str| Cli::try_parse_from(["palatine", "up", "--listen", listen]);
        assert!(up("127.0.0.1:8080").is_ok());
        for listen in ["127.0.0.1:0", "[::]:0", "localhost", "8080"] {
            assert!(up(listen).is_err(), "{listen}");
        }
    }

    #[test]
    fn an_agents_chosen_name_is_looked_at_before_anything_is_asked() {
        let spawn = |name: &str| Cli::try_parse_from(["palatine", "spawn", "-t", "echo", "--name", name, "--rm"]);
        let Ok(Cli { command: Command::Spawn(options), .. }) = spawn("agent-123") else { panic!("it is a name") };
        assert!(options.rm && options.name.is_some_and(|name| name.to_string() == "agent-123"));
        for name in ["Agent", "a_b", "-a", "8080-a", "a1b2c3d4-e5f6-7890", &"a".repeat(58)] {
            assert!(spawn(name).is_err(), "{name}");
        }
        assert!(Cli::try_parse_from(["palatine", "rm"]).is_err(), "whom?");
        let Ok(Cli { command: Command::Rm { ids }, .. }) = Cli::try_parse_from(["palatine", "rm", "a", "b"]) else {
            panic!("several may go")
        };
        assert_eq!(ids.len(), 2);
    }

    #[test]
    fn a_new_agents_volumes_are_looked_at_before_anything_is_asked() {
        let spawn = |words: &[&str]| Cli::try_parse_from([&["palatine", "spawn", "-t", "echo"], words].concat());
        let Ok(Cli { command: Command::Spawn(options), .. }) = spawn(&["--volume", "work:/workspace", "-v", "b:/b"])
        else {
            panic!("they are volumes")
        };
        assert_eq!(options.volumes.len(), 2);
        assert!(spawn(&["--volume", "work:/etc"]).is_err());
        let create = ["palatine", "volume", "create", "work", "--size", "10G"];
        let Ok(Cli { command: Command::Volume { command: VolumeCommand::Create { size, .. } }, .. }) =
            Cli::try_parse_from(create)
        else {
            panic!("it is a volume")
        };
        assert_eq!(size.mib, 10_240);
        assert!(Cli::try_parse_from(["palatine", "volume", "rm"]).is_err(), "which?");
    }

    #[test]
    fn a_key_is_made_with_a_scope_and_never_shown_by_the_command_line() {
        let create = |words: &[&str]| Cli::try_parse_from([&["palatine", "key", "create"], words].concat());
        let Ok(Cli { command: Command::Key { command: KeyCommand::Create(options) }, .. }) =
            create(&["--scope", "run", "--e2b"])
        else {
            panic!("it is one")
        };
        assert_eq!((options.scope, options.expires.as_secs()), (domain::KeyScope::Run, 30 * 24 * 60 * 60));
        for words in [&[][..], &["--scope", "all"], &["--scope", "read", "--expires", "soon"]] {
            assert!(create(words).is_err(), "{words:?}");
        }
        for word in ["rm", "revoke"] {
            let cli = Cli::try_parse_from(["palatine", "--key", "pal_hush", "key", word, "pal_hush"]).unwrap();
            assert!(!format!("{cli:?}").contains("hush"));
        }
    }

    #[test]
    fn images_are_the_gateways_unless_a_store_is_named_and_a_recipe_is_the_operators() {
        let asked = |words: &[&str]| {
            let cli = Cli::try_parse_from([&["palatine", "image"], words].concat()).unwrap();
            let Command::Image { store, command } = cli.command else { unreachable!() };
            command.is_for_gateway(&store)
        };
        for words in [
            &["ls"][..],
            &["rm", "work"],
            &["push", "a.tar", "work:v2"],
            &["tag", "work", "work:v2"],
            &["import", "a.tar", "work:v2"],
            &["build", "dir", "work:v2"],
        ] {
            assert!(asked(words), "{words:?}");
        }
        for words in [
            &["ls", "--store", "dir"][..],
            &["rm", "echo", "-c", "a.toml"],
            &["import", "a.tar", "echo", "--node"],
            &["pull", "example.org/a@sha256:00", "echo"],
            &["build", "dir", "echo", "--node"],
        ] {
            assert!(!asked(words), "{words:?}");
        }
        assert!(Cli::try_parse_from(["palatine", "image", "push", "a.tar", "Work"]).is_err());
    }

    #[test]
    fn a_variable_is_a_name_or_a_name_with_a_value() {
        assert!("=x".parse::<EnvEntry>().is_err());
        assert_eq!("A=b=c".parse::<EnvEntry>().unwrap().value.unwrap().expose(), "b=c");
        assert!("A".parse::<EnvEntry>().unwrap().value.is_none());
    }
}
