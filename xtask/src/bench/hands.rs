//! What a holder's hands take in a guest over what the guest takes itself: files up and down, and
//! commands, through the gateway, in a microVM and in a container.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::{Bytes, BytesMut};
use fixtures::{Holder, SMALL, SpawnedAgent, Stack};
use reqwest::Method;
use serde_json::{Value, json};
use wire::connect::Envelope;
use wire::process::STREAM_TYPE;

use super::containers::{BOTH, within};
use super::figures::{Figure, percentile};

/// The file that goes up and down.
const FILE_MIB: usize = 32;
/// Transfers of it each way, of which the median counts.
const TRANSFERS: usize = 3;
/// Commands, of which the median counts.
const COMMANDS: usize = 15;
const MIB: f64 = 1024.0 * 1024.0;
/// The port of E2B's in-sandbox daemon.
const PORT: u16 = wire::v1::pod::PORT;

/// Measures, and returns the figures.
pub(super) fn run() -> Result<Vec<Figure>> {
    within(async {
        let mut stack = Stack::start(BOTH).await;
        let mut figures = Vec::new();
        for runtime in ["qemu", "container-runc"] {
            let holder = stack.holder(SMALL);
            let wish = json!({"agent_type": "echo", "runtime": runtime});
            let agent = stack.ask(&holder, Method::POST, "/spawn", wish).await.expect(200);
            let guest = Guest { agent: SpawnedAgent::of(&agent), stack: &stack, holder: &holder };
            figures.extend(guest.figures().await.with_context(|| format!("work in {runtime}"))?);
            stack.stop(&holder, &guest.agent.id).await.expect(200);
        }
        stack.end();
        Ok(figures)
    })
}

struct Guest<'a> {
    stack: &'a Stack,
    holder: &'a Holder,
    agent: SpawnedAgent,
}

impl Guest<'_> {
    async fn figures(&self) -> Result<Vec<Figure>> {
        let name = self.agent.text("runtime").to_owned();
        let (mut up, mut down) = (Vec::new(), Vec::new());
        let bytes: Bytes = (0_u8..=255).cycle().take(FILE_MIB << 20).collect::<Vec<_>>().into();
        for _ in 0..TRANSFERS {
            up.push(self.upload(bytes.clone()).await?);
            down.push(self.download(bytes.len()).await?);
        }
        let mut commands = Vec::new();
        for _ in 0..COMMANDS {
            commands.push(self.command().await?);
        }
        let file = "/data/own";
        let own = [
            self.own(&["write", file, &FILE_MIB.to_string()])?,
            self.own(&["read", file])?,
            self.own(&["exec", &COMMANDS.to_string()])?,
        ];
        let [up, down, command] = [up, down, commands].map(|took| percentile(&took, 0.5));
        let over = |ours: Duration, own: Duration| ours.as_secs_f64() / own.as_secs_f64();
        let speed =
            |took: Duration| f64::from(u32::try_from(FILE_MIB).unwrap_or_default()) * MIB / 1e6 / took.as_secs_f64();
        let millis = |took: Duration| took.as_secs_f64() * 1e3;
        Ok(vec![
            Figure::new(format!("{name}: a file of {FILE_MIB} MiB up, median"), speed(up), "MB/s"),
            Figure::new("… its time over the guest's own for writing it", over(up, own[0]), "×"),
            Figure::new(format!("{name}: the same file down, median"), speed(down), "MB/s"),
            Figure::new("… its time over the guest's own for reading it", over(down, own[1]), "×"),
            Figure::new(format!("{name}: a command, call to end, median"), millis(command), "ms"),
            Figure::new("… over the guest's own start of the same program", over(command, own[2]), "×"),
        ])
    }

    fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.stack.request(method, &self.agent, path).header("e2b-sandbox-port", PORT.to_string())
    }

    async fn upload(&self, bytes: Bytes) -> Result<Duration> {
        let since = Instant::now();
        let request = self.request(Method::POST, "/files?path=/data/file");
        let answer = request.header("content-type", "application/octet-stream").body(bytes).send().await?;
        ensure!(answer.status().is_success(), "the upload: {} {}", answer.status(), answer.text().await?);
        Ok(since.elapsed())
    }

    async fn download(&self, length: usize) -> Result<Duration> {
        let since = Instant::now();
        let answer = self.request(Method::GET, "/files?path=/data/file").send().await?.error_for_status()?;
        let bytes = answer.bytes().await?;
        ensure!(bytes.len() == length, "{} bytes of {length} came down", bytes.len());
        Ok(since.elapsed())
    }

    /// The program that the guest starts by itself in [`Guest::own`], to its end.
    async fn command(&self) -> Result<Duration> {
        let words = ["tell", "exit", "0"];
        let process = json!({"process": {"cmd": "/usr/bin/agent-echo", "args": words, "envs": {}}, "stdin": false});
        let mut body = BytesMut::new();
        Envelope { end: false, message: Bytes::from(process.to_string()) }.encode(&mut body);
        let since = Instant::now();
        let request = self.request(Method::POST, "/process.Process/Start").header("content-type", STREAM_TYPE);
        let answer = request.body(body.freeze()).send().await?.error_for_status()?.bytes().await?;
        let took = since.elapsed();
        ensure!(has_ended_well(&answer), "the command: {}", String::from_utf8_lossy(&answer));
        Ok(took)
    }

    /// What the guest takes for it, without anybody outside.
    fn own(&self, words: &[&str]) -> Result<Duration> {
        let words = [&["measure"], words].concat();
        let mut command: Command = self.stack.exec_echo(self.holder, &self.agent.id, &words);
        let said = command.output()?;
        let text = String::from_utf8_lossy(&said.stdout).trim().to_owned();
        let micros = text.parse().with_context(|| format!("{text}{}", String::from_utf8_lossy(&said.stderr)))?;
        Ok(Duration::from_micros(micros))
    }
}

/// Whether the stream of a command's events tells a good end.
fn has_ended_well(stream: &[u8]) -> bool {
    let mut stream = BytesMut::from(stream);
    let next = || Envelope::decode(&mut stream).ok().flatten();
    let events =
        std::iter::from_fn(next).filter_map(|envelope| serde_json::from_slice::<Value>(&envelope.message).ok());
    events.filter_map(|frame| frame["event"]["end"]["exited"].as_bool()).any(|exited| exited)
}
