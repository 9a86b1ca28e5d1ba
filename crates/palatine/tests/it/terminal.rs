//! The command line, as people and programs use it.

use std::io::Write;
use std::process::{Command, Stdio};

use fixtures::{Holder, PLAIN, SMALL, SpawnedAgent, Stack, program, stderr_of, stdout_of, until};
use reqwest::Method;
use serde_json::{Value, json};

#[tokio::test]
async fn the_commands_of_the_readme_work_for_people_and_for_programs() {
    let mut stack = Stack::start(PLAIN).await;
    let holder = stack.holder(SMALL);
    let run = |words: &[&str]| stack.cli(&holder, words).output().unwrap();
    let json = |words: &[&str]| serde_json::from_str::<Value>(&stdout_of(&run(words))).unwrap();

    assert!(stdout_of(&run(&["ls"])).contains("No agents"));
    let spawned = json(&["spawn", "--type", "echo", "--json"]);
    let id = spawned["agent"]["id"].as_str().unwrap();
    assert!(stdout_of(&run(&["ls"])).contains(id));
    assert_eq!(json(&["ls", "--json"])["agents"][0]["id"], id);
    assert!(stdout_of(&run(&["status", id])).contains("ready"));
    assert!(stdout_of(&run(&["tiers"])).contains("small"));
    // The token was kept when the agent was spawned from here.
    assert!(stdout_of(&run(&["ask", id, "what is your name?"])).contains("what is your name?"));
    assert!(stdout_of(&run(&["logs", id])).contains("agent-echo"));
    assert!(run(&["logs", id, "--console"]).status.success());
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let unread = stack.cli(&holder, &["status", id, "--json"]).stdout(writer).output().unwrap();
    assert_eq!((unread.status.code(), stderr_of(&unread)), (Some(141), String::new()));
    assert_eq!(json(&["usage", "--json"])["active_agent"]["id"], id);

    let again = run(&["spawn", "--type", "echo"]);
    assert_eq!(again.status.code(), Some(5));
    assert!(stderr_of(&again).contains(&format!("palatine stop {id}")));
    let unknown = run(&["spawn", "--type", "nonsense"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(stderr_of(&unknown).contains("echo"));

    let stopped = stdout_of(&run(&["stop", id]));
    assert!(stopped.contains("stopped") && stopped.contains("kept until"), "{stopped}");
    assert_eq!(json(&["rm", id, "--json"])["removed"][0]["id"], id);
    assert_eq!(run(&["status", "00000000-0000-0000"]).status.code(), Some(4));
    // One that runs is removed at once, and nobody calls that an error.
    let running = json(&["spawn", "--type", "echo", "--json"]);
    assert!(run(&["rm", running["agent"]["id"].as_str().unwrap()]).status.success());
    assert_eq!(stack.errors(), Vec::<String>::new());
    stack.end();
}

#[test]
fn a_reader_that_has_enough_ends_a_command_without_a_word() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let unread = Command::new(program("palatine")).args(["completions", "bash"]).stdout(writer).output().unwrap();
    assert_eq!((unread.status.code(), stderr_of(&unread)), (Some(141), String::new()));
}

/// What an agent has counted on its disk.
async fn counted(stack: &Stack, method: Method, agent: &SpawnedAgent) -> u64 {
    let answer = stack.request(method, agent, "/state").send().await.unwrap();
    answer.json::<Value>().await.unwrap()["count"].as_u64().unwrap()
}

/// A command with `--json` that gives an agent.
fn given(stack: &Stack, holder: &Holder, words: &[&str]) -> SpawnedAgent {
    let words = [words, &["--json"]].concat();
    SpawnedAgent::of(&serde_json::from_str(&stdout_of(&stack.cli(holder, &words).output().unwrap())).unwrap())
}

#[tokio::test]
async fn start_rm_and_ls_tell_what_is_kept_of_an_agent() {
    let mut stack = Stack::start(PLAIN).await;
    let (holder, stranger) = (stack.holder(SMALL), stack.holder(SMALL));
    let first = given(&stack, &holder, &["spawn", "--type", "echo", "--name", "agent-123"]);
    assert_eq!(first.id, "agent-123");
    let count = counted(&stack, Method::POST, &first).await;

    let stopped = stdout_of(&stack.cli(&holder, &["stop", "agent-123"]).output().unwrap());
    assert!(stopped.contains("kept until") && stopped.contains("palatine start agent-123"), "{stopped}");
    let listed = stdout_of(&stack.cli(&holder, &["ls"]).output().unwrap());
    assert!(listed.contains("agent-123") && listed.contains("MiB, kept until"), "{listed}");

    let again = given(&stack, &holder, &["start", "agent-123"]);
    assert_eq!((&again.id, again.text("url")), (&first.id, first.text("url")));
    assert_ne!(again.text("run"), first.text("run"));
    assert_eq!(counted(&stack, Method::GET, &again).await, count);

    let removed = stdout_of(&stack.cli(&holder, &["rm", "agent-123"]).output().unwrap());
    assert!(removed.contains("agent-123 removed"), "{removed}");
    assert_eq!(stack.cli(&holder, &["status", "agent-123"]).output().unwrap().status.code(), Some(4));
    assert!(stack.node_client().disks().await.unwrap().kept.is_empty(), "its data is left");
    let taken = stack.cli(&stranger, &["spawn", "--type", "echo", "--name", "agent-123"]).output().unwrap();
    assert_eq!(taken.status.code(), Some(5), "{}", stderr_of(&taken));
    stack.end();
}

#[tokio::test]
async fn an_agent_of_spawn_rm_is_gone_when_it_is_stopped() {
    let mut stack = Stack::start(PLAIN).await;
    let holder = stack.holder(SMALL);
    let agent = given(&stack, &holder, &["spawn", "--type", "echo", "--rm"]);
    counted(&stack, Method::POST, &agent).await;
    let stopped = stdout_of(&stack.cli(&holder, &["stop", &agent.id]).output().unwrap());
    assert!(stopped.contains("nothing of it is kept"), "{stopped}");
    assert!(stack.node_client().disks().await.unwrap().kept.is_empty(), "its data is left");
    let lost = stack.cli(&holder, &["start", &agent.id]).output().unwrap();
    assert_eq!(lost.status.code(), Some(4), "{}", stderr_of(&lost));
    stack.end();
}

#[tokio::test]
async fn exec_streams_both_ways_and_returns_the_commands_exit_code() {
    let mut stack = Stack::start(PLAIN).await;
    let holder = stack.holder(SMALL);
    let id = &stack.agent(&holder).await.id;

    let mut command = stack.cli(&holder, &["exec", "--stdin", id, "--", "/usr/bin/agent-echo", "cat"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let large = "0123456789abcdef\n".repeat(20_000);
    let sent = large.clone();
    let feeder = std::thread::spawn(move || input.write_all(sent.as_bytes()).unwrap());
    let output = child.wait_with_output().unwrap();
    feeder.join().unwrap();
    assert!(stdout_of(&output) == large, "{} of {} bytes came back", output.stdout.len(), large.len());

    let failed = stack.exec_echo(&holder, id, &["tell", "exit", "42"]).output().unwrap();
    assert_eq!(failed.status.code(), Some(42));
    let missing = stack.cli(&holder, &["exec", id, "--", "/no/such/program"]).output().unwrap();
    assert!(!missing.status.success());
    assert!(stderr_of(&missing).contains("/no/such/program"));
    stack.end();
}

#[tokio::test]
async fn case_exec_stdin_megabytes_reach_a_command_and_a_killed_client_takes_it_along() {
    const BYTES: usize = 2_500_000;
    let mut stack = Stack::start(PLAIN).await;
    let holder = stack.holder(SMALL);
    let id = &stack.agent(&holder).await.id;
    let start = || {
        let mut command = stack.cli(&holder, &["exec", "-i", id, "--", "/usr/bin/agent-echo", "cat"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
    };
    let mut child = start();
    let mut input = child.stdin.take().unwrap();
    let feeder = std::thread::spawn(move || input.write_all(&[0; BYTES]).unwrap());
    let output = child.wait_with_output().unwrap();
    feeder.join().unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(0), BYTES));

    let running = async || {
        let path = format!("/agents/{id}/process.Process/List");
        let list = stack.ask(&holder, Method::POST, &path, json!({})).await.expect(200);
        list["processes"].as_array().map_or(0, Vec::len)
    };
    let mut killed = start();
    let mut input = killed.stdin.take().unwrap();
    input.write_all(b"x\n").unwrap();
    let mut line = [0; 2];
    std::io::Read::read_exact(killed.stdout.as_mut().unwrap(), &mut line).unwrap();
    assert_eq!(running().await, 1);
    killed.kill().unwrap();
    killed.wait().unwrap();
    until("its command ends", async || (running().await == 0).then_some(())).await;
    stack.end();
}

#[tokio::test]
async fn case_exit_code_a_command_that_is_ended_by_a_signal_exits_as_in_a_shell() {
    let mut stack = Stack::start(PLAIN).await;
    let holder = stack.holder(SMALL);
    let id = &stack.agent(&holder).await.id;
    let mut command = stack.cli(&holder, &["exec", "-i", id, "--", "/usr/bin/agent-echo", "cat"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.as_mut().unwrap().write_all(b"x\n").unwrap();
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut [0; 2]).unwrap();
    let path = |call: &str| format!("/agents/{id}/process.Process/{call}");
    let list = stack.ask(&holder, Method::POST, &path("List"), json!({})).await.expect(200);
    let kill = json!({"process": {"pid": list["processes"][0]["pid"]}, "signal": "SIGNAL_SIGKILL"});
    stack.ask(&holder, Method::POST, &path("SendSignal"), kill).await.expect(200);
    assert_eq!(child.wait().unwrap().code(), Some(128 + 9));
    stack.end();
}

#[tokio::test]
async fn another_wallet_sees_nothing_of_an_agent() {
    let mut stack = Stack::start(PLAIN).await;
    let (owner, stranger) = (stack.holder(SMALL), stack.holder(SMALL));
    let agent = stack.agent(&owner).await;
    let id = agent.id.as_str();
    for words in [vec!["status", id], vec!["logs", id], vec!["stop", id], vec!["exec", id, "--", "/usr/bin/agent-echo"]]
    {
        let output = stack.cli(&stranger, &words).output().unwrap();
        assert_eq!(output.status.code(), Some(4), "{words:?}: {}", stderr_of(&output));
    }
    let bare = stack
        .cli(&stranger, &["ask", id, "hello", "--url", agent.text("url"), "--token", "plt_wrong"])
        .output()
        .unwrap();
    assert_eq!(bare.status.code(), Some(3));
    assert_eq!(stack.status(&owner, id).await.expect(200)["agent"]["state"], "ready");
    stack.end();
}

#[test]
fn fault_2_10_errors_are_told_with_their_causes_and_without_a_stack() {
    let dir = tempfile::tempdir().unwrap();
    let bad = dir.path().join("bad.toml");
    std::fs::write(&bad, "[node]\nno_such_key = 1\n[gateway]\nno_such_key = 1\n").unwrap();
    let bad = bad.to_str().unwrap();
    let nowhere = ["--gateway", "http://127.0.0.1:1", "tiers"];
    for (name, words, cause) in [
        ("hypercore", &["--config", bad][..], "no_such_key"),
        ("palatine", &["serve", "--config", bad], "no_such_key"),
        ("palatine", &nowhere, "refused"),
    ] {
        let mut command = Command::new(program(name));
        let output = command.args(words).env("RUST_BACKTRACE", "1").output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && said.starts_with("error: ") && said.contains(cause), "{name}: {said}");
        assert!(said.lines().count() <= 3 && !said.contains("stack") && !said.contains("<unknown>"), "{name}: {said}");
    }
}
