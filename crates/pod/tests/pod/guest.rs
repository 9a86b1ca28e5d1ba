//! A guest from power on to power off.

use std::collections::BTreeMap;

use fixtures::{PATIENCE, until};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::client::Client;
use crate::machine::{Disks, Machine};
use crate::{CANARY, TOKEN, TRACE, exec, identity, now_ms};

/// What PID 1 may take.
const MAX_RESIDENT: u64 = 12 << 20;

#[tokio::test]
async fn a_guest_takes_its_identity_once_runs_its_agent_as_nobody_special_and_powers_off_clean() {
    let disks = Disks::new();
    let mut machine = Machine::start(&disks, "");
    let pod = Client::of(machine.pod, "/bin");
    pod.until_up(|| machine.check_on()).await;
    takes_its_identity_once(pod).await;
    is_ready_and_small(pod).await;
    keeps_strangers_out(pod, &machine).await;
    confines_its_agent(pod).await;
    is_reached_at_its_loopback(pod).await;
    exec::runs_commands(pod).await;
    starts_its_agent_again(pod, &machine).await;
    tells_what_was_said(pod).await;
    exec::run(pod, &["keep", "this"]).await;
    powers_off(pod, &mut machine).await;
    disks.check_clean();
    assert!(!disks.hold(CANARY) && !disks.hold(TOKEN), "a secret is on a disk");
    gives_up_in_the_end_and_still_has_its_data(&disks).await;
}

#[tokio::test]
async fn an_agent_that_is_root_has_its_machine_and_is_served_and_stopped_as_any_other() {
    let disks = Disks::with(&["sbin/modprobe"]);
    let mut machine = Machine::start(&disks, "");
    let pod = Client::of(machine.pod, "/bin");
    pod.until_up(|| machine.check_on()).await;
    let mut roots = identity(&["serve", "8080"]);
    roots["run"]["user"] = json!("0:0");
    let (status, body) = pod.post("/v1/identity", &roots).await;
    assert_eq!(status, 200, "{body}");
    assert_eq!(pod.status("?until=ready&wait_ms=60000").await["phase"], "ready");
    let seen = exec::run(pod, &["see"]).await;
    let line = |line: &str| seen.lines().any(|seen| seen == line);
    assert!(line("status.Uid=0 0 0 0") && line("write_root=true") && line("write_data=true"), "{seen}");
    assert!(!line("status.CapEff=0000000000000000"), "{seen}");
    // What containers of its own need: control groups, and modules where its image has what loads them.
    let of = |name: &str| seen.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    assert!(["memory", "pids", "cpu"].iter().all(|one| of("controllers=").split(' ').any(|has| has == *one)), "{seen}");
    for module in ["bridge.ko", "veth.ko", "nf_tables.ko", "xt_MASQUERADE.ko"] {
        assert!(of("modules=").split(' ').any(|found| found == module), "{module}: {seen}");
    }
    // What root lets others become, they become.
    assert_eq!(exec::run(pod, &["lend"]).await.trim(), "lent");
    let seen = exec::run_as(pod, "1000", "/bin/lent", &["see"]).await;
    assert!(seen.lines().any(|line| line == "status.Uid=1000 0 0 0"), "{seen}");
    // It ends all it may, and the pod goes on.
    assert_eq!(exec::run(pod, &["rage"]).await.trim(), "raged");
    assert_eq!(pod.status("?until=ready&wait_ms=60000").await["phase"], "ready");
    powers_off(pod, &mut machine).await;
    disks.check_clean();
}

#[test]
fn a_probe_says_that_it_booted_and_is_gone() {
    let disks = Disks::new();
    let mut machine = Machine::start(&disks, "palatine.probe");
    machine.until_off();
    assert!(machine.console().contains("palatine-probe-ok"), "{}", machine.console());
}

#[test]
fn a_guest_without_its_disks_is_gone_at_once_and_says_why() {
    let disks = Disks::new();
    let mut machine = Machine::start_with(&disks, "", &["base"]);
    machine.until_off();
    assert!(machine.console().contains("no disk with the serial \"layer\""), "{}", machine.console());
}

async fn takes_its_identity_once(pod: Client) {
    assert_eq!(pod.get("/v1/status").await.0, 401, "before the identity nobody has a token");
    let mut wrong = identity(&["serve", "8080"]);
    wrong["run"]["user"] = json!("nobody-here");
    let (status, body) = pod.post("/v1/identity", &wrong).await;
    assert_eq!(status, 400, "{body}");
    assert!(body.contains("run.user") && !body.contains(CANARY), "{body}");
    let (status, body) = pod.post("/v1/identity", &identity(&["serve", "8080"])).await;
    assert_eq!(status, 200, "{body}");
    let (status, body) = pod.post("/v1/identity", &identity(&["serve", "8080"])).await;
    assert_eq!((status.as_u16(), body.contains("wrong_state")), (409, true), "{body}");
}

async fn is_ready_and_small(pod: Client) {
    let status = pod.status("?until=ready&wait_ms=60000").await;
    assert_eq!(status["phase"], "ready", "{status}");
    println!("{}", serde_json::to_string_pretty(&status).unwrap());
    let (_, metrics) = pod.get("/metrics").await;
    let resident = metrics.lines().find_map(|line| line.strip_prefix("pod_resident_bytes ")).unwrap();
    println!("pod_resident_bytes {resident}");
    assert!((1..MAX_RESIDENT).contains(&resident.parse().unwrap()), "{metrics}");
}

async fn keeps_strangers_out(pod: Client, machine: &Machine) {
    for token in [None, Some("wrong"), Some("")] {
        for path in ["/v1/status", "/v1/logs", "/metrics"] {
            let (status, body) = pod.with(token).get(path).await;
            assert_eq!((status.as_u16(), body.contains("invalid_token")), (401, true), "{path} {token:?} {body}");
        }
        let (status, _) = pod.with(token).post("/process.Process/List", &json!({})).await;
        assert_eq!(status, 401);
        assert_eq!(pod.with(token).post("/v1/stop", &json!({"grace_ms": 0})).await.0, 401);
    }
    let (_, env) = Client::of_agent(machine.agent).get("/env").await;
    assert!(env.contains(&format!("HOLDERS_KEY={CANARY}")) && env.contains("FROM_IMAGE=yes"), "{env}");
}

async fn confines_its_agent(pod: Client) {
    let seen: BTreeMap<String, String> = exec::run(pod, &["see"])
        .await
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let expected = [
        ("status.Uid", "1000 1000 1000 1000"),
        ("status.Gid", "1000 1000 1000 1000"),
        ("status.Groups", "1000"),
        ("status.CapEff", "0000000000000000"),
        // It may become root by what its image lets it: the machine is its own.
        ("status.NoNewPrivs", "0"),
        ("hostname", "agent-123"),
        ("resolv", "nameserver 10.200.0.1"),
        ("env.POD_ID", "agent-123"),
        ("env.PALATINE_AGENT_ID", "agent-123"),
        ("env.PALATINE_RUN_ID", "a1b2c3d4-e5f6-7890"),
        ("env.HOLDERS_KEY", CANARY),
        ("cwd", "/work"),
        ("oom", "500"),
        ("write_root", "false"),
        ("write_data", "true"),
        // Its own process and the agent's, and no other.
        ("pids", "2"),
        // Closed as soon as it is open: nobody but the node is let in.
        ("pod_from_inside", "shut"),
        ("dev_fd", "open"),
        ("dev_stdin", "open"),
        ("dev_stdout", "open"),
        ("dev_stderr", "open"),
        // Its image has nothing that loads them.
        ("modules", ""),
    ];
    for (name, value) in expected {
        assert_eq!(seen.get(name).map(String::as_str), Some(value), "{name} in {seen:#?}");
    }
    for hidden in ["init_environ", "init_status", "init_mem"] {
        assert!(seen[hidden].starts_with("error"), "{hidden}: {}", seen[hidden]);
    }
    // IPv6 is there for the loopback alone.
    assert!(seen["if_inet6"].split('|').all(|line| line.ends_with(" lo")), "{}", seen["if_inet6"]);
    assert!(!seen["cmdline"].contains(CANARY));
    let off = now_ms().abs_diff(seen["now_ms"].parse().unwrap());
    assert!(off < 5_000, "the guest's clock is {off} ms off");
}

/// What listens for the guest itself alone, over IPv4 or IPv6, is carried to.
async fn is_reached_at_its_loopback(pod: Client) {
    for (address, port) in [("127.0.0.1", 9001), ("[::1]", 9002)] {
        let serve = ["serve", &format!("{address}:{port}")];
        let (pid, mut serving) = exec::start(pod, &serve, &json!({"stdin": false})).await;
        let heard = until("it listens", async || pod.through_tunnel(port, b"GET / HTTP/1.1\r\n\r\n").await).await;
        assert!(heard.starts_with("HTTP/1.1 200"), "{heard}");
        let kill = json!({"process": {"pid": pid}, "signal": "SIGNAL_SIGKILL"});
        assert_eq!(pod.unary("SendSignal", &kill).await.0, 200);
        serving.rest().await;
    }
}

async fn starts_its_agent_again(pod: Client, machine: &Machine) {
    let _ = Client::of_agent(machine.agent).send(http::Method::GET, "/die", &[], "").await;
    let again = until_status(pod, |status| status["restarts"] == 1).await;
    assert_eq!(again["last_exit"], "exit status 7", "{again}");
    let status = pod.status("?until=ready&wait_ms=60000").await;
    assert_eq!(status["phase"], "ready", "{status}");
    assert_eq!(Client::of_agent(machine.agent).get("/ready").await.0, 200);
}

async fn tells_what_was_said(pod: Client) {
    let (_, logs) = pod.get("/v1/logs").await;
    let lines: Vec<Value> = logs.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let said = |stream: &str, text: &str| {
        lines.iter().any(|line| line["stream"] == stream && line["line"].as_str().unwrap().contains(text))
    };
    assert!(said("stdout", "serving on 8080") && said("stderr", "this goes to stderr"), "{logs}");
    assert!(said("pod", TRACE), "{logs}");
    assert!(said("pod", "exit status 7") && !logs.contains(CANARY), "{logs}");
    let last = lines.last().unwrap()["seq"].as_u64().unwrap();
    assert_eq!(last, lines.len() as u64, "lines are numbered without a gap");
    assert_eq!(pod.get(&format!("/v1/logs?after={last}")).await.1, "");
}

async fn powers_off(pod: Client, machine: &mut Machine) {
    let follow = pod.send(http::Method::GET, "/v1/logs?follow=true", &[], "").await.unwrap();
    let (status, body) = pod.post("/v1/stop", &json!({"grace_ms": 5000})).await;
    assert_eq!((status.as_u16(), body.contains("stopping")), (200, true), "{body}");
    let followed = timeout(PATIENCE, http_body_util::BodyExt::collect(follow.into_body())).await;
    followed.expect("a follower ends with the guest").unwrap();
    println!("off after {:?}", machine.until_off());
    assert!(!machine.console().contains(CANARY), "{}", machine.console());
}

async fn gives_up_in_the_end_and_still_has_its_data(disks: &Disks) {
    let mut machine = Machine::start(disks, "");
    let pod = Client::of(machine.pod, "/bin");
    pod.until_up(|| machine.check_on()).await;
    let (status, body) = pod.post("/v1/identity", &identity(&["exit", "1"])).await;
    assert_eq!(status, 200, "{body}");
    // Each end on the way is an answer of its own to who waits.
    let status = until_status(pod, |status| status["phase"] == "failed").await;
    assert_eq!(status["last_exit"], "exit status 1", "{status}");
    assert!(status["restarts"].as_u64().unwrap() >= 3, "{status}");
    let seen = exec::run(pod, &["see"]).await;
    assert!(seen.contains("\nkept=this\n"), "the data disk forgot: {seen}");
    let (status, _) = pod.post("/v1/stop", &json!({"grace_ms": 0})).await;
    assert_eq!(status, 200);
    machine.until_off();
    disks.check_clean();
}

/// Waits for a status of the pod.
async fn until_status(pod: Client, done: impl Fn(&Value) -> bool) -> Value {
    until("the status", async || Some(pod.status("").await).filter(&done)).await
}
