//! `dev` and `dev.d/setup.sh`: what is done before there is a devtool.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::dev::fake;
use crate::run::UNCOUNTED;

/// Starts this after the functions of the setup, in a group of its own.
fn start(cache: &Path, checkout: &Path, script: &str) -> Child {
    let sourced = format!(". \"$0\"; say() {{ :; }}; fail() {{ echo \"$*\" >&2; exit 1; }}; {script}");
    let mut bash = Command::new("bash");
    bash.args(["-euo", "pipefail", "-c", &sourced]).arg(crate::root().join("dev.d/setup.sh"));
    bash.current_dir(checkout).env("CACHE", cache).env("TARGET", cache.join("target"));
    bash.env_remove("PALATINE_DEV_ALONE").process_group(0);
    bash.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// How it ends, and what it said.
fn ended(bash: Child) -> (Option<i32>, String, String) {
    let output = bash.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn fault_3_2_a_cache_that_was_another_checkouts_builds_the_sources_of_this_one() {
    let dir = tempfile::tempdir().unwrap();
    let (cache, ours, theirs) = (dir.path().join("cache"), dir.path().join("ours"), dir.path().join("theirs"));
    let old = SystemTime::now() - Duration::from_secs(3600);
    for checkout in [&ours, &theirs] {
        for part in ["crates", "devtool", "images", "xtask"] {
            fs::create_dir_all(checkout.join(part)).unwrap();
        }
        File::create(checkout.join("crates/lib.rs")).unwrap().set_modified(old).unwrap();
    }
    let aged = |checkout: &Path| fs::metadata(checkout.join("crates/lib.rs")).unwrap().modified().unwrap() == old;
    let claim = |checkout: &Path| assert_eq!(ended(start(&cache, checkout, "own_cache")).0, Some(0));
    claim(&theirs);
    assert!(aged(&theirs), "what was never built is new anyway");
    fs::create_dir_all(cache.join("target")).unwrap();
    claim(&theirs);
    assert!(aged(&theirs), "one's own cache is warm");
    claim(&ours);
    assert!(!aged(&ours), "another's is built anew");
}

#[test]
fn fault_3_3_a_run_that_ends_before_there_is_a_devtool_ends_with_a_count() {
    let dir = tempfile::tempdir().unwrap();
    let uncounted = format!("{UNCOUNTED}\n");
    let (status, said, why) = ended(start(dir.path(), dir.path(), "promise; fail 'no room'"));
    assert_eq!((status, said.as_str(), why.as_str()), (Some(1), uncounted.as_str(), "no room\n"));
    for (signal, code) in [(Signal::TERM, 143), (Signal::HUP, 129), (Signal::INT, 130)] {
        let mut bash = start(dir.path(), dir.path(), "promise; sh -c 'echo on; exec sleep 1000'");
        let mut said = BufReader::new(bash.stdout.take().unwrap());
        let mut text = String::new();
        said.read_line(&mut text).unwrap();
        kill_process_group(Pid::from_child(&bash), signal).unwrap();
        said.read_to_string(&mut text).unwrap();
        assert_eq!((ended(bash).0, text), (Some(code), format!("on\n{uncounted}")));
    }
}

#[test]
fn fault_3_2_a_second_run_is_refused_before_anything_is_built() {
    let dir = tempfile::tempdir().unwrap();
    let alone = |script: &str| start(dir.path(), dir.path(), script);
    let mut first = alone("alone; echo on; exec sleep 1000");
    BufReader::new(first.stdout.take().unwrap()).read_line(&mut String::new()).unwrap();
    let (status, _, why) = ended(alone("alone"));
    assert_eq!(status, Some(1));
    assert!(why.contains("Another ./dev test") && why.contains("PALATINE_CACHE"), "{why}");
    // What a run starts is part of it.
    assert_eq!(ended(alone("export PALATINE_DEV_ALONE=yes; alone")).0, Some(0));
    kill_process_group(Pid::from_child(&first), Signal::TERM).unwrap();
    ended(first);
    assert_eq!(ended(alone("alone")).0, Some(0));
}

#[test]
fn a_build_of_devtool_that_waits_for_another_one_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let rust = dir.path().join("rust/bin");
    let waits = "[[ \" $* \" == *\" --quiet \"* ]] || echo 'Blocking waiting for file lock' >&2; exit 1";
    fake::script(&rust.join("cargo"), waits);
    fake::script(&rust.join("rustc"), &format!("echo {}", dir.path().join("rust").display()));
    let path = format!("{}:{}", rust.display(), std::env::var("PATH").unwrap());
    let mut bash = Command::new("bash");
    bash.arg(crate::root().join("dev")).arg("soak");
    bash.env("PALATINE_CACHE", dir.path().join("cache")).env("PATH", path);
    let (status, _, why) = ended(bash.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
    assert_eq!(status, Some(1));
    assert!(why.contains("Blocking waiting for file lock") && why.contains("could not be built"), "{why}");
}

#[test]
fn no_package_starts_a_service_while_it_is_installed_and_a_policy_of_the_machine_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let policy = dir.path().join("policy-rc.d");
    let install = || {
        let at = format!("PALATINE_POLICY={}", policy.display());
        ended(start(dir.path(), dir.path(), &format!("{at}; (unstarted && bash \"$PALATINE_POLICY\" || echo $?)")))
    };
    assert_eq!(install(), (Some(0), "101\n".to_owned(), String::new()));
    assert!(!policy.exists());
    fs::write(&policy, "exit 7").unwrap();
    assert_eq!(install(), (Some(0), "7\n".to_owned(), String::new()));
    assert_eq!(fs::read_to_string(&policy).unwrap(), "exit 7");
}

#[test]
fn pythons_pip_is_the_one_beside_it_where_a_version_manager_stands_in_for_both() {
    let dir = tempfile::tempdir().unwrap();
    let (shims, versions) = (dir.path().join("shims"), dir.path().join("versions/3/bin"));
    for program in ["python3", "pip3"] {
        fake::script(&versions.join(program), "exit 0");
        fake::script(&shims.join(program), &format!("echo {}", versions.join("python3").display()));
    }
    let script = format!("TOOLS=$CACHE/tools SEARCHED={}:$SEARCHED; narrow build", shims.display());
    let (cache, programs) = (dir.path().join("cache"), ["python3", "pip3"]);
    let (status, _, why) = ended(start(&cache, crate::root(), &script));
    assert_eq!(status, Some(0), "{why}");
    let linked = programs.map(|program| fs::read_link(cache.join("path/build").join(program)).unwrap());
    assert_eq!(linked, programs.map(|program| versions.join(program)));
}
