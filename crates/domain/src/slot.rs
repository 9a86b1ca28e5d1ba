//! Which of a holder's runs may live at once: each takes a slot, and all together no more
//! than the holder's tier gives.

use std::fmt;

use crate::placement::ResourceRequest;
use crate::pod::PodId;
use crate::tier::Tier;

/// What all live runs of a holder may take together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HolderAllowance {
    /// Runs at once.
    pub agents: u32,
    /// Their cores.
    pub cores: u32,
    /// Their memory, in MiB.
    pub memory_mib: u64,
}

impl From<&Tier> for HolderAllowance {
    fn from(tier: &Tier) -> Self {
        Self { agents: tier.agents, cores: tier.cores, memory_mib: tier.memory.into() }
    }
}

/// A slot that a live run has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TakenSlot {
    /// Its number, from 0.
    pub slot: u32,
    /// The POD that runs in it.
    pub pod: PodId,
    /// What it takes.
    pub takes: ResourceRequest,
}

/// What a holder's live runs take, and what that leaves no room for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowanceExceeded {
    /// What is allowed.
    pub allowed: HolderAllowance,
    /// What was asked for.
    pub asked: ResourceRequest,
    /// What runs.
    pub taken: Vec<TakenSlot>,
}

impl AllowanceExceeded {
    /// Cores and memory that are in use.
    #[must_use]
    pub fn in_use(&self) -> ResourceRequest {
        sum(&self.taken)
    }
}

impl fmt::Display for AllowanceExceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { allowed, asked, taken } = self;
        let in_use = self.in_use();
        write!(
            f,
            "your tier allows {} agents at once with {} cores and {} MiB together; {} run and use {} cores and {} MiB",
            allowed.agents,
            allowed.cores,
            allowed.memory_mib,
            taken.len(),
            in_use.cores,
            in_use.memory_mib
        )?;
        write!(f, ", and this one asks for {} cores and {} MiB", asked.cores, asked.memory_mib)
    }
}

/// The lowest free slot, if one more run that takes so much may live beside those that do.
///
/// # Errors
/// [`AllowanceExceeded`] says what is in use.
pub fn free_slot(
    allowed: HolderAllowance,
    asked: ResourceRequest,
    taken: Vec<TakenSlot>,
) -> Result<u32, AllowanceExceeded> {
    let in_use = sum(&taken);
    let fits = u32::try_from(taken.len()).is_ok_and(|count| count < allowed.agents)
        && in_use.cores.saturating_add(asked.cores) <= allowed.cores
        && in_use.memory_mib.saturating_add(asked.memory_mib) <= allowed.memory_mib;
    let lowest = (0..allowed.agents).find(|slot| taken.iter().all(|run| run.slot != *slot));
    lowest.filter(|_| fits).ok_or(AllowanceExceeded { allowed, asked, taken })
}

fn sum(taken: &[TakenSlot]) -> ResourceRequest {
    let none = ResourceRequest { cores: 0, memory_mib: 0 };
    taken.iter().fold(none, |all, run| ResourceRequest {
        cores: all.cores.saturating_add(run.takes.cores),
        memory_mib: all.memory_mib.saturating_add(run.takes.memory_mib),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::id::RunId;

    const fn asks(cores: u32, memory_mib: u64) -> ResourceRequest {
        ResourceRequest { cores, memory_mib }
    }

    fn runs(slot: u32, takes: ResourceRequest) -> TakenSlot {
        TakenSlot { slot, pod: PodId::minted(RunId::from_bits(slot.into())), takes }
    }

    #[test]
    fn with_one_agent_allowed_the_first_has_slot_zero_and_no_second_one_has_any() {
        let allowed = HolderAllowance { agents: 1, cores: 2, memory_mib: 2048 };
        assert_eq!(free_slot(allowed, asks(2, 2048), vec![]), Ok(0));
        assert!(free_slot(allowed, asks(1, 128), vec![runs(0, asks(1, 128))]).is_err());
        // As after the operator allowed more for a while.
        assert!(free_slot(allowed, asks(1, 128), vec![runs(3, asks(1, 128))]).is_err());
    }

    #[test]
    fn what_does_not_fit_is_refused_with_what_is_in_use() {
        let allowed = HolderAllowance { agents: 3, cores: 4, memory_mib: 4096 };
        let taken = vec![runs(0, asks(1, 1024)), runs(2, asks(2, 1024))];
        assert_eq!(free_slot(allowed, asks(1, 2048), taken.clone()), Ok(1));
        for asked in [asks(2, 128), asks(1, 2049), asks(u32::MAX, u64::MAX)] {
            let refused = free_slot(allowed, asked, taken.clone()).unwrap_err();
            assert_eq!((refused.in_use(), &refused.taken), (asks(3, 2048), &taken));
        }
        let said = free_slot(allowed, asks(2, 128), taken).unwrap_err().to_string();
        assert_eq!(
            said,
            "your tier allows 3 agents at once with 4 cores and 4096 MiB together; 2 run and use 3 cores and 2048 MiB, \
             and this one asks for 2 cores and 128 MiB"
        );
    }

    proptest! {
        #[test]
        fn whatever_comes_and_goes_slots_are_apart_and_the_sum_is_kept(
            steps in proptest::collection::vec((any::<bool>(), 1_u32..4, 128_u64..1024, 0_usize..8), 1..60),
        ) {
            let allowed = HolderAllowance { agents: 4, cores: 6, memory_mib: 2048 };
            let mut live: Vec<TakenSlot> = Vec::new();
            for (comes, cores, memory, which) in steps {
                if comes {
                    if let Ok(slot) = free_slot(allowed, asks(cores, memory), live.clone()) {
                        prop_assert!(live.iter().all(|run| run.slot != slot) && slot < allowed.agents);
                        live.push(runs(slot, asks(cores, memory)));
                    }
                } else if which < live.len() {
                    live.swap_remove(which);
                }
                let in_use = sum(&live);
                prop_assert!(live.len() <= 4 && in_use.cores <= 6 && in_use.memory_mib <= 2048);
            }
        }
    }
}
