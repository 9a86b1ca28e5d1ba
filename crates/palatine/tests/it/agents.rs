//! Agents that do work, each in a microVM of a stack of `palatine up`: `./dev soak agents` runs them. How long one is left
//! alone is `PALATINE_SOAK_MINUTES`.

#![expect(clippy::print_stdout, reason = "what an agent takes of time and memory, for who runs the soak")]

use std::fs;
use std::time::{Duration, Instant};

use fixtures::{Exchange, LocalStack, Reply, ScriptedModel, Turn, nonce, starter_image, stderr_of, stdout_of};
use serde_json::Value;

/// What the lowest tier of all gives, of the local holder's.
pub(crate) const BASIC: [&str; 4] = ["--cores", "1", "--memory", "1024"];
/// How long an agent that is left alone is left between two looks at it.
const LOOK: Duration = Duration::from_secs(5);
/// Where agent-nano's tools work.
const WORKSPACE: &str = "/data/workspace";

/// What the model has the agent do: `TASK <nonce>` writes a program, runs it and commits it, `AGAIN <nonce>` looks at it
/// and runs it once more. A program's result is words backwards: nobody but the program has written them so.
pub(crate) fn work(turn: &Turn, nonce: &str) -> Reply {
    let exec = |command: String| Reply::Call("exec", serde_json::json!({"command": command}));
    if let Some(task) = turn.word_after("TASK") {
        let program = format!(
            "import sys\nTASK, MADE = {task:?}, {nonce:?}\nprint(\"result\", sys.argv[1][::-1], MADE[::-1], TASK[::-1])\n"
        );
        let file = serde_json::json!({"path": format!("{WORKSPACE}/prog/main.py"), "content": program});
        return match turn.results.len() {
            0 => Reply::Call("write_file", file),
            1 => exec(format!("cd {WORKSPACE}/prog && python3 main.py {nonce}")),
            2 => exec(format!(
                "cd {WORKSPACE}/prog && git init -q . && git add -A && git commit -qm 'made {nonce}' && git log --format=%s"
            )),
            _ => Reply::Say(format!("done {nonce} {}", turn.results[1])),
        };
    }
    if turn.word_after("AGAIN").is_some() {
        return match turn.results.len() {
            0 => exec(format!(
                "cd {WORKSPACE}/prog && git status --porcelain && git log --format=%s && python3 main.py {nonce}"
            )),
            _ => Reply::Say(format!("again {nonce} {}", turn.results[0])),
        };
    }
    Reply::Say(format!("heard {nonce}"))
}

/// What the model has a browser do: `LOOK <url>` opens a page and reads what is in it.
pub(crate) fn look(turn: &Turn, nonce: &str) -> Reply {
    let read = serde_json::json!({"command": format!("cat {WORKSPACE}/browser/*.yml")});
    match (turn.word_after("LOOK"), turn.results.len()) {
        (Some(url), 0) => Reply::Call("mcp_browser_browser_navigate", serde_json::json!({"url": url})),
        (Some(_), 1) => Reply::Call("exec", read),
        _ => Reply::Say(format!("seen {nonce} {}", turn.results.join(" "))),
    }
}

pub(crate) fn backwards(text: &str) -> String {
    text.chars().rev().collect()
}

/// The local holder's agent-nano with a model that works.
pub(crate) struct Nano {
    pub(crate) stack: LocalStack,
    model: ScriptedModel,
    pub(crate) id: String,
    /// What a start is told beside that.
    more: &'static [&'static str],
}

/// What the first task left in the agent.
pub(crate) struct Made {
    task: String,
    /// The nonces of the replies that wrote the program, ran it, committed it and ended the turn.
    nonces: [String; 4],
}

impl Nano {
    /// With these words for each of its starts.
    pub(crate) fn spawn(more: &'static [&'static str]) -> Self {
        let model = ScriptedModel::start(work);
        starter_image("agent-nano", "nano");
        let stack = LocalStack::with_images(&model.reachable());
        stack.up(&["--no-agent"]);
        let began = Instant::now();
        let spawned =
            stack.json(&[&["spawn", "--type", "nano"], &BASIC[..], more, &words(&model.env_with_model())].concat());
        let agent = &spawned["agent"];
        let id = agent["id"].as_str().unwrap().to_owned();
        println!("agent-nano: {} in {:.1} s, {}", agent["state"], began.elapsed().as_secs_f32(), agent["runtime"]);
        assert_eq!((&agent["state"], &agent["agent_type"]), (&"ready".into(), &"nano".into()), "{spawned}");
        Self { stack, model, id, more }
    }

    /// Asks it, as a person does who has one agent; the answer, and what the model was asked meanwhile.
    fn ask(&self, question: &str) -> (String, Vec<Exchange>) {
        let (before, began) = (self.model.exchanges().len(), Instant::now());
        let said = stdout_of(&self.stack.run(&["ask", question]));
        let asked = self.model.exchanges().split_off(before);
        println!("agent-nano: an answer in {:.1} s, of {} requests", began.elapsed().as_secs_f32(), asked.len());
        (said, asked)
    }

    fn exec(&self, command: &str) -> String {
        exec(&self.stack, &self.id, command)
    }

    /// Has a program written, run and committed: the nonces are in the file, the commit, the tools' results and the
    /// answer.
    pub(crate) fn make(&self) -> Made {
        let task = nonce();
        let (said, asked) = self.ask(&format!("TASK {task}"));
        let made = Made { nonces: nonces(&asked), task };
        let [wrote, ran, committed, ended] = &made.nonces;
        for (at, exchange) in asked.iter().enumerate() {
            let request = exchange.request.to_string();
            assert_eq!(exchange.request["model"], self.model.models()[0].as_str());
            assert!(request.contains(&made.task), "request {at} is not of this task: {request}");
            assert!(made.nonces[..at].iter().all(|before| request.contains(before)), "request {at}: {request}");
        }
        let result = made.result(ran);
        let tools = asked[3].request.to_string();
        assert!(tools.contains(&result) && tools.contains(&format!("made {committed}")), "{tools}");
        assert!(said.contains(ended) && said.contains(&result), "{said}");
        let file = self.exec(&format!("cat {WORKSPACE}/prog/main.py"));
        assert!(file.contains(wrote) && file.contains(&made.task), "{file}");
        self.has_work(&made);
        made
    }

    /// What was made is there, whole and committed.
    pub(crate) fn has_work(&self, made: &Made) {
        let log = self.exec(&format!("git -C {WORKSPACE}/prog log --format='%an %s' --stat"));
        assert!(log.contains(&format!("agent made {}", made.nonces[2])) && log.contains("main.py"), "{log}");
        let changed = self.exec(&format!("git -C {WORKSPACE}/prog status --porcelain"));
        assert_eq!(changed, "", "the program is not as it was committed");
    }

    /// Has the program run once more: the agent remembers the conversation and finds its work.
    pub(crate) fn again(&self, made: &Made) {
        let question = nonce();
        let (said, asked) = self.ask(&format!("AGAIN {question}"));
        let [ran, ended] = nonces(&asked);
        let first = asked[0].request.to_string();
        assert!(first.contains(&question) && first.contains(&made.nonces[3]), "what was said before is lost: {first}");
        let result = made.result(&ran);
        let tools = asked[1].request.to_string();
        assert!(tools.contains(&result) && tools.contains(&format!("made {}", made.nonces[2])), "{tools}");
        assert!(said.contains(&ended) && said.contains(&result), "{said}");
        self.has_work(made);
    }

    /// Leaves it alone for so long; it must stay ready, under one start.
    async fn stays_ready(&self) {
        let until = Instant::now() + left_alone();
        let run = self.status()["agent"]["run"].clone();
        while Instant::now() < until {
            tokio::time::sleep(LOOK).await;
            let agent = self.status()["agent"].clone();
            assert_eq!((&agent["state"], &agent["run"], &agent["restarts"]), (&"ready".into(), &run, &0.into()));
        }
    }

    pub(crate) fn status(&self) -> Value {
        self.stack.json(&["status", &self.id])
    }

    pub(crate) fn stop_and_start(&self) {
        self.stack.run(&["stop", &self.id]);
        let (began, env) = (Instant::now(), self.model.env_with_model());
        let started = self.stack.json(&[&["start", &self.id], &BASIC[..], self.more, &words(&env)].concat());
        assert_eq!(started["agent"]["state"], "ready", "{started}");
        println!("agent-nano: started again in {:.1} s", began.elapsed().as_secs_f32());
    }

    fn tell_memory(&self) {
        let memory = self.exec("grep -E 'MemTotal|MemAvailable' /proc/meminfo; ps -eo rss=,args=");
        println!("agent-nano, in KiB: {memory}\nits VMM on the host: {} KiB", vmm_kib());
    }
}

impl Made {
    /// What the program prints when it is given this word.
    fn result(&self, word: &str) -> String {
        format!("result {} {} {}", backwards(word), backwards(&self.nonces[0]), backwards(&self.task))
    }
}

/// The nonces of just so many replies.
#[track_caller]
pub(crate) fn nonces<const N: usize>(asked: &[Exchange]) -> [String; N] {
    let nonces: Vec<String> = asked.iter().map(|exchange| exchange.nonce.clone()).collect();
    nonces.try_into().unwrap_or_else(|odd: Vec<String>| panic!("{} requests for {N}: {asked:#?}", odd.len()))
}

pub(crate) fn words(owned: &[String]) -> Vec<&str> {
    owned.iter().map(String::as_str).collect()
}

fn left_alone() -> Duration {
    let minutes = std::env::var("PALATINE_SOAK_MINUTES").map_or(1, |minutes| minutes.parse().unwrap());
    Duration::from_secs(60 * minutes)
}

/// What a shell in an agent prints.
#[track_caller]
pub(crate) fn exec(stack: &LocalStack, id: &str, command: &str) -> String {
    stdout_of(&stack.run(&["exec", id, "--", "bash", "-c", command]))
}

/// Memory of the largest VMM on this machine.
fn vmm_kib() -> u64 {
    let all = fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let status = fs::read_to_string(entry.ok()?.path().join("status")).ok()?;
        let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse().ok());
        status.starts_with("Name:\tqemu-system").then_some(kib?)
    });
    all.max().unwrap_or(0)
}

#[tokio::test]
async fn soak_agents_nano_writes_runs_and_commits_a_program_and_has_it_after_a_stop_and_after_a_while() {
    let nano = Nano::spawn(&[]);
    let made = nano.make();
    nano.tell_memory();
    nano.stop_and_start();
    nano.has_work(&made);
    nano.again(&made);
    nano.stays_ready().await;
    nano.again(&made);
    nano.tell_memory();
    assert_eq!(nano.stack.errors(), Vec::<String>::new());
}

#[tokio::test]
async fn soak_agents_base_is_worked_in_by_its_user_with_sudo_git_python_and_node() {
    starter_image("base", "base");
    let stack = LocalStack::with_images("");
    stack.up(&["--no-agent"]);
    let began = Instant::now();
    let spawned = stack.json(&[&["spawn", "--type", "base"], &BASIC[..]].concat());
    println!("base: {} in {:.1} s", spawned["agent"]["state"], began.elapsed().as_secs_f32());
    let id = spawned["agent"]["id"].as_str().unwrap();
    let inside = |command: &str| exec(&stack, id, command).trim().to_owned();

    assert_eq!(inside("id -un; pwd; echo $HOME"), "user\n/home/user\n/home/user");
    let word = nonce();
    assert_eq!(
        inside(&format!("sudo -n bash -c 'id -un; echo {word} > /etc/written'; cat /etc/written")),
        format!("root\n{word}")
    );
    assert_eq!(inside("sudo -n -u nobody id -un"), "nobody");
    assert_eq!(
        inside(&format!("cat <(echo {word}) - < /dev/stdin <<< end; echo {word} > /dev/stderr")),
        format!("{word}\nend")
    );
    assert_eq!(inside(&format!("python3 -c 'print(\"{word}\"[::-1])'")), backwards(&word));
    let node = format!("node -e 'console.log(\"{word}\".split(\"\").reverse().join(\"\"))'");
    assert_eq!(inside(&node), backwards(&word));
    assert!(inside("npm --version && pip --version && make --version && rg --version").contains("ripgrep"));
    let committed = inside(&format!(
        "mkdir -p ~/made && cd ~/made && git init -q . && echo {word} > it && git add it && git commit -qm 'made {word}' && \
         git log --format='%an %s'"
    ));
    assert_eq!(committed, format!("user made {word}"));
    assert_eq!(
        inside(&format!("mkdir /code/{word} && rmdir /code/{word} && touch /usr/local/bin/{word} && echo written")),
        "written"
    );
    let odd = stack.output(&["exec", id, "--", "bash", "-c", "exit 7"]);
    assert_eq!(odd.status.code(), Some(7), "{}", stderr_of(&odd));
    println!(
        "base: {}\nits VMM on the host: {} KiB",
        inside("grep -E 'MemTotal|MemAvailable' /proc/meminfo"),
        vmm_kib()
    );
    stack.run(&["rm", id]);
    assert_eq!(stack.errors(), Vec::<String>::new());
}

#[tokio::test]
async fn soak_agents_browser_reads_what_a_pages_script_has_written() {
    let model = ScriptedModel::start(look);
    starter_image("agent-nano", "nano");
    starter_image("agent-browser", "browser");
    let stack = LocalStack::with_images(&(model.reachable() + "[node]\ntranslation_cache_mib = 256\n"));
    stack.up(&["--no-agent"]);
    let began = Instant::now();
    let spawned = stack.json(&[&["spawn", "--type", "browser"], &BASIC[..], &words(&model.env_with_model())].concat());
    println!("agent-browser: {} in {:.1} s", spawned["agent"]["state"], began.elapsed().as_secs_f32());
    let (url, word) = model.page();
    for _ in 0..2 {
        let (before, began) = (model.exchanges().len(), Instant::now());
        let said = stdout_of(&stack.run(&["ask", &format!("LOOK {url}")]));
        println!("agent-browser: a page in {:.1} s", began.elapsed().as_secs_f32());
        let [_, _, ended] = nonces(&model.exchanges().split_off(before));
        assert!(said.contains(&ended) && said.contains(&format!("turned {}", backwards(word))), "{said}");
    }
    println!("its VMM on the host: {} KiB", vmm_kib());
    assert_eq!(stack.errors(), Vec::<String>::new());
}
