//! Where a key file may lie, and what never happens to one.

use std::error::Error;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use palatine_identity::{Identity, KdfCost, KeyFileError, Keystore, KeystoreError};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use secrecy::SecretString;
use tempfile::TempDir;

const FOREIGN: &str = include_str!("keystores/ethers.json");
const UNADDRESSED: &str = include_str!("keystores/definition-pbkdf2.json");

pub(crate) fn password() -> SecretString {
    SecretString::from("correct horse")
}

fn start(path: &Path) -> Result<Identity, KeyFileError> {
    Identity::load_or_create(path, &password(), KdfCost::LIGHT)
}

/// A private directory, and a path in it where nothing lies.
fn place() -> (TempDir, PathBuf) {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("agent.json");
    (home, path)
}

fn put(path: &Path, text: &[u8], mode: u32) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

/// What a file is, down to when it was last touched.
fn state(path: &Path) -> (Vec<u8>, u32, u64, i64, i64) {
    let held = fs::metadata(path).unwrap();
    (fs::read(path).unwrap(), held.mode(), held.ino(), held.mtime_nsec(), held.ctime_nsec())
}

fn inner(error: KeyFileError) -> KeystoreError {
    match error {
        KeyFileError::Keystore { source, .. } => source,
        error => panic!("{error:?}"),
    }
}

#[test]
fn a_key_is_made_once_for_its_owner_alone_and_opened_ever_after() {
    let (home, _) = place();
    let path = home.path().join("state/identities/agent.json");
    let first = start(&path).unwrap();
    assert_eq!(mode(&path), 0o600);
    for directory in ["state", "state/identities"] {
        assert_eq!(mode(&home.path().join(directory)), 0o700, "{directory}");
    }
    let held = state(&path);
    assert_eq!(start(&path).unwrap().address(), first.address());
    assert_eq!(Identity::load(&path, &password()).unwrap().address(), first.address());
    assert_eq!(Keystore::read(&path).unwrap().address(), Some(first.address()));
    assert_eq!(state(&path), held);
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
}

#[test]
fn two_agents_have_two_keys() {
    let (home, path) = place();
    assert_ne!(start(&path).unwrap().address(), start(&home.path().join("other.json")).unwrap().address());
}

#[test]
fn a_key_of_the_standard_cost_opens_again() {
    let (_home, path) = place();
    let made = Identity::load_or_create(&path, &password(), KdfCost::STANDARD).unwrap();
    assert!(fs::read_to_string(&path).unwrap().contains("\"n\":262144"));
    assert_eq!(start(&path).unwrap().address(), made.address());
}

#[test]
fn whatever_is_wrong_with_a_file_it_stays_as_it_is() {
    let altered = FOREIGN.replace("\"mac\":\"d9", "\"mac\":\"d8");
    assert_ne!(altered, FOREIGN);
    let cases = [
        (FOREIGN[..FOREIGN.len() / 2].to_owned(), KeystoreError::Truncated),
        (String::new(), KeystoreError::Truncated),
        ("0x46464646".to_owned(), KeystoreError::NotJson),
        ("[1,2,3]".to_owned(), KeystoreError::Foreign),
        (" ".repeat(100_000), KeystoreError::TooLarge),
        (altered, KeystoreError::Password),
    ];
    for (text, said) in cases {
        let (home, path) = place();
        put(&path, text.as_bytes(), 0o600);
        let held = state(&path);
        assert_eq!(inner(start(&path).unwrap_err()), said);
        assert_eq!(inner(Identity::load(&path, &password()).unwrap_err()), said);
        assert_eq!(state(&path), held);
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
    }
}

#[test]
fn a_wrong_password_changes_nothing_and_the_right_one_still_opens() {
    let (_home, path) = place();
    let made = start(&path).unwrap();
    let held = state(&path);
    for wrong in ["", "Correct horse", "correct horse\n"] {
        let error = Identity::load_or_create(&path, &wrong.into(), KdfCost::LIGHT).unwrap_err();
        assert_eq!(inner(error), KeystoreError::Password);
    }
    assert_eq!(state(&path), held);
    assert_eq!(start(&path).unwrap().address(), made.address());
}

#[test]
fn a_key_under_an_empty_password_is_not_made() {
    let (home, path) = place();
    let error = Identity::load_or_create(&path, &"".into(), KdfCost::LIGHT).unwrap_err();
    assert!(matches!(error, KeyFileError::EmptyPassword));
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0);
}

#[test]
fn a_file_that_others_can_reach_is_refused_and_not_mended() {
    for open in [0o644, 0o640, 0o604, 0o620, 0o602, 0o601, 0o660] {
        let (_home, path) = place();
        put(&path, FOREIGN.as_bytes(), open);
        let held = state(&path);
        let error = start(&path).unwrap_err();
        assert!(matches!(&error, KeyFileError::Open { mode, .. } if *mode == open), "{error:?}");
        assert!(error.to_string().contains("chmod 600"));
        assert_eq!(state(&path), held);
    }
}

#[test]
fn a_link_is_never_followed_whether_or_not_it_leads_somewhere() {
    let (home, path) = place();
    let target = home.path().join("target.json");
    symlink(&target, &path).unwrap();
    assert!(matches!(start(&path), Err(KeyFileError::Symlink(_))));
    assert!(!target.exists());
    put(&target, FOREIGN.as_bytes(), 0o600);
    assert!(matches!(start(&path), Err(KeyFileError::Symlink(_))));
    assert!(matches!(Keystore::read(&path), Err(KeyFileError::Symlink(_))));
}

#[test]
fn a_pipe_or_directory_in_the_files_place_is_refused_without_waiting() {
    let (home, path) = place();
    mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    assert!(matches!(start(&path), Err(KeyFileError::NotAFile(_))));
    assert!(matches!(start(home.path()), Err(KeyFileError::NotAFile(_))));
    assert!(matches!(
        Identity::generate().unwrap().save(Path::new(".."), &password(), KdfCost::LIGHT),
        Err(KeyFileError::NotAFile(_))
    ));
}

#[test]
fn a_directory_where_anybody_may_write_is_no_place_for_a_key() {
    let (home, path) = place();
    fs::set_permissions(home.path(), Permissions::from_mode(0o777)).unwrap();
    assert!(matches!(start(&path), Err(KeyFileError::Directory(_))));
    put(&path, FOREIGN.as_bytes(), 0o600);
    assert!(matches!(start(&path), Err(KeyFileError::Directory(_))));
    // As in /tmp, nobody can take another's file away.
    fs::set_permissions(home.path(), Permissions::from_mode(0o1777)).unwrap();
    assert!(start(&path).is_ok());
}

#[test]
fn another_users_file_is_refused() {
    needs::needs!(root); // Nobody else can give a file away.
    let (_home, path) = place();
    put(&path, FOREIGN.as_bytes(), 0o600);
    chown(&path, Some(65534), None).unwrap();
    assert!(matches!(start(&path), Err(KeyFileError::Owner { owner: 65534, .. })));
}

#[test]
fn a_huge_file_is_not_read_whole() {
    let (_home, path) = place();
    put(&path, b"{", 0o600);
    File::options().write(true).open(&path).unwrap().set_len(1 << 40).unwrap();
    assert_eq!(inner(start(&path).unwrap_err()), KeystoreError::TooLarge);
}

#[test]
fn a_key_file_that_does_not_say_whose_it_is_is_refused_but_can_be_imported() {
    let (home, path) = place();
    put(&path, UNADDRESSED.as_bytes(), 0o600);
    let password = SecretString::from("testpassword");
    assert!(matches!(Identity::load(&path, &password), Err(KeyFileError::Unaddressed(_))));
    let opened = Keystore::read(&path).unwrap().open(&password).unwrap();
    let imported = home.path().join("imported.json");
    opened.save(&imported, &password, KdfCost::LIGHT).unwrap();
    assert_eq!(Identity::load(&imported, &password).unwrap().address(), opened.address());
}

#[test]
fn saving_never_replaces_a_file_of_any_kind() {
    let (home, path) = place();
    let other = Identity::generate().unwrap();
    put(&path, b"mine", 0o644);
    assert!(matches!(other.save(&path, &password(), KdfCost::LIGHT), Err(KeyFileError::Exists(_))));
    assert_eq!(fs::read(&path).unwrap(), b"mine");
    let dangling = home.path().join("dangling.json");
    symlink(home.path().join("nowhere"), &dangling).unwrap();
    assert!(matches!(other.save(&dangling, &password(), KdfCost::LIGHT), Err(KeyFileError::Exists(_))));
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 2);
}

#[test]
fn an_absent_file_is_only_made_where_that_is_asked_for() {
    let (home, path) = place();
    assert!(Identity::load(&path, &password()).unwrap_err().is_absent());
    assert!(Identity::load(&home.path().join("no/where.json"), &password()).unwrap_err().is_absent());
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0);
}

#[test]
fn an_error_names_the_file_and_carries_its_cause_once() {
    let (_home, path) = place();
    put(&path, b"{", 0o600);
    let error = start(&path).unwrap_err();
    assert!(error.to_string().contains("agent.json"));
    assert_eq!(error.source().unwrap().to_string(), KeystoreError::Truncated.to_string());
}
