//! What takes long: `./dev soak` runs it, in the shards of `tests/shards.toml`. How long it goes on is
//! `PALATINE_SOAK_MINUTES`.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use fixtures::{Answer, Holder, LocalStack, MachineInventory, SMALL, SpawnedAgent, Stack, until};
use reqwest::{Method, StatusCode};
use serde_json::Value;

use crate::crash::random_below;

/// The disk of the node and of the gateway's database.
const DISK_MIB: u64 = 1536;
/// What the filler leaves at most when it fills the disk.
const LEFT_BYTES: u64 = 4 << 20;
/// How long the disk stays full or free at most.
const SPELL: Duration = Duration::from_secs(20);
/// How long an idle stack is left between two looks at it.
const LOOK: Duration = Duration::from_secs(2);
const QUICK: &str = "[control]\nreconcile_ms = 500\n";

fn goes_on() -> Duration {
    let minutes = std::env::var("PALATINE_SOAK_MINUTES").map_or(1, |minutes| minutes.parse().unwrap());
    Duration::from_secs(60 * minutes)
}

/// A file system of its own, unmounted when dropped.
struct Disk(tempfile::TempDir);

impl Disk {
    fn new() -> Self {
        let dir = tempfile::TempDir::with_prefix("palatine-disk-").unwrap();
        let size = format!("size={DISK_MIB}m");
        let status = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "soak"]).arg(dir.path()).status().unwrap();
        assert!(status.success(), "no file system of its own");
        Self(dir)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn filler(&self) -> PathBuf {
        self.path("filler")
    }

    /// Writes until there is no more room, then gives a little back.
    fn fill(&self) {
        let mut file = fs::File::options().create(true).append(true).open(self.filler()).unwrap();
        let block = vec![0x5a; 1 << 20];
        while file.write_all(&block).is_ok() {}
        let written = file.metadata().unwrap().len();
        let left = u64::try_from(random_below(Duration::from_micros(LEFT_BYTES)).as_micros()).unwrap();
        file.set_len(written.saturating_sub(left)).unwrap();
    }

    fn free(&self) {
        fs::remove_file(self.filler()).ok();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        Command::new("umount").args(["--lazy"]).arg(self.0.path()).status().ok();
    }
}

/// An agent that counts on its own disk, and what it last said that it had kept.
struct Counting {
    holder: Holder,
    agent: SpawnedAgent,
    kept: u64,
}

impl Counting {
    fn id(&self) -> &str {
        &self.agent.id
    }

    /// Asks it to count once more. While its disk is full it may refuse.
    async fn count(&mut self, stack: &Stack) {
        let Ok(answer) = stack.request(Method::POST, &self.agent, "/state").send().await else { return };
        if answer.status().is_success() {
            self.kept = answer.json::<Value>().await.unwrap()["count"].as_u64().unwrap();
        }
    }

    async fn counted(&self, stack: &Stack) -> Option<u64> {
        let answer = stack.request(Method::GET, &self.agent, "/state").send().await.ok()?;
        answer.json::<Value>().await.ok()?["count"].as_u64()
    }
}

/// With a full disk a request is served, or refused for now; it is never an error of ours.
#[track_caller]
fn served_or_refused(what: &str, answer: &Answer) {
    let now = answer.status.is_success();
    let later = matches!(answer.status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS)
        && answer.body["code"].is_string();
    assert!(now || later, "{what}: {} {}", answer.status, answer.body);
}

#[tokio::test]
async fn soak_disk_that_is_filled_and_freed_at_random_costs_no_agent_and_no_data() {
    needs::needs!(root, network, tun, cgroups);
    let disk = Disk::new();
    let places = format!(
        "{QUICK}[node]\nstate = {:?}\nlayer_mib = 128\ndata_mib = 64\ndisk_free_mib = 64\n[store]\ndirectory = {:?}\n",
        disk.path("node"),
        disk.path("store"),
    );
    let mut stack = Stack::start(&places).await;
    let mut agents = Vec::new();
    for _ in 0..2 {
        let holder = stack.holder(SMALL);
        let agent = stack.agent(&holder).await;
        agents.push(Counting { holder, agent, kept: 0 });
    }
    let passer = stack.holder(SMALL);
    let until_then = Instant::now() + goes_on();
    while Instant::now() < until_then {
        disk.fill();
        spell(&stack, &mut agents, &passer).await;
        disk.free();
        spell(&stack, &mut agents, &passer).await;
    }
    for agent in &mut agents {
        let kept = agent.kept;
        assert!(kept > 0, "it never counted");
        let counted = until("the agent answers again", async || agent.counted(&stack).await).await;
        assert!(counted >= kept, "{counted} of {kept} that were kept");
        assert_eq!(stack.status(&agent.holder, agent.id()).await.expect(200)["agent"]["state"], "ready");
        stack.stop(&agent.holder, agent.id()).await.expect(200);
    }
    stack.end();
}

/// A while with the disk as it is: the agents are asked, and somebody comes and goes.
async fn spell(stack: &Stack, agents: &mut [Counting], passer: &Holder) {
    let over = Instant::now() + random_below(SPELL);
    while Instant::now() < over {
        for agent in &mut *agents {
            agent.count(stack).await;
            served_or_refused("status", &stack.status(&agent.holder, agent.id()).await);
        }
        let spawned = stack.spawn(passer).await;
        if spawned.status == StatusCode::OK {
            let id = spawned.body["agent"]["id"].as_str().unwrap().to_owned();
            stack.remove(passer, &id).await.expect(200);
        } else {
            assert!(
                spawned.body["code"].is_string() && spawned.status != StatusCode::INTERNAL_SERVER_ERROR,
                "{spawned:?}"
            );
        }
    }
}

async fn is_ready(stack: &LocalStack) -> bool {
    stack.ready().await.is_some_and(|(status, _)| status.is_success())
}

#[tokio::test]
async fn soak_day_of_a_stack_that_is_left_alone_and_then_used() {
    needs::needs!(root, network, tun, cgroups);
    let untouched = MachineInventory::take();
    let stack = LocalStack::new();
    stack.up(&[]);
    stack.live();
    let (idle, busy) = (Instant::now() + goes_on() / 2, Instant::now() + goes_on());
    while Instant::now() < idle {
        assert!(is_ready(&stack).await, "it is not ready, left alone: {:?}", stack.status());
        tokio::time::sleep(LOOK).await;
    }
    let mut round = 0;
    while Instant::now() < busy || round == 0 {
        round += 1;
        stack.live();
        assert!(is_ready(&stack).await, "it is not ready after {round} agents: {:?}", stack.status());
    }
    println!("{round} agents lived");
    assert_eq!(stack.errors(), Vec::<String>::new());
    stack.down();
    untouched.comes_back();
}
