//! E2B's SDKs, unmodified, against one agent by a fixed URL and headers: what E2B's own tests try of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use fixtures::{LocalStack, assets, starter_image, starters, stdout_of};
use serde_json::Value;

/// The page that says of each of E2B's tests whether it passes here.
const PAGE: &str = "docs/e2b.md";
/// What a row of the page says of a test that a script names by `e2b`.
const PASSES: &str = "passes";
/// What it says of one that ends otherwise here, which the script names by `differs` or has apart.
const DIFFERS: &str = "differs";

/// One of E2B's SDKs, and our script of what its own tests try.
struct Sdk {
    program: &'static str,
    script: &'static str,
    /// What the files of its tests end with.
    ending: &'static str,
    /// The test in which the agent is stopped, which the script has apart.
    killed: &'static str,
}

const PYTHON: Sdk = Sdk {
    program: "python3",
    script: "python/e2b_sdk.py",
    ending: ".py",
    killed: "commands/test_sandbox_killed_during_run.py::test_kill_sandbox_while_command_is_running",
};

const JAVASCRIPT: Sdk = Sdk {
    program: "node",
    script: "npm/e2b_sdk.mjs",
    ending: ".test.ts",
    killed: "commands/sandboxKilledDuringRun.test.ts::killing the sandbox while a command is running throws an \
             actionable error",
};

fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(path)
}

impl Sdk {
    /// E2B's tests of it by their names, and what the page says of each.
    fn rows(&self) -> BTreeMap<String, String> {
        let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(PAGE)).unwrap();
        let rows =
            page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | ")).filter_map(|(name, rest)| {
                let (said, _) = rest.split_once(" |")?;
                let (file, _) = name.split_once("::")?;
                file.ends_with(self.ending).then(|| (name.to_owned(), said.to_owned()))
            });
        let all: Vec<_> = rows.collect();
        let once: BTreeMap<_, _> = all.iter().cloned().collect();
        assert!(!once.is_empty() && once.len() == all.len(), "{PAGE} names no test, or one twice");
        once
    }

    /// The tests that its script names so.
    fn named(&self, by: &str) -> BTreeSet<String> {
        let script = fs::read_to_string(here(self.script)).unwrap();
        let named = script.lines().filter_map(|line| {
            let name = line.trim_start_matches('@').strip_prefix(by)?.strip_prefix('(')?;
            let quote = name.chars().next()?;
            Some(name[1..].split_once(quote)?.0.to_owned())
        });
        named.collect()
    }

    /// All that it tries at once.
    fn tried(&self) -> BTreeSet<String> {
        let [passing, differing] = ["e2b", "differs"].map(|by| self.named(by));
        assert!(!passing.is_empty(), "{} names no test", self.script);
        passing.union(&differing).cloned().collect()
    }

    /// The script, for this agent.
    fn command(&self, stack: &LocalStack, agent: &Value, more: &[&str]) -> Command {
        let text = |key: &str| agent[key].as_str().unwrap().to_owned();
        let script = here(self.script);
        let mut command = Command::new(self.program);
        if self.program == "node" {
            // Packages are looked for where it runs, and not every machine resolves agents' names.
            command.current_dir(assets().join("clients")).arg("--import").arg(here("npm/localhost.mjs"));
            command.args(["--input-type=module", "-"]).stdin(fs::File::open(script).unwrap());
        } else {
            command.arg(script).env("PYTHONPATH", assets().join("python")).env("PYTHONDONTWRITEBYTECODE", "1");
        }
        command.arg(format!("http://{}", stack.listen)).args([text("id"), text("token"), text("host")]).args(more);
        command
    }

    /// What it passes of what E2B's own tests try, with its messages in both forms.
    #[track_caller]
    fn passes(&self, stack: &LocalStack, agent: &Value) {
        for form in [&[][..], &["proto"]] {
            let passed = passed(&stdout_of(&self.command(stack, agent, form).output().unwrap()));
            assert_eq!(passed, self.tried(), "{} {form:?}", self.script);
        }
    }
}

#[test]
fn the_page_says_of_just_those_of_e2bs_tests_that_they_pass_which_are_tried() {
    for sdk in [PYTHON, JAVASCRIPT] {
        let said = |what: &str| -> BTreeSet<_> {
            sdk.rows().into_iter().filter(|(_, said)| said == what).map(|(name, _)| name).collect()
        };
        assert_eq!(sdk.named("e2b"), said(PASSES));
        let mut differing = sdk.named("differs");
        differing.insert(sdk.killed.to_owned());
        assert_eq!(differing, said(DIFFERS));
        assert_eq!(sdk.rows().len(), sdk.tried().len() + 1);
    }
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

/// A client with a command that runs in the agent.
struct Waiting {
    child: Child,
    lines: Box<dyn Iterator<Item = String>>,
}

impl Waiting {
    #[track_caller]
    fn start(sdk: &Sdk, stack: &LocalStack, agent: &Value) -> Self {
        let mut child = sdk.command(stack, agent, &["killed"]).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = Box::new(BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap));
        let first: Value = serde_json::from_str(&lines.next().unwrap()).unwrap();
        assert!(first["running"].is_number(), "{first}");
        Self { child, lines }
    }

    #[track_caller]
    fn ends(mut self, sdk: &Sdk) {
        let killed = passed(&self.lines.collect::<Vec<_>>().join("\n"));
        assert_eq!(killed, BTreeSet::from([sdk.killed.to_owned()]));
        assert!(self.child.wait().unwrap().success());
    }
}

#[test]
fn soak_hands_base_passes_what_e2bs_own_tests_try_of_its_sdks() {
    starter_image("base", "base");
    let stack = LocalStack::with_images(&starters(), "");
    stack.up(&["--no-agent"]);
    let spawned = stack.json(&["spawn", "--type", "base", "--cores", "1", "--memory", "1024", "--env", "FOO=bar"]);
    let agent = &spawned["agent"];
    let sdks = [PYTHON, JAVASCRIPT];
    for sdk in &sdks {
        sdk.passes(&stack, agent);
    }
    // What runs when an agent is stopped ends first, and its end is told.
    let waiting = sdks.each_ref().map(|sdk| Waiting::start(sdk, &stack, agent));
    stack.run(&["stop", agent["id"].as_str().unwrap()]);
    for (waiting, sdk) in waiting.into_iter().zip(&sdks) {
        waiting.ends(sdk);
    }
    assert_eq!(stack.errors(), Vec::<String>::new());
}
