//! Why the treasury says no.

use domain::{Address, PodId};
use relay::RelayError;
use store::{SealedKeysError, StoreError};

use crate::identities::IdentityError;

/// Why a request is not granted.
#[derive(Debug, thiserror::Error)]
pub enum TreasuryError {
    /// No endpoint gives an answer that can be used just now.
    #[error("the chain does not answer: {0}")]
    Unavailable(String),
    /// Nobody here pays for gas.
    #[error("this gateway relays nothing: [relayer] is not enabled")]
    NoRelayer,
    /// No such vault of this factory.
    #[error("no vault of this gateway's factory is at this address, as far as the chain was read")]
    UnknownVault,
    /// It is on its way, or not read from the chain yet.
    #[error("the vault is being deployed: what it holds is told once that was read from the chain")]
    Deploying,
    /// No such task of this vault.
    #[error("the vault has no such task, as far as the chain was read")]
    UnknownTask,
    /// The owner's signature.
    #[error("the signature is not the owner's, or is of something else")]
    Signature,
    /// The owner's signature is no signature.
    #[error("the signature is not 0x and 65 bytes of hexadecimal digits: {0}")]
    Malformed(String),
    /// The owner's signature ends too soon, or too late.
    #[error("the deadline must be from {least} to {most} seconds ahead")]
    Deadline {
        /// The least.
        least: u64,
        /// The most.
        most: u64,
    },
    /// The agent's holder has not said whom its earnings belong to.
    #[error("the agent's holder is linked to no owner")]
    NotLinked,
    /// The vault is there already, or on its way.
    #[error("the vault is {0} already")]
    Underway(&'static str),
    /// The agent has no key, and its vault is on the chain for one.
    #[error(
        "the vault {vault} of {pod} is for the agent wallet {wallet}, whose key is not here: give it by palatine pod \
         identity import {pod}"
    )]
    KeyMissing {
        /// The agent.
        pod: PodId,
        /// Its vault.
        vault: Address,
        /// The vault's agent wallet.
        wallet: Address,
    },
    /// What the operator pays for today is used up.
    #[error("no more is paid for {subject} today")]
    OverQuota {
        /// Whose quota, or which budget.
        subject: String,
        /// Seconds until the next day.
        retry_after_s: u64,
    },
    /// The chain would refuse it.
    #[error("{0}")]
    Reverts(String),
    /// A section of the configuration.
    #[error("{0}")]
    Config(String),
    /// The agent's key.
    #[error(transparent)]
    Identity(Box<IdentityError>),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<IdentityError> for TreasuryError {
    fn from(error: IdentityError) -> Self {
        match error {
            IdentityError::Store(error) | IdentityError::Keys(SealedKeysError::Store(error)) => Self::Store(error),
            error => Self::Identity(Box::new(error)),
        }
    }
}

impl From<RelayError> for TreasuryError {
    fn from(error: RelayError) -> Self {
        match error {
            RelayError::OverQuota { subject, retry_after_s } => Self::OverQuota { subject, retry_after_s },
            error => Self::Unavailable(error.to_string()),
        }
    }
}
