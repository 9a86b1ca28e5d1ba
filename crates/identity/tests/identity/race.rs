//! Many starts at once, and starts that are killed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use palatine_identity::{Identity, KdfCost};

use crate::keyfile::password;

/// Names the key file to a child of these tests.
const PLACE: &str = "PALATINE_TEST_KEY_FILE";
/// The test that is such a child's whole life.
const CHILD: &str = "race::a_child_of_the_race";

fn start(path: &Path) -> Identity {
    Identity::load_or_create(path, &password(), KdfCost::LIGHT).unwrap()
}

/// A process that opens or makes this key file and says its address.
fn child(path: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args([CHILD, "--exact", "--ignored", "--nocapture"])
        .env(PLACE, path)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn said(child: Child) -> String {
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    text.split_whitespace().find(|word| word.starts_with("0x")).unwrap().to_owned()
}

#[test]
#[ignore = "a child process of other tests"]
fn a_child_of_the_race() {
    let Some(path) = std::env::var_os(PLACE).map(PathBuf::from) else { return };
    println!("\n{}", start(&path).address());
}

#[test]
fn sixteen_threads_that_start_together_have_one_key() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("identities/agent.json");
    let together = Barrier::new(16);
    let addresses: BTreeSet<_> = thread::scope(|scope| {
        let one = || {
            together.wait();
            start(&path).address()
        };
        let threads: Vec<_> = (0..16).map(|_| scope.spawn(one)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(addresses, BTreeSet::from([start(&path).address()]));
    assert_eq!(path.parent().unwrap().read_dir().unwrap().count(), 1);
}

#[test]
fn eight_processes_that_start_together_have_one_key() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("identities/agent.json");
    let children: Vec<_> = (0..8).map(|_| child(&path)).collect();
    let addresses: BTreeSet<_> = children.into_iter().map(said).collect();
    assert_eq!(addresses, BTreeSet::from([start(&path).address().to_string()]));
    assert_eq!(path.parent().unwrap().read_dir().unwrap().count(), 1);
}

#[test]
fn a_start_killed_at_any_instant_leaves_a_whole_key_or_none() {
    const STEP: Duration = Duration::from_millis(4);
    let home = tempfile::tempdir().unwrap();
    for instant in 0..20 {
        let path = home.path().join(format!("{instant}/agent.json"));
        let mut killed = child(&path);
        thread::sleep(STEP * instant); // The instant itself, not a wait.
        killed.kill().unwrap();
        killed.wait().unwrap();
        let left = Identity::load(&path, &password());
        let after = start(&path).address();
        match left {
            Ok(whole) => assert_eq!(whole.address(), after),
            Err(error) => assert!(error.is_absent(), "{error:?}"),
        }
    }
}
