//! What the node can still hold.

use domain::{Ask, NoRoom};

/// What the machine gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Capacity {
    /// Physical processors: no guest gets more.
    pub(crate) cores: u32,
    /// Virtual processors, all guests together.
    pub(crate) vcpus: u32,
    /// Memory for guests and what runs them, in MiB.
    pub(crate) memory_mib: u64,
    /// What each guest takes beyond its own memory.
    pub(crate) overhead_mib: u64,
    /// Seats.
    pub(crate) slots: u16,
}

/// What is given already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Load {
    pub(crate) vcpus: u32,
    /// Without overheads.
    pub(crate) memory_mib: u64,
    pub(crate) sandboxes: u32,
}

impl Load {
    /// The load with one more guest.
    pub(crate) const fn plus(self, ask: Ask) -> Self {
        Self {
            vcpus: self.vcpus.saturating_add(ask.cores),
            memory_mib: self.memory_mib.saturating_add(ask.memory_mib),
            sandboxes: self.sandboxes.saturating_add(1),
        }
    }
}

impl Capacity {
    /// Whether one more guest fits.
    pub(crate) fn admit(&self, load: Load, ask: Ask) -> Result<(), NoRoom> {
        if ask.cores > self.cores {
            return Err(NoRoom::TooLarge(ask.cores));
        }
        let fits = ask.cores <= self.free_vcpus(load)
            && ask.memory_mib <= self.free_memory_mib(load)
            && load.sandboxes < u32::from(self.slots);
        if fits { Ok(()) } else { Err(NoRoom::Full) }
    }

    /// Virtual processors still to be given.
    pub(crate) const fn free_vcpus(&self, load: Load) -> u32 {
        self.vcpus.saturating_sub(load.vcpus)
    }

    /// Memory the next guest may ask for: its own overhead is taken off already.
    pub(crate) fn free_memory_mib(&self, load: Load) -> u64 {
        let overheads = self.overhead_mib.saturating_mul(u64::from(load.sandboxes) + 1);
        self.memory_mib.saturating_sub(load.memory_mib).saturating_sub(overheads)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn memory_is_never_given_twice(
            asks in proptest::collection::vec((1_u32..9, 1_u64..5_000), 0..60),
            memory_mib in 0_u64..40_000, overhead_mib in 0_u64..300,
        ) {
            let capacity = Capacity { cores: 8, vcpus: 64, memory_mib, overhead_mib, slots: 40 };
            let mut load = Load::default();
            for (cores, memory_mib) in asks {
                let ask = Ask { cores, memory_mib };
                let room = capacity.free_memory_mib(load);
                if capacity.admit(load, ask).is_ok() {
                    prop_assert!(memory_mib <= room);
                    load = load.plus(ask);
                }
                let used = load.memory_mib + overhead_mib * u64::from(load.sandboxes);
                prop_assert!(used <= capacity.memory_mib);
                prop_assert!(load.vcpus <= capacity.vcpus && load.sandboxes <= 40);
            }
        }
    }

    #[test]
    fn a_guest_with_more_cores_than_the_machine_never_fits() {
        let capacity = Capacity { cores: 2, vcpus: 64, memory_mib: 9_999, overhead_mib: 0, slots: 9 };
        assert_eq!(capacity.admit(Load::default(), Ask { cores: 4, memory_mib: 1 }), Err(NoRoom::TooLarge(4)));
    }
}
