//! Whether an image can work for a holder. Pure.

use std::collections::BTreeSet;

use domain::{ImageDigest, Tier, TierName, Tiers};
use wire::v1::node::{ImageNeeds, RuntimeName};

use crate::fleet::images::{DemandingImage, DemandingImages, ImageTable};

/// What an image needs and would not get.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnmetNeed {
    /// A higher tier.
    #[error("it needs the tier {needs}, and yours is {tier}")]
    Tier {
        /// The lowest that does.
        needs: TierName,
        /// The holder's.
        tier: TierName,
    },
    /// More memory.
    #[error("it needs {needs} MiB of memory, and would get {gets}")]
    Memory {
        /// The least, in MiB.
        needs: u32,
        /// What it would get, in MiB.
        gets: u32,
        /// What the holder's tier gives, in MiB.
        tier_gives: u32,
    },
    /// Another runtime than its holder may have of any node that holds it.
    #[error("it works in {}, and {}", .needs.join(", "), there_is(.has))]
    Runtime {
        /// Those in which it works.
        needs: Vec<String>,
        /// Those that there are for its holder.
        has: Vec<String>,
    },
}

fn there_is(has: &[String]) -> String {
    match has {
        [] => "no node that holds it has a runtime that you may have".to_owned(),
        has => format!("the nodes have {}", has.join(", ")),
    }
}

/// What a holder would give an image.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Conditions<'a> {
    pub(crate) tiers: &'a Tiers,
    pub(crate) tier: &'a TierName,
    /// The part of the tier that was asked for.
    pub(crate) share: &'a Tier,
    /// The runtimes that the holder may have.
    pub(crate) runtimes: &'a [RuntimeName],
}

impl Conditions<'_> {
    /// What the image needs and would not get, if there is anything.
    pub(crate) fn unmet(&self, image: &DemandingImage) -> Option<UnmetNeed> {
        let DemandingImage { needs, runtimes } = image;
        let unmet = self.unmet_tier(needs).or_else(|| self.unmet_memory(needs));
        unmet.or_else(|| self.unmet_runtime(needs, runtimes))
    }

    fn unmet_tier(&self, needs: &ImageNeeds) -> Option<UnmetNeed> {
        let lowest = needs.min_tier.as_ref()?;
        let place = |name: &TierName| self.tiers.iter().position(|(tier, _)| tier == name);
        let too_low = place(self.tier)? < place(lowest)?;
        too_low.then(|| UnmetNeed::Tier { needs: lowest.clone(), tier: self.tier.clone() })
    }

    fn unmet_memory(&self, needs: &ImageNeeds) -> Option<UnmetNeed> {
        let (needs, gets) = (needs.min_memory_mib?, self.share.memory);
        let full = self.tiers.iter().find(|(tier, _)| **tier == *self.tier).map_or(gets, |(_, tier)| tier.memory);
        (gets < needs).then_some(UnmetNeed::Memory { needs, gets, tier_gives: full })
    }

    fn unmet_runtime(&self, needs: &ImageNeeds, offered: &BTreeSet<RuntimeName>) -> Option<UnmetNeed> {
        let has: Vec<RuntimeName> = offered.iter().copied().filter(|offered| self.runtimes.contains(offered)).collect();
        // Before any node has said what it offers nothing is refused.
        let works = offered.is_empty() || has.iter().any(|runtime| needs.allow(runtime.as_str()));
        let names = || has.iter().map(|runtime| runtime.as_str().to_owned()).collect();
        (!works).then(|| UnmetNeed::Runtime { needs: needs.runtimes.clone(), has: names() })
    }

    /// The names of the images that would work.
    pub(crate) fn working(&self, table: &ImageTable, demanding: &DemandingImages) -> Vec<String> {
        let works = |digest: &ImageDigest| demanding.get(digest).is_none_or(|image| self.unmet(image).is_none());
        table.iter().filter(|(_, digest)| works(digest)).map(|(name, _)| name.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tier(name: &str) -> TierName {
        TierName::try_from(name.to_owned()).unwrap()
    }

    fn image(min_tier: Option<&str>, min_memory_mib: Option<u32>, runtimes: &[&str]) -> DemandingImage {
        let runtimes = runtimes.iter().map(|runtime| (*runtime).to_owned()).collect();
        let needs = ImageNeeds { min_memory_mib, min_tier: min_tier.map(tier), runtimes };
        DemandingImage { needs, runtimes: BTreeSet::from([RuntimeName::QemuTcg]) }
    }

    /// What of these images a holder of this tier misses, with this much of its memory.
    fn unmet(name: &str, memory: Option<u32>, image: &DemandingImage) -> Option<UnmetNeed> {
        let (tiers, tier) = (Tiers::romulus(), tier(name));
        let full = *tiers.iter().find(|(one, _)| **one == tier).unwrap().1;
        let share = Tier { memory: memory.unwrap_or(full.memory), ..full };
        Conditions { tiers: &tiers, tier: &tier, share: &share, runtimes: &RuntimeName::ALL }.unmet(image)
    }

    #[test]
    fn an_image_works_where_all_that_it_needs_is_there() {
        let coding = image(Some("standard"), Some(1_536), &["qemu", "container-runc"]);
        assert_eq!(unmet("standard", None, &coding), None);
        assert_eq!(unmet("power", None, &coding), None);
        let refused = unmet("basic", None, &coding);
        assert_eq!(refused, Some(UnmetNeed::Tier { needs: tier("standard"), tier: tier("basic") }));
        let less = unmet("standard", Some(1_024), &coding);
        assert_eq!(less, Some(UnmetNeed::Memory { needs: 1_536, gets: 1_024, tier_gives: 2_048 }));
    }

    #[test]
    fn an_image_that_cannot_live_in_any_nodes_runtime_says_in_which_it_does() {
        let refused = unmet("power", None, &image(None, None, &["qemu-kvm", "container"])).unwrap();
        assert_eq!(refused.to_string(), "it works in qemu-kvm, container, and the nodes have qemu-tcg");
        assert_eq!(unmet("power", None, &image(None, None, &[])), None);
    }

    #[test]
    fn a_tier_that_the_operator_does_not_have_is_asked_of_nobody() {
        assert_eq!(unmet("basic", None, &image(Some("gold"), None, &[])), None);
    }

    #[test]
    fn what_would_work_is_named() {
        let [coding, nano, echo] = [1, 2, 3].map(|n| ImageDigest([n; 32]));
        let table =
            [("coding", coding), ("nano", nano), ("echo", echo)].map(|(name, digest)| (name.to_owned(), digest));
        let demanding = [(coding, image(Some("standard"), None, &[])), (nano, image(None, Some(512), &["qemu"]))];
        let (tiers, basic) = (Tiers::romulus(), tier("basic"));
        let share = *tiers.lowest().1;
        let conditions = Conditions { tiers: &tiers, tier: &basic, share: &share, runtimes: &RuntimeName::ALL };
        assert_eq!(conditions.working(&table.into(), &demanding.into()), ["echo", "nano"]);
    }
}
