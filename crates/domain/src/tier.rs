//! Tiers: what a holder's balance of the token buys.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::runtime::RuntimeKinds;

/// A raw token balance, in the mint's smallest unit. Always the sum over all of
/// a wallet's accounts; never a float.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenAmount(pub u128);

impl TokenAmount {
    /// Whole tokens, rounded down, for people to read.
    #[must_use]
    pub fn whole(self, decimals: u8) -> u64 {
        let unit = 10_u128.checked_pow(u32::from(decimals)).unwrap_or(u128::MAX);
        u64::try_from(self.0 / unit).unwrap_or(u64::MAX)
    }

    /// The raw amount of `tokens` whole ones.
    #[must_use]
    pub fn from_whole(tokens: u64, decimals: u8) -> Self {
        let unit = 10_u128.checked_pow(u32::from(decimals)).unwrap_or(u128::MAX);
        Self(u128::from(tokens).saturating_mul(unit))
    }
}

/// A tier's name: 1 to 32 lower-case letters, digits and dashes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, example = "pro")]
pub struct TierName(String);

impl TierName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for TierName {
    type Error = TierError;

    fn try_from(name: String) -> Result<Self, TierError> {
        let shaped = (1..=32).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if shaped { Ok(Self(name)) } else { Err(TierError::Name(name)) }
    }
}

impl From<TierName> for String {
    fn from(name: TierName) -> Self {
        name.0
    }
}

impl fmt::Display for TierName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What one tier asks for and gives. The three fields are Romulus's `tier_config`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Tier {
    /// Whole tokens a wallet must hold.
    #[schema(example = 1_000_000)]
    pub min: u64,
    /// Virtual processors of the agent, or of all that run at once.
    #[schema(example = 4)]
    pub cores: u32,
    /// Memory of the agent, in MiB, or of all that run at once.
    #[schema(example = 4096)]
    pub memory: u32,
    /// What the data of a holder's PODs that do not run may take of the nodes' disks, in
    /// MiB.
    #[serde(default = "Tier::default_disk")]
    #[schema(example = 10240)]
    pub disk: u32,
    /// Agents of a holder that may run at once, within `cores` and `memory` together. 1, the
    /// seed's rule, where it is absent.
    #[serde(default = "Tier::default_agents", skip_serializing_if = "Tier::is_seeds")]
    #[schema(example = 1, minimum = 1, maximum = 100)]
    pub agents: u32,
    /// What the images that a holder brings may take of the nodes' disks, in MiB. 4096 where
    /// it is absent; 0: none may be brought. Of a run that was kept, this is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = 4096)]
    pub images: Option<u32>,
    /// What its holders' agents may run in, where a node offers it. Machines of their own
    /// alone (`qemu`) where it is absent.
    #[serde(default = "Tier::default_runtimes", skip_serializing_if = "Tier::is_machines")]
    pub runtimes: RuntimeKinds,
}

impl Tier {
    /// What the record of a run keeps of it: what else the tier allows was decided at admission.
    #[must_use]
    pub const fn as_kept(self) -> Self {
        Self { images: None, runtimes: RuntimeKinds::MACHINES, ..self }
    }

    /// The disk quota of a tier that names none, in MiB.
    pub const DEFAULT_DISK_MIB: u32 = 10 * 1024;
    /// The agents at once of a tier that names none.
    pub const DEFAULT_AGENTS: u32 = 1;
    /// The most agents at once that a tier may allow.
    pub const MAX_AGENTS: u32 = 100;

    /// What a holder's images may take in a tier that does not say it, in MiB.
    pub const DEFAULT_IMAGES_MIB: u32 = 4 * 1024;

    /// What the images that a holder brings may take of the nodes' disks, in MiB.
    #[must_use]
    pub const fn images_mib(&self) -> u32 {
        match self.images {
            Some(mib) => mib,
            None => Self::DEFAULT_IMAGES_MIB,
        }
    }

    const fn default_disk() -> u32 {
        Self::DEFAULT_DISK_MIB
    }

    const fn default_agents() -> u32 {
        Self::DEFAULT_AGENTS
    }

    const fn default_runtimes() -> RuntimeKinds {
        RuntimeKinds::MACHINES
    }

    fn is_machines(runtimes: &RuntimeKinds) -> bool {
        *runtimes == RuntimeKinds::MACHINES
    }

    const fn is_seeds(agents: &u32) -> bool {
        *agents == Self::DEFAULT_AGENTS
    }
}

/// Why a table of tiers is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TierError {
    /// The table is empty.
    #[error("at least one tier is needed")]
    Empty,
    /// A name of another shape.
    #[error("tier name {0:?} is not 1 to 32 of a-z, 0-9 and '-'")]
    Name(String),
    /// The same name twice.
    #[error("tier {0} is named twice")]
    Twice(TierName),
    /// A tier whose threshold does not rise above the one before.
    #[error("tier {upper}: min {min} must be above the {below} of tier {lower}")]
    Threshold {
        /// The offending tier.
        upper: TierName,
        /// The one before it.
        lower: TierName,
        /// Its threshold.
        min: u64,
        /// The threshold before.
        below: u64,
    },
    /// A tier that gives less than the one before, or nothing more.
    #[error("tier {upper} must give more than tier {lower}: cores and memory may not fall, and one must rise")]
    Resources {
        /// The offending tier.
        upper: TierName,
        /// The one before it.
        lower: TierName,
    },
    /// No cores, or too little memory to boot.
    #[error("tier {0} needs at least 1 core and {min} MiB", min = Tiers::MIN_MEMORY_MIB)]
    TooSmall(TierName),
    /// No agent at all, or more than a holder may have.
    #[error("tier {0}: agents must be from 1 to {max}, not {1}", max = Tier::MAX_AGENTS)]
    Agents(TierName, u32),
    /// Nothing to run an agent in.
    #[error("tier {0}: runtimes must name at least one of qemu, container-gvisor, container-runc and container-crun")]
    Runtimes(TierName),
}

/// The operator's table of tiers, in rising order; valid by construction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tiers(Vec<(TierName, Tier)>);

impl Tiers {
    /// The least memory a guest boots with, in MiB.
    pub const MIN_MEMORY_MIB: u32 = 128;

    /// Checks a table: names unique, thresholds and resources rising.
    ///
    /// # Errors
    /// Names the first tier that breaks a rule.
    pub fn new(mut rows: Vec<(TierName, Tier)>) -> Result<Self, TierError> {
        rows.sort_by_key(|(_, tier)| tier.min);
        for (at, (name, tier)) in rows.iter().enumerate() {
            if tier.cores == 0 || tier.memory < Self::MIN_MEMORY_MIB {
                return Err(TierError::TooSmall(name.clone()));
            }
            if !(1..=Tier::MAX_AGENTS).contains(&tier.agents) {
                return Err(TierError::Agents(name.clone(), tier.agents));
            }
            if tier.runtimes.is_empty() {
                return Err(TierError::Runtimes(name.clone()));
            }
            if rows[..at].iter().any(|(other, _)| other == name) {
                return Err(TierError::Twice(name.clone()));
            }
        }
        for pair in rows.windows(2) {
            let [(lower, small), (upper, big)] = pair else { continue };
            if big.min <= small.min {
                return Err(TierError::Threshold {
                    upper: upper.clone(),
                    lower: lower.clone(),
                    min: big.min,
                    below: small.min,
                });
            }
            let falls = big.cores < small.cores || big.memory < small.memory;
            let same = big.cores == small.cores && big.memory == small.memory;
            if falls || same {
                return Err(TierError::Resources { upper: upper.clone(), lower: lower.clone() });
            }
        }
        if rows.is_empty() { Err(TierError::Empty) } else { Ok(Self(rows)) }
    }

    /// The seed's table.
    #[must_use]
    pub fn romulus() -> Self {
        let row = |name: &str, min, cores, memory, disk: u32| {
            let (disk, agents, runtimes) = (disk * 1024, Tier::DEFAULT_AGENTS, RuntimeKinds::MACHINES);
            (TierName(name.to_owned()), Tier { min, cores, memory, disk, agents, images: None, runtimes })
        };
        Self(vec![
            row("basic", 100_000, 1, 1024, 5),
            row("standard", 500_000, 2, 2048, 10),
            row("pro", 1_000_000, 4, 4096, 20),
            row("power", 5_000_000, 8, 8192, 40),
        ])
    }

    /// The highest tier this balance reaches.
    #[must_use]
    pub fn reached_by(&self, balance: TokenAmount, decimals: u8) -> Option<(&TierName, &Tier)> {
        self.0
            .iter()
            .rev()
            .find(|(_, tier)| balance >= TokenAmount::from_whole(tier.min, decimals))
            .map(|(name, tier)| (name, tier))
    }

    /// The lowest tier: what a holder needs at least.
    #[must_use]
    pub fn lowest(&self) -> (&TierName, &Tier) {
        let (name, tier) = &self.0[0];
        (name, tier)
    }

    /// All rows, rising.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&TierName, &Tier)> {
        self.0.iter().map(|(name, tier)| (name, tier))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, min: u64, cores: u32, memory: u32) -> (TierName, Tier) {
        let disk = Tier::DEFAULT_DISK_MIB;
        let runtimes = RuntimeKinds::MACHINES;
        let tier = Tier { min, cores, memory, disk, agents: 1, images: None, runtimes };
        (TierName::try_from(name.to_owned()).unwrap(), tier)
    }

    #[test]
    fn the_seeds_table_passes_its_own_rules() {
        let rows = Tiers::romulus().0;
        assert!(Tiers::new(rows).is_ok());
    }

    #[test]
    fn a_balance_one_unit_short_reaches_the_tier_below() {
        let tiers = Tiers::romulus();
        let pro = TokenAmount::from_whole(1_000_000, 6);
        let name = |raw| tiers.reached_by(TokenAmount(raw), 6).map(|(name, _)| name.to_string());
        assert_eq!(name(pro.0).as_deref(), Some("pro"));
        assert_eq!(name(pro.0 - 1).as_deref(), Some("standard"));
        assert_eq!(name(0), None);
        assert_eq!(name(u128::MAX).as_deref(), Some("power"));
    }

    #[test]
    fn a_tier_of_one_agent_is_written_as_the_seed_writes_it() {
        let (_, one) = row("a", 1, 2, 256);
        let said = serde_json::to_value(one).unwrap();
        assert_eq!(said, serde_json::json!({"min": 1, "cores": 2, "memory": 256, "disk": Tier::DEFAULT_DISK_MIB}));
        assert_eq!(serde_json::from_value::<Tier>(said).unwrap(), one);
        let three = Tier { agents: 3, ..one };
        assert_eq!(serde_json::to_value(three).unwrap()["agents"], 3);
    }

    #[test]
    fn tables_that_do_not_rise_are_refused_by_name() {
        let agents = |agents| {
            let (name, tier) = row("a", 1, 1, 128);
            (name, Tier { agents, ..tier })
        };
        let nothing = {
            let (name, tier) = row("a", 1, 1, 128);
            (name, Tier { runtimes: std::iter::empty().collect(), ..tier })
        };
        let cases = [
            (
                vec![nothing],
                "tier a: runtimes must name at least one of qemu, container-gvisor, container-runc and container-crun",
            ),
            (vec![], "at least one tier is needed"),
            (vec![row("a", 1, 1, 128), row("a", 2, 2, 256)], "tier a is named twice"),
            (vec![row("a", 1, 1, 128), row("b", 1, 2, 256)], "tier b: min 1 must be above the 1 of tier a"),
            (
                vec![row("a", 1, 2, 256), row("b", 2, 1, 512)],
                "tier b must give more than tier a: cores and memory may not fall, and one must rise",
            ),
            (vec![row("a", 1, 1, 64)], "tier a needs at least 1 core and 128 MiB"),
            (vec![agents(0)], "tier a: agents must be from 1 to 100, not 0"),
            (vec![agents(101)], "tier a: agents must be from 1 to 100, not 101"),
        ];
        for (rows, said) in cases {
            assert_eq!(Tiers::new(rows).unwrap_err().to_string(), said);
        }
    }
}
