//! What to do with a spec that is offered again.

use domain::{Generation, ImageDigest, PodId};
use serde::{Deserialize, Serialize};
use wire::v1::node::{DataDisk, RuntimeName, SandboxSpec, SandboxVolume};

/// A spec without its environment: what may be written down in the clear.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SpecWithoutEnv {
    /// The POD that this is a run of.
    pub(crate) pod: PodId,
    /// Whether there must be data of that POD.
    pub(crate) data: DataDisk,
    pub(crate) generation: Generation,
    pub(crate) image: ImageDigest,
    pub(crate) cores: u32,
    pub(crate) memory_mib: u64,
    /// The volumes that it has for itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) volumes: Vec<SandboxVolume>,
    /// What isolates it, where that was said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) runtime: Option<RuntimeName>,
}

impl From<&SandboxSpec> for SpecWithoutEnv {
    fn from(spec: &SandboxSpec) -> Self {
        let &SandboxSpec { pod, data, generation, image, cores, memory_mib, ref volumes, runtime, env: _ } = spec;
        Self { pod, data, generation, image, cores, memory_mib, volumes: volumes.clone(), runtime }
    }
}

/// How an offered spec stands to the one that is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SpecMatch {
    /// The same again: nothing to do.
    Same,
    /// Older, newer, or different at the same generation. A sandbox is not changed
    /// in place: it is deleted and made again.
    Stale,
}

/// Compares. `same_environment` is only asked when all else is equal, since the
/// held environment has to be unsealed for it.
pub(crate) fn offer(
    held: &SpecWithoutEnv,
    offered: &SpecWithoutEnv,
    same_environment: impl FnOnce() -> bool,
) -> SpecMatch {
    if held == offered && same_environment() { SpecMatch::Same } else { SpecMatch::Stale }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn desired(generation: u64, cores: u32) -> SpecWithoutEnv {
        let pod = PodId::minted(domain::RunId::from_bits(1));
        let image = ImageDigest([7; 32]);
        SpecWithoutEnv {
            pod,
            data: DataDisk::KeptOrEmpty,
            generation: Generation(generation),
            image,
            cores,
            memory_mib: 128,
            volumes: Vec::new(),
            runtime: None,
        }
    }

    #[test]
    fn only_the_very_same_spec_is_taken_again() {
        let held = desired(2, 1);
        assert_eq!(offer(&held, &desired(2, 1), || true), SpecMatch::Same);
        assert_eq!(offer(&held, &desired(2, 1), || false), SpecMatch::Stale);
        let must_be_there = SpecWithoutEnv { data: DataDisk::Kept, ..held.clone() };
        let of_another_pod = SpecWithoutEnv { pod: PodId::minted(domain::RunId::from_bits(2)), ..held.clone() };
        let volume = SandboxVolume {
            id: domain::VolumeId::from_bits(1),
            name: "work".parse().unwrap(),
            path: "/workspace".parse().unwrap(),
        };
        let with_a_volume = SpecWithoutEnv { volumes: vec![volume], ..held.clone() };
        let isolated_otherwise = SpecWithoutEnv { runtime: Some(RuntimeName::ContainerRunc), ..held.clone() };
        for other in [
            desired(1, 1),
            desired(3, 1),
            desired(2, 2),
            must_be_there,
            of_another_pod,
            with_a_volume,
            isolated_otherwise,
        ] {
            assert_eq!(offer(&held, &other, || true), SpecMatch::Stale);
        }
    }
}
