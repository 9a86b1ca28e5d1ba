//! How a run of checks ends, however it is ended: devtool itself, with a cargo that does what a test says.
#![expect(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tempfile::TempDir;

const UNCOUNTED: &str = "0 passed, 1 failed, 0 skipped";
/// The count of a shard whose one test did not run, so that none did.
const NOT_RUN: &str = "0 passed, 2 failed, 0 skipped";
/// What clippy does when a test ends the run in it.
const WAITS: &str = "clippy) echo on; exec sleep 1000;;";

/// What nextest lists, and reports, of one test.
const LIST: &str = r#"{"rust-suites":{"a::it":{"kind":"test",
    "testcases":{"starts":{"filter-match":{"status":"matches"}}}}}}"#;
const JUNIT: &str = r#"<?xml version="1.0"?><testsuites name="r" tests="1" failures="0" errors="0">
    <testsuite name="a::it" tests="1" disabled="0" errors="0" failures="0">
    <testcase name="starts" classname="a::it"/></testsuite></testsuites>"#;

/// A folder with a cache, and a cargo of these cases of its first word.
fn folder(cases: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    script(&dir.path().join("bin/cargo"), &format!("case $1 in {cases} esac"));
    dir
}

/// A folder with all that a run of tests builds and fetches, and a nextest that does this.
fn equipped(nextest: &str) -> TempDir {
    let dir = folder(&format!(
        "build) mkdir -p \"$CARGO_TARGET_DIR/../guest/x86_64-unknown-linux-gnu/guest\"
            cd \"$_\"; touch pod agent-echo;;
         nextest) {nextest};;"
    ));
    for (name, does) in [("npm", "mkdir -p \"$3/node_modules\""), ("python3", "mkdir -p \"${9:-.}\"; echo 3")] {
        script(&dir.path().join("bin").join(name), does);
    }
    dir
}

fn script(path: &Path, does: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, format!("#!/usr/bin/env bash\n{does}\n")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// A command of devtool.
fn devtool(dir: &TempDir, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_devtool"));
    with_cargo(&mut command, dir).arg(words[0]).arg("--cache").arg(cache(dir)).args(&words[1..]);
    command
}

/// In a group of its own.
fn with_cargo<'a>(command: &'a mut Command, dir: &TempDir) -> &'a mut Command {
    let path = format!("{}:{}", dir.path().join("bin").display(), std::env::var("PATH").unwrap());
    command.env("PATH", path).env_remove("PALATINE_DEV_ALONE").process_group(0);
    command.stdout(Stdio::piped()).stderr(Stdio::piped())
}

fn cache(dir: &TempDir) -> std::path::PathBuf {
    dir.path().join("cache")
}

/// How it ends, the last line that it says, and all that it says aside.
fn ended(run: Child) -> (Option<i32>, String, String) {
    let output = run.wait_with_output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let last = said.lines().last().unwrap_or_default().to_owned();
    (output.status.code(), last, String::from_utf8(output.stderr).unwrap())
}

/// Waits until it says `on`, and gives what it goes on to say. What it says aside is left to it.
fn is_on(run: &mut Child) -> BufReader<ChildStdout> {
    let mut said = BufReader::new(run.stdout.take().unwrap());
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    assert_eq!(line, "on\n");
    said
}

/// The run's own record: each step and its exit status.
fn steps(dir: &TempDir) -> Vec<String> {
    let steps = fs::read_to_string(cache(dir).join("run/steps")).unwrap();
    steps.lines().map(|line| line.rsplit_once('\t').unwrap().0.to_owned()).collect()
}

#[test]
fn fault_3_3_a_step_that_a_signal_ended_has_failed_and_is_counted() {
    for (signal, code) in [(Signal::TERM, 143), (Signal::HUP, 129), (Signal::INT, 130)] {
        let dir = folder(WAITS);
        let mut run = devtool(&dir, &["lint"]).spawn().unwrap();
        let mut said = is_on(&mut run);
        kill_process_group(Pid::from_child(&run), signal).unwrap();
        let mut text = String::new();
        said.read_to_string(&mut text).unwrap();
        assert_eq!(ended(run).0, Some(code));
        assert_eq!(text.lines().last(), Some("1 passed, 1 failed, 0 skipped"), "{text}");
        assert_eq!(steps(&dir), ["formatting\t0", &format!("clippy\t{code}")], "none is begun after it");
    }
}

#[test]
fn a_signal_to_a_run_alone_ends_a_shard_and_its_tests_and_is_counted() {
    // As nextest does, it gives what it starts a group of its own, and ends it itself.
    let nextest = format!(
        "[ \"$2\" = run ] || {{ echo '{LIST}'; exit; }}
         trap 'kill $!; exit 100' HUP INT QUIT TERM; set -m; (echo on; exec sleep 1000) & wait"
    );
    for (signal, code) in [(Signal::TERM, 143), (Signal::HUP, 129), (Signal::INT, 130), (Signal::QUIT, 131)] {
        let dir = equipped(&nextest);
        let mut run = devtool(&dir, &["soak", "kills"]).spawn().unwrap();
        let mut said = is_on(&mut run);
        kill_process(Pid::from_child(&run), signal).unwrap();
        let mut text = String::new();
        // Its end is that of all who could say something.
        said.read_to_string(&mut text).unwrap();
        assert_eq!(ended(run).0, Some(code));
        assert_eq!(text.lines().last(), Some(NOT_RUN), "{text}");
        assert_eq!(steps(&dir), [format!("soak\t{code}")]);
    }
    let dir = equipped(&nextest);
    let mut run = devtool(&dir, &["soak", "kills"]).spawn().unwrap();
    let mut said = is_on(&mut run);
    run.kill().unwrap();
    // Killed, it counts nothing, and what it has started ends all the same.
    said.read_to_string(&mut String::new()).unwrap();
    run.wait().unwrap();
}

#[test]
fn a_shard_for_which_the_builds_left_no_time_is_not_begun_and_has_failed() {
    let dir = equipped(&format!("[ \"$2\" = run ] || {{ echo '{LIST}'; exit; }}; touch \"$CARGO_TARGET_DIR.begun\""));
    let run = devtool(&dir, &["soak", "kills", "--within", "20", "--after", "1200"]).spawn().unwrap();
    let (status, last, why) = ended(run);
    assert_eq!((status, last.as_str()), (Some(1), NOT_RUN), "{why}");
    assert!(why.contains("shard kills was not begun"), "{why}");
    assert!(!cache(&dir).join("target.begun").exists());
}

#[test]
fn a_signal_to_a_fuzzing_run_ends_its_programs_and_begins_no_other() {
    let dir = folder("fuzz) exit 0;;");
    let programs = cache(&dir).join("fuzz/target/x86_64-unknown-linux-gnu/release");
    let mut run = devtool(&dir, &["fuzz"]);
    let (said, says) = std::io::pipe().unwrap();
    let mut said = BufReader::new(said);
    // What a target says is not shown.
    let path = format!("/proc/{}/fd/{}", std::process::id(), says.as_raw_fd());
    for target in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/fuzz_targets")).unwrap() {
        let name = target.unwrap().path().file_stem().unwrap().to_owned();
        script(&programs.join(name), &format!("exec > {path}; echo on; exec sleep 1000"));
    }
    let run = run.spawn().unwrap();
    said.read_line(&mut String::new()).unwrap();
    kill_process(Pid::from_child(&run), Signal::TERM).unwrap();
    assert_eq!(ended(run).0, Some(143));
    drop(says);
    let mut text = String::new();
    said.read_to_string(&mut text).unwrap();
    let at_once = std::thread::available_parallelism().unwrap().get();
    assert!(text.lines().count() < at_once, "{text}");
}

#[test]
fn a_signal_that_whoever_started_the_run_ignores_does_not_end_it() {
    let dir = folder("clippy) echo on; read -r line < \"$CARGO_TARGET_DIR.go\";;");
    let go = cache(&dir).join("target.go");
    fs::create_dir_all(cache(&dir)).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, &go, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).unwrap();
    let mut run = Command::new("bash");
    run.args(["-c", "trap '' HUP; exec \"$0\" lint --cache \"$1\""])
        .arg(env!("CARGO_BIN_EXE_devtool"))
        .arg(cache(&dir));
    let mut run = with_cargo(&mut run, &dir).spawn().unwrap();
    let mut said = is_on(&mut run);
    kill_process(Pid::from_child(&run), Signal::HUP).unwrap();
    fs::write(&go, "go\n").unwrap();
    let mut text = String::new();
    said.read_to_string(&mut text).unwrap();
    assert_eq!((ended(run).0, text.lines().last()), (Some(0), Some("3 passed, 0 failed, 0 skipped")));
}

#[test]
fn fault_3_3_what_fails_in_a_step_and_outside_of_one_is_counted() {
    let dir = folder("clippy) exit 7;;");
    let (status, last, _) = ended(devtool(&dir, &["lint"]).spawn().unwrap());
    assert_eq!((status, last.as_str()), (Some(1), "2 passed, 1 failed, 0 skipped"));
    assert_eq!(steps(&dir), ["formatting\t0", "clippy\t7", "licences\t0"], "those after it run");
    let dir = folder("build) exit 1;;");
    let (status, last, why) = ended(devtool(&dir, &["test", "a_name"]).spawn().unwrap());
    assert_eq!((status, last.as_str()), (Some(1), UNCOUNTED));
    assert!(why.ends_with("The guest programs could not be built.\n"), "{why}");
    assert_eq!(steps(&dir), ["setup\t1"]);
}

#[test]
fn fault_3_3_a_run_that_never_began_ends_with_a_count() {
    let dir = folder("");
    for words in [&["soak", "kills", "--nonsense"][..], &["lint", "nonsense"], &["soak", "nonsense"]] {
        let (status, last, why) = ended(devtool(&dir, words).spawn().unwrap());
        assert!(status != Some(0) && why.contains("nonsense"), "{words:?}: {status:?}, {why}");
        assert_eq!(last, UNCOUNTED, "{words:?}");
    }
    // A cache that is no folder.
    fs::remove_dir_all(cache(&dir)).unwrap();
    fs::write(cache(&dir), "").unwrap();
    let (status, last, _) = ended(devtool(&dir, &["lint"]).spawn().unwrap());
    assert_eq!((status, last.as_str()), (Some(1), UNCOUNTED));
    let (status, last, _) = ended(devtool(&dir, &["package", "--nonsense"]).spawn().unwrap());
    assert_eq!((status, last.as_str()), (Some(2), ""), "it counts nothing");
}

#[test]
fn fault_3_2_a_second_run_with_one_cache_is_refused_and_leaves_the_firsts_folder_alone() {
    let dir = folder(WAITS);
    let mut first = devtool(&dir, &["lint"]).spawn().unwrap();
    let said = is_on(&mut first);
    let (status, last, why) = ended(devtool(&dir, &["lint"]).spawn().unwrap());
    assert_eq!((status, last.as_str()), (Some(1), UNCOUNTED));
    assert!(why.contains("Another ./dev test") && why.contains("PALATINE_CACHE"), "{why}");
    assert_eq!(steps(&dir), ["formatting\t0"]);
    kill_process_group(Pid::from_child(&first), Signal::TERM).unwrap();
    drop(said);
    first.wait().unwrap();
    // What a run starts is part of it, and what a step leaves behind holds no lock.
    script(
        &dir.path().join("bin/cargo"),
        "[ \"$1\" = fmt ] || exit 0; sleep 1000 >/dev/null 2>&1 & echo \"$PALATINE_DEV_ALONE $!\"",
    );
    let mut run = devtool(&dir, &["lint"]).spawn().unwrap();
    let mut text = String::new();
    run.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    let left = text.lines().next().and_then(|line| line.strip_prefix("yes ")).expect(&text);
    let left = Pid::from_raw(left.parse().unwrap()).unwrap();
    assert_eq!(ended(run).0, Some(0));
    assert_eq!(ended(devtool(&dir, &["soak", "nonsense"]).spawn().unwrap()).0, Some(1));
    let lock = fs::File::open(cache(&dir).join("run.lock")).unwrap();
    lock.try_lock().unwrap();
    kill_process(left, Signal::KILL).unwrap();
}

#[test]
fn fault_3_3_the_tests_of_a_filter_are_listed_and_run_with_what_they_are_told() {
    let told = "$PALATINE_FACTS $PALATINE_SKIPS $PALATINE_ASSETS $PALATINE_BIN";
    let dir = equipped(&format!(
        "echo \"$*\" {told} >> \"$CARGO_TARGET_DIR.said\"
         [ \"$2\" = run ] || {{ echo '{LIST}'; exit; }}
         mkdir -p \"$CARGO_TARGET_DIR/../run/nextest/default\"; echo '{JUNIT}' > \"$_/junit.xml\""
    ));
    let (status, last, why) = ended(devtool(&dir, &["test", "starts", "--no-capture"]).spawn().unwrap());
    assert_eq!((status, last.as_str()), (Some(0), "2 passed, 0 failed, 0 skipped"), "{why}");
    let cache = cache(&dir).display().to_string();
    let said = fs::read_to_string(format!("{cache}/target.said")).unwrap().replace(&cache, "CACHE");
    let told = "CACHE/run/facts CACHE/run/skips CACHE/assets CACHE/target/debug";
    let nextest = |verb: &str, words: &str| {
        let config = "--config-file CACHE/run/nextest.toml --locked --workspace";
        format!("nextest {verb} {config} {words}starts --no-capture {told}\n")
    };
    assert_eq!(said, nextest("list", "--message-format json ") + &nextest("run", ""));
    let config = fs::read_to_string(format!("{cache}/run/nextest.toml")).unwrap();
    assert!(config.starts_with(&format!("[store]\ndir = \"{cache}/run/nextest\"\n")));
}
