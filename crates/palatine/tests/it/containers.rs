//! Containers of a stack of `palatine up`, where there is no KVM: what cannot live under emulation runs in one, and the
//! answer says so. The agents of `images/` in them are `./dev soak agents`.

#![expect(clippy::print_stdout, reason = "what an agent takes of time, for who runs the soak")]

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Instant;

use fixtures::{
    Exchange, LocalStack, MachineInventory, Reply, ScriptedModel, Turn, assets, nonce, starter_image, stderr_of,
    stdout_of, until,
};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::agents::{BASIC, Nano, backwards, exec, look, nonces, words};

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
    let stack = LocalStack::with_images("[node]\nruntimes = [\"qemu\"]\n");
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

/// What the model has OpenClaw do: `CODE <word>` has a program of TypeScript written, compiled, run and committed, `RUN
/// <word>` has one run, and `AGAIN <word>` looks at what is there. What the programs print is words backwards.
fn program(turn: &Turn, nonce: &str) -> Reply {
    let exec =
        |command: String| Reply::Call("exec", json!({"command": command, "yieldMs": 120_000, "timeoutSeconds": 300}));
    let typescript = |word: &str| {
        format!(
            "mkdir -p prog && cd prog && git init -q . && printf '%s\\n' 'const word: string = \"{word} {nonce}\";' \
             'console.log(\"result\", word.split(\"\").reverse().join(\"\"));' > main.ts && tsc --outDir out main.ts; \
             node out/main.js && git add -A && git commit -qm 'made {nonce}' && git log --format=%s"
        )
    };
    let javascript = |word: &str| {
        format!(
            "printf '%s\\n' 'console.log(\"result\", \"{word} {nonce}\".split(\"\").reverse().join(\"\"));' > main.js && \
             node main.js"
        )
    };
    match (turn.results.last(), turn.word_after("CODE"), turn.word_after("RUN"), turn.word_after("AGAIN")) {
        (None, Some(word), _, _) => exec(typescript(word)),
        (None, _, Some(word), _) => exec(javascript(word)),
        (None, _, _, Some(_)) => exec("cd prog && git log --format=%s && node out/main.js".to_owned()),
        (Some(result), ..) => Reply::Say(format!("done {nonce} {result}")),
        (None, None, None, None) => Reply::Say(format!("heard {nonce}")),
    }
}

/// An agent on OpenClaw in a container, with a model that works.
struct Claw<'a> {
    stack: &'a LocalStack,
    model: &'a ScriptedModel,
    id: String,
}

impl<'a> Claw<'a> {
    fn spawn(stack: &'a LocalStack, model: &'a ScriptedModel, kind: &str) -> Self {
        let began = Instant::now();
        let spawned = stack.json(&[&["spawn", "--type", kind], &words(&model.env_with_model())[..]].concat());
        println!("agent-{kind}: {} in {:.1} s", spawned["agent"]["state"], began.elapsed().as_secs_f32());
        assert_eq!((&spawned["agent"]["state"], &spawned["agent"]["runtime"]), (&json!("ready"), &json!(CONTAINER)));
        Self { stack, model, id: spawned["agent"]["id"].as_str().unwrap().to_owned() }
    }

    /// Asks it; the answer, and what the model was asked of this turn.
    fn ask(&self, question: &str) -> (String, Vec<Exchange>) {
        let (before, began) = (self.model.exchanges().len(), Instant::now());
        let said = stdout_of(&self.stack.run(&["ask", question]));
        println!("  an answer in {:.1} s", began.elapsed().as_secs_f32());
        (said, self.model.exchanges().split_off(before))
    }

    /// Has a tool used; the nonce of the reply that called it, which is in what the tool has said and in the answer.
    fn works(&self, verb: &str) -> String {
        let word = nonce();
        let (said, asked) = self.ask(&format!("{verb} {word}"));
        let [called, ended] = nonces(&asked);
        let result = format!("result {}", backwards(&format!("{word} {called}")));
        assert!(asked[1].request.to_string().contains(&result), "{}", asked[1].request);
        assert!(said.contains(&ended) && said.contains(&result), "{said}");
        called
    }
}

#[tokio::test]
async fn soak_agents_coding_and_chat_work_in_containers_where_they_cannot_be_emulated() {
    let model = ScriptedModel::start(program);
    starter_image("agent-chat", "chat");
    starter_image("agent-coding", "coding");
    let stack = LocalStack::with_images(&model.reachable());
    stack.up(&["--no-agent"]);

    // The seed's own request, of an agent that has no model.
    let began = Instant::now();
    let spawned = curl(&stack, &json!({"agent_type": "coding"}));
    println!("agent-coding, by curl: {} in {:.1} s", spawned["agent"]["state"], began.elapsed().as_secs_f32());
    assert_eq!((&spawned["success"], &spawned["agent"]["runtime"]), (&json!(true), &json!(CONTAINER)), "{spawned}");
    stack.run(&["rm", spawned["agent"]["id"].as_str().unwrap()]);

    let coding = Claw::spawn(&stack, &model, "coding");
    let committed = coding.works("CODE");
    let log = |stack: &LocalStack| exec(stack, &coding.id, "git -C /workspace/prog log --format='%an %s'");
    assert_eq!(log(&stack).trim(), format!("agent made {committed}"));
    stack.run(&["stop", &coding.id]);
    let began = Instant::now();
    let started = stack.json(&[&["start", &coding.id], &words(&model.env_with_model())[..]].concat());
    println!("agent-coding, again: {} in {:.1} s", started["agent"]["state"], began.elapsed().as_secs_f32());
    assert_eq!(started["agent"]["runtime"], CONTAINER, "{started}");
    assert_eq!(log(&stack).trim(), format!("agent made {committed}"));
    let (said, asked) = coding.ask(&format!("AGAIN {}", nonce()));
    let [_, ended] = nonces(&asked);
    assert!(said.contains(&ended) && said.contains(&format!("made {committed}")), "{said}");
    assert!(said.contains(&backwards(&committed)), "{said}");
    stack.run(&["rm", &coding.id]);

    let chat = Claw::spawn(&stack, &model, "chat");
    chat.works("RUN");
    stack.run(&["rm", &chat.id]);
    assert_eq!(stack.errors(), Vec::<String>::new());
}

#[tokio::test]
async fn soak_agents_nano_works_in_a_container_that_is_asked_for_and_has_its_work_after_a_stop() {
    let nano = Nano::spawn(&IN_CONTAINER);
    assert_eq!(nano.status()["agent"]["runtime"], CONTAINER);
    let made = nano.make();
    nano.stop_and_start();
    nano.has_work(&made);
    nano.again(&made);
    assert_eq!(nano.status()["agent"]["runtime"], CONTAINER);
    assert_eq!(nano.stack.errors(), Vec::<String>::new());
}

#[tokio::test]
async fn soak_agents_browser_and_base_work_in_containers_that_are_asked_for() {
    let model = ScriptedModel::start(look);
    for (folder, name) in [("agent-nano", "nano"), ("agent-browser", "browser"), ("base", "base")] {
        starter_image(folder, name);
    }
    let stack = LocalStack::with_images(&model.reachable());
    stack.up(&["--no-agent"]);
    let spawn = |kind: &str, more: &[&str]| {
        let began = Instant::now();
        let spawned = stack.json(&[&["spawn", "--type", kind], &IN_CONTAINER[..], &BASIC[..], more].concat());
        println!("{kind}: {} in {:.1} s", spawned["agent"]["state"], began.elapsed().as_secs_f32());
        assert_eq!((&spawned["agent"]["state"], &spawned["agent"]["runtime"]), (&json!("ready"), &json!(CONTAINER)));
        spawned["agent"]["id"].as_str().unwrap().to_owned()
    };

    let browser = spawn("browser", &words(&model.env_with_model()));
    let (url, word) = model.page();
    let before = model.exchanges().len();
    let said = stdout_of(&stack.run(&["ask", &format!("LOOK {url}")]));
    let [_, _, ended] = nonces(&model.exchanges().split_off(before));
    assert!(said.contains(&ended) && said.contains(&format!("turned {}", backwards(word))), "{said}");
    stack.run(&["rm", &browser]);

    let base = spawn("base", &[]);
    let word = nonce();
    let inside = |command: &str| exec(&stack, &base, command).trim().to_owned();
    assert_eq!(inside("id -un; pwd; echo $HOME"), "user\n/home/user\n/home/user");
    assert_eq!(inside(&format!("python3 -c 'print(\"{word}\"[::-1])'")), backwards(&word));
    let node = format!("node -e 'console.log(\"{word}\".split(\"\").reverse().join(\"\"))'");
    assert_eq!(inside(&node), backwards(&word));
    let committed = inside(&format!(
        "mkdir -p ~/made && cd ~/made && git init -q . && echo {word} > it && git add it && git commit -qm 'made {word}' && \
         git log --format='%an %s'"
    ));
    assert_eq!(committed, format!("user made {word}"));
    // No container's process has privileges to gain: sudo says so.
    let sudo = stack.output(&["exec", &base, "--", "sudo", "-n", "true"]);
    assert!(!sudo.status.success() && stderr_of(&sudo).contains("no new privileges"), "{}", stderr_of(&sudo));
    stack.run(&["rm", &base]);
    assert_eq!(stack.errors(), Vec::<String>::new());
}
