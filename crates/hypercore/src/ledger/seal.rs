//! Environments, sealed: what is on the disk is of no use without the node's key,
//! and each is bound to its agent and generation.

use std::fs;
use std::io;
use std::path::Path;

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use domain::{Generation, RunId};
use serde::{Deserialize, Serialize};
use wire::{Environment, Secret};
use zeroize::Zeroizing;

const KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 24;
const TOKEN_BYTES: usize = 32;

/// What a guest is told and nobody else.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Secrets {
    pub(crate) env: Environment,
    /// What the node says to pod, the same at every boot.
    pub(crate) token: Secret,
}

impl Secrets {
    /// With a token of its own.
    pub(crate) fn new(env: Environment) -> io::Result<Self> {
        let mut token = Zeroizing::new([0; TOKEN_BYTES]);
        random(token.as_mut())?;
        Ok(Self { env, token: hex::encode(token.as_ref()).into() })
    }
}

/// Fills with what the kernel's generator gives.
pub(crate) fn random(bytes: &mut [u8]) -> io::Result<()> {
    getrandom::fill(bytes).map_err(io::Error::other)
}

/// The node's key, in use.
#[derive(Clone)]
pub(crate) struct Sealer(XChaCha20Poly1305);

impl Sealer {
    /// Opens the key, and makes it the first time.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let key = match fs::read(path) {
            Ok(key) => Zeroizing::new(key),
            Err(error) if error.kind() == io::ErrorKind::NotFound => make(path)?,
            Err(error) => return Err(error),
        };
        let cipher =
            XChaCha20Poly1305::new_from_slice(&key).map_err(|_| broken("the node's key has another length"))?;
        Ok(Self(cipher))
    }

    pub(crate) fn seal(&self, id: RunId, generation: Generation, secrets: &Secrets) -> io::Result<Vec<u8>> {
        let mut nonce = [0; NONCE_BYTES];
        random(&mut nonce)?;
        let clear = Zeroizing::new(serde_json::to_vec(secrets).map_err(io::Error::other)?);
        let payload = Payload { msg: &clear, aad: &bound_to(id, generation) };
        let sealed = self.0.encrypt(&XNonce::from(nonce), payload).map_err(|_| broken("sealing failed"))?;
        Ok([nonce.as_slice(), &sealed].concat())
    }

    pub(crate) fn unseal(&self, id: RunId, generation: Generation, sealed: &[u8]) -> io::Result<Secrets> {
        let (nonce, sealed) =
            sealed.split_first_chunk::<NONCE_BYTES>().ok_or_else(|| broken("the sealed file is cut off"))?;
        let payload = Payload { msg: sealed, aad: &bound_to(id, generation) };
        let clear = self.0.decrypt(&XNonce::from(*nonce), payload);
        let clear =
            Zeroizing::new(clear.map_err(|_| broken("the sealed file is not of this key, agent and generation"))?);
        serde_json::from_slice(&clear).map_err(|_| broken("the sealed file holds something else"))
    }
}

fn make(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut key = Zeroizing::new(vec![0; KEY_BYTES]);
    random(&mut key)?;
    durable::create("node.key", path, &key)?;
    Ok(key)
}

fn bound_to(id: RunId, generation: Generation) -> [u8; 16] {
    let mut bound = [0; 16];
    bound[..8].copy_from_slice(&id.bits().to_be_bytes());
    bound[8..].copy_from_slice(&generation.0.to_be_bytes());
    bound
}

fn broken(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    const ID: RunId = RunId::from_bits(7);

    fn sealer(dir: &Path) -> Sealer {
        Sealer::open(&dir.join("node.key")).unwrap()
    }

    fn secrets() -> Secrets {
        Secrets::new(Environment([("KEY".to_owned(), "hush-hush".to_owned().into())].into())).unwrap()
    }

    #[test]
    fn a_sealed_environment_comes_back_with_the_same_key_only() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let sealed = sealer(dir.path()).seal(ID, Generation(1), &secrets()).unwrap();
        assert!(!sealed.windows(9).any(|bytes| bytes == b"hush-hush"));
        let again = sealer(dir.path()).unseal(ID, Generation(1), &sealed).unwrap();
        assert_eq!(again.env.0["KEY"].expose(), "hush-hush");
        assert!(sealer(other.path()).unseal(ID, Generation(1), &sealed).is_err());
    }

    #[test]
    fn it_belongs_to_one_agent_and_one_generation() {
        let dir = tempfile::tempdir().unwrap();
        let sealed = sealer(dir.path()).seal(ID, Generation(1), &secrets()).unwrap();
        assert!(sealer(dir.path()).unseal(RunId::from_bits(8), Generation(1), &sealed).is_err());
        assert!(sealer(dir.path()).unseal(ID, Generation(2), &sealed).is_err());
        assert!(sealer(dir.path()).unseal(ID, Generation(1), &sealed[..10]).is_err());
    }

    #[test]
    fn the_key_is_closed_to_others() {
        let dir = tempfile::tempdir().unwrap();
        sealer(dir.path());
        assert_eq!(fs::metadata(dir.path().join("node.key")).unwrap().mode() & 0o777, 0o600);
    }
}
