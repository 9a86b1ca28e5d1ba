//! Containers of a stack of `palatine up`, where there is no KVM: what cannot live under emulation runs in one, and the
//! answer says so. The agents of `images/` in them are `./dev soak agents`.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Instant;

use fixtures::{
    BASIC, LocalStack, MachineInventory, Starter, Worker, assets, backwards, images, nonce, stderr_of, stdout_of,
    until, workplace,
};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::agents::tell;

/// What `up` has the node offer and the tiers allow there.
const CONTAINER: &str = "container-runc";
/// The words that ask for one.
const IN_CONTAINER: [&str; 2] = ["--runtime", "container"];
/// The last of the reference agent's labels.
const LAST: &str = "\"org.opencontainers.image.licenses\" = \"Apache-2.0\"";

/// The reference agent under another name, as one that cannot live under emulation.
fn offer_unemulated(stack: &LocalStack) {
    let (from, to) = (assets().join("images/agent-echo"), stack.path("unemulated"));
    fs::create_dir(&to).unwrap();
    fs::copy(from.join("agent-echo"), to.join("agent-echo")).unwrap();
    let recipe = fs::read_to_string(from.join("image.toml")).unwrap();
    let labelled = recipe.replace(LAST, &format!("{LAST}\n\"ai.palatine.runtimes\" = \"qemu-kvm,container\""));
    assert_ne!(recipe, labelled);
    fs::write(to.join("image.toml"), labelled).unwrap();
    stack.run(&["image", "build", &to.display().to_string(), "unemulated", "--node"]);
}

/// Spawns by a request as the seed's own: signed headers and a body of JSON.
fn curl(stack: &LocalStack, body: &Value) -> Value {
    let (url, body) = (format!("http://{}/spawn", stack.listen), body.to_string());
    let signed = stdout_of(&stack.run(&["sign", "POST", &url, &body]));
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--noproxy", "*", "--max-time", "600", "-X", "POST", &url, "-H", "@-"]);
    curl.args(["-H", "Content-Type: application/json", "-d", &body]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut curl = curl.spawn().unwrap();
    curl.stdin.take().unwrap().write_all(signed.as_bytes()).unwrap();
    serde_json::from_slice(&curl.wait_with_output().unwrap().stdout).unwrap()
}

#[tokio::test]
async fn without_kvm_what_cannot_be_emulated_runs_in_a_container_and_the_answer_says_so() {
    needs::needs!(root, network, tun, cgroups);
    let untouched = MachineInventory::take();
    let stack = LocalStack::new();
    stack.up(&["--no-agent"]);
    assert!(stack.log().contains("(chat, coding) runs in container-runc"), "{}", stack.log());
    offer_unemulated(&stack);

    let spawned = curl(&stack, &json!({"agent_type": "unemulated"}));
    assert_eq!((&spawned["success"], &spawned["agent"]["runtime"]), (&json!(true), &json!(CONTAINER)), "{spawned}");
    let id = spawned["agent"]["id"].as_str().unwrap().to_owned();
    let token = spawned["agent"]["token"].as_str().unwrap();
    let answers = || stack.output(&["ask", &id, "are you there?", "--token", token]).status.success();
    assert!(answers());
    let shown = stdout_of(&stack.run(&["status", &id]));
    assert!(shown.contains(CONTAINER), "{shown}");
    let (word, file) = (nonce(), stack.path("word"));
    fs::write(&file, &word).unwrap();
    stack.run(&["cp", &file.display().to_string(), &format!("{id}:/data/word")]);

    // The node's death ends no container: the same one answers, and has what was written.
    let first = stack.json(&["status", &id]);
    stack.signal("hypercore", Signal::KILL);
    stack.until_restarted("hypercore", 0).await;
    until("the agent answers", async || answers().then_some(())).await;
    let now = stack.json(&["status", &id]);
    assert_eq!((&now["agent"]["run"], &now["agent"]["restarts"]), (&first["agent"]["run"], &json!(0)), "{now}");
    assert_eq!(read(&stack, &id, "/data/word"), word);

    // What is kept is there again, in a container again.
    stack.run(&["stop", &id]);
    let again = stack.json(&["start", &id]);
    assert_eq!(again["agent"]["runtime"], CONTAINER, "{again}");
    assert_eq!(read(&stack, &id, "/data/word"), word);
    stack.run(&["rm", &id]);

    // Who asks for nothing has a machine, and a container for the asking.
    for (asked, runtime) in [(&[][..], "qemu-tcg"), (&IN_CONTAINER[..], CONTAINER)] {
        let spawned = stack.json(&[&["spawn", "--type", "echo", "--rm"], asked].concat());
        assert_eq!(spawned["agent"]["runtime"], runtime, "{spawned}");
        let id = spawned["agent"]["id"].as_str().unwrap();
        assert!(stack.answers(id));
        stack.run(&["stop", id]);
    }
    // A stack that ends takes its containers along.
    stack.spawn("unemulated");
    stack.down();
    untouched.comes_back();
}

#[tokio::test]
async fn where_the_operator_names_machines_alone_what_cannot_be_emulated_is_refused() {
    let stack = LocalStack::with_images(&images(), "[node]\nruntimes = [\"qemu\"]\n");
    stack.up(&["--no-agent"]);
    offer_unemulated(&stack);
    let refused = stack.output(&["spawn", "--type", "unemulated"]);
    let said = stderr_of(&refused);
    assert_eq!(refused.status.code(), Some(2), "{said}");
    assert!(said.contains("it works in qemu-kvm, container") && said.contains("the nodes have qemu-tcg"), "{said}");
    let refused = stack.output(&[&["spawn", "--type", "echo"], &IN_CONTAINER[..]].concat());
    assert!(stderr_of(&refused).contains("your tier does not allow container"), "{}", stderr_of(&refused));
}

/// A file of an agent's.
pub(crate) fn read(stack: &LocalStack, id: &str, file: &str) -> String {
    let to = stack.path("read");
    stack.run(&["cp", &format!("{id}:{file}"), &to.display().to_string()]);
    fs::read_to_string(to).unwrap()
}

/// Has an agent work in a container, stops it, and finds its work as it was.
fn works_in_a_container(worker: &Worker<'_>, name: &str) {
    assert_eq!(worker.runtime, CONTAINER);
    tell(worker, &format!("{name} ready"), worker.ready_in);
    let made = worker.make();
    tell(worker, "its first work", made.took);
    tell(worker, "again", worker.again(&made));
    tell(worker, "started again", worker.stop_and_start());
    worker.has_work(&made);
    tell(worker, "back at its work", worker.again(&made));
}

#[tokio::test]
async fn soak_agents_coding_and_chat_work_in_containers_where_they_cannot_be_emulated() {
    let (model, stack) = workplace(&[Starter::Coding], "");

    // The seed's own request, of an agent that has no model.
    let began = Instant::now();
    let spawned = curl(&stack, &json!({"agent_type": "coding"}));
    println!("agent-coding, by curl: {} in {:.1} s", spawned["agent"]["state"], began.elapsed().as_secs_f32());
    assert_eq!((&spawned["success"], &spawned["agent"]["runtime"]), (&json!(true), &json!(CONTAINER)), "{spawned}");
    stack.run(&["rm", spawned["agent"]["id"].as_str().unwrap()]);

    for image in [Starter::Coding, Starter::Chat] {
        let worker = Worker::spawn(&stack, &model, image, &[]);
        works_in_a_container(&worker, image.name());
        worker.remove();
    }
    assert_eq!(stack.errors(), Vec::<String>::new());
}

#[tokio::test]
async fn soak_agents_nano_browser_and_base_work_in_containers_that_are_asked_for() {
    let images = [Starter::Nano, Starter::Browser, Starter::Base];
    let (model, stack) = workplace(&images, "");
    for image in images {
        let worker = Worker::spawn(&stack, &model, image, &[&IN_CONTAINER[..], &BASIC].concat());
        works_in_a_container(&worker, image.name());
        if image == Starter::Base {
            has_no_privileges(&stack, &worker);
        }
        worker.remove();
    }
    assert_eq!(stack.errors(), Vec::<String>::new());
}

/// It is `user` in its home, with Python and Node, and gains no privileges: sudo says so.
fn has_no_privileges(stack: &LocalStack, base: &Worker<'_>) {
    assert_eq!(base.exec("id -un; pwd; echo $HOME"), "user\n/home/user\n/home/user\n");
    let word = nonce();
    let node = format!("node -e 'console.log(\"{word}\".split(\"\").reverse().join(\"\"))'");
    assert_eq!(base.exec(&node).trim(), backwards(&word));
    let sudo = stack.output(&["exec", &base.id, "--", "sudo", "-n", "true"]);
    assert!(!sudo.status.success() && stderr_of(&sudo).contains("no new privileges"), "{}", stderr_of(&sudo));
}
