//! A POD's key: what it signs, and the keystore by which it comes and goes.
//!
//! | file | is |
//! |---|---|
//! | `identity` | [`Identity`]: the key in memory, alloy's signer traits, whose vault it is |
//! | `kdf` | from password to 32 bytes: scrypt and PBKDF2, and how much a file may ask for. Pure |
//! | `keystore` | [`Keystore`]: Web3 Secret Storage, version 3, from and to JSON. Pure |
//! | `fields` | a JSON object's fields, each with an error that names it. Pure |
//! | `file` | the key file: made once, mode 0600, never over another. The only IO, clockless |
//!
//! # One identity
//! A key file is made by whoever comes first; everyone else opens that one. What is
//! wrong with a file, its password or its place is an error that says so, and the file
//! stays as it is.
//!
//! # Cost
//! Opening a keystore of [`KdfCost::STANDARD`] takes 256 MiB and most of a second of one
//! core. The calls that derive a key block: run them on a thread that may. In one
//! process one of them works at a time, so that a hundred agents that start together
//! do not ask for 25 GiB.

mod error;
mod fields;
mod file;
mod identity;
mod kdf;
mod keystore;

pub use alloy::network::{TxSigner, TxSignerSync};
pub use alloy::signers::{Signer, SignerSync};
pub use error::{KeystoreError, MAX_TEXT};
pub use file::KeyFileError;
pub use identity::{Identity, InvalidKey, VaultMismatch};
pub use kdf::{KdfCost, MAX_ITERATIONS, MAX_MEMORY, MAX_WORK};
pub use keystore::{Keystore, Randomness};
