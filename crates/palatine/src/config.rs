//! `palatine.toml`: one file, a section for each part, each with its own type.
//!
//! Sources, the later over the earlier: the defaults, the file, and variables
//! named `PALATINE__<SECTION>__<KEY>`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ::config::{Environment, File, FileFormat};
use anyhow::{Context, Result, bail};
use domain::{Tier, TierName, Tiers};
use serde::Deserialize;
use store::SealingKeyFile;

/// Where a configuration is looked for, if none is named.
const PLACES: [&str; 2] = ["palatine.toml", "/etc/palatine/palatine.toml"];

/// The prefix of variables that override keys.
const PREFIX: &str = "PALATINE";

/// The whole file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Config {
    /// The public edge.
    pub(crate) gateway: gateway::Config,
    /// Certificates.
    pub(crate) tls: gateway::TlsConfig,
    /// What one client may take.
    pub(crate) limits: gateway::Limits,
    /// The tiers, by name. Default: Romulus's four.
    pub(crate) tiers: BTreeMap<TierName, Tier>,
    /// The token, and where balances are read.
    pub(crate) solana: chain::SolanaConfig,
    /// The chain of the vaults; without it there are no vaults and no payments.
    pub(crate) evm: Option<chain::EvmConfig>,
    /// The agents' keys.
    pub(crate) treasury: treasury::Config,
    /// The gasless relayer.
    pub(crate) relayer: relay::Config,
    /// Pay per request.
    pub(crate) x402: x402::Config,
    /// Spawning and the reconcilers.
    pub(crate) control: control::Config,
    /// The database.
    pub(crate) store: store::Config,
    /// The node daemon.
    pub(crate) node: hypercore::Config,
    /// The guests' networks.
    pub(crate) network: hypercore::NetworkConfig,
    /// Images and kernels.
    pub(crate) images: image::Config,
    /// Logs and traces.
    pub(crate) log: telemetry::Config,
}

impl Config {
    /// Reads the configuration and checks every section.
    pub(crate) fn load(named: Option<&Path>) -> Result<Self> {
        let file = Self::find(named);
        let mut sources = ::config::Config::builder();
        if let Some(path) = &file {
            sources = sources.add_source(File::from(path.as_path()).format(FileFormat::Toml));
        }
        let variables = Environment::with_prefix(PREFIX).prefix_separator("__").separator("__").try_parsing(true);
        let read = || -> Result<Self> {
            let mut config: Self = sources.add_source(variables).build()?.try_deserialize()?;
            config.place_sealing_key();
            config.check()?;
            Ok(config)
        };
        let name = file.as_deref().map_or_else(|| "the configuration".to_owned(), |path| path.display().to_string());
        read().with_context(|| format!("read {name}"))
    }

    /// The file that `load` reads, if there is one.
    pub(crate) fn find(named: Option<&Path>) -> Option<PathBuf> {
        named.map(PathBuf::from).or_else(|| PLACES.map(PathBuf::from).into_iter().find(|path| path.is_file()))
    }

    /// Where nothing is said of it, the sealing key lies in the store's directory.
    fn place_sealing_key(&mut self) {
        if let SealingKeyFile::Default { .. } = self.store.sealing_key_file {
            self.store.sealing_key_file = SealingKeyFile::within(&self.store.directory);
        }
    }

    fn check(&self) -> Result<()> {
        self.gateway.check(&self.tls, &self.limits)?;
        self.tiers()?;
        self.solana.check()?;
        self.evm.as_ref().map_or(Ok(()), chain::EvmConfig::check)?;
        self.relayer.check()?;
        self.x402.check()?;
        if self.relayer.enabled && self.evm.is_none() {
            bail!("[relayer] is enabled, and [evm] names no chain");
        }
        self.control.check()?;
        self.store.check()?;
        self.node.check()?;
        self.network.check()?;
        self.images.check()?;
        self.log.check()?;
        Ok(())
    }

    /// The tiers: those of the file, or the seed's.
    pub(crate) fn tiers(&self) -> Result<Tiers> {
        if self.tiers.is_empty() {
            return Ok(Tiers::romulus());
        }
        let rows = self.tiers.iter().map(|(name, tier)| (name.clone(), *tier)).collect();
        Tiers::new(rows).context("[tiers]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Config> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("palatine.toml");
        std::fs::write(&path, text).unwrap();
        Config::load(Some(&path))
    }

    #[test]
    fn an_empty_file_is_the_defaults() {
        rustls::crypto::ring::default_provider().install_default().ok();
        assert_eq!(load("").unwrap(), Config::default());
    }

    #[test]
    fn an_unknown_section_or_key_is_refused_by_name() {
        for (text, word) in
            [("[gatway]\n", "gatway"), ("[store]\nqueu = 1\n", "queu"), ("[tiers.pro]\nmin = 1\n", "cores")]
        {
            let said = format!("{:#}", load(text).unwrap_err());
            assert!(said.contains(word), "{said}");
        }
    }

    #[test]
    fn the_sealing_key_lies_in_the_stores_directory_unless_it_is_said_where() {
        let place = |text: &str| load(text).unwrap().store.sealing_key_file.path().to_owned();
        let kept = "[gateway]\ntoken_key_file = \"/run/secrets/token.key\"\n[store]\ndirectory = \"/srv/one\"\n";
        assert_eq!(place(kept), Path::new("/srv/one/sealing.key"));
        let said = "[store]\ndirectory = \"/srv/one\"\nsealing_key_file = \"/etc/seal\"\n";
        assert_eq!(place(said), Path::new("/etc/seal"));
    }

    #[test]
    fn a_value_out_of_bounds_is_refused_by_its_key() {
        let said = format!("{:#}", load("[store]\nreaders = 0\n").unwrap_err());
        assert!(said.contains("[store] readers"), "{said}");
        let said = format!("{:#}", load("[tiers.a]\nmin = 1\ncores = 1\nmemory = 1\n").unwrap_err());
        assert!(said.contains("tier a needs"), "{said}");
    }

    #[test]
    fn a_guest_that_hangs_at_boot_is_started_again_within_the_time_of_its_spawn() {
        const ONCE_MORE_MS: u64 = 15_000;
        let config = Config::default();
        assert!(config.node.boot_deadline_ms + ONCE_MORE_MS <= config.control.spawn_timeout_ms);
    }

    const GATEWAY_UNIT: &str = include_str!("../../../deploy/systemd/palatine.service");
    const NODE_UNIT: &str = include_str!("../../../deploy/systemd/hypercore.service");
    const SERVER: &str = include_str!("../../../deploy/systemd/server.md");

    /// The values of a key of a unit.
    fn unit<'a>(unit: &'a str, key: &str) -> Vec<&'a str> {
        let line = unit.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        line.unwrap_or_default().split(' ').filter(|value| !value.is_empty()).collect()
    }

    /// Whether systemd lets a service with these state directories write there.
    fn may_write(unit_text: &str, path: &Path) -> bool {
        unit(unit_text, "StateDirectory").iter().any(|dir| path.starts_with(Path::new("/var/lib").join(dir)))
    }

    #[test]
    fn fault_2_14_the_units_may_write_where_the_defaults_lie() {
        let config = Config::default();
        assert!(!unit(GATEWAY_UNIT, "StateDirectory").contains(&"palatine"), "that is the node's as well");
        for path in [
            config.store.directory.as_path(),
            config.store.sealing_key_file.path(),
            &config.gateway.token_key_file,
            &config.treasury.identities,
            &config.treasury.key_file,
            &config.relayer.key,
            &config.relayer.password_file,
        ] {
            assert!(may_write(GATEWAY_UNIT, path), "{}", path.display());
        }
        for path in [&config.node.state, &config.images.store] {
            assert!(may_write(NODE_UNIT, path), "{}", path.display());
        }
    }

    #[test]
    fn fault_2_14_both_units_have_a_bound_on_their_memory() {
        for text in [GATEWAY_UNIT, NODE_UNIT] {
            assert_eq!(unit(text, "MemoryMax").len(), 1);
            assert_eq!(unit(text, "MemoryHigh").len(), 1);
        }
    }

    #[test]
    fn fault_2_14_the_configuration_of_the_server_page_is_one_and_names_the_public_domain() {
        rustls::crypto::ring::default_provider().install_default().ok();
        let (_, block) = SERVER.split_once("```toml\n").unwrap();
        let (text, _) = block.split_once("```").unwrap();
        // The provider's URL and the mint are the reader's own.
        let text = text.replace("/…", "").replace("mint = \"…\"", "");
        let config = load(&text).unwrap();
        assert_eq!(config.gateway.agent_url.as_deref(), Some("https://{id}.agents.example.com"));
        assert!(config.tls.listen.iter().all(|address| address.ip().is_unspecified()));
    }
}
