//! Environments, sealed: what is on the disk is of no use without the node's key,
//! and each is bound to its agent and generation.

use std::io;

use domain::{Generation, RunId};
use seal::{SealError, Sealer};
use serde::{Deserialize, Serialize};
use wire::{Environment, Secret};
use zeroize::Zeroizing;

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

    /// As they lie on the disk.
    pub(crate) fn seal(&self, sealer: &Sealer, id: RunId, generation: Generation) -> io::Result<Vec<u8>> {
        let clear = Zeroizing::new(serde_json::to_vec(self).map_err(io::Error::other)?);
        Ok(sealer.seal(&clear, &place_of(id, generation))?)
    }

    pub(crate) fn unseal(sealer: &Sealer, id: RunId, generation: Generation, sealed: &[u8]) -> io::Result<Self> {
        let clear = sealer.open(sealed, &place_of(id, generation)).map_err(|error| match error {
            SealError::CutOff => broken("the sealed file is cut off"),
            SealError::Foreign => broken("the sealed file is not of this key, agent and generation"),
            error @ (SealError::Random(_) | SealError::TooLong) => error.into(),
        })?;
        serde_json::from_slice(&clear).map_err(|_| broken("the sealed file holds something else"))
    }
}

/// Fills with what the kernel's generator gives.
pub(crate) fn random(bytes: &mut [u8]) -> io::Result<()> {
    getrandom::fill(bytes).map_err(io::Error::other)
}

fn place_of(id: RunId, generation: Generation) -> [u8; 16] {
    let mut place = [0; 16];
    place[..8].copy_from_slice(&id.bits().to_be_bytes());
    place[8..].copy_from_slice(&generation.0.to_be_bytes());
    place
}

fn broken(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: RunId = RunId::from_bits(7);

    fn sealer() -> Sealer {
        Sealer::new(&seal::generate().unwrap())
    }

    fn secrets() -> Secrets {
        Secrets::new(Environment([("KEY".to_owned(), "hush-hush".to_owned().into())].into())).unwrap()
    }

    #[test]
    fn a_sealed_environment_comes_back_with_the_same_key_only() {
        let own = sealer();
        let sealed = secrets().seal(&own, ID, Generation(1)).unwrap();
        assert!(!sealed.windows(9).any(|bytes| bytes == b"hush-hush"));
        let again = Secrets::unseal(&own, ID, Generation(1), &sealed).unwrap();
        assert_eq!(again.env.0["KEY"].expose(), "hush-hush");
        assert!(Secrets::unseal(&sealer(), ID, Generation(1), &sealed).is_err());
    }

    #[test]
    fn it_belongs_to_one_agent_and_one_generation() {
        let own = sealer();
        let sealed = secrets().seal(&own, ID, Generation(1)).unwrap();
        assert!(Secrets::unseal(&own, RunId::from_bits(8), Generation(1), &sealed).is_err());
        assert!(Secrets::unseal(&own, ID, Generation(2), &sealed).is_err());
        assert!(Secrets::unseal(&own, ID, Generation(1), &sealed[..10]).is_err());
    }

    /// A node of the last version wrote the same; how it is sealed, `seal` compares with
    /// another implementation.
    #[test]
    fn the_place_is_the_number_of_the_run_and_then_the_generation() {
        let mut place = [0; 16];
        (place[7], place[15]) = (7, 1);
        assert_eq!(place_of(ID, Generation(1)), place);
    }
}
