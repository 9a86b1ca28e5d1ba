//! The words for what the operator does with PODs.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};
use domain::PodId;

use super::ConfigFile;

#[derive(Debug, Subcommand)]
pub(crate) enum PodCommand {
    /// A POD's key, in the gateway's database; of SQLite the gateway must be stopped
    Identity {
        #[command(flatten)]
        config: ConfigFile,
        #[command(subcommand)]
        command: PodIdentity,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum PodIdentity {
    /// Write it to a key file (Web3 keystore, version 3), under a password
    Export {
        /// The POD
        pod: PodId,
        /// Where to write it, never over an existing file [default: ./<pod>.json]
        #[arg(long, value_hint = ValueHint::FilePath)]
        out: Option<PathBuf>,
        #[command(flatten)]
        password: PodPassword,
    },
    /// Take it from a key file, for a POD that has none and whose vault knows no other
    Import {
        /// The POD
        pod: PodId,
        /// The key file
        #[arg(value_hint = ValueHint::FilePath)]
        keystore: PathBuf,
        #[command(flatten)]
        password: PodPassword,
        /// Take it also where the chain cannot be asked whether its vault knows another
        #[arg(long)]
        without_chain: bool,
    },
}

/// The key file's password.
#[derive(Clone, Debug, Args)]
pub(crate) struct PodPassword {
    /// A file with the password [default: POD_PASSWORD, else asked for]
    #[arg(long, value_hint = ValueHint::FilePath)]
    pub(crate) password_file: Option<PathBuf>,
}
