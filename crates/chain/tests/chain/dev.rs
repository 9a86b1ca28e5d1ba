//! The development chain of `deploy/dev/solana`, as a child of the test.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use palatine_chain::{Config, Endpoint};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout};

const SCRIPT: &str = "chain.mjs";

/// A running chain; it ends when this is dropped, since its input closes.
pub(crate) struct Dev {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    pub(crate) rpc: String,
    pub(crate) mint: String,
}

impl Dev {
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    pub(crate) async fn start_with(arguments: &[&str]) -> Self {
        let script = installed().join(SCRIPT);
        let mut child = tokio::process::Command::new("node")
            .arg(&script)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("these tests need Node 18 or later: install it (on Debian: apt-get install nodejs)");
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut output = BufReader::new(output).lines();
        let line = output.next_line().await.unwrap().expect("the chain ended before it was up");
        let up: Value = serde_json::from_str(&line).unwrap();
        let text = |key: &str| up[key].as_str().unwrap().to_owned();
        Self { child, input, output, rpc: text("rpc"), mint: text("mint") }
    }

    /// One command, its answer, which must be a success.
    pub(crate) async fn tell(&mut self, command: Value) -> Value {
        self.input.write_all(format!("{command}\n").as_bytes()).await.unwrap();
        let line = self.output.next_line().await.unwrap().expect("the chain ended");
        let answer: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(answer["ok"], true, "{command}: {answer}");
        answer
    }

    /// The process, for signals.
    pub(crate) fn pid(&self) -> rustix::process::Pid {
        let id = i32::try_from(self.child.id().unwrap()).unwrap();
        rustix::process::Pid::from_raw(id).unwrap()
    }

    /// `kill -9`, whatever state it is in.
    pub(crate) async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }

    /// Closes the chain's input, as the death of its starter does, and waits for
    /// its end.
    pub(crate) async fn end(mut self) {
        drop(self.input);
        assert!(self.child.wait().await.unwrap().success());
    }

    pub(crate) fn config(&self) -> Config {
        Config {
            endpoints: vec![Endpoint(self.rpc.clone())],
            mint: self.mint.clone(),
            cache_ms: 0,
            ..Config::default()
        }
    }
}

/// Where the chain's packages are: `./dev` puts them in `$PALATINE_ASSETS`, else
/// npm installs them beside the test's binary, once.
fn installed() -> PathBuf {
    if let Some(assets) = std::env::var_os("PALATINE_ASSETS") {
        return PathBuf::from(assets).join("solana");
    }
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join("solana");
    fs::create_dir_all(&place).unwrap();
    let lock = File::create(place.join(".lock")).unwrap();
    lock.lock().unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/dev/solana");
    for file in [SCRIPT, "package.json", "package-lock.json"] {
        fs::copy(source.join(file), place.join(file)).unwrap();
    }
    let wanted = fs::read(place.join("package-lock.json")).unwrap();
    let mark = place.join(".installed");
    if fs::read(&mark).ok() != Some(wanted) {
        install(&place);
        fs::copy(place.join("package-lock.json"), mark).unwrap();
    }
    place
}

fn install(place: &Path) {
    let status = Command::new("npm")
        .args(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--silent", "--prefix"])
        .arg(place)
        .stdout(Stdio::null())
        .status()
        .expect("these tests need npm: install it (on Debian: apt-get install npm)");
    assert!(status.success(), "npm could not install the development chain. Is there a network?");
}
