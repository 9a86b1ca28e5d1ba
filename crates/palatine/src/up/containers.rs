//! Containers beside emulated machines: what cannot live under emulation (`chat`, `coding`) runs in one where there is no
//! KVM. Node and tiers allow containers by name, as everywhere; here that is written for an operator who says nothing of
//! it. Whoever asks for nothing still gets a machine, if the image lives in one.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use domain::{RuntimeKind, RuntimeKinds, Tiers};
use sandbox::drivers::container::{Container, OciRuntime};
use toml::{Table, Value};
use wire::v1::node::RuntimeName;

use super::settings::{said, section};

/// What a node that says nothing else is to offer.
const OFFERED: [RuntimeKind; 2] = [RuntimeKind::Qemu, RuntimeKind::ContainerRunc];

/// Whether the node offers containers beside machines.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Containers {
    /// The operator has said what it offers, or that there is KVM.
    Said,
    /// It does, because nothing was said.
    Offered,
    /// It does not, because the machine lacks this.
    Lacking(String),
}

impl Containers {
    /// Has the node with this state folder offer them, with users from this one on, unless the operator says something of
    /// it.
    pub(super) fn offer(config: &mut Table, state: &Path, first_uid: u32) -> Result<Self> {
        let has_kvm = said(config, "node", "accelerator").is_some_and(|choice| choice.as_str() == Some("kvm"));
        if has_kvm || said(config, "node", "runtimes").is_some() {
            return Ok(Self::Said);
        }
        if let Err(lacking) = Container::check(OciRuntime::Runc, state) {
            return Ok(Self::Lacking(lacking.to_string()));
        }
        let node = section(config, "node")?;
        node.insert("runtimes".to_owned(), names(OFFERED));
        node.entry("first_container_uid").or_insert(i64::from(first_uid).into());
        Ok(Self::Offered)
    }

    /// Allows them to every tier of which the operator does not say what it allows, if the strongest that the node has is
    /// an emulated machine; what is to be said of it.
    pub(super) fn allow(&self, config: &Path, strongest: RuntimeName) -> Result<Option<String>> {
        match (self, strongest) {
            (Self::Offered, RuntimeName::QemuTcg) => {
                let text = fs::read_to_string(config).context("read the configuration")?;
                let mut read: Table = toml::from_str(&text).context("read the configuration")?;
                allow_in_tiers(&mut read)?;
                fs::write(config, toml::to_string(&read)?).context("write the configuration")?;
                let container = RuntimeName::ContainerRunc.as_str();
                Ok(Some(format!(
                    "what cannot live under emulation (chat, coding) runs in {container}, whose kernel is this machine's"
                )))
            }
            (Self::Lacking(lacking), RuntimeName::QemuTcg) => {
                Ok(Some(format!("what cannot live under emulation (chat, coding) is refused: {lacking}")))
            }
            (Self::Said, _)
            | (
                _,
                RuntimeName::QemuKvm
                | RuntimeName::ContainerRunc
                | RuntimeName::ContainerCrun
                | RuntimeName::ContainerGvisor,
            ) => Ok(None),
        }
    }
}

fn names(kinds: impl IntoIterator<Item = RuntimeKind>) -> Value {
    kinds.into_iter().map(RuntimeKind::as_str).collect::<Vec<_>>().into()
}

/// The operator's tiers, or the seed's.
fn allow_in_tiers(config: &mut Table) -> Result<()> {
    let tiers = section(config, "tiers")?;
    if tiers.is_empty() {
        for (name, tier) in Tiers::romulus().iter() {
            tiers.insert(name.to_string(), Table::try_from(tier).context("write a tier")?.into());
        }
    }
    for (name, tier) in tiers {
        let tier =
            tier.as_table_mut().with_context(|| format!("read the configuration: tiers.{name} is no section"))?;
        let allowed: RuntimeKinds = OFFERED.into_iter().collect();
        tier.entry("runtimes").or_insert_with(|| names(allowed.iter()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATE: &str = "/var/lib/a-node";

    fn offer(text: &str, state: &Path) -> (Containers, Table) {
        let mut config: Table = text.parse().unwrap();
        let offered = Containers::offer(&mut config, state, 0x2000_0000).unwrap();
        (offered, config)
    }

    #[test]
    fn containers_are_offered_beside_machines_unless_the_operator_says_something_of_it() {
        let (offered, config) = offer("[node]\naccelerator = \"tcg\"\n", Path::new(STATE));
        assert_eq!(offered, Containers::Offered);
        assert_eq!(config["node"]["runtimes"], names(OFFERED));
        assert_eq!(config["node"]["first_container_uid"].as_integer(), Some(0x2000_0000));
        for own in ["[node]\nruntimes = [\"qemu\"]\n", "[node]\naccelerator = \"kvm\"\n"] {
            let (offered, config) = offer(own, Path::new(STATE));
            assert_eq!((offered, config), (Containers::Said, own.parse().unwrap()));
        }
        let own = "[node]\nfirst_container_uid = 5\n";
        assert_eq!(offer(own, Path::new(STATE)).1["node"]["first_container_uid"].as_integer(), Some(5));
    }

    #[test]
    fn where_they_cannot_be_made_the_stack_starts_without_them_and_says_why() {
        let deep = Path::new("/").join("a".repeat(200));
        let (offered, config) = offer("", &deep);
        let Containers::Lacking(why) = &offered else { panic!("{offered:?}") };
        assert!(!why.is_empty() && config.is_empty());
        let said = offered.allow(Path::new("/nowhere"), RuntimeName::QemuTcg).unwrap().unwrap();
        assert!(said.contains("chat, coding") && said.contains(why), "{said}");
        assert_eq!(offered.allow(Path::new("/nowhere"), RuntimeName::QemuKvm).unwrap(), None);
    }

    #[test]
    fn tiers_allow_them_where_there_is_no_kvm_and_the_operators_own_word_stands() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("palatine.toml");
        let after = |text: &str, strongest| {
            fs::write(&path, text).unwrap();
            Containers::Offered.allow(&path, strongest).unwrap();
            crate::config::Config::load(Some(&path)).unwrap().tiers().unwrap()
        };
        let containers = RuntimeKind::ContainerRunc;
        let seeds = after("", RuntimeName::QemuTcg);
        assert!(
            seeds.iter().all(|(_, tier)| tier.runtimes.allow(containers) && tier.runtimes.allow(RuntimeKind::Qemu))
        );
        let romulus = Tiers::romulus();
        assert!(seeds.iter().zip(romulus.iter()).all(|(one, other)| one.0 == other.0 && one.1.min == other.1.min));
        assert_eq!(after("", RuntimeName::QemuKvm), romulus);
        let own = "[tiers.low]\nmin = 1\ncores = 1\nmemory = 256\nruntimes = [\"qemu\"]\n\
                   [tiers.high]\nmin = 2\ncores = 2\nmemory = 256\n";
        let own = after(own, RuntimeName::QemuTcg);
        let allowed: Vec<_> = own.iter().map(|(name, tier)| (name.as_str(), tier.runtimes.allow(containers))).collect();
        assert_eq!(allowed, [("low", false), ("high", true)]);
    }
}
