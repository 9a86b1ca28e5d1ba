//! `palatine shell`, at a terminal of the test's own, and `palatine port-forward`.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use axum::routing::get;
use axum::{Json, Router};
use fixtures::{Holder, PLAIN, SMALL, Stack, program, stderr_of, stdout_of, until};
use reqwest::Method;
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};
use serde_json::{Value, json};

/// A command at a terminal.
struct Terminal {
    ours: File,
    /// Open here too, so that the terminal outlives the command.
    theirs: OwnedFd,
    shown: Arc<Mutex<Vec<u8>>>,
    child: Child,
}

const SIZE: Winsize = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };

impl Terminal {
    fn run(mut command: Command) -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let ours = openpt(flags).unwrap();
        grantpt(&ours).unwrap();
        unlockpt(&ours).unwrap();
        let theirs = ioctl_tiocgptpeer(&ours, flags).unwrap();
        tcsetwinsize(&ours, SIZE).unwrap();
        let stream = || Stdio::from(theirs.try_clone().unwrap());
        let child = command.stdin(stream()).stdout(stream()).stderr(stream()).spawn().unwrap();
        let ours = File::from(ours);
        let shown = Arc::<Mutex<Vec<u8>>>::default();
        let (mut reader, seen) = (ours.try_clone().unwrap(), Arc::clone(&shown));
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = reader.read(&mut buffer) {
                seen.lock().unwrap().extend_from_slice(&buffer[..count]);
            }
        });
        Self { ours, theirs, shown, child }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.shown.lock().unwrap()).into_owned()
    }

    fn type_in(&mut self, keys: &str) {
        self.ours.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits until it has shown this so many times.
    async fn shows(&self, words: &str, times: usize) {
        until(&format!("{words:?} is shown"), async || {
            let text = self.text();
            (text.matches(words).count() >= times).then_some(())
        })
        .await;
    }

    fn resize(&self, cols: u16, rows: u16) {
        tcsetwinsize(&self.ours, Winsize { ws_row: rows, ws_col: cols, ..SIZE }).unwrap();
        // The kernel tells the foreground of a controlling terminal, and this is nobody's.
        self.signal(Signal::WINCH);
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    fn is_raw(&self) -> bool {
        !tcgetattr(&self.theirs).unwrap().local_modes.intersects(LocalModes::ICANON | LocalModes::ECHO)
    }

    /// Waits for its end; the terminal must be as before then.
    async fn exit(&mut self) -> Option<i32> {
        let child = &mut self.child;
        let status = until("the command ends", async || child.try_wait().unwrap()).await;
        assert!(!self.is_raw(), "the terminal is left raw: {}", self.text());
        status.code()
    }
}

/// The reference agent's shell.
const SHELL: [&str; 3] = ["--", "/usr/bin/agent-echo", "shell"];

fn shell(stack: &Stack, holder: &Holder, words: &[&str]) -> Terminal {
    Terminal::run(stack.cli(holder, &[&["shell"], words, &SHELL].concat()))
}

/// How many commands run in an agent.
async fn running(stack: &Stack, holder: &Holder, id: &str) -> usize {
    let path = format!("/agents/{id}/process.Process/List");
    let list = stack.ask(holder, Method::POST, &path, json!({})).await.expect(200);
    list["processes"].as_array().map_or(0, Vec::len)
}

async fn until_none_runs(stack: &Stack, holder: &Holder, id: &str) {
    until("the shell ends", async || (running(stack, holder, id).await == 0).then_some(())).await;
}

#[tokio::test]
async fn a_shell_has_a_terminal_of_our_size_and_its_exit_code_is_ours() {
    let mut stack = Stack::start(PLAIN).await;
    let holder = stack.holder(SMALL);
    let id = stack.agent(&holder).await.id;
    // It is the only agent.
    let mut terminal = shell(&stack, &holder, &[]);
    terminal.type_in("hello\r");
    terminal.shows("you said: hello", 1).await;
    assert!(terminal.is_raw());
    terminal.type_in("size\r");
    terminal.shows("80 columns, 24 rows", 1).await;
    terminal.resize(132, 50);
    until("the size is known", async || {
        let mut again = &terminal.ours;
        again.write_all(b"size\r").unwrap();
        terminal.text().contains("132 columns, 50 rows").then_some(())
    })
    .await;
    terminal.type_in("exit 42\r");
    assert_eq!(terminal.exit().await, Some(42));

    // Without a terminal it is a command in a pipe.
    let mut command = stack.cli(&holder, &[&["shell", id.as_str()][..], &SHELL].concat());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"hello\nexit 7\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(7), &b"you said: hello\n"[..]));

    // The image has no shell of its own, and it is said what to do.
    let none = stack.cli(&holder, &["shell", &id]).stdin(Stdio::null()).output().unwrap();
    assert!(stderr_of(&none).contains(&format!("palatine shell {id} -- <program>")), "{}", stderr_of(&none));
    stack.end();
}

#[tokio::test]
async fn a_shell_that_is_left_goes_on_and_one_that_is_ended_does_not() {
    let mut stack = Stack::start(PLAIN).await;
    let holder = stack.holder(SMALL);
    let id = stack.agent(&holder).await.id;
    let mut terminal = shell(&stack, &holder, &[&id]);
    terminal.type_in("before\r");
    terminal.shows("you said: before", 1).await;
    terminal.type_in("~?");
    terminal.shows("~d", 1).await;
    terminal.type_in("\r~d");
    assert_eq!(terminal.exit().await, Some(0));
    terminal.shows("--attach", 1).await;
    let text = terminal.text();
    let name = text.split("--attach ").nth(1).unwrap().split_whitespace().next().unwrap();
    assert_eq!(running(&stack, &holder, &id).await, 1);

    let mut again = Terminal::run(stack.cli(&holder, &["shell", &id, "--attach", name]));
    again.shows("you said: before", 1).await;
    again.type_in("after\r");
    again.shows("you said: after", 1).await;
    again.type_in("~.");
    assert_eq!(again.exit().await, Some(130));
    until_none_runs(&stack, &holder, &id).await;

    let mut killed = shell(&stack, &holder, &[&id]);
    killed.type_in("hello\r");
    killed.shows("you said: hello", 1).await;
    killed.signal(Signal::TERM);
    assert_eq!(killed.exit().await, Some(128 + 15));
    until_none_runs(&stack, &holder, &id).await;

    let mut gone = Terminal::run(stack.cli(&holder, &["shell", &id, "--attach", "shell-none"]));
    assert_eq!(gone.exit().await, Some(1));
    assert!(gone.text().contains("there is no shell shell-none"), "{}", gone.text());
    stack.end();
}

#[tokio::test]
async fn a_shell_outlives_its_gateway_and_goes_on_where_it_was() {
    let mut stack = Stack::start(PLAIN).await;
    let holder = stack.holder(SMALL);
    let id = stack.agent(&holder).await.id;
    let mut terminal = shell(&stack, &holder, &[&id]);
    terminal.type_in("before\r");
    terminal.shows("you said: before", 1).await;
    stack.kill_gateway();
    terminal.shows("the connection broke", 1).await;
    stack.start_gateway().await;
    terminal.shows("attached again", 1).await;
    terminal.type_in("after\r");
    terminal.shows("you said: after", 1).await;
    assert_eq!(terminal.text().matches("you said: before").count(), 1, "{}", terminal.text());
    terminal.type_in("exit 3\r");
    assert_eq!(terminal.exit().await, Some(3), "{}", terminal.text());
    stack.end();
}

#[tokio::test]
async fn a_chat_that_is_told_to_end_while_a_line_is_typed_leaves_the_terminal_as_it_was() {
    let routes = Router::new().route("/v1/models", get(async || Json(json!({"data": [{"id": "one"}]}))));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, routes).await });
    let dir = tempfile::tempdir().unwrap();
    let keypair = dir.path().join("id.json");
    assert!(Command::new(program("palatine")).arg("keygen").arg(&keypair).status().unwrap().success());
    for (signal, code) in [(Signal::TERM, 128 + 15), (Signal::HUP, 128 + 1)] {
        let mut command = Command::new(program("palatine"));
        command.args(["chat", "--gateway", &url, "--url", &url]).env("TERM", "xterm");
        command.env("PALATINE_KEYPAIR", &keypair).env("PALATINE_STATE", dir.path().join("state"));
        let mut chat = Terminal::run(command);
        chat.shows("> ", 1).await;
        until("keys are read", async || chat.is_raw().then_some(())).await;
        chat.type_in("half a line");
        chat.shows("half a line", 1).await;
        chat.signal(signal);
        assert_eq!(chat.exit().await, Some(code));
    }
}

#[tokio::test]
async fn an_agents_port_is_reached_from_here_until_ctrl_c() {
    let mut stack = Stack::start(PLAIN).await;
    let holder = stack.holder(SMALL);
    let id = stack.agent(&holder).await.id;
    let mut command = stack.cli(&holder, &["port-forward", &id, "0:8080", "0:9", "--json"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    let told: Value = serde_json::from_str(&line).unwrap();
    let address = |at: usize| told["forwards"][at]["address"].as_str().unwrap().to_owned();
    assert!(address(0).starts_with("127.0.0.1:"), "{told}");
    let web = reqwest::Client::builder().no_proxy().build().unwrap();
    // Whoever is let in here needs no token in there.
    for _ in 0..3 {
        let models = web.get(format!("http://{}/v1/models", address(0))).send().await.unwrap();
        assert_eq!(models.status(), 200);
        assert!(models.text().await.unwrap().contains("data"));
    }
    assert!(web.get(format!("http://{}/", address(1))).send().await.is_err());
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("nothing listens on the agent's port 9"), "{said}");

    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let pair = format!("{}:8080", taken.local_addr().unwrap().port());
    let refused = stack.cli(&holder, &["port-forward", &id, &pair]).output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr_of(&refused).contains("0:8080"), "{}", stderr_of(&refused));
    let stranger = stack.cli(&holder, &["port-forward", &id, "0:8080", "--token", "plt_wrong"]);
    assert_eq!(given_up(stranger).await, Some(3));
    stack.end();
}

/// The exit code of a forwarding that one connection is made to.
async fn given_up(mut command: Command) -> Option<i32> {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    let address = line.split_whitespace().next().unwrap().to_owned();
    let _ = std::net::TcpStream::connect(address).unwrap().read(&mut [0; 1]);
    until("it gives up", async || child.try_wait().unwrap()).await.code()
}

#[tokio::test]
async fn files_and_folders_are_copied_with_their_permissions_by_who_has_a_wallet_or_a_key_alone() {
    let mut stack = Stack::start(PLAIN).await;
    let holder = stack.holder(SMALL);
    let id = stack.agent(&holder).await.id;
    let here = stack.path("copied");
    let set = |name: &str, mode: u32| {
        std::fs::set_permissions(here.join(name), std::fs::Permissions::from_mode(mode)).unwrap();
    };
    std::fs::create_dir_all(here.join("work/closed")).unwrap();
    std::fs::write(here.join("work/closed/run.sh"), "echo hello\n").unwrap();
    std::fs::write(here.join("work/large"), vec![7; 9 * 1024 * 1024]).unwrap();
    for (name, mode) in [("work/closed/run.sh", 0o750), ("work/large", 0o640), ("work/closed", 0o500), ("work", 0o710)]
    {
        set(name, mode);
    }
    let made = stdout_of(&stack.cli(&holder, &["key", "create", "--scope", "run", "--json"]).output().unwrap());
    let key = serde_json::from_str::<Value>(&made).unwrap()["key"].as_str().unwrap().to_owned();
    // Neither has a token at hand: one is shown it, the other needs none.
    let run = |words: &[&str], state: &str, key: Option<&str>| {
        let mut command = stack.cli(&holder, words);
        command.env("PALATINE_STATE", stack.path(state));
        if let Some(key) = key {
            command.env("PALATINE_KEY", key).env("PALATINE_KEYPAIR", "/nowhere");
        }
        stdout_of(&command.output().unwrap())
    };
    let source = here.join("work");
    run(&["cp", source.to_str().unwrap(), &format!("{id}:/data/there")], "one", None);
    let back = here.join("back");
    let copied = run(&["cp", &format!("{id}:/data/there"), back.to_str().unwrap(), "--json"], "two", Some(&key));
    assert_eq!(serde_json::from_str::<Value>(&copied).unwrap()["files"], 2, "{copied}");
    let mode = |name: &str| std::fs::metadata(back.join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!(["", "closed", "closed/run.sh", "large"].map(mode), [0o710, 0o500, 0o750, 0o640]);
    assert_eq!(std::fs::read(back.join("large")).unwrap(), vec![7; 9 * 1024 * 1024]);
    stack.end();
}
