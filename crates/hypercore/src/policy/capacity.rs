//! What the node can still hold.

use domain::{PlacementError, ResourceRequest};

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
    /// Slots.
    pub(crate) slots: u16,
    /// What each guest's disks are promised.
    pub(crate) agent_disk_mib: u64,
    /// Percent of the room for guests' disks that is promised.
    pub(crate) disk_percent: u32,
    /// Disk that must stay free.
    pub(crate) disk_free_mib: u64,
}

/// The disk under the guests' disks, as it is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DiskSpace {
    /// What is free.
    pub(crate) free_mib: u64,
    /// What the guests' disks take already.
    pub(crate) guests_mib: u64,
}

impl DiskSpace {
    /// The room when the guests have taken disks back that are kept now: what those take is
    /// part of what the guests are promised.
    pub(crate) const fn with_guests(self, mib: u64) -> Self {
        Self { guests_mib: self.guests_mib.saturating_add(mib), ..self }
    }
}

/// Why no more of the disk is promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DiskShortage {
    /// It is promised to others.
    Promised,
    /// There is not so much, even where nobody else is promised any.
    TooSmall,
}

/// What is given already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Allocated {
    pub(crate) vcpus: u32,
    /// Without overheads.
    pub(crate) memory_mib: u64,
    pub(crate) sandboxes: u32,
    /// Promised to their disks.
    pub(crate) disk_mib: u64,
}

impl Allocated {
    /// The load with one more guest.
    pub(crate) const fn plus(self, ask: ResourceRequest, disk_mib: u64) -> Self {
        Self {
            vcpus: self.vcpus.saturating_add(ask.cores),
            memory_mib: self.memory_mib.saturating_add(ask.memory_mib),
            sandboxes: self.sandboxes.saturating_add(1),
            disk_mib: self.disk_mib.saturating_add(disk_mib),
        }
    }
}

impl Capacity {
    /// Whether one more guest fits.
    pub(crate) fn admit(&self, load: Allocated, ask: ResourceRequest, room: DiskSpace) -> Result<(), PlacementError> {
        let most = ResourceRequest { cores: self.cores, memory_mib: self.free_memory_mib(Allocated::default()) };
        if ask.cores > most.cores || ask.memory_mib > most.memory_mib {
            return Err(PlacementError::TooLarge { ask, most });
        }
        let fits = ask.cores <= self.free_vcpus(load)
            && ask.memory_mib <= self.free_memory_mib(load)
            && self.agent_disk_mib <= self.free_disk_mib(load, room)
            && load.sandboxes < u32::from(self.slots);
        if fits { Ok(()) } else { Err(PlacementError::Full) }
    }

    /// Whether a machine of the node's own fits, which is promised no disk.
    pub(crate) fn admit_helper(&self, load: Allocated, ask: ResourceRequest) -> Result<(), PlacementError> {
        let fits = ask.cores <= self.free_vcpus(load)
            && ask.memory_mib <= self.free_memory_mib(load)
            && load.sandboxes < u32::from(self.slots);
        if fits { Ok(()) } else { Err(PlacementError::Full) }
    }

    /// Whether so much more disk can be promised.
    pub(crate) fn admit_disk(&self, load: Allocated, mib: u64, room: DiskSpace) -> Result<(), DiskShortage> {
        if mib <= self.free_disk_mib(load, room) {
            Ok(())
        } else if mib <= self.free_disk_mib(Allocated::default(), room) {
            Err(DiskShortage::Promised)
        } else {
            Err(DiskShortage::TooSmall)
        }
    }

    /// Virtual processors still to be given.
    pub(crate) const fn free_vcpus(&self, load: Allocated) -> u32 {
        self.vcpus.saturating_sub(load.vcpus)
    }

    /// Disk still to be promised.
    pub(crate) fn free_disk_mib(&self, load: Allocated, room: DiskSpace) -> u64 {
        let all = room.free_mib.saturating_add(room.guests_mib).saturating_sub(self.disk_free_mib);
        (all.saturating_mul(self.disk_percent.into()) / 100).saturating_sub(load.disk_mib)
    }

    /// Memory the next guest may ask for: its own overhead is taken off already.
    pub(crate) fn free_memory_mib(&self, load: Allocated) -> u64 {
        let overheads = self.overhead_mib.saturating_mul(u64::from(load.sandboxes) + 1);
        self.memory_mib.saturating_sub(load.memory_mib).saturating_sub(overheads)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ROOMY: DiskSpace = DiskSpace { free_mib: u64::MAX, guests_mib: 0 };

    fn capacity() -> Capacity {
        Capacity {
            cores: 8,
            vcpus: 64,
            memory_mib: 9_999,
            overhead_mib: 0,
            slots: 40,
            agent_disk_mib: 0,
            disk_percent: 100,
            disk_free_mib: 0,
        }
    }

    proptest! {
        #[test]
        fn memory_is_never_given_twice(
            asks in proptest::collection::vec((1_u32..9, 1_u64..5_000), 0..60),
            memory_mib in 0_u64..40_000, overhead_mib in 0_u64..300,
        ) {
            let capacity = Capacity { memory_mib, overhead_mib, ..capacity() };
            let mut load = Allocated::default();
            for (cores, memory_mib) in asks {
                let ask = ResourceRequest { cores, memory_mib };
                let room = capacity.free_memory_mib(load);
                if capacity.admit(load, ask, ROOMY).is_ok() {
                    prop_assert!(memory_mib <= room);
                    load = load.plus(ask, 0);
                }
                let used = load.memory_mib + overhead_mib * u64::from(load.sandboxes);
                prop_assert!(used <= capacity.memory_mib);
                prop_assert!(load.vcpus <= capacity.vcpus && load.sandboxes <= 40);
            }
        }

        #[test]
        fn a_volume_is_promised_what_is_there_and_no_more(
            size_mib in 0_u64..200_000, asks in proptest::collection::vec(1_u64..50_000, 0..40),
            disk_percent in 1_u32..200, disk_free_mib in 0_u64..5_000,
        ) {
            let capacity = Capacity { disk_percent, disk_free_mib, ..capacity() };
            let room = DiskSpace { free_mib: size_mib, guests_mib: 0 };
            let all = size_mib.saturating_sub(disk_free_mib) * u64::from(disk_percent) / 100;
            let mut load = Allocated::default();
            for mib in asks {
                match capacity.admit_disk(load, mib, room) {
                    Ok(()) => load.disk_mib += mib,
                    Err(DiskShortage::Promised) => prop_assert!(load.disk_mib + mib > all && mib <= all),
                    Err(DiskShortage::TooSmall) => prop_assert!(mib > all),
                }
                prop_assert!(load.disk_mib <= all);
            }
        }

        #[test]
        fn fault_1_6_no_more_disk_is_promised_than_the_overcommit_allows(
            size_mib in 0_u64..200_000, written in 0_u64..100, agent_disk_mib in 1_u64..10_000,
            disk_percent in 1_u32..400, disk_free_mib in 0_u64..5_000, guests in 0_usize..60,
        ) {
            let capacity = Capacity { agent_disk_mib, disk_percent, disk_free_mib, ..capacity() };
            let (ask, mut load) = (ResourceRequest { cores: 1, memory_mib: 1 }, Allocated::default());
            for _ in 0..guests {
                // Whatever part of their promise the guests have written: the room is the same.
                let guests_mib = (load.disk_mib * written / 100).min(size_mib);
                let room = DiskSpace { free_mib: size_mib - guests_mib, guests_mib };
                if capacity.admit(load, ask, room).is_ok() {
                    load = load.plus(ask, agent_disk_mib);
                }
            }
            let most = size_mib.saturating_sub(disk_free_mib) * u64::from(disk_percent) / 100;
            prop_assert!(load.disk_mib <= most);
            prop_assert!(load.disk_mib + agent_disk_mib > most || load.sandboxes as usize == guests || load.sandboxes == 40);
        }
    }

    #[test]
    fn a_disk_that_is_taken_back_is_part_of_what_its_run_is_promised() {
        let capacity = Capacity { agent_disk_mib: 100, ..capacity() };
        let (ask, room) = (ResourceRequest { cores: 1, memory_mib: 1 }, DiskSpace { free_mib: 60, guests_mib: 0 });
        assert_eq!(capacity.admit(Allocated::default(), ask, room), Err(PlacementError::Full));
        assert_eq!(capacity.admit(Allocated::default(), ask, room.with_guests(39)), Err(PlacementError::Full));
        assert_eq!(capacity.admit(Allocated::default(), ask, room.with_guests(40)), Ok(()));
    }

    #[test]
    fn a_guest_with_more_than_the_machine_has_never_fits() {
        let capacity = Capacity { cores: 2, overhead_mib: 99, ..capacity() };
        let most = ResourceRequest { cores: 2, memory_mib: 9_900 };
        for ask in [ResourceRequest { cores: 4, memory_mib: 1 }, ResourceRequest { cores: 1, memory_mib: 9_901 }] {
            assert_eq!(capacity.admit(Allocated::default(), ask, ROOMY), Err(PlacementError::TooLarge { ask, most }));
        }
        assert_eq!(capacity.admit(Allocated::default(), most, ROOMY), Ok(()));
    }
}
