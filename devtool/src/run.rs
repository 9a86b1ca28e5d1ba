//! `dev.d/run.sh`: how a run of checks ends, however it is ended.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process_group};

/// In the place of devtool: what it is handed is what the run wrote down.
const REPORT: &str = r#"DEVTOOL=said; devtool() { :; }; said() { [ "$1" = probe ] || cat "$2/steps"; }"#;
const UNCOUNTED: &str = "0 passed, 1 failed, 0 skipped\n";

/// A run in a group of its own, with what it says.
fn run(cache: &Path, script: &str) -> Child {
    let sourced = format!(
        "CACHE={}; TARGET=$CACHE/target; ASSETS=$CACHE/assets; . dev.d/setup.sh; . dev.d/run.sh; say() {{ :; }}; \
         fail() {{ echo \"$*\" >&2; exit 1; }}; {REPORT}; {script}",
        cache.display()
    );
    let mut command = Command::new("bash");
    command.args(["-euo", "pipefail", "-c", &sourced]).current_dir(crate::root()).process_group(0);
    command.env_remove("PALATINE_DEV_ALONE").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// How it ends, and what it said.
fn ended(run: Child) -> (Option<i32>, String, String) {
    let output = run.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn fault_3_3_a_step_that_a_signal_ended_has_failed_and_is_counted() {
    for (signal, code) in [(Signal::TERM, 143), (Signal::HUP, 129), (Signal::INT, 130)] {
        let dir = tempfile::tempdir().unwrap();
        let script = "promise; begin; step before true; step tests sh -c 'echo on; exec sleep 1000'; step after true";
        let mut run = run(dir.path(), script);
        let mut said = BufReader::new(run.stdout.take().unwrap());
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        assert_eq!(line, "on\n");
        kill_process_group(Pid::from_child(&run), signal).unwrap();
        let (status, ..) = ended(run);
        assert_eq!(status, Some(code));
        let mut counted = String::new();
        said.read_to_string(&mut counted).unwrap();
        let steps: Vec<_> = counted.lines().map(|line| line.rsplit_once('\t').unwrap().0).collect();
        assert_eq!(steps, ["before\t0", &format!("tests\t{code}")]);
    }
}

#[test]
fn fault_3_3_a_run_that_never_began_and_one_whose_report_died_end_with_a_count() {
    let dir = tempfile::tempdir().unwrap();
    let (status, said, why) = ended(run(dir.path(), "promise; fail 'no room'; begin"));
    assert_eq!((status, said.as_str(), why.as_str()), (Some(1), UNCOUNTED, "no room\n"));
    let (status, said, _) = ended(run(dir.path(), "promise; begin; said() { return 101; }; step one true"));
    assert_eq!((status, said.as_str()), (Some(101), UNCOUNTED));
    let (status, said, _) = ended(run(dir.path(), "promise; begin; step one false; step two true"));
    assert_eq!((status, said.lines().count()), (Some(0), 2), "what failed in a step is the report's to say");
}

#[test]
fn fault_3_2_a_second_run_with_one_cache_is_refused_and_leaves_the_firsts_folder_alone() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = run(dir.path(), "promise; alone; begin; step one sh -c 'echo on; exec sleep 1000'");
    let mut said = BufReader::new(first.stdout.take().unwrap());
    said.read_line(&mut String::new()).unwrap();
    let (status, count, why) = ended(run(dir.path(), "promise; alone; begin"));
    assert_eq!((status, count.as_str()), (Some(1), UNCOUNTED));
    assert!(why.contains("Another ./dev test") && why.contains("PALATINE_CACHE"), "{why}");
    assert!(fs::exists(dir.path().join("run/steps")).unwrap());
    // What a run starts is part of it.
    let (status, ..) = ended(run(dir.path(), "export PALATINE_DEV_ALONE=yes; alone"));
    assert_eq!(status, Some(0));
    kill_process_group(Pid::from_child(&first), Signal::TERM).unwrap();
    assert_eq!(ended(first).0, Some(143));
    let (status, ..) = ended(run(dir.path(), "alone"));
    assert_eq!(status, Some(0));
}
