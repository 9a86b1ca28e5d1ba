//! `palatine up`: parts that hang or die, stacks that are killed, two of them side by
//! side, and the main job done once.

use std::process::Command;
use std::time::{Duration, Instant};

use fixtures::{LocalStack, MachineInventory, assets, json_rpc, stderr_of, stdout_of, until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

/// The channel of events that once stopped the local Solana.
const EVENTS: u64 = 1024;

async fn slot(rpc: &str) -> u64 {
    json_rpc(rpc, "getSlot", json!([])).await.unwrap().as_u64().unwrap()
}

/// In a soak it is left alone for `PALATINE_SOAK_MINUTES`, with slots as everybody has
/// them; else they come so fast that the bound is passed in some seconds.
#[tokio::test]
async fn case_local_chain_80s_and_fault_1_0_a_stack_outlives_its_chains_channel_of_events() {
    let minutes = std::env::var("PALATINE_SOAK_MINUTES").ok().map(|text| text.parse::<u64>().unwrap());
    let alone = minutes.map(|minutes| Duration::from_secs(60 * minutes));
    let stack = LocalStack::with_slots_of_ms(alone.is_none().then_some("4"));
    stack.up(&["--no-agent"]);
    let rpc = stack.status().unwrap()["solana_rpc"].as_str().unwrap().to_owned();
    stack.live();
    // Nobody asks it anything: that is what is tried.
    tokio::time::sleep(alone.unwrap_or_default()).await;
    let limit = Instant::now() + Duration::from_secs(200);
    while slot(&rpc).await < EVENTS + 100 {
        assert!(Instant::now() < limit, "the slots stand still");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // It was idle; now it works.
    stack.live();
    let status = stack.json(&["status"]);
    assert_eq!(status["ok"], true, "{status}");
    assert!(status["parts"].as_array().unwrap().iter().all(|part| part["restarts"] == 0), "{status}");
}

#[tokio::test]
async fn fault_1_0_a_hung_solana_is_told_of_everywhere_and_started_anew_with_what_was_on_it() {
    let stack = LocalStack::new();
    stack.up(&["--no-agent"]);
    let before = stack.status().unwrap();
    assert_eq!(stack.ready().await.unwrap().0, 200);
    stack.signal("solana", Signal::STOP);
    let told = until("/ready says so", async || stack.ready().await.filter(|(status, _)| *status == 503)).await.1;
    assert_eq!(told["status"], "solana: no Solana endpoint gives a balance", "{told}");
    let sick = until("status says so", async || stack.part("solana").filter(|part| part["state"] != "ok")).await;
    assert!(sick["why"].as_str().is_some() && sick["since"].as_u64() > Some(0), "{sick}");
    assert_eq!(stack.output(&["status"]).status.code(), Some(6));
    stack.until_restarted("solana", 0).await;
    let now = stack.status().unwrap();
    for same in ["solana_rpc", "mint", "holder"] {
        assert_eq!(now[same], before[same]);
    }
    assert_eq!(stack.ready().await.unwrap().0, 200);
    // The holder still has what was funded before; a death is mended as well.
    stack.signal("solana", Signal::KILL);
    stack.until_restarted("solana", 1).await;
    let id = stack.spawn("echo");
    assert!(stack.answers(&id));
    let said = stack.log();
    assert!(said.contains("solana is sick since ") && said.contains("solana runs again"), "{said}");
}

#[tokio::test]
async fn fault_1_0_a_solana_whose_journal_was_cut_has_its_holders_tokens_again_and_it_is_told() {
    let stack = LocalStack::new();
    stack.up(&["--no-agent"]);
    let mint = stack.status().unwrap()["mint"].clone();
    let journal = stack.state().join("solana.journal");
    let whole = std::fs::read(&journal).unwrap();
    let first = whole.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    // Within the first record, and without the second.
    for (length, restarts, kept) in [(first / 2, 0, "journal.broken"), (first, 1, "journal.broken.1")] {
        let aside = journal.with_extension(kept);
        std::fs::write(&journal, &whole[..length]).unwrap();
        stack.signal("solana", Signal::KILL);
        stack.until_restarted("solana", restarts).await;
        assert_eq!(std::fs::read(&aside).unwrap(), whole[..length], "it is set aside");
        assert_eq!(stack.status().unwrap()["mint"], mint);
        let visitor = stack.status().unwrap()["visitor_keypair"].as_str().unwrap().to_owned();
        for who in [&[][..], &["--keypair", &visitor]] {
            let words = [&["spawn", "--type", "echo"][..], who].concat();
            let id = stack.json(&words)["agent"]["id"].as_str().unwrap().to_owned();
            stack.run(&[&["stop", &id][..], who].concat());
        }
    }
    let said = stack.log();
    assert!(said.contains("solana.journal is damaged, and kept as ") && said.contains("made anew"), "{said}");
}

#[tokio::test]
async fn fault_1_0_what_was_told_to_an_evm_chain_that_is_killed_at_once_is_on_it_again() {
    let stack = LocalStack::new();
    stack.up(&["--no-agent"]);
    stack.run(&["wallet", "link"]);
    let id = stack.spawn("echo");
    // The first one waits by itself for the vault, which is on its way since the spawn.
    for kills in 0..2 {
        stack.run(&["vault", "create", &id, "5", "write a poem"]);
        // Long before it writes its state down.
        stack.signal("evm", Signal::KILL);
        stack.until_restarted("evm", kills).await;
    }
    // Nobody's next transaction waits for one that was forgotten.
    stack.run(&["vault", "create", &id, "5", "write another"]);
    until("the gateway has seen all tasks", async || {
        let tasks = stack.json(&["vault", "tasks", &id]);
        (tasks["tasks"].as_array()?.len() == 3).then_some(())
    })
    .await;
}

#[tokio::test]
async fn fault_1_5_a_part_that_dies_is_started_again_and_one_that_cannot_be_is_named() {
    let stack = LocalStack::new();
    stack.up(&["--no-agent"]);
    let before = stack.status().unwrap();
    let id = stack.spawn("echo");
    for part in ["hypercore", "gateway", "evm"] {
        stack.signal(part, Signal::KILL);
        stack.until_restarted(part, 0).await;
        assert!(stack.answers(&id), "after the death of {part}");
    }
    assert_eq!(stack.status().unwrap()["evm_rpc"], before["evm_rpc"]);
    assert_eq!(stack.json(&["status", &id])["agent"]["restarts"], 0, "the guest outlived the node");
    // While the node hangs no gateway is ready. It is sick with it, and not killed for it.
    stack.signal("hypercore", Signal::STOP);
    stack.signal("gateway", Signal::KILL);
    let sick = until("the gateway is back and sick", async || {
        let part = stack.part("gateway")?;
        (part["state"] == "sick" && part["restarts"] == 2).then_some(part)
    })
    .await;
    stack.signal("hypercore", Signal::CONT);
    let well = stack.until_restarted("gateway", 1).await;
    assert_eq!(well["process"], sick["process"]);
    // A node that cannot start says why, and is tried again.
    let config = stack.state().join("palatine.toml");
    let good = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, "[node]\nno_such_key = 1\n").unwrap();
    stack.signal("hypercore", Signal::KILL);
    let down = until("it is named", async || {
        let part = stack.part("hypercore")?;
        part["why"].as_str()?.contains("no_such_key").then_some(part)
    })
    .await;
    assert_eq!(down["state"], "down");
    std::fs::write(&config, good).unwrap();
    stack.until_restarted("hypercore", 1).await;
    assert!(stack.answers(&id));
}

#[tokio::test]
async fn fault_1_5_down_and_the_next_up_clear_what_a_killed_up_left() {
    needs::needs!(root, network, tun, cgroups);
    let untouched = MachineInventory::take();
    let stack = LocalStack::new();
    let kill_all = |stack: &LocalStack| {
        let up = stack.supervisor();
        let node = stack.process_of("hypercore");
        // The node cannot hear that its supervisor died.
        kill_process(node, Signal::STOP).unwrap();
        kill_process(up, Signal::KILL).unwrap();
        node
    };
    // Everything is killed: guests, links and rules are left without anybody.
    stack.up(&["--no-agent"]);
    let id = stack.spawn("echo");
    let node = kill_all(&stack);
    kill_process(node, Signal::KILL).unwrap();
    stack.until_gone().await;
    let left = untouched.changes(&MachineInventory::take()).join("\n");
    assert!(left.contains("qemu-system") && left.contains("rules: "), "{left}");
    stack.down();
    untouched.comes_back();
    // The node hangs: the next `up` ends it, and the agent comes back.
    stack.up(&["--no-agent"]);
    stack.until_answers(&id).await;
    kill_all(&stack);
    stack.until_gone().await;
    stack.up(&["--no-agent"]);
    stack.until_answers(&id).await;
    stack.down();
    untouched.comes_back();
}

#[tokio::test]
async fn fault_1_5_down_while_the_node_hangs_or_is_between_two_starts_leaves_nothing() {
    needs::needs!(root, network, tun, cgroups);
    let untouched = MachineInventory::take();
    let stack = LocalStack::new();
    stack.up(&["--no-agent"]);
    let id = stack.spawn("echo");
    stack.signal("hypercore", Signal::STOP);
    stack.down();
    untouched.comes_back();
    stack.up(&["--no-agent"]);
    stack.until_answers(&id).await;
    let config = stack.state().join("palatine.toml");
    let good = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, "[node]\nno_such_key = 1\n").unwrap();
    stack.signal("hypercore", Signal::KILL);
    let down = async || stack.part("hypercore").filter(|part| part["why"].to_string().contains("no_such_key"));
    until("the node is down", down).await;
    std::fs::write(&config, good).unwrap();
    // The stack itself leaves nothing: no `palatine down` comes after it.
    kill_process(stack.supervisor(), Signal::TERM).unwrap();
    stack.until_gone().await;
    untouched.comes_back();
}

#[tokio::test]
async fn fault_1_5_down_clears_what_a_second_interrupt_left() {
    needs::needs!(root, network, tun, cgroups);
    let untouched = MachineInventory::take();
    let stack = LocalStack::new();
    stack.up(&["--no-agent"]);
    stack.spawn("echo");
    let process = |name: &str| serde_json::from_value(stack.part(name).unwrap()["process"].clone()).unwrap();
    let (gateway, node): (sandbox::ProcessFacts, sandbox::ProcessFacts) = (process("gateway"), process("hypercore"));
    let supervisor = stack.supervisor();
    kill_process(supervisor, Signal::INT).unwrap();
    let limit = Instant::now() + Duration::from_secs(60);
    while sandbox::process::find(&gateway).unwrap().is_some() {
        assert!(Instant::now() < limit, "the gateway does not end");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    // The node is asked next; it hangs now, and nobody wants to wait for it.
    kill_process(Pid::from_raw(i32::try_from(node.pid).unwrap()).unwrap(), Signal::STOP).unwrap();
    kill_process(supervisor, Signal::INT).unwrap();
    let since = Instant::now();
    stack.until_gone().await;
    assert!(since.elapsed() < Duration::from_secs(20), "it waited for {:?}", since.elapsed());
    let said = stack.log();
    assert!(said.contains("ended at once") && said.contains("palatine down"), "{said}");
    stack.down();
    untouched.comes_back();
}

#[tokio::test]
async fn fault_1_5_down_in_a_copy_of_a_state_folder_leaves_what_runs_in_the_original_alone() {
    let stack = LocalStack::new();
    stack.up(&["--no-agent"]);
    let id = stack.spawn("echo");
    let copy = stack.path("copy");
    assert!(Command::new("cp").arg("-a").arg(stack.state()).arg(&copy).status().unwrap().success());
    let copy = copy.display().to_string();
    let before = stack.status().unwrap();
    let nothing = stack.output(&["status", "--state", &copy]);
    assert!(stderr_of(&nothing).contains("Nothing is running here"), "{}", stderr_of(&nothing));
    assert!(stderr_of(&stack.run(&["down", "--state", &copy])).contains("Nothing is running"));
    let now = stack.status().unwrap();
    assert_eq!((&now["pid"], &now["ok"]), (&before["pid"], &json!(true)));
    for part in ["solana", "evm", "hypercore", "gateway"] {
        assert_eq!(stack.part(part).unwrap()["restarts"], 0, "{part}");
    }
    assert!(stack.answers(&id));
}

#[tokio::test]
async fn fault_1_3_two_stacks_live_side_by_side() {
    let (one, other) = (LocalStack::new(), LocalStack::new());
    one.up(&["--no-agent"]);
    let first = one.spawn("echo");
    other.up(&["--no-agent"]);
    assert!(one.answers(&first), "the second stack left the first one's guest alone");
    let second = other.spawn("echo");
    other.down();
    other.up(&["--no-agent"]);
    assert!(one.answers(&first));
    other.until_answers(&second).await;
    one.down();
    assert!(other.answers(&second));
    let network = |stack: &LocalStack| {
        let text = std::fs::read_to_string(stack.state().join("palatine.toml")).unwrap();
        text.parse::<toml::Table>().unwrap()["network"].clone()
    };
    for key in ["name", "range"] {
        assert_ne!(network(&one)[key], network(&other)[key]);
    }
}

#[tokio::test]
async fn fault_3_1_up_ends_by_doing_the_main_job_once_and_the_holders_spawn_stays_free() {
    let stack = LocalStack::new();
    let up = stack.up(&[]);
    let said = stderr_of(&up);
    let url = said.find(".localhost:").expect("the agent's URL is shown");
    let question = said.find("> are you there?").expect("the question is shown");
    let answer = said.find("< ").expect("the answer is shown");
    let stopped = said.find("The agent is stopped").expect("it is stopped");
    assert!(url < question && question < answer && answer < stopped, "{said}");
    assert!(said[answer..stopped].contains("are you there?"), "{said}");
    assert!(stdout_of(&up).contains("palatine spawn --type echo"), "what to type next");
    let visitor = stack.status().unwrap()["visitor_keypair"].as_str().unwrap().to_owned();
    let agents = stack.json(&["ls", "--keypair", &visitor])["agents"].as_array().unwrap().clone();
    assert!(agents.iter().all(|agent| agent["state"] == "stopped"), "{agents:?}");
    // The holder has no agent yet.
    assert!(stdout_of(&stack.run(&["ls"])).contains("No agents"));
    let id = stack.spawn("echo");
    assert!(stack.answers(&id));
}

#[tokio::test]
async fn case_image_store_an_image_goes_to_the_store_of_what_runs() {
    let stack = LocalStack::new();
    stack.up(&["--no-agent"]);
    let recipe = assets().join("images/agent-echo").display().to_string();
    let built = stack.run(&["image", "build", &recipe, "other", "--node"]);
    assert!(stderr_of(&built).contains(&stack.state().join("images").display().to_string()));
    let id = stack.spawn("other");
    assert!(stack.answers(&id));
    stack.run(&["stop", &id]);
    // A store that nobody serves is named, before the verb or after it.
    let aside = stack.path("aside").display().to_string();
    stack.run(&["image", "build", &recipe, "aside", "--store", &aside]);
    assert!(stdout_of(&stack.run(&["image", "--store", &aside, "ls"])).contains("aside"));
    assert!(!stdout_of(&stack.run(&["image", "ls"])).contains("aside"));
    stack.down();
    let lost =
        stack.command(&["image", "build", &recipe, "lost", "--node"]).current_dir(stack.path(".")).output().unwrap();
    assert!(!lost.status.success() && stderr_of(&lost).contains("--store DIR"), "{}", stderr_of(&lost));
}
