//! `palatine pod`: what the operator does with PODs in the gateway's database.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use chain::EvmConfig;
use domain::{Address, PodId, UnixMillis};
use identity::{Identity, KdfCost};
use secrecy::SecretString;
use store::{SealedKeys, Store};
use treasury::{Identities, IdentityError, TreasuryError, standing_wallet};

use crate::answers::PodKeystore;
use crate::cli::PodIdentity;
use crate::clock;
use crate::config::Config;
use crate::output::{self, show};
use crate::signer::{POD_PASSWORD, new_password, password};

pub(crate) fn identity(config: Option<&Path>, command: PodIdentity, json: bool) -> Result<()> {
    let config = Config::load(config)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    let done = runtime.block_on(async {
        let now = clock::now()?;
        match command {
            PodIdentity::Export { pod, out, password } => {
                let keystore = out.unwrap_or_else(|| PathBuf::from(format!("{pod}.json")));
                let ask = || new_password(POD_PASSWORD, password.password_file.as_deref(), &keystore);
                export(&config, pod, &keystore, ask, now).await
            }
            PodIdentity::Import { pod, keystore, password: given, without_chain } => {
                let ask = || password(POD_PASSWORD, given.password_file.as_deref(), &keystore);
                import(&config, pod, &keystore, ask, without_chain, now).await
            }
        }
    })?;
    Ok(show(json, &done, output::pod_keystore)?)
}

/// The keys in the database that is there; none is made.
async fn open(config: &Config) -> Result<(Store, Identities)> {
    let store = Store::open_existing(&config.store).await.context("open the database")?;
    let keys = SealedKeys::open(&store, &config.store).await.context("open the keys in the database")?;
    let identities = Identities::new(store.clone(), keys, &config.treasury);
    Ok((store, identities))
}

/// The database is let go of before anybody is asked for a password: a gateway may start meanwhile.
async fn export(
    config: &Config,
    pod: PodId,
    keystore: &Path,
    ask: impl FnOnce() -> Result<SecretString>,
    now: UnixMillis,
) -> Result<PodKeystore> {
    let identity = open(config).await?.1.find(pod, now).await?;
    let identity = identity.with_context(|| format!("{pod} has no key yet: it is made with its vault"))?;
    identity.save(keystore, &ask()?, KdfCost::STANDARD)?;
    Ok(shown(pod, &identity, keystore))
}

/// The database is taken only once the password was given.
async fn import(
    config: &Config,
    pod: PodId,
    keystore: &Path,
    ask: impl FnOnce() -> Result<SecretString>,
    without_chain: bool,
    now: UnixMillis,
) -> Result<PodKeystore> {
    let identity = Identity::load(keystore, &ask()?)?;
    let (store, identities) = open(config).await?;
    if let Some(evm) = config.evm.as_ref().filter(|_| !without_chain) {
        may_act(evm, &store, pod, identity.address()).await?;
    }
    identities.import(pod, &identity, now).await?;
    Ok(shown(pod, &identity, keystore))
}

/// Refuses the key that a vault on the chain does not know.
async fn may_act(evm: &EvmConfig, store: &Store, pod: PodId, given: Address) -> Result<()> {
    match standing_wallet(evm, store, pod).await {
        Ok(Some(wallet)) if wallet != given => Err(IdentityError::OtherWallet { pod, wallet, given }.into()),
        Ok(_) => Ok(()),
        Err(TreasuryError::Unavailable(why)) => bail!(
            "whether the vault of {pod} knows another key cannot be told now, and a key is never replaced: {why}; try \
             again when the chain answers, or take the key unseen with --without-chain"
        ),
        Err(error) => Err(error.into()),
    }
}

fn shown(pod: PodId, identity: &Identity, keystore: &Path) -> PodKeystore {
    PodKeystore { pod, address: identity.address().to_string(), keystore: keystore.to_owned() }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use chain::Endpoint;
    use fixtures::{NOW, reservation, store_config, wallet};
    use identity::Keystore;
    use store::{AccountLink, DeployState, RunPod, RunReservation, StoreError, VaultDeploy};
    use tempfile::TempDir;

    use super::*;

    /// Written by ethers 6: the key 0x46…46 under this password.
    const ETHERS: &str = include_str!("../../../identity/tests/identity/keystores/ethers.json");
    const ETHERS_PASSWORD: &str = "correct horse";
    /// Written by eth-account: the same key under the same password.
    const ETH_ACCOUNT: &str = include_str!("../../../identity/tests/identity/keystores/eth-account-scrypt.json");
    const ADDRESS: &str = "0x9d8A62f656a8d1615C1294fd71e9CFb3E4855A4F";

    struct Home(TempDir);

    impl Home {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn config(&self) -> Config {
            let path = |name: &str| self.0.path().join(name);
            let mut config = Config { store: store_config(&self.0), ..Config::default() };
            config.treasury.identities = path("identities");
            config.treasury.key_file = path("identities.key");
            config
        }

        /// A gateway has run here, and has these PODs.
        async fn with_pods(pods: &[PodId]) -> Self {
            let home = Self::new();
            let store = Store::open(&home.config().store).await.unwrap();
            SealedKeys::open_or_create(&store, &home.config().store, NOW).await.unwrap();
            for (n, pod) in (1..).zip(pods) {
                let pod = RunPod::New { name: Some(*pod), ephemeral: false };
                store.reserve(RunReservation { pod, ..reservation(n, n) }).await.unwrap();
            }
            home
        }

        /// A file of its owner's alone.
        fn file(&self, name: &str, text: &str) -> PathBuf {
            let path = self.0.path().join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            path
        }
    }

    fn pod(name: &str) -> PodId {
        PodId::chosen(name).unwrap()
    }

    fn ethers() -> SecretString {
        SecretString::from(ETHERS_PASSWORD)
    }

    /// Gives the password, at an instant at which a gateway could start.
    fn alone(config: &Config) -> impl FnOnce() -> Result<SecretString> {
        let lock = config.store.directory.join("lock");
        move || {
            fs::File::open(lock)?.try_lock().context("the database is not let go of")?;
            Ok(ethers())
        }
    }

    #[tokio::test]
    async fn a_key_that_another_wallet_wrote_is_taken_and_written_for_any_other() {
        let home = Home::with_pods(&[pod("agent-123"), pod("other")]).await;
        let config = home.config();
        let early = export(&config, pod("agent-123"), &home.0.path().join("x"), || Ok(ethers()), NOW).await;
        assert_eq!(early.unwrap_err().to_string(), "agent-123 has no key yet: it is made with its vault");
        let (one, two) = (home.file("ethers.json", ETHERS), home.file("eth-account.json", ETH_ACCOUNT));
        let taken = import(&config, pod("agent-123"), &one, alone(&config), false, NOW).await.unwrap();
        assert_eq!(taken.address, ADDRESS);
        // The same key again, as somebody else wrote it, changes nothing.
        import(&config, pod("agent-123"), &two, || Ok(ethers()), false, NOW).await.unwrap();
        let out = home.0.path().join("out/agent-123.json");
        let word = || Ok(SecretString::from("another word"));
        let asked = || alone(&config)().and_then(|_| word());
        let written = export(&config, pod("agent-123"), &out, asked, NOW).await.unwrap();
        assert_eq!(written, PodKeystore { pod: pod("agent-123"), address: ADDRESS.to_owned(), keystore: out.clone() });
        assert_eq!(fs::metadata(&out).unwrap().permissions().mode() & 0o777, 0o600);
        let keystore = Keystore::parse(&fs::read(&out).unwrap()).unwrap();
        assert_eq!(keystore.open(&"another word".into()).unwrap().address().to_string(), ADDRESS);
        let again = export(&config, pod("agent-123"), &out, word, NOW).await.unwrap_err();
        assert!(again.to_string().contains("exists already and is never replaced"), "{again}");
    }

    #[tokio::test]
    async fn a_pod_that_has_another_key_or_vault_or_is_not_there_takes_none() {
        let home = Home::with_pods(&[pod("kept"), pod("vaulted")]).await;
        let store = Store::open_existing(&home.config().store).await.unwrap();
        let keys = SealedKeys::open(&store, &home.config().store).await.unwrap();
        let identities = Identities::new(store.clone(), keys, &home.config().treasury);
        let file = home.file("ethers.json", ETHERS);
        let own = Identity::from_secret(&[5; 32]).unwrap();
        identities.import(pod("kept"), &own, NOW).await.unwrap();
        let wallet = Address::repeat_byte(9);
        let (owner, address, state) = (wallet, wallet, DeployState::Deployed);
        let pod_of = pod("vaulted");
        let deploy = VaultDeploy {
            pod: pod_of,
            owner,
            agent_wallet: wallet,
            address,
            state,
            consent: None,
            tx: None,
            reason: None,
        };
        store.put_deploy(deploy, NOW).await.unwrap();
        drop((store, identities));
        let config = home.config();
        let refused = async |name: &str| {
            let refused = import(&config, pod(name), &file, || Ok(ethers()), false, NOW).await.unwrap_err();
            format!("{refused:#}")
        };
        let said = refused("kept").await;
        assert!(said.contains(&own.address().to_string()) && said.contains("never replaced"), "{said}");
        let said = refused("vaulted").await;
        assert!(said.contains(&wallet.to_string()) && said.contains("agent wallet"), "{said}");
        assert_eq!(refused("nobody").await, StoreError::NoPod(pod("nobody")).to_string());
        let unknown = export(&config, pod("nobody"), &home.0.path().join("x"), || Ok(ethers()), NOW).await;
        assert_eq!(unknown.unwrap_err().to_string(), StoreError::NoPod(pod("nobody")).to_string());
        let wrong = import(&config, pod("kept"), &file, || Ok("wrong".into()), false, NOW).await.unwrap_err();
        assert!(format!("{wrong:#}").contains("the password is wrong"), "{wrong:#}");
        let (_store, identities) = open(&config).await.unwrap();
        assert_eq!(identities.find(pod("kept"), NOW).await.unwrap().unwrap().address(), own.address());
    }

    #[tokio::test]
    async fn where_the_chain_is_silent_a_key_is_taken_only_by_the_operators_word() {
        rustls::crypto::ring::default_provider().install_default().ok();
        let home = Home::with_pods(&[pod("agent-123")]).await;
        let config = home.config();
        let file = home.file("ethers.json", ETHERS);
        let store = Store::open_existing(&config.store).await.unwrap();
        let (text, holder_signature, owner_signature) = Default::default();
        let (holder, owner) = (wallet(1), Address::repeat_byte(1));
        let link = AccountLink { holder, owner, text, holder_signature, owner_signature, signed_at: NOW };
        assert!(store.keep_link(link).await.unwrap());
        drop(store);
        let silent = Endpoint("http://127.0.0.1:9".to_owned());
        let evm =
            EvmConfig { deadline_ms: 500, timeout_ms: 200, ..EvmConfig::new(vec![silent], 25, owner, owner, owner) };
        let config = Config { evm: Some(evm), ..config };
        let given =
            async |without_chain| import(&config, pod("agent-123"), &file, || Ok(ethers()), without_chain, NOW).await;
        let said = given(false).await.unwrap_err().to_string();
        assert!(said.contains("--without-chain"), "{said}");
        let early = export(&config, pod("agent-123"), &home.0.path().join("x"), || Ok(ethers()), NOW).await;
        assert!(early.is_err(), "nothing is changed");
        assert_eq!(given(true).await.unwrap().address, ADDRESS);
    }

    #[tokio::test]
    async fn where_no_gateway_was_nothing_is_made() {
        let home = Home::new();
        let said = format!("{:#}", open(&home.config()).await.unwrap_err());
        assert!(said.contains("find the database in"), "{said}");
        assert_eq!(fs::read_dir(home.0.path()).unwrap().count(), 0);
        drop(Store::open(&home.config().store).await.unwrap());
        let said = format!("{:#}", open(&home.config()).await.unwrap_err());
        assert!(said.contains("start its gateway once"), "{said}");
        assert!(!home.config().store.sealing_key_file.path().exists());
    }
}
