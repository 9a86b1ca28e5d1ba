//! The words of the command line.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Parser, Subcommand, ValueHint};
use domain::vault::TaskId;
use domain::{Address, AgentId, Usdc};

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
    /// Start an agent
    Spawn(Spawn),
    /// List your agents
    Ls,
    /// Show one agent; without an id, what `palatine up` runs here
    Status {
        /// The agent
        id: Option<AgentId>,
    },
    /// Show an agent's output
    Logs(Logs),
    /// Follow an agent's changes of state
    Events {
        /// The agent
        id: AgentId,
    },
    /// Run a command inside an agent; its exit code becomes ours
    Exec(Exec),
    /// Ask an agent something; the answer streams
    Ask(Ask),
    /// Stop an agent
    Stop {
        /// The agent
        id: AgentId,
    },
    /// Show what your wallet used
    Usage,
    /// Vaults and their tasks: what an agent is paid, and earns
    Vault {
        #[command(flatten)]
        signer: Signer,
        #[command(subcommand)]
        command: Vault,
    },
    /// EVM wallets: key files, and whose they are
    Wallet {
        #[command(flatten)]
        signer: Signer,
        #[command(subcommand)]
        command: Wallet,
    },
    /// Show or set what requests to an agent cost
    Price(Price),
    /// Manage the images of this machine's node
    Image {
        #[command(flatten)]
        store: Store,
        #[command(subcommand)]
        command: Image,
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

#[derive(Clone, Debug, Args)]
pub(crate) struct ConfigFile {
    /// The configuration [default: ./palatine.toml or /etc/palatine/palatine.toml, if there is one]
    #[arg(long, short, global = true, env = "PALATINE_CONFIG", value_hint = ValueHint::FilePath)]
    pub(crate) config: Option<PathBuf>,
}

/// Which image store is meant.
#[derive(Clone, Debug, Args)]
pub(crate) struct Store {
    /// The store of the node with this configuration [default: of what `palatine up` runs here]
    #[arg(long, short, global = true, env = "PALATINE_CONFIG", value_hint = ValueHint::FilePath)]
    pub(crate) config: Option<PathBuf>,
    /// The store in this folder, whatever the configuration says; nobody need serve it
    #[arg(long, global = true, value_hint = ValueHint::DirPath)]
    pub(crate) store: Option<PathBuf>,
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
    /// A variable of the agent's environment; without a value it is taken from yours
    #[arg(long, short, value_name = "NAME[=VALUE]")]
    pub(crate) env: Vec<EnvEntry>,
    /// Read variables from a file of NAME=VALUE lines
    #[arg(long, value_hint = ValueHint::FilePath)]
    pub(crate) env_file: Option<PathBuf>,
    /// Let the agent answer anyone, without its token
    #[arg(long)]
    pub(crate) public: bool,
    /// Return when the agent is reserved, before it is ready
    #[arg(long)]
    pub(crate) no_wait: bool,
    /// Fewer cores than your tier gives
    #[arg(long, value_name = "CORES")]
    pub(crate) cores: Option<u32>,
    /// Less memory than your tier gives, in MiB
    #[arg(long, value_name = "MIB")]
    pub(crate) memory: Option<u32>,
    /// An image of your own, by digest, where the operator lets your tier bring one
    #[arg(long, value_name = "DIGEST")]
    pub(crate) image: Option<String>,
    /// Makes a repeated spawn return the first answer
    #[arg(long)]
    pub(crate) idempotency_key: Option<String>,
    /// Whose the agent's vault is to be: deployed as soon as the agent is known
    #[command(flatten)]
    pub(crate) signer: Signer,
    /// Give the agent no vault, even if a key file is known
    #[arg(long)]
    pub(crate) no_vault: bool,
}

/// Who signs for the EVM.
#[derive(Clone, Debug, Args)]
pub(crate) struct Signer {
    /// An EVM key file, a Web3 keystore [default: the dev owner of `palatine up`]
    #[arg(long, env = "PALATINE_KEYSTORE", value_hint = ValueHint::FilePath)]
    pub(crate) keystore: Option<PathBuf>,
    /// A file with its password [default: asked for]
    #[arg(long, env = "PALATINE_PASSWORD_FILE", value_hint = ValueHint::FilePath)]
    pub(crate) password_file: Option<PathBuf>,
    /// What may be paid for having a call relayed, in USDC [default: nothing]
    #[arg(long, value_name = "USDC")]
    pub(crate) fee_up_to: Option<Usdc>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Wallet {
    /// Make an EVM key file
    New {
        /// Where to write it (never over an existing file)
        #[arg(value_hint = ValueHint::FilePath)]
        outfile: PathBuf,
    },
    /// Show the key file's address and who it is linked to
    Show,
    /// Link your Solana wallet to the key file's address: both sign the same text
    Link,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Vault {
    /// Deploy your agent's vault; the gateway pays the gas
    Deploy {
        /// The agent
        agent: AgentId,
    },
    /// Show a vault: what it holds, for whom
    Show {
        /// The vault's address, or its agent
        vault: VaultName,
    },
    /// List a vault's tasks, newest first
    Tasks {
        /// The vault's address, or its agent
        vault: VaultName,
    },
    /// Pay for a task; it is locked until the task ends
    Create(CreateTask),
    /// Hand in a result, as your agent
    Submit {
        #[command(flatten)]
        task: TaskName,
        /// The result: a file to hash [default: standard input]
        #[arg(long, value_hint = ValueHint::FilePath)]
        result: Option<PathBuf>,
    },
    /// Turn a task down, as your agent: its creator gets everything back
    Decline {
        #[command(flatten)]
        task: TaskName,
    },
    /// Take a task's result, and pay for it
    Complete {
        #[command(flatten)]
        task: TaskName,
        /// What to pay, in USDC [default: all of it]
        #[arg(long)]
        pay: Option<Usdc>,
    },
    /// Give a task back that nobody answered in time (anyone may)
    Refund {
        #[command(flatten)]
        task: TaskName,
    },
    /// Say that a result is not what was agreed
    Dispute {
        #[command(flatten)]
        task: TaskName,
        /// Why; its hash goes onto the chain
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// Have a task paid whose creator kept silent (anyone may)
    Claim {
        #[command(flatten)]
        task: TaskName,
    },
    /// Decide a dispute, as its arbiter
    Resolve {
        #[command(flatten)]
        task: TaskName,
        /// What the agent gets, in USDC; the creator gets the rest
        #[arg(long)]
        agent: Usdc,
    },
    /// End a dispute whose arbiter kept silent, by the share agreed on (anyone may)
    DefaultResolve {
        #[command(flatten)]
        task: TaskName,
    },
    /// Set who decides disputes of new tasks, what fee they pay, and whether there are any
    Set {
        /// The vault's address, or its agent
        vault: VaultName,
        /// Who decides disputes; zero for nobody
        #[arg(long)]
        arbiter: Option<Address>,
        /// Who gets the fee; zero for nobody
        #[arg(long)]
        fee_recipient: Option<Address>,
        /// The fee, in hundredths of a percent of what the agent gets
        #[arg(long)]
        fee_bps: Option<u16>,
        /// Take no new tasks
        #[arg(long, conflicts_with = "resume")]
        pause: bool,
        /// Take new tasks again
        #[arg(long)]
        resume: bool,
    },
    /// Draw what the vault has earned, or what it owes you back
    Withdraw {
        /// The vault's address, or its agent
        vault: VaultName,
        /// How much, in USDC [default: all of it]
        #[arg(long)]
        amount: Option<Usdc>,
        /// To whom [default: to yourself]
        #[arg(long)]
        to: Option<Address>,
        /// What is owed back to you, instead of the earnings
        #[arg(long)]
        credit: bool,
    },
}

/// A vault: by its address, or by the agent it belongs to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum VaultName {
    Address(Address),
    Agent(AgentId),
}

impl FromStr for VaultName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let address = || text.parse().map(Self::Address).ok().filter(|_| text.starts_with("0x"));
        let agent = || text.parse().map(Self::Agent).ok();
        address().or_else(agent).ok_or_else(|| "expected a vault's address (0x…) or an agent's id".to_owned())
    }
}

/// A task of a vault.
#[derive(Debug, Args)]
pub(crate) struct TaskName {
    /// The vault's address, or its agent
    pub(crate) vault: VaultName,
    /// The task's id
    pub(crate) task: TaskId,
}

#[derive(Debug, Args)]
pub(crate) struct CreateTask {
    /// The vault's address, or its agent
    pub(crate) vault: VaultName,
    /// What it pays, in USDC
    pub(crate) amount: Usdc,
    /// What is to be done
    pub(crate) metadata: String,
    /// How long the agent has to hand in a result
    #[arg(long, default_value = "24h")]
    pub(crate) submit_within: Span,
    /// How long you have to look at it
    #[arg(long, default_value = "24h")]
    pub(crate) review: Span,
    /// How long the arbiter has to decide a dispute
    #[arg(long, default_value = "7d")]
    pub(crate) arbitration: Span,
    /// The agent's share if the arbiter keeps silent, in hundredths of a percent
    #[arg(long, default_value_t = 5000)]
    pub(crate) default_agent_bps: u16,
    /// The least that completing pays, in USDC [default: all of it]
    #[arg(long)]
    pub(crate) at_least: Option<Usdc>,
    /// Who may complete beside you
    #[arg(long)]
    pub(crate) evaluator: Option<Address>,
}

/// A stretch of time as people write it: `90s`, `15m`, `24h`, `7d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) seconds: u32,
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let shape = || "expected a time like 90s, 15m, 24h or 7d".to_owned();
        let unit = match text.as_bytes().last() {
            Some(b's') => 1,
            Some(b'm') => 60,
            Some(b'h') => 60 * 60,
            Some(b'd') => 24 * 60 * 60,
            Some(_) | None => return Err(shape()),
        };
        let count: u32 = text[..text.len() - 1].parse().map_err(|_| shape())?;
        count.checked_mul(unit).map(|seconds| Self { seconds }).ok_or_else(shape)
    }
}

#[derive(Debug, Args)]
pub(crate) struct Price {
    /// The agent
    pub(crate) id: AgentId,
    /// What a path costs, such as /v1/chat/completions=0.01; every beginning of a path that is not named is free
    pub(crate) prices: Vec<PathPrice>,
    /// Make everything free
    #[arg(long, conflicts_with = "prices")]
    pub(crate) clear: bool,
}

/// `PATH=AMOUNT`.
#[derive(Clone, Debug)]
pub(crate) struct PathPrice {
    pub(crate) path: String,
    pub(crate) amount: Usdc,
}

impl FromStr for PathPrice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (path, amount) = text.split_once('=').ok_or("expected PATH=AMOUNT, such as /v1/chat/completions=0.01")?;
        let amount = amount.parse().map_err(|error: domain::MoneyError| error.to_string())?;
        Ok(Self { path: path.to_owned(), amount })
    }
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
    pub(crate) id: AgentId,
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
    pub(crate) id: AgentId,
    /// Send our standard input
    #[arg(long, short = 'i')]
    pub(crate) stdin: bool,
    /// The working directory
    #[arg(long, short = 'w')]
    pub(crate) cwd: Option<String>,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) argv: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Ask {
    /// The agent
    pub(crate) id: AgentId,
    /// What to ask
    pub(crate) question: String,
    /// The agent's token [default: the one kept when it was spawned from here]
    #[arg(long, env = "PALATINE_AGENT_TOKEN", hide_env_values = true)]
    pub(crate) token: Option<String>,
    /// Its URL, if it is not one of your own
    #[arg(long, value_hint = ValueHint::Url)]
    pub(crate) url: Option<String>,
    /// The model to name in the request
    #[arg(long, default_value = "default")]
    pub(crate) model: String,
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

#[derive(Debug, Subcommand)]
pub(crate) enum Image {
    /// Take an image from an OCI layout or archive (docker save, podman, skopeo)
    Import {
        /// The layout's folder or the archive
        #[arg(value_hint = ValueHint::AnyPath)]
        path: PathBuf,
        /// Its name: what `agent_type` will say
        name: String,
    },
    /// Take an image from a registry, by digest
    Pull {
        /// Such as registry.example/agents/chat@sha256:…
        reference: String,
        /// Its name
        name: String,
    },
    /// Make an image from a recipe
    Build {
        /// The folder with its image.toml
        #[arg(value_hint = ValueHint::DirPath)]
        dir: PathBuf,
        /// Its name
        name: String,
    },
    /// List the images
    Ls,
    /// Remove an image
    Rm {
        /// Its name
        name: String,
    },
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
    fn a_variable_is_a_name_or_a_name_with_a_value() {
        assert!("=x".parse::<EnvEntry>().is_err());
        assert_eq!("A=b=c".parse::<EnvEntry>().unwrap().value.unwrap().expose(), "b=c");
        assert!("A".parse::<EnvEntry>().unwrap().value.is_none());
    }

    #[test]
    fn a_time_is_a_number_and_a_unit() {
        assert_eq!("90s".parse(), Ok(Span { seconds: 90 }));
        assert_eq!("7d".parse(), Ok(Span { seconds: 604_800 }));
        for text in ["", "s", "5", "-1h", "1.5h", "49711d", "5µ"] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_vault_is_named_by_its_address_or_its_agent() {
        let address = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266";
        assert!(matches!(address.parse(), Ok(VaultName::Address(_))));
        assert!(matches!("a1b2c3d4-e5f6-7890".parse(), Ok(VaultName::Agent(_))));
        assert!("f39Fd6e51aad88F6F4ce6aB8827279cffFb92266".parse::<VaultName>().is_err());
    }

    #[test]
    fn a_price_is_a_path_and_an_amount() {
        let price: PathPrice = "/v1/chat/completions=0.01".parse().unwrap();
        assert_eq!((price.path.as_str(), price.amount), ("/v1/chat/completions", Usdc(10_000)));
        assert!("/v1".parse::<PathPrice>().is_err() && "/v1=a".parse::<PathPrice>().is_err());
    }
}
