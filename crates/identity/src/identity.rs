//! The key in memory, and what it signs.

use std::fmt;

use alloy::consensus::SignableTransaction;
use alloy::network::{TxSigner, TxSignerSync};
use alloy::primitives::{ChainId, Signature};
use alloy::signers::local::PrivateKeySigner;
use alloy::signers::{Result, Signer, SignerSync};
use async_trait::async_trait;
use domain::{Address, B256};
use secrecy::SecretBox;

/// These 32 bytes are no secp256k1 key: zero, or not below the curve's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("these 32 bytes are no secp256k1 key")]
pub struct InvalidKey;

/// The vault pays another wallet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the vault's agent wallet is {vaults}, and this identity is {ours}")]
pub struct VaultMismatch {
    /// This identity's address.
    pub ours: Address,
    /// What the vault says.
    pub vaults: Address,
}

/// A secp256k1 key. Wiped from memory when dropped; shown as its address.
///
/// It signs through alloy's traits, which this crate re-exports: [`SignerSync`] for
/// EIP-191 (`sign_message_sync`, the wallets' `personal_sign`), EIP-712
/// (`sign_typed_data_sync`) and digests (`sign_hash_sync`), [`TxSigner`] and
/// [`TxSignerSync`] for transactions. Nonces are RFC 6979's: the same text gives the
/// same signature.
#[derive(Clone)]
pub struct Identity(PrivateKeySigner);

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.0.address())
    }
}

impl Identity {
    /// The key of these bytes, big-endian.
    ///
    /// # Errors
    /// [`InvalidKey`]: one in 2¹²⁸ random texts, or a text that is not random.
    pub fn from_secret(secret: &[u8; 32]) -> std::result::Result<Self, InvalidKey> {
        PrivateKeySigner::from_slice(secret).map(Self).map_err(|_| InvalidKey)
    }

    /// The EVM address, as the vault's `agentWallet` names it.
    #[must_use]
    pub const fn address(&self) -> Address {
        self.0.address()
    }

    /// Whether the vault whose `agentWallet()` gave this answer is this identity's.
    ///
    /// # Errors
    /// [`VaultMismatch`] with both addresses.
    pub fn verify_ownership(&self, agent_wallet: Address) -> std::result::Result<(), VaultMismatch> {
        let ours = self.address();
        if ours == agent_wallet { Ok(()) } else { Err(VaultMismatch { ours, vaults: agent_wallet }) }
    }

    /// The key's bytes, for who seals them.
    #[must_use]
    pub fn secret(&self) -> SecretBox<[u8; 32]> {
        SecretBox::new(Box::new(self.0.to_bytes().0))
    }
}

impl SignerSync for Identity {
    fn sign_hash_sync(&self, hash: &B256) -> Result<Signature> {
        self.0.sign_hash_sync(hash)
    }

    fn chain_id_sync(&self) -> Option<ChainId> {
        self.0.chain_id_sync()
    }
}

#[async_trait]
impl Signer for Identity {
    async fn sign_hash(&self, hash: &B256) -> Result<Signature> {
        self.0.sign_hash_sync(hash)
    }

    fn address(&self) -> Address {
        self.0.address()
    }

    fn chain_id(&self) -> Option<ChainId> {
        self.0.chain_id()
    }

    fn set_chain_id(&mut self, chain_id: Option<ChainId>) {
        self.0.set_chain_id(chain_id);
    }
}

impl TxSignerSync<Signature> for Identity {
    fn address(&self) -> Address {
        self.0.address()
    }

    fn sign_transaction_sync(&self, tx: &mut dyn SignableTransaction<Signature>) -> Result<Signature> {
        self.0.sign_transaction_sync(tx)
    }
}

#[async_trait]
impl TxSigner<Signature> for Identity {
    fn address(&self) -> Address {
        self.0.address()
    }

    async fn sign_transaction(&self, tx: &mut dyn SignableTransaction<Signature>) -> Result<Signature> {
        self.0.sign_transaction_sync(tx)
    }
}
