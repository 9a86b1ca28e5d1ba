//! The pod as an ordinary process, as a container's runtime starts it.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use fixtures::{PATIENCE, free_port};
use http::Method;
use needs::needs;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::timeout;

use crate::client::Client;
use crate::compile::compile_agent;
use crate::{CANARY, exec, files, identity};

const PROGRAM: &str = env!("CARGO_BIN_EXE_pod");
/// The agent's user.
const USER: u32 = 1000;

/// One whom no machine names, and who so is at home where the agent's state is.
const NAMELESS: u32 = 43_210;

/// A running pod, and the files of its container.
struct Container {
    process: Child,
    dir: TempDir,
    port: u16,
    agent_port: u16,
}

impl Container {
    /// Starts `pod run` as this user, and takes connections from this address.
    fn start(user: u32, node: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        chown(dir.path(), Some(user), Some(user)).unwrap();
        compile_agent(&dir.path().join("agent"));
        let (port, agent_port) = (free_port(), free_port());
        // The folder in which it was built may be closed to that user.
        let program = dir.path().join("pod");
        fs::copy(PROGRAM, &program).unwrap();
        let mut command = Command::new(&program);
        command.args(["run", "--listen", &format!("127.0.0.1:{port}"), "--node", node]).uid(user).gid(user);
        let process = command.stdin(Stdio::null()).spawn().unwrap();
        Self { process, dir, port, agent_port }
    }

    fn client(&self) -> Client {
        let bin = self.dir.path().to_str().unwrap().to_owned();
        Client::of(self.port, Box::leak(bin.into_boxed_str()))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The identity that a guest would get, for this container's paths and port.
    fn identity(&self, user: &str) -> Value {
        let mut identity = identity(&[]);
        let run = &mut identity["run"];
        run["argv"] = json!([self.path("agent"), "serve", self.agent_port.to_string()]);
        run["cwd"] = json!(self.path("work"));
        run["state_dir"] = json!(self.path("state"));
        run["port"] = json!(self.agent_port);
        run["user"] = json!(user);
        identity
    }

    async fn up(&mut self) -> Client {
        let client = self.client();
        let process = &mut self.process;
        client.until_up(|| assert!(process.try_wait().unwrap().is_none(), "the pod ended")).await;
        client
    }

    /// Waits until it has ended by itself.
    fn wait(&mut self) -> ExitStatus {
        let since = Instant::now();
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                return status;
            }
            assert!(since.elapsed() < PATIENCE, "the pod goes on");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

async fn ready(pod: Client, identity: &Value) {
    let (status, body) = pod.post("/v1/identity", identity).await;
    assert_eq!(status, 200, "{body}");
    let status = pod.status("?until=ready&wait_ms=60000").await;
    assert_eq!(status["phase"], "ready", "{status}");
}

/// What the pod must leave as it is: names and resolvers, and no mount in its folder.
fn surroundings(dir: &Path) -> ([String; 3], usize) {
    let files = ["/proc/sys/kernel/hostname", "/etc/resolv.conf", "/etc/hosts"];
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    (files.map(|path| fs::read_to_string(path).unwrap_or_default()), mounts.matches(dir.to_str().unwrap()).count())
}

fn runs(pid: i32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

#[tokio::test]
async fn a_process_takes_an_identity_serves_its_agent_and_ends_with_all_it_started() {
    needs!(root);
    let mut container = Container::start(0, "127.0.0.1");
    let before = surroundings(container.dir.path());
    let pod = container.up().await;
    assert_eq!(pod.get("/v1/status").await.0, 401, "before the identity nobody has a token");
    ready(pod, &container.identity("")).await;
    let (status, body) = pod.post("/v1/identity", &container.identity("")).await;
    assert_eq!((status.as_u16(), body.contains("wrong_state")), (409, true), "{body}");
    confines_its_agent(pod, &container).await;
    exec::runs_commands(pod).await;
    starts_its_agent_again(pod, &container).await;
    let left = exec::run(pod, &["leave"]).await.trim().strip_prefix("left ").unwrap().parse().unwrap();
    assert!(runs(left));
    let (status, body) = pod.post("/v1/stop", &json!({"grace_ms": 5000})).await;
    assert_eq!((status.as_u16(), body.contains("stopping")), (200, true), "{body}");
    assert_eq!(container.wait().code(), Some(0));
    assert!(!runs(left), "a process is left");
    assert_eq!(surroundings(container.dir.path()), before);
}

async fn confines_its_agent(pod: Client, container: &Container) {
    let (_, env) = Client::of_agent(container.agent_port).get("/env").await;
    let state = container.path("state");
    let set = format!("PALATINE_STATE_DIR={}", state.display());
    assert!(env.contains(&format!("HOLDERS_KEY={CANARY}")) && env.contains(&set), "{env}");
    assert_eq!(fs::metadata(state).unwrap().uid(), USER);
    let seen = exec::run(pod, &["see"]).await;
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    for line in [
        "status.Uid=1000 1000 1000 1000",
        "status.Gid=1000 1000 1000 1000",
        "status.CapEff=0000000000000000",
        "status.CapBnd=0000000000000000",
        "status.NoNewPrivs=1",
        "write_root=false",
        "dev_stdout=open",
        "dev_stderr=open",
        &format!("hostname={}", host.trim()),
        &format!("cwd={}", container.path("work").display()),
    ] {
        assert!(seen.lines().any(|seen| seen == line), "{line} is not in {seen}");
    }
}

#[tokio::test]
async fn the_hosts_root_is_nobodys_to_be_in_a_container() {
    needs!(root);
    let mut container = Container::start(0, "127.0.0.1");
    let pod = container.up().await;
    let (status, body) = pod.post("/v1/identity", &container.identity("root")).await;
    assert_eq!((status.as_u16(), body.contains("run.user")), (400, true), "{body}");
}

async fn starts_its_agent_again(pod: Client, container: &Container) {
    let _ = Client::of_agent(container.agent_port).send(Method::GET, "/die", &[], "").await;
    let again = async {
        while pod.status("").await["restarts"] != 1 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        pod.status("?until=ready&wait_ms=60000").await
    };
    let status = timeout(PATIENCE, again).await.unwrap();
    assert_eq!((&status["phase"], &status["last_exit"]), (&json!("ready"), &json!("exit status 7")), "{status}");
}

#[tokio::test]
async fn files_are_worked_on_with_the_rights_of_the_agents_user() {
    needs!(root);
    let mut container = Container::start(0, "127.0.0.1");
    let pod = container.up().await;
    ready(pod, &container.identity(&NAMELESS.to_string())).await;
    files::serves_files(pod, container.path("state").to_str().unwrap()).await;
    files::keeps_to_the_users_rights(pod, container.dir.path(), NAMELESS).await;
}

/// A small filesystem, while this lives.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(path: PathBuf) -> Self {
        fs::create_dir_all(&path).unwrap();
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("tmpfs", &path, "tmpfs", flags, c"size=256k,mode=777").unwrap();
        Self(path)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH).unwrap();
    }
}

#[tokio::test]
async fn an_upload_that_finds_the_disk_full_says_so_and_leaves_what_was_there() {
    needs!(root);
    let mut container = Container::start(0, "127.0.0.1");
    let disk = SmallDisk::mount(container.path("small"));
    let pod = container.up().await;
    ready(pod, &container.identity(&NAMELESS.to_string())).await;
    let path = disk.0.join("file").to_str().unwrap().to_owned();
    assert_eq!(files::write(pod, &path, b"old").await.status, 200);
    let full = files::write(pod, &path, &vec![7; 8 << 20]).await;
    assert_eq!((full.status.as_u16(), full.json()["code"].clone()), (507, json!(507)), "{full:?}");
    assert!(full.json()["message"].as_str().unwrap().contains("not enough disk space"), "{full:?}");
    assert_eq!(files::read(pod, &path).await.bytes, b"old");
    assert_eq!(fs::read_dir(&disk.0).unwrap().count(), 1, "nothing is left beside it");
}

#[tokio::test]
async fn an_upload_that_breaks_off_leaves_what_was_there() {
    needs!(root);
    let mut container = Container::start(0, "127.0.0.1");
    let pod = container.up().await;
    ready(pod, &container.identity(&NAMELESS.to_string())).await;
    let file = container.path("state").join("file");
    assert_eq!(files::write(pod, "file", b"old").await.status, 200);
    let head = format!(
        "POST /files?path=file HTTP/1.1\r\nHost: guest\r\nAuthorization: Bearer {}\r\n\
         Content-Type: application/octet-stream\r\nContent-Length: 1000000\r\n\r\nhalf",
        crate::TOKEN
    );
    let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", container.port)).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut stream, head.as_bytes()).await.unwrap();
    let others = || fs::read_dir(file.parent().unwrap()).unwrap().count() - 1;
    let until = |count: usize| async move {
        while others() != count {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, until(1)).await.expect("it begins beside the old one");
    drop(stream);
    timeout(PATIENCE, until(0)).await.expect("nothing is left of it");
    assert_eq!(fs::read(&file).unwrap(), b"old");
}

#[tokio::test]
async fn a_signal_to_end_ends_the_agent_first() {
    needs!(root);
    let mut container = Container::start(0, "127.0.0.1");
    let pod = container.up().await;
    ready(pod, &container.identity("")).await;
    let follow = pod.send(Method::GET, "/v1/logs?follow=true", &[], "").await.unwrap();
    kill_process(Pid::from_child(&container.process), Signal::TERM).unwrap();
    assert_eq!(container.wait().code(), Some(0));
    // A follower gets the end of the logs, not a broken connection.
    http_body_util::BodyExt::collect(follow.into_body()).await.unwrap();
    let agent = Client::of_agent(container.agent_port).send(Method::GET, "/", &[], "").await;
    assert!(agent.is_err(), "the agent still answers");
}

#[tokio::test]
async fn a_pod_that_is_not_root_runs_an_agent_of_its_own_user_and_of_no_other() {
    needs!(root);
    let mut container = Container::start(USER, "127.0.0.1");
    let pod = container.up().await;
    let (status, body) = pod.post("/v1/identity", &container.identity("4000")).await;
    assert_eq!((status.as_u16(), body.contains("run.user")), (400, true), "{body}");
    ready(pod, &container.identity("1000:1000")).await;
    let seen = exec::run(pod, &["see"]).await;
    for line in ["status.Uid=1000 1000 1000 1000", "status.CapEff=0000000000000000", "status.NoNewPrivs=1"] {
        assert!(seen.lines().any(|seen| seen == line), "{line} is not in {seen}");
    }
    assert_eq!(pod.post("/v1/stop", &json!({"grace_ms": 1000})).await.0, 200);
    assert_eq!(container.wait().code(), Some(0));
}

#[tokio::test]
async fn an_agent_that_listens_on_one_loopback_alone_is_ready_and_reached_by_a_tunnel() {
    needs!(root);
    for address in ["127.0.0.1", "[::1]"] {
        let mut container = Container::start(0, "127.0.0.1");
        let pod = container.up().await;
        let mut identity = container.identity("");
        let at = format!("{address}:{}", container.agent_port);
        identity["run"]["argv"] = json!([container.path("agent"), "serve", at]);
        ready(pod, &identity).await;
        let heard = pod.through_tunnel(container.agent_port, b"GET /ready HTTP/1.1\r\n\r\n").await.unwrap();
        assert!(heard.starts_with("HTTP/1.1 200") && heard.ends_with("ok\n"), "{heard}");
        assert_eq!(pod.through_tunnel(free_port(), b"").await, None);
        for call in ["/v1/tunnel", "/v1/tunnel?port=70000", &format!("/v1/tunnel?port={}", container.agent_port)] {
            let (status, body) = pod.get(call).await;
            assert_eq!((status.as_u16(), body.contains("invalid_request")), (400, true), "{call} {body}");
        }
    }
}

#[tokio::test]
async fn nobody_but_the_node_is_let_in() {
    needs!(root);
    let container = Container::start(0, "127.0.0.2");
    let tries = async {
        // Refused until it listens; from then on taken and closed.
        while tokio::net::TcpStream::connect(("127.0.0.1", container.port)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        container.client().send(Method::GET, "/health", &[], "").await
    };
    let answer = timeout(PATIENCE, tries).await.unwrap();
    assert!(answer.is_err(), "{answer:?}");
}

#[test]
fn what_it_does_not_understand_is_told_and_nothing_is_started() {
    let output = Command::new(PROGRAM).args(["run", "--listen", "everywhere"]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("--listen wants an address") && said.contains("usage: pod"), "{said}");
}
