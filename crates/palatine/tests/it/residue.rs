//! What a house leaves on the machine: nothing.

use std::process::Command;

use serde_json::Value;

use crate::house::{House, PLAIN, SMALL, assets, program};
use crate::machine::{Guard, Inventory};

fn rounds() -> u32 {
    std::env::var("PALATINE_ROUNDS").map_or(3, |rounds| rounds.parse().unwrap())
}

#[tokio::test]
async fn spawns_and_stops_leave_the_host_as_it_was() {
    needs::needs!(root, network, tun, cgroups);
    let untouched = Inventory::take();
    let mut house = House::start(PLAIN).await;
    let holder = house.holder(SMALL);
    // The first agent brings what the node keeps while it runs, such as its rules.
    let mut idle = None;
    for _ in 0..=rounds() {
        let id = house.spawn(&holder).await.expect(200)["agent"]["id"].as_str().unwrap().to_owned();
        let running = untouched.changes(&Inventory::take()).join("\n");
        for kind in ["process", "link", "namespace", "rules", "cgroup"] {
            assert!(running.contains(&format!("+ {kind}: ")), "a {kind} of a running agent is not seen: {running}");
        }
        house.stop(&holder, &id).await.expect(200);
        match &idle {
            None => idle = Some((Inventory::take(), files(&house))),
            Some((machine, there)) => {
                machine.comes_back();
                assert_eq!(&files(&house), there);
            }
        }
    }
    house.end();
    untouched.comes_back();
}

/// Takes the house down even where the test ends early.
struct Down(Command);

impl Drop for Down {
    fn drop(&mut self) {
        self.0.output().ok();
    }
}

/// The files of the node, without those that are written all the time.
fn files(house: &House) -> Vec<String> {
    let output = Command::new("find").arg(house.path("node")).args(["-mindepth", "1"]).output().unwrap();
    let mut files: Vec<_> = String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
    files.sort();
    files
}

#[tokio::test]
async fn up_and_down_leave_nothing_and_the_second_up_is_quick() {
    needs::needs!(root, network, tun, cgroups);
    let untouched = Inventory::take();
    let dir = tempfile::TempDir::with_prefix("palatine-").unwrap();
    let config = dir.path().join("extra.toml");
    std::fs::write(&config, "[node]\naccelerator = \"tcg\"\n").unwrap();
    let command = |words: &[&str]| {
        let mut command = Command::new(program("palatine"));
        command.args(words).env("PALATINE_STATE", dir.path().join("state")).env("PALATINE_ASSETS", assets());
        command.env("PALATINE_CONFIG", &config);
        command
    };
    let _guard = Guard::over(dir.path());
    let _down = Down(command(&["down"]));
    let palatine = |words: &[&str]| {
        let output = command(words).output().unwrap();
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    for round in 0..2 {
        let since = std::time::Instant::now();
        palatine(&["up", "--detach", "--no-agent", "--listen", "127.0.0.1:18473"]);
        assert!(round == 0 || since.elapsed().as_secs() < 5, "the second up took {:?}", since.elapsed());
        let house: Value = serde_json::from_str(&palatine(&["status", "--json"])).unwrap();
        assert_eq!(house["gateway"], "http://127.0.0.1:18473");
        assert!(house["holder_keypair"].as_str().unwrap().ends_with("holder.json"));
        let spawned: Value = serde_json::from_str(&palatine(&["spawn", "--type", "echo", "--json"])).unwrap();
        let id = spawned["agent"]["id"].as_str().unwrap();
        let said = palatine(&["ask", id, "are you there?"]);
        assert!(said.contains("are you there?"), "{said}");
        // An agent that is left running goes down with the house, and comes back with it.
        if round == 0 {
            palatine(&["stop", id]);
        }
        palatine(&["down"]);
        untouched.comes_back();
    }
    palatine(&["up", "--detach", "--no-agent", "--listen", "127.0.0.1:18473"]);
    let agents: Value = serde_json::from_str(&palatine(&["ls", "--json"])).unwrap();
    assert!(agents["agents"][0]["state"] == "ready" || agents["agents"][0]["state"] == "booting", "{agents}");
    palatine(&["down"]);
    untouched.comes_back();
}
