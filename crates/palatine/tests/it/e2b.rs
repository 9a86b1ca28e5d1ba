//! E2B's SDK, unmodified, against one agent by a fixed URL and headers: what E2B's own tests try of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use fixtures::{LocalStack, assets, starter_image, stdout_of};
use serde_json::Value;

/// The page that says of each of E2B's tests whether it passes here.
const PAGE: &str = "docs/e2b.md";
/// What a row of the page says of a test that `SCRIPT` has.
const PASSES: &str = "passes";
const SCRIPT: &str = "crates/palatine/tests/python/e2b_sdk.py";
/// What it says of one that ends otherwise here.
const DIFFERS: &str = "differs";
/// That one, which the script has apart.
const KILLED: &str = "commands/test_sandbox_killed_during_run.py::test_kill_sandbox_while_command_is_running";

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

/// E2B's tests by their names, and what the page says of each.
fn rows() -> BTreeMap<String, String> {
    let page = fs::read_to_string(root(PAGE)).unwrap();
    let rows =
        page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | ")).filter_map(|(name, rest)| {
            let said = rest.split_once(" |")?.0;
            name.contains("::").then(|| (name.to_owned(), said.to_owned()))
        });
    let all: Vec<_> = rows.collect();
    let once: BTreeMap<_, _> = all.iter().cloned().collect();
    assert_eq!(once.len(), all.len(), "{PAGE} names a test twice");
    once
}

/// E2B's tests that pass, as the page says.
fn passing() -> BTreeSet<String> {
    let passing: BTreeSet<_> = rows().into_iter().filter(|(_, said)| said == PASSES).map(|(name, _)| name).collect();
    assert!(!passing.is_empty(), "{PAGE} has no rows");
    passing
}

#[test]
fn the_page_says_of_just_those_of_e2bs_tests_that_they_pass_which_are_tried() {
    let script = fs::read_to_string(root(SCRIPT)).unwrap();
    let named = script.lines().filter_map(|line| line.strip_prefix("@e2b(\"")?.split_once('"'));
    let tried: BTreeSet<_> = named.map(|(name, _)| name.to_owned()).collect();
    assert_eq!(tried, passing());
    let others: Vec<_> = rows().into_iter().filter(|(_, said)| said != PASSES).collect();
    assert_eq!(others, [(KILLED.to_owned(), DIFFERS.to_owned())]);
}

/// The script, for this agent.
fn script(stack: &LocalStack, agent: &Value, more: &[&str]) -> Command {
    let text = |key: &str| agent[key].as_str().unwrap().to_owned();
    let mut command = Command::new("python3");
    command.arg(root(SCRIPT)).arg(format!("http://{}", stack.listen)).args([text("id"), text("token"), text("host")]);
    command.args(more).env("PYTHONPATH", assets().join("python")).env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

/// The names of the tests that passed with every client that tried them. One that did not fails ours.
#[track_caller]
fn passed(said: &str) -> BTreeSet<String> {
    let told: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let failed: Vec<_> = told.iter().filter(|one| !one["error"].is_null()).collect();
    let words = |one: &&Value| format!("{} ({})\n{}", one["test"], one["client"], one["error"].as_str().unwrap());
    assert!(failed.is_empty(), "{}", failed.iter().map(words).collect::<Vec<_>>().join("\n"));
    told.iter().filter_map(|one| Some(one["test"].as_str()?.to_owned())).collect()
}

#[test]
fn soak_agents_base_passes_what_e2bs_own_tests_try_of_its_sdk() {
    starter_image("base", "base");
    let stack = LocalStack::with_images("");
    stack.up(&["--no-agent"]);
    let spawned = stack.json(&["spawn", "--type", "base", "--cores", "1", "--memory", "1024", "--env", "FOO=bar"]);
    let agent = &spawned["agent"];
    let passed_here = passed(&stdout_of(&script(&stack, agent, &[]).output().unwrap()));
    assert_eq!(passed_here, passing());
    let in_protobuf = passed(&stdout_of(&script(&stack, agent, &["proto"]).output().unwrap()));
    assert_eq!(in_protobuf, passed_here, "in one form of the messages alone");

    // What runs when an agent is stopped ends first, and its end is told.
    let mut running = script(&stack, agent, &["killed"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(running.stdout.take().unwrap()).lines().map(Result::unwrap);
    let first: Value = serde_json::from_str(&lines.next().unwrap()).unwrap();
    assert!(first["running"].is_number(), "{first}");
    stack.run(&["stop", agent["id"].as_str().unwrap()]);
    let killed = passed(&lines.collect::<Vec<_>>().join("\n"));
    assert_eq!(killed, BTreeSet::from([KILLED.to_owned()]));
    assert!(running.wait().unwrap().success());
    assert_eq!(stack.errors(), Vec::<String>::new());
}
