//! The PODs' keys: sealed in the store, one a POD, however many gateways and replicas.
//!
//! A key is made when its POD's vault is first asked for, or imported before, and goes
//! when the POD is removed. It signs here; no guest holds it. What earlier versions kept
//! in files is taken into the store when it is needed, or in the background after a start.

use std::io;
use std::time::Duration;

use domain::{Address, PodId, UnixMillis};
use identity::{Identity, InvalidKey, KeyFileError};
use seal::Key;
use secrecy::ExposeSecret;
use store::{DeployState, SealedKeys, SealedKeysError, Store, StoreError, VaultDeploy};

use crate::config::Config;
use crate::keystores::{LegacyKeyError, LegacyKeystores};

/// How often the key files of earlier versions are looked at, for those of removed PODs.
const ERASE_EVERY: Duration = Duration::from_secs(60);

/// Why a POD's key cannot be had, or is not taken.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What is sealed in it.
    #[error(transparent)]
    Keys(#[from] SealedKeysError),
    /// The file of an earlier version.
    #[error("import the key of {pod}")]
    Old {
        /// Whose.
        pod: PodId,
        /// Why not.
        source: Box<LegacyKeyError>,
    },
    /// The key's address is known, and the key is nowhere.
    #[error(
        "the key of {0} is neither in the store nor in a file of an earlier version here: where that file lies, start \
         the gateway once, or import the key (palatine pod identity import)"
    )]
    Lost(PodId),
    /// What is kept as its key is none.
    #[error("the key of {pod} in the store is none")]
    NoKey {
        /// Whose.
        pod: PodId,
        /// Why.
        source: InvalidKey,
    },
    /// A new one.
    #[error("make a key")]
    Make(#[source] KeyFileError),
    /// It has another one, which is never replaced.
    #[error("{pod} has the key of {has} already, and not that of {given}: a POD's key is never replaced")]
    Taken {
        /// The POD.
        pod: PodId,
        /// Its key's address.
        has: Address,
        /// The address of the key that was given.
        given: Address,
    },
    /// Its vault would not know it.
    #[error(
        "the vault of {pod} has the agent wallet {wallet}, and the key is that of {given}: it could not act for it"
    )]
    OtherWallet {
        /// The POD.
        pod: PodId,
        /// Its vault's agent wallet.
        wallet: Address,
        /// The address of the key that was given.
        given: Address,
    },
    /// The file of an earlier version holds another key than the one that is used.
    #[error("{pod} has the key of {has}, and its key file says that it holds {}", address_text(.file.as_ref()))]
    OtherFile {
        /// The POD.
        pod: PodId,
        /// Its key's address.
        has: Address,
        /// The address in the file, if it says one.
        file: Option<Address>,
    },
    /// The task that works on a file was cut off.
    #[error("the work on the agent's key file was cut off")]
    CutOff,
}

/// Whether a key may be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IfMissing {
    /// There is none yet.
    Create,
    /// Its address is known: a new key would be another agent.
    Refuse,
}

/// All PODs' keys. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Identities {
    store: Store,
    keys: SealedKeys,
    old: LegacyKeystores,
}

impl Identities {
    /// Those of this store, and what is left of earlier versions' files.
    #[must_use]
    pub fn new(store: Store, keys: SealedKeys, config: &Config) -> Self {
        Self { store, keys, old: LegacyKeystores::of(config) }
    }

    /// A POD's key, if it has one yet.
    ///
    /// # Errors
    /// [`IdentityError`]; [`StoreError::NoPod`] if there is no such POD.
    pub async fn find(&self, pod: PodId, now: UnixMillis) -> Result<Option<Identity>, IdentityError> {
        if let Some(key) = self.keys.identity_of(pod).await? {
            return identity_from(pod, &key).map(Some);
        }
        if self.store.last_run(pod).await?.is_none() {
            return Err(StoreError::NoPod(pod).into());
        }
        let Some(old) = self.open_old(pod).await? else { return Ok(None) };
        let kept = self.keys.keep_old_identity(pod, old.address(), &old.secret(), now).await?;
        kept.map(|kept| identity_from(pod, &kept)).transpose()
    }

    /// A POD's key. Of however many that make it at once, all get the same.
    pub(crate) async fn of(
        &self,
        pod: PodId,
        if_missing: IfMissing,
        now: UnixMillis,
    ) -> Result<Identity, IdentityError> {
        match (self.find(pod, now).await?, if_missing) {
            (Some(identity), _) => Ok(identity),
            (None, IfMissing::Refuse) => Err(IdentityError::Lost(pod)),
            (None, IfMissing::Create) => {
                let fresh = Identity::generate().map_err(IdentityError::Make)?;
                self.keep(pod, &fresh, now).await
            }
        }
    }

    /// Takes a key for a POD that has none.
    ///
    /// # Errors
    /// [`IdentityError::Taken`], [`IdentityError::OtherWallet`]: nothing is changed;
    /// [`StoreError::NoPod`] if there is no such POD.
    pub async fn import(&self, pod: PodId, identity: &Identity, now: UnixMillis) -> Result<(), IdentityError> {
        let given = identity.address();
        if let Some(has) = self.find(pod, now).await?.map(|has| has.address()).filter(|has| *has != given) {
            return Err(IdentityError::Taken { pod, has, given });
        }
        let deploy = self.store.deploy_of(pod).await?;
        if let Some(wallet) = deploy.as_ref().map(|deploy| deploy.agent_wallet).filter(|wallet| *wallet != given) {
            return Err(IdentityError::OtherWallet { pod, wallet, given });
        }
        let kept = self.keep(pod, identity, now).await?.address();
        if kept != given {
            return Err(IdentityError::Taken { pod, has: kept, given });
        }
        // It stands, and waited for this key: whoever carries vaults looks at it again.
        if let Some(deploy) = deploy.filter(VaultDeploy::is_for_another_key) {
            let found = VaultDeploy { state: DeployState::Deploying, reason: None, ..deploy };
            self.store.put_deploy(found, now).await?;
        }
        Ok(())
    }

    /// The key that is kept: this one, or that of who was faster.
    async fn keep(&self, pod: PodId, identity: &Identity, now: UnixMillis) -> Result<Identity, IdentityError> {
        let kept = self.keys.keep_identity(pod, identity.address(), &identity.secret(), now).await?;
        identity_from(pod, &kept)
    }

    async fn open_old(&self, pod: PodId) -> Result<Option<Identity>, IdentityError> {
        if !self.has_old(pod)? || self.store.was_erased(pod).await? {
            return Ok(None);
        }
        let opened = self.on_files(move |old| old.open(pod)).await?;
        opened.map_err(|error| IdentityError::Old { pod, source: Box::new(error) })
    }

    /// Where that is not known, no other key is made.
    fn has_old(&self, pod: PodId) -> Result<bool, IdentityError> {
        self.old.has(pod).map_err(|error| IdentityError::Old { pod, source: Box::new(error) })
    }

    /// Works on the files where that keeps nobody else waiting.
    async fn on_files<T: Send + 'static>(
        &self,
        work: impl FnOnce(&LegacyKeystores) -> T + Send + 'static,
    ) -> Result<T, IdentityError> {
        let old = self.old.clone();
        tokio::task::spawn_blocking(move || work(&old)).await.map_err(|_| IdentityError::CutOff)
    }

    /// Takes every key file of an earlier version into the store, one after the other. One
    /// that cannot be taken is said, and tried again when its POD is used.
    pub(crate) async fn import_old(&self, now: UnixMillis) {
        let (mut taken, mut failed) = (0_usize, 0_usize);
        for pod in self.old_pods().unwrap_or_default() {
            match self.take_old(pod, now).await {
                Ok(true) => taken += 1,
                Ok(false) => {}
                Err(error) => {
                    failed += 1;
                    let error: &(dyn std::error::Error + 'static) = &error;
                    tracing::warn!(%pod, error, "an agent's key file holds a key that the store has not");
                }
            }
        }
        let folder = self.old.folder();
        match (taken, failed) {
            (0, 0) => {}
            (taken, 0) => tracing::info!(
                taken,
                folder,
                "the agents' keys are in the store now; their files are not read again and may be removed"
            ),
            (taken, failed) => tracing::warn!(taken, failed, folder, "some agents' key files are still needed"),
        }
    }

    /// Takes a POD's key file into the store: whether its key is there now. Nothing is taken
    /// for who is no POD, or was removed.
    async fn take_old(&self, pod: PodId, now: UnixMillis) -> Result<bool, IdentityError> {
        let kept = match self.find(pod, now).await {
            Err(IdentityError::Store(StoreError::NoPod(_))) => return Ok(false),
            found => found?,
        };
        let Some(has) = kept.map(|kept| kept.address()) else { return Ok(false) };
        if !self.has_old(pod)? || self.store.was_erased(pod).await? {
            return Ok(false);
        }
        let file = self.on_files(move |old| old.address(pod)).await?;
        let file = file.map_err(|error| IdentityError::Old { pod, source: Box::new(error.into()) })?;
        if file == Some(has) { Ok(true) } else { Err(IdentityError::OtherFile { pod, has, file }) }
    }

    /// Erases the key files of removed PODs, again and again as long as there are key files
    /// of an earlier version, or may be.
    pub async fn erase_removed(&self) {
        self.erase_removed_each(ERASE_EVERY).await;
    }

    async fn erase_removed_each(&self, pause: Duration) {
        while self.old_pods().is_none_or(|pods| !pods.is_empty()) {
            self.wipe_removed().await;
            tokio::time::sleep(pause).await;
        }
    }

    async fn wipe_removed(&self) {
        for pod in self.old_pods().unwrap_or_default() {
            self.wipe_if_removed(pod).await;
        }
    }

    /// Erases what an earlier version left of the key of a POD, if the POD was removed.
    pub(crate) async fn wipe_if_removed(&self, pod: PodId) {
        match self.wipe_old(pod).await {
            Ok(false) => {}
            Ok(true) => tracing::info!(%pod, "a removed agent's key file is erased"),
            Err(error) => tracing::warn!(%pod, %error, "a removed agent's key file is not erased yet"),
        }
    }

    /// Whether there was one to erase.
    async fn wipe_old(&self, pod: PodId) -> io::Result<bool> {
        if !self.old.has(pod).map_err(io::Error::other)?
            || !self.store.was_erased(pod).await.map_err(io::Error::other)?
        {
            return Ok(false);
        }
        self.on_files(move |old| old.wipe(pod)).await.map_err(io::Error::other)?.map(|()| true)
    }

    /// `None` if that is not known.
    fn old_pods(&self) -> Option<Vec<PodId>> {
        let listed = self.old.pods();
        let failed = |error: &io::Error| {
            tracing::warn!(folder = self.old.folder(), %error, "the agents' key files cannot be listed");
        };
        listed.inspect_err(failed).ok()
    }
}

fn address_text(address: Option<&Address>) -> String {
    address.map_or_else(|| "none".to_owned(), |address| format!("that of {address}"))
}

fn identity_from(pod: PodId, key: &Key) -> Result<Identity, IdentityError> {
    Identity::from_secret(key.expose_secret()).map_err(|source| IdentityError::NoKey { pod, source })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    use alloy_primitives::hex;
    use domain::{Event, StopReason};
    use fixtures::{NOW, replay_key, reservation, run, store_config};
    use identity::KdfCost;
    use secrecy::SecretString;
    use store::{RunPod, RunReservation};
    use tempfile::TempDir;

    use super::*;

    fn pod(name: &str) -> PodId {
        PodId::chosen(name).unwrap()
    }

    /// Run `n` of a new POD of this id.
    fn called(n: u64, name: &str) -> RunReservation {
        let pod = RunPod::New { name: Some(pod(name)), ephemeral: false };
        RunReservation { pod, ..reservation(n, n) }
    }

    /// A gateway's folder, and its store.
    struct Home {
        dir: TempDir,
        store: Store,
    }

    impl Home {
        async fn new(pods: &[&str]) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let store = Store::open(&store_config(&dir)).await.unwrap();
            for (n, name) in (1..).zip(pods) {
                store.reserve(called(n, name)).await.unwrap();
            }
            Self { dir, store }
        }

        /// As after one more start of the gateway.
        async fn identities(&self) -> Identities {
            let keys = SealedKeys::open_or_create(&self.store, &store_config(&self.dir), NOW).await.unwrap();
            let (identities, key_file) = (self.dir.path().join("identities"), self.dir.path().join("identities.key"));
            Identities::new(self.store.clone(), keys, &Config { identities, key_file })
        }

        fn file(&self, name: &str) -> PathBuf {
            self.dir.path().join(format!("identities/{name}.json"))
        }

        /// What the last version left of a POD's key: a keystore under the hex digits of
        /// a key file's bytes.
        fn old_key(&self, name: &str, secret: u8) -> Address {
            let key_file = self.dir.path().join("identities.key");
            fs::write(&key_file, [3; 32]).unwrap();
            fs::set_permissions(&key_file, fs::Permissions::from_mode(0o600)).unwrap();
            let identity = Identity::from_secret(&[secret; 32]).unwrap();
            let password = SecretString::from(hex::encode([3; 32]));
            identity.save(&self.file(name), &password, KdfCost::LIGHT).unwrap();
            identity.address()
        }

        /// Run `n` of a POD of this id, by the holder who removed the one of run `before`.
        async fn take_again(&self, n: u64, before: u64, name: &str) {
            let again = RunReservation { id: run(n), replay_key: Some(replay_key(n)), ..called(before, name) };
            self.store.reserve(again).await.unwrap();
        }

        /// Removes the POD of run `n`.
        async fn remove(&self, n: u64) {
            self.store.advance(run(n), Event::Stop(StopReason::Removed), NOW).await.unwrap();
            self.store.end(run(n), None, NOW).await.unwrap();
        }
    }

    #[tokio::test]
    async fn of_fifty_that_make_one_key_at_once_all_have_the_same() {
        let home = Home::new(&["one"]).await;
        let identities = home.identities().await;
        let makers = (0..50).map(|_| {
            let identities = identities.clone();
            tokio::spawn(async move { identities.of(pod("one"), IfMissing::Create, NOW).await.unwrap().address() })
        });
        let mut made = std::collections::BTreeSet::new();
        for maker in makers.collect::<Vec<_>>() {
            made.insert(maker.await.unwrap());
        }
        assert_eq!(made.len(), 1);
        let kept = home.identities().await.find(pod("one"), NOW).await.unwrap().unwrap();
        assert_eq!(made.into_iter().collect::<Vec<_>>(), [kept.address()]);
    }

    #[tokio::test]
    async fn a_key_whose_address_is_known_is_never_made_anew_nor_one_of_nobody() {
        let home = Home::new(&["one"]).await;
        let identities = home.identities().await;
        let lost = identities.of(pod("one"), IfMissing::Refuse, NOW).await.unwrap_err();
        assert!(matches!(lost, IdentityError::Lost(of) if of == pod("one")), "{lost}");
        assert!(identities.find(pod("one"), NOW).await.unwrap().is_none());
        let nobody = identities.of(pod("nobody"), IfMissing::Create, NOW).await.unwrap_err();
        assert!(matches!(nobody, IdentityError::Store(StoreError::NoPod(_))), "{nobody}");
    }

    #[tokio::test]
    async fn the_last_versions_key_is_used_and_its_file_then_not_needed() {
        let home = Home::new(&["one", "two"]).await;
        let (one, two) = (home.old_key("one", 5), home.old_key("two", 6));
        let identities = home.identities().await;
        let found = identities.of(pod("one"), IfMissing::Refuse, NOW).await.unwrap();
        assert_eq!(found.address(), one);
        // Where no key is known yet, it is the old one too, and no new one.
        assert_eq!(identities.of(pod("two"), IfMissing::Create, NOW).await.unwrap().address(), two);
        assert!(home.file("one").exists(), "an import removes nothing");
        fs::remove_dir_all(home.dir.path().join("identities")).unwrap();
        fs::remove_file(home.dir.path().join("identities.key")).unwrap();
        let again = home.identities().await;
        assert_eq!(again.find(pod("one"), NOW).await.unwrap().unwrap().address(), one);
    }

    #[tokio::test]
    async fn after_a_start_all_files_of_the_last_version_are_in_the_store() {
        let home = Home::new(&["one", "two"]).await;
        let before = [home.old_key("one", 5), home.old_key("two", 6)];
        home.old_key("unknown", 7);
        fs::write(home.dir.path().join("identities/notes.txt"), "the operator's").unwrap();
        home.identities().await.import_old(NOW).await;
        for (name, address) in ["one", "two"].into_iter().zip(before) {
            assert_eq!(home.store.identity_of(pod(name)).await.unwrap().unwrap().address, address);
        }
        assert!(home.file("unknown").exists());
    }

    #[tokio::test]
    async fn a_file_may_be_removed_when_the_store_has_the_very_key_that_it_holds() {
        let home = Home::new(&["same", "other", "erased", "again"]).await;
        let identities = home.identities().await;
        let (imported, given) = (home.old_key("other", 6), Identity::from_secret(&[9; 32]).unwrap());
        fs::rename(home.file("other"), home.file("aside")).unwrap();
        identities.import(pod("other"), &given, NOW).await.unwrap();
        fs::rename(home.file("aside"), home.file("other")).unwrap();
        for name in ["same", "erased", "again"] {
            home.old_key(name, 5);
        }
        home.old_key("unknown", 7);
        assert!(identities.take_old(pod("same"), NOW).await.unwrap());
        let differs = identities.take_old(pod("other"), NOW).await.unwrap_err();
        let named = (given.address(), Some(imported));
        assert!(
            matches!(differs, IdentityError::OtherFile { has, file, .. } if (has, file) == named),
            "{differs}: {named:?}"
        );
        home.remove(3).await;
        home.remove(4).await;
        home.take_again(9, 4, "again").await;
        for name in ["unknown", "erased", "again"] {
            assert!(!identities.take_old(pod(name), NOW).await.unwrap(), "{name}");
        }
    }

    #[tokio::test]
    async fn a_file_that_could_not_be_erased_with_its_pod_is_no_key_of_the_next_one_of_its_id() {
        let home = Home::new(&["one"]).await;
        let before = home.old_key("one", 5);
        let identities = home.identities().await;
        home.remove(1).await;
        home.take_again(9, 1, "one").await;
        assert!(home.file("one").exists(), "it was not erased in time");
        assert!(identities.find(pod("one"), NOW).await.unwrap().is_none());
        // Nor where it was opened before, and comes late.
        let late = Identity::from_secret(&[5; 32]).unwrap();
        let keys = SealedKeys::open(&home.store, &store_config(&home.dir)).await.unwrap();
        assert!(keys.keep_old_identity(pod("one"), before, &late.secret(), NOW).await.unwrap().is_none());
        assert_ne!(identities.of(pod("one"), IfMissing::Create, NOW).await.unwrap().address(), before);
        identities.wipe_if_removed(pod("one")).await;
        assert!(!home.file("one").exists(), "it is the removed one's, whoever has the id now");
    }

    /// What is wrong with the last version's file, if that is it.
    fn old(error: &IdentityError) -> Option<&LegacyKeyError> {
        match error {
            IdentityError::Old { source, .. } => Some(source),
            _ => None,
        }
    }

    #[tokio::test]
    async fn a_file_that_does_not_open_is_an_error_and_no_other_key_is_made() {
        let home = Home::new(&["one"]).await;
        home.old_key("one", 5);
        fs::remove_file(home.dir.path().join("identities.key")).unwrap();
        let identities = home.identities().await;
        let error = identities.of(pod("one"), IfMissing::Create, NOW).await.unwrap_err();
        assert!(old(&error).is_some_and(|why| matches!(why, LegacyKeyError::Password(_))), "{error}");
        home.old_key("other", 6);
        fs::rename(home.file("other"), home.file("one")).unwrap();
        fs::write(home.dir.path().join("identities.key"), [4; 32]).unwrap();
        let error = identities.of(pod("one"), IfMissing::Create, NOW).await.unwrap_err();
        assert!(old(&error).is_some_and(|why| matches!(why, LegacyKeyError::Keystore(_))), "{error}");
        assert_eq!(home.store.identity_of(pod("one")).await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_removed_pods_key_and_its_old_file_are_erased_and_the_same_id_gets_another() {
        let home = Home::new(&["one", "two"]).await;
        let before = home.old_key("one", 5);
        home.old_key("two", 6);
        home.old_key("unknown", 7);
        let identities = home.identities().await;
        assert_eq!(identities.find(pod("one"), NOW).await.unwrap().unwrap().address(), before);
        identities.wipe_if_removed(pod("one")).await;
        assert!(home.file("one").exists(), "it is not removed yet");
        home.remove(1).await;
        identities.wipe_if_removed(pod("one")).await;
        assert!(!home.file("one").exists());
        home.remove(2).await;
        identities.wipe_removed().await;
        assert!(!home.file("two").exists() && home.file("unknown").exists());
        home.take_again(9, 1, "one").await;
        let after = identities.of(pod("one"), IfMissing::Create, NOW).await.unwrap();
        assert_ne!(after.address(), before);
    }

    #[tokio::test]
    async fn where_nobody_knows_whether_there_is_a_key_file_no_other_key_is_made_and_erasing_goes_on() {
        let home = Home::new(&["one", "two"]).await;
        let identities = home.identities().await;
        let (folder, kept) = (home.dir.path().join("identities"), home.dir.path().join("kept"));
        home.old_key("two", 6);
        fs::rename(&folder, &kept).unwrap();
        // A folder that root cannot look into either.
        std::os::unix::fs::symlink(&folder, &folder).unwrap();
        let error = identities.of(pod("one"), IfMissing::Create, NOW).await.unwrap_err();
        let unknown = |error: &IdentityError| matches!(error, IdentityError::Old { source, .. } if matches!(**source, LegacyKeyError::Look { .. }));
        assert!(unknown(&error), "{error}");
        assert_eq!(home.store.identity_of(pod("one")).await.unwrap(), None);
        home.remove(2).await;
        let erasing = tokio::spawn({
            let identities = identities.clone();
            async move { identities.erase_removed_each(Duration::from_millis(5)).await }
        });
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(!erasing.is_finished() && kept.join("two.json").exists());
        let link = home.dir.path().join("link");
        std::os::unix::fs::symlink(&kept, &link).unwrap();
        fs::rename(link, folder).unwrap();
        fixtures::until("its file is erased", async || (!home.file("two").exists()).then_some(())).await;
        erasing.await.unwrap();
    }

    #[tokio::test]
    async fn of_two_imports_at_once_one_is_taken_and_the_other_told() {
        let home = Home::new(&["one"]).await;
        let identities = home.identities().await;
        let (a, b) = (Identity::from_secret(&[5; 32]).unwrap(), Identity::from_secret(&[6; 32]).unwrap());
        let both = tokio::join!(identities.import(pod("one"), &a, NOW), identities.import(pod("one"), &b, NOW));
        let kept = identities.find(pod("one"), NOW).await.unwrap().unwrap().address();
        for (answer, given) in [(both.0, a.address()), (both.1, b.address())] {
            match answer {
                Ok(()) => assert_eq!(kept, given),
                Err(IdentityError::Taken { has, given: told, .. }) => assert_eq!((has, told), (kept, given)),
                Err(error) => panic!("{error}"),
            }
        }
    }
}
