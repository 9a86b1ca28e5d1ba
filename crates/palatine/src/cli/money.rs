//! The words for what agents are paid, and for who signs.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Subcommand, ValueHint};
use domain::vault::TaskId;
use domain::{Address, PodId, Usdc};

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
pub(crate) enum WalletCommand {
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
pub(crate) enum VaultCommand {
    /// Deploy your agent's vault; the gateway pays the gas
    Deploy {
        /// The agent
        agent: PodId,
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
        task: VaultTaskArg,
        /// The result: a file to hash [default: standard input]
        #[arg(long, value_hint = ValueHint::FilePath)]
        result: Option<PathBuf>,
    },
    /// Turn a task down, as your agent: its creator gets everything back
    Decline {
        #[command(flatten)]
        task: VaultTaskArg,
    },
    /// Take a task's result, and pay for it
    Complete {
        #[command(flatten)]
        task: VaultTaskArg,
        /// What to pay, in USDC [default: all of it]
        #[arg(long)]
        pay: Option<Usdc>,
    },
    /// Give a task back that nobody answered in time (anyone may)
    Refund {
        #[command(flatten)]
        task: VaultTaskArg,
    },
    /// Say that a result is not what was agreed
    Dispute {
        #[command(flatten)]
        task: VaultTaskArg,
        /// Why; its hash goes onto the chain
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// Have a task paid whose creator kept silent (anyone may)
    Claim {
        #[command(flatten)]
        task: VaultTaskArg,
    },
    /// Decide a dispute, as its arbiter
    Resolve {
        #[command(flatten)]
        task: VaultTaskArg,
        /// What the agent gets, in USDC; the creator gets the rest
        #[arg(long)]
        agent: Usdc,
    },
    /// End a dispute whose arbiter kept silent, by the share agreed on (anyone may)
    DefaultResolve {
        #[command(flatten)]
        task: VaultTaskArg,
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
    Agent(PodId),
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
pub(crate) struct VaultTaskArg {
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
    pub(crate) id: PodId,
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

#[cfg(test)]
mod tests {
    use super::*;

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
