//! Admission: what a holder gets of what it asks for, before anything is written.

use std::collections::BTreeSet;
use std::sync::Arc;

use chain::BalanceError;
use domain::{HolderAllowance, ImageDigest, ResourceRequest, RuntimeKind, RuntimeKinds, Tier, TierName, Tiers, Wallet};
use wire::v1::node::{ImageNeeds, RuntimeName};

use crate::context::Context;
use crate::fleet::images::{DemandingImage, ImageTable};
use crate::pods::needs::{Conditions, UnmetNeed};

/// Characters of a runtime's name that are repeated.
const MAX_RUNTIME: usize = 32;

/// What a holder asks for.
#[derive(Clone, Copy, Debug)]
pub struct SpawnAsk<'a> {
    /// Who asks.
    pub holder: Wallet,
    /// What is to boot.
    pub image: ImageAsk<'a>,
    /// A part of the tier's processors.
    pub cores: Option<u32>,
    /// A part of the tier's memory, in MiB.
    pub memory_mib: Option<u32>,
    /// What its last run took, for an agent that is started again: it takes as much,
    /// where nothing else is asked for, and at most what the tier gives now.
    pub before: Option<ResourceRequest>,
    /// The tiers that may bring their own image.
    pub may_bring: &'a BTreeSet<TierName>,
    /// The runtime that is asked for, by its name or by what that begins with.
    pub runtime: Option<&'a str>,
    /// Whether the data of the agent, which is started again, was written by a machine: no
    /// container is given it.
    pub data_of_machine: bool,
    /// Whether the agent has volumes, which are written by machines: no container is given one.
    pub has_volumes: bool,
}

/// Which image is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageAsk<'a> {
    /// One of the operator's, by its name.
    Named(&'a str),
    /// One by its digest, if the tier may bring its own.
    Brought(&'a str),
    /// One that a holder has brought, and that this one may spawn.
    Held {
        /// Which.
        digest: ImageDigest,
        /// What it needs.
        needs: &'a ImageNeeds,
    },
}

/// What a holder gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// What is booted.
    pub image: ImageDigest,
    /// The highest tier that the holder reaches.
    pub tier: TierName,
    /// The part of it that was asked for.
    pub tier_config: Tier,
    /// What all live runs of the holder may take together.
    pub allowance: HolderAllowance,
    /// What it may run in, the strongest first.
    pub runtimes: Vec<RuntimeName>,
}

/// Why a holder gets no agent in the runtime that it asks for, or in any.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuntimeRefusal {
    /// There is none of that name.
    #[error("there is no runtime {asked:?}; there are {}", names(&RuntimeName::ALL))]
    Unknown {
        /// What was asked for.
        asked: String,
    },
    /// The tier does not allow it.
    #[error("your tier does not allow {asked}; it allows {}", kinds(.allowed))]
    NotAllowed {
        /// What was asked for.
        asked: String,
        /// What the tier allows.
        allowed: RuntimeKinds,
    },
    /// No container is given data that a machine has written.
    #[error(
        "the agent's data was written by a machine, and containers are not given such disks; start it in a machine"
    )]
    DataOfMachine,
    /// No container is given volumes, which machines write.
    #[error(
        "an agent with volumes needs a machine: no container is given volumes; ask for {}, or for no volumes",
        RuntimeKind::Qemu.as_str()
    )]
    VolumesNeedMachine,
    /// No node that holds the image offers it.
    #[error("no node that holds this image offers {}; they offer {}", names(.wanted), names(.offered))]
    NotOffered {
        /// What the holder could have.
        wanted: Vec<RuntimeName>,
        /// What there is.
        offered: Vec<RuntimeName>,
    },
}

fn names(runtimes: &[RuntimeName]) -> String {
    runtimes.iter().map(|runtime| runtime.as_str()).collect::<Vec<_>>().join(", ")
}

fn kinds(allowed: &RuntimeKinds) -> String {
    allowed.iter().map(RuntimeKind::as_str).collect::<Vec<_>>().join(", ")
}

/// What a holder may have: what its tier allows, of what it asks for.
fn allowed_runtimes(tier: &Tier, ask: &SpawnAsk<'_>) -> Result<Vec<RuntimeName>, RuntimeRefusal> {
    let asked: Vec<_> =
        RuntimeName::ALL.into_iter().filter(|runtime| ask.runtime.is_none_or(|name| runtime.is_called(name))).collect();
    let name = || ask.runtime.unwrap_or_default().chars().take(MAX_RUNTIME).collect();
    if asked.is_empty() {
        return Err(RuntimeRefusal::Unknown { asked: name() });
    }
    let mut allowed: Vec<_> = asked.into_iter().filter(|runtime| tier.runtimes.allow(runtime.kind())).collect();
    if allowed.is_empty() {
        return Err(RuntimeRefusal::NotAllowed { asked: name(), allowed: tier.runtimes });
    }
    if ask.has_volumes || ask.data_of_machine {
        allowed.retain(|runtime| !runtime.is_container());
    }
    match allowed.is_empty() {
        false => Ok(allowed),
        true if ask.has_volumes => Err(RuntimeRefusal::VolumesNeedMachine),
        true => Err(RuntimeRefusal::DataOfMachine),
    }
}

/// Why a holder gets nothing.
#[derive(Debug, thiserror::Error)]
pub enum AdmitError {
    /// No node has answered since the gateway has started.
    #[error("no node has said yet which images it holds")]
    NoImagesYet,
    /// No node holds an image of this name.
    #[error("{name:?} names no image")]
    UnknownImage {
        /// The name.
        name: String,
        /// The images that are there.
        known: Arc<ImageTable>,
    },
    /// The tier may not bring its own image.
    #[error("the tier {0} may not bring its own image")]
    MayNotBring(TierName),
    /// What should be a digest is none.
    #[error("it is not sha256:<64 hex digits>")]
    NotADigest,
    /// No node holds the image that is brought.
    #[error("no node holds this image")]
    ImageNotHeld,
    /// The balance cannot be read.
    #[error("the holder's balance cannot be read")]
    Balance(#[from] BalanceError),
    /// The holder reaches no tier.
    #[error("the wallet holds too little of the token")]
    InsufficientBalance {
        /// Whole tokens that it holds.
        balance: u64,
        /// What the lowest tier asks for.
        required: u64,
    },
    /// The image needs what the holder would not get.
    #[error("the image cannot work: {unmet}")]
    Unmet {
        /// What it needs.
        unmet: UnmetNeed,
        /// The names of the images that would work.
        working: Vec<String>,
    },
    /// Not in the runtime that is asked for.
    #[error(transparent)]
    Runtime(#[from] RuntimeRefusal),
    /// More than the tier gives, or less than an agent needs.
    #[error("{field} must be from {least} to {most}, which your tier gives, not {asked}")]
    Share {
        /// What of it.
        field: &'static str,
        /// The least.
        least: u32,
        /// What the tier gives.
        most: u32,
        /// What was asked for.
        asked: u32,
    },
}

impl Context {
    /// What the holder gets. What can be refused without the chain is refused first.
    pub(crate) async fn admit(&self, ask: &SpawnAsk<'_>) -> Result<Grant, AdmitError> {
        let table = self.images().await?;
        let (image, share) = match ask.image {
            ImageAsk::Named(name) => (self.image_named(table, name).await?, self.share(ask).await?),
            ImageAsk::Brought(digest) => {
                let share = self.share(ask).await?;
                (brought_image(&table, digest, &share.0, ask.may_bring)?, share)
            }
            ImageAsk::Held { digest, .. } => (digest, self.share(ask).await?),
        };
        let (tier, tier_config, allowance) = share;
        let runtimes = allowed_runtimes(&tier_config, ask)?;
        let mut grant = Grant { image, tier, tier_config, allowance, runtimes };
        let held = match ask.image {
            ImageAsk::Held { needs, .. } => {
                Some(DemandingImage { needs: needs.clone(), runtimes: self.fleet.runtimes() })
            }
            ImageAsk::Named(_) | ImageAsk::Brought(_) => None,
        };
        self.check_needs(&grant, held.as_ref())?;
        self.check_offers(&grant)?;
        let demanding = self.fleet.demanding();
        if let Some(demanding) = held.as_ref().or_else(|| demanding.get(&grant.image)) {
            grant.runtimes.retain(|runtime| demanding.needs.allow(runtime.as_str()));
        }
        Ok(grant)
    }

    /// Whether a node that holds the image offers what it may run in. Before any has said so
    /// nothing is refused.
    fn check_offers(&self, grant: &Grant) -> Result<(), RuntimeRefusal> {
        let offered = self.fleet.offers(grant.image);
        let works = offered.is_empty() || offered.iter().any(|offered| grant.runtimes.contains(offered));
        let refusal = || RuntimeRefusal::NotOffered {
            wanted: grant.runtimes.clone(),
            offered: offered.iter().copied().collect(),
        };
        if works { Ok(()) } else { Err(refusal()) }
    }

    /// Whether the image can work with what it would get. What a holder has brought says itself
    /// what it needs.
    fn check_needs(&self, grant: &Grant, held: Option<&DemandingImage>) -> Result<(), AdmitError> {
        let demanding = self.fleet.demanding();
        let Some(image) = held.or_else(|| demanding.get(&grant.image)) else { return Ok(()) };
        let Grant { tier, tier_config: share, runtimes, .. } = grant;
        let conditions = Conditions { tiers: &self.tiers, tier, share, runtimes };
        let Some(unmet) = conditions.unmet(image) else { return Ok(()) };
        let table = self.fleet.images().unwrap_or_default();
        Err(AdmitError::Unmet { unmet, working: conditions.working(&table, &demanding) })
    }

    async fn share(&self, ask: &SpawnAsk<'_>) -> Result<(TierName, Tier, HolderAllowance), AdmitError> {
        let (tier, full) = self.tier_of(&ask.holder).await?;
        Ok((tier, share_of(full, ask)?, HolderAllowance::from(&full)))
    }

    async fn images(&self) -> Result<Arc<ImageTable>, AdmitError> {
        if let Some(table) = self.fleet.images() {
            return Ok(table);
        }
        self.fleet.refresh().await;
        self.fleet.images().ok_or(AdmitError::NoImagesYet)
    }

    /// The image of this name. One that was imported a moment ago is looked for
    /// again before it is unknown.
    async fn image_named(&self, mut known: Arc<ImageTable>, name: &str) -> Result<ImageDigest, AdmitError> {
        if let Some(digest) = known.get(name) {
            return Ok(*digest);
        }
        self.fleet.refresh().await;
        known = self.fleet.images().unwrap_or(known);
        match known.get(name) {
            Some(digest) => Ok(*digest),
            None => Err(AdmitError::UnknownImage { name: name.to_owned(), known }),
        }
    }

    /// The highest tier the holder's balance reaches.
    pub(crate) async fn tier_of(&self, holder: &Wallet) -> Result<(TierName, Tier), AdmitError> {
        let balance = self.balances.balance(holder).await?;
        if let Some((name, tier)) = self.tiers.reached_by(balance, self.balances.decimals()) {
            return Ok((name.clone(), *tier));
        }
        let (_, lowest) = self.tiers.lowest();
        let balance = balance.whole(self.balances.decimals());
        Err(AdmitError::InsufficientBalance { balance, required: lowest.min })
    }
}

/// The image that the holder names by its digest, if its tier may do that.
fn brought_image(
    table: &ImageTable,
    digest: &str,
    tier: &TierName,
    may_bring: &BTreeSet<TierName>,
) -> Result<ImageDigest, AdmitError> {
    if !may_bring.contains(tier) {
        return Err(AdmitError::MayNotBring(tier.clone()));
    }
    let digest: ImageDigest = digest.parse().map_err(|_| AdmitError::NotADigest)?;
    match table.values().any(|held| *held == digest) {
        true => Ok(digest),
        false => Err(AdmitError::ImageNotHeld),
    }
}

/// The part of a tier that was asked for.
fn share_of(tier: Tier, ask: &SpawnAsk<'_>) -> Result<Tier, AdmitError> {
    let part = |field, asked: Option<u32>, before: Option<u32>, least: u32, most: u32| match asked {
        Some(asked) if !(least..=most).contains(&asked) => Err(AdmitError::Share { field, least, most, asked }),
        Some(asked) => Ok(asked),
        None => Ok(before.unwrap_or(most).min(most)),
    };
    let cores = ask.before.map(|before| before.cores);
    let memory = ask.before.and_then(|before| u32::try_from(before.memory_mib).ok());
    Ok(Tier {
        cores: part("cores", ask.cores, cores, 1, tier.cores)?,
        memory: part("memory", ask.memory_mib, memory, Tiers::MIN_MEMORY_MIB, tier.memory)?,
        ..tier
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIER: Tier = Tier {
        min: 7,
        cores: 4,
        memory: 4_096,
        disk: 1_024,
        agents: 1,
        images: None,
        runtimes: RuntimeKinds::MACHINES,
    };

    fn share(cores: Option<u32>, memory_mib: Option<u32>, before: Option<(u32, u64)>) -> Result<Tier, AdmitError> {
        let before = before.map(|(cores, memory_mib)| ResourceRequest { cores, memory_mib });
        let (holder, image, none) = (Wallet([1; 32]), ImageAsk::Named("any"), BTreeSet::new());
        share_of(
            TIER,
            &SpawnAsk {
                holder,
                image,
                cores,
                memory_mib,
                before,
                may_bring: &none,
                runtime: None,
                data_of_machine: false,
                has_volumes: false,
            },
        )
    }

    #[test]
    fn case_no_capacity_a_part_of_a_tier_may_be_asked_for_and_no_more_than_it() {
        assert_eq!(share(None, None, None).unwrap(), TIER);
        assert_eq!(share(Some(2), Some(1_024), None).unwrap(), Tier { cores: 2, memory: 1_024, ..TIER });
        for (cores, memory, refused) in [
            (Some(5), None, "cores"),
            (Some(0), None, "cores"),
            (None, Some(4_097), "memory"),
            (None, Some(1), "memory"),
        ] {
            let error = share(cores, memory, None).unwrap_err();
            assert!(matches!(error, AdmitError::Share { field, .. } if field == refused), "{error}");
        }
    }

    #[test]
    fn an_agent_that_is_started_again_takes_what_it_took_unless_it_is_told_or_its_tier_gives_less() {
        assert_eq!(share(None, None, Some((1, 512))).unwrap(), Tier { cores: 1, memory: 512, ..TIER });
        assert_eq!(share(Some(3), None, Some((1, 512))).unwrap(), Tier { cores: 3, memory: 512, ..TIER });
        assert_eq!(share(None, None, Some((8, 9_999))).unwrap(), TIER);
    }

    #[test]
    fn a_runtime_is_had_where_the_tier_allows_it_by_name_and_the_strongest_comes_first() {
        use RuntimeName::{ContainerRunc, QemuKvm, QemuTcg};

        let none = BTreeSet::new();
        let ask = |runtime, data_of_machine| SpawnAsk {
            holder: Wallet([1; 32]),
            image: ImageAsk::Named("echo"),
            cores: None,
            memory_mib: None,
            before: None,
            may_bring: &none,
            runtime,
            data_of_machine,
            has_volumes: false,
        };
        let (runtimes, containers) = (RuntimeKinds::MACHINES, [RuntimeKind::Qemu, RuntimeKind::ContainerRunc]);
        let machines = Tier { min: 7, cores: 4, memory: 4_096, disk: 1_024, agents: 1, images: None, runtimes };
        let both = Tier { runtimes: containers.into_iter().collect(), ..machines };
        let cases = [
            (&machines, None, vec![QemuKvm, QemuTcg]),
            (&both, None, vec![QemuKvm, QemuTcg, ContainerRunc]),
            (&both, Some("container"), vec![ContainerRunc]),
            (&both, Some("qemu-tcg"), vec![QemuTcg]),
        ];
        for (tier, asked, got) in cases {
            assert_eq!(allowed_runtimes(tier, &ask(asked, false)), Ok(got), "{asked:?}");
        }
        let refused = |tier, asked, machine| allowed_runtimes(tier, &ask(Some(asked), machine)).unwrap_err();
        assert!(matches!(refused(&machines, "container-runc", false), RuntimeRefusal::NotAllowed { .. }));
        assert!(matches!(refused(&both, "container-crun", false), RuntimeRefusal::NotAllowed { .. }));
        assert!(matches!(refused(&both, "firecracker", false), RuntimeRefusal::Unknown { .. }));
        assert_eq!(refused(&both, "container", true), RuntimeRefusal::DataOfMachine);
        assert_eq!(allowed_runtimes(&both, &ask(None, true)), Ok(vec![QemuKvm, QemuTcg]));

        let with_volumes = |runtime| SpawnAsk { has_volumes: true, ..ask(runtime, false) };
        assert_eq!(allowed_runtimes(&both, &with_volumes(None)), Ok(vec![QemuKvm, QemuTcg]));
        let containers = Tier { runtimes: [RuntimeKind::ContainerRunc].into_iter().collect(), ..machines };
        for (tier, asked) in [(&both, Some("container")), (&both, Some("container-runc")), (&containers, None)] {
            assert_eq!(allowed_runtimes(tier, &with_volumes(asked)), Err(RuntimeRefusal::VolumesNeedMachine));
        }
    }
}
