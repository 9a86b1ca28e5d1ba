//! Agents that take long to be ready: what their holders see meanwhile, and how they come back to them.

use std::fs::File;
use std::io::Read;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};

use fixtures::{Reply, SMALL, ScriptedModel, Stack, Turn, stderr_of, stdout_of, until, until_holds};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

/// Nobody gives up before a test does.
const LONG: &str = "[control]\nspawn_timeout_ms = 600000\n[node]\nboot_deadline_ms = 600000\n";
/// Columns and rows of a terminal.
const SIZE: (u16, u16) = (120, 24);

fn give_back(turn: &Turn, nonce: &str) -> Reply {
    Reply::Say(format!("{nonce} {}", turn.question))
}

/// A command whose standard error is a terminal, as a person has it, or a pipe.
struct Watched {
    child: Child,
    said: Arc<Mutex<String>>,
}

impl Watched {
    fn at_a_terminal(mut command: Command) -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let ours = openpt(flags).unwrap();
        grantpt(&ours).unwrap();
        unlockpt(&ours).unwrap();
        let (ws_col, ws_row) = SIZE;
        tcsetwinsize(&ours, Winsize { ws_col, ws_row, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
        let theirs = ioctl_tiocgptpeer(&ours, flags).unwrap();
        command.env("TERM", "xterm").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(theirs);
        let child = command.spawn().unwrap();
        Self::reading(child, File::from(ours))
    }

    fn through_a_pipe(mut command: Command) -> Self {
        let (reader, writer) = std::io::pipe().unwrap();
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(writer).spawn().unwrap();
        // The command holds the writing end, and must not outlive the child.
        drop(command);
        Self::reading(child, reader)
    }

    fn reading(child: Child, mut from: impl Read + Send + 'static) -> Self {
        let said = Arc::<Mutex<String>>::default();
        let heard = said.clone();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            // A terminal that nobody has open any more gives an error.
            while let Ok(count @ 1..) = from.read(&mut bytes) {
                heard.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..count]));
            }
        });
        Self { child, said }
    }

    fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    async fn until_says(&self, words: &str) {
        until_holds(&format!("it says {words:?}"), || self.said().contains(words)).await;
    }

    fn interrupt(&self) {
        kill_process(Pid::from_child(&self.child), Signal::INT).unwrap();
    }

    async fn ended(&mut self) -> ExitStatus {
        until("the command ends", async || self.child.try_wait().unwrap()).await
    }

    fn stdout(&mut self) -> String {
        let mut text = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        text
    }
}

/// A stack whose agents of the type `slow` are ready when the model is open.
async fn stack_of_slow_agents(model: &ScriptedModel) -> Stack {
    let stack = Stack::start(&(model.reachable() + LONG)).await;
    stack.offer_with("slow", "ready = \"/ready\"", "ready = \"/v1/models\"");
    stack
}

fn spawn(model: &ScriptedModel, name: &str) -> Vec<String> {
    let mut words: Vec<String> = ["spawn", "--type", "slow", "--name", name].map(str::to_owned).into();
    words.extend(model.env());
    words
}

#[tokio::test]
async fn who_leaves_a_long_boot_has_seen_it_go_on_is_told_its_id_and_comes_back_to_it_with_its_token() {
    let model = ScriptedModel::start(give_back);
    model.set_open(false);
    let mut stack = stack_of_slow_agents(&model).await;
    let holder = stack.holder(SMALL);
    let words = spawn(&model, "slow-one");
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut watched = Watched::at_a_terminal(stack.cli(&holder, &words));
    watched.until_says("slow-one is booting; it goes on if you leave: palatine wait slow-one").await;
    // The line that turns, and how long it has turned.
    watched.until_says("slow-one is booting (").await;
    watched.interrupt();
    assert_eq!(watched.ended().await.code(), Some(130), "{}", watched.said());
    watched.until_says("its token is kept").await;
    let said = watched.said();
    assert!(
        said.contains("slow-one goes on starting, and palatine wait slow-one")
            && said.contains("palatine stop slow-one"),
        "{said}"
    );

    let run = |words: &[&str]| stack.cli(&holder, words).output().unwrap();
    let shown = stdout_of(&run(&["status", "slow-one"]));
    assert!(shown.contains("booting") && shown.contains("slow-one"), "{shown}");
    let early = run(&["ask", "slow-one", "hello"]);
    assert_eq!(early.status.code(), Some(6), "{}", stderr_of(&early));
    let waiting = ["wait", "slow-one"];
    let mut left = Watched::at_a_terminal(stack.cli(&holder, &waiting));
    left.until_says("slow-one is booting (").await;
    left.interrupt();
    assert_eq!(left.ended().await.code(), Some(130), "{}", left.said());
    let mut back = Watched::at_a_terminal(stack.cli(&holder, &waiting));
    back.until_says("slow-one is booting (").await;
    model.set_open(true);
    assert_eq!(back.ended().await.code(), Some(0), "{}", back.said());
    let shown = back.stdout();
    assert!(shown.contains("ready") && shown.contains("slow-one"), "{shown}");
    let answer = stdout_of(&run(&["ask", "slow-one", "are you there?"]));
    let asked = model.exchanges();
    assert!(answer.contains(&asked[0].nonce) && answer.contains("are you there?"), "{answer}");
    stack.end();
}

#[tokio::test]
async fn who_leaves_before_an_agents_id_is_shown_is_told_it_all_the_same() {
    let model = ScriptedModel::start(give_back);
    model.set_open(false);
    let mut stack = stack_of_slow_agents(&model).await;
    let holder = stack.holder(SMALL);
    let words = spawn(&model, "slow-two");
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut watched = Watched::through_a_pipe(stack.cli(&holder, &words));
    until("it is reserved", async || (stack.agents(&holder).await.len() == 1).then_some(())).await;
    watched.interrupt();
    assert_eq!(watched.ended().await.code(), Some(130), "{}", watched.said());
    watched.until_says("its token is kept").await;
    assert!(watched.said().contains("slow-two goes on starting"), "{}", watched.said());
    let stopped = stdout_of(&stack.cli(&holder, &["stop", "slow-two"]).output().unwrap());
    assert!(stopped.contains("stopped"), "{stopped}");
    let over = stack.cli(&holder, &["wait", "slow-two"]).output().unwrap();
    assert_eq!(over.status.code(), Some(1));
    assert!(stderr_of(&over).contains("palatine start slow-two"), "{}", stderr_of(&over));
    stack.end();
}

#[tokio::test]
async fn who_waits_for_a_long_boot_gets_the_agent_and_where_nobody_watches_one_line_says_that_it_goes_on() {
    let model = ScriptedModel::start(give_back);
    model.set_open(false);
    let mut stack = stack_of_slow_agents(&model).await;
    let holder = stack.holder(SMALL);
    let words = spawn(&model, "slow-three");
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut watched = Watched::through_a_pipe(stack.cli(&holder, &words));
    watched.until_says("slow-three is booting; it goes on if you leave").await;
    model.set_open(true);
    assert_eq!(watched.ended().await.code(), Some(0), "{}", watched.said());
    let shown = watched.stdout();
    assert!(shown.contains("slow-three is ready") && shown.contains("token plt_"), "{shown}");
    assert_eq!(watched.said().lines().count(), 1, "{}", watched.said());
    let answer = stdout_of(&stack.cli(&holder, &["ask", "slow-three", "hello"]).output().unwrap());
    assert!(answer.contains(&model.exchanges()[0].nonce), "{answer}");
    stack.end();
}
