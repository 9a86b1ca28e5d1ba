//! QEMU's control socket: one command at a time, bounded and with deadlines.

use std::path::Path;
use std::time::Duration;

use domain::NodeShortage;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::{DriverFailure, GuestState};

/// How long any answer may take.
const DEADLINE: Duration = Duration::from_secs(5);
/// Bytes of one answer at most.
const MAX_LINE: u64 = 64 * 1024;
/// Events that may come before an answer.
const MAX_EVENTS: usize = 64;

#[derive(Debug, Deserialize)]
struct Line {
    #[serde(rename = "return")]
    done: Option<Value>,
    error: Option<Value>,
}

/// A connection to a VMM's control socket.
pub(crate) struct Qmp(BufReader<UnixStream>);

impl Qmp {
    /// Connects and leaves the negotiation behind.
    pub(super) async fn connect(socket: &Path) -> Result<Self, DriverFailure> {
        Self::over(within(async { Ok(UnixStream::connect(socket).await?) }).await?).await
    }

    /// The same over a connection that is there.
    pub(crate) async fn over(stream: UnixStream) -> Result<Self, DriverFailure> {
        let mut qmp = Self(BufReader::new(stream));
        within(qmp.line()).await?;
        qmp.execute("qmp_capabilities").await?;
        Ok(qmp)
    }

    /// The name the VMM was started with.
    pub(crate) async fn name(&mut self) -> Result<String, DriverFailure> {
        let answer = self.execute("query-name").await?;
        Ok(answer.get("name").and_then(Value::as_str).unwrap_or_default().to_owned())
    }

    /// Whether the guest gets anywhere. A VMM stops it where a disk of the host
    /// fails, and waits to be told that it may go on.
    pub(crate) async fn condition(&mut self) -> Result<GuestState, DriverFailure> {
        match self.status().await?.as_str() {
            "running" => Ok(GuestState::Running),
            "io-error" => Ok(GuestState::Paused(NodeShortage::Disk)),
            // Nobody of us pauses it otherwise, but what is paused is not dead.
            "paused" => Ok(GuestState::Paused(NodeShortage::Vmm)),
            // Among them `internal-error`, from which no VMM lets its guest go on: whoever
            // is told this has a guest that gets nowhere any more.
            other => Err(DriverFailure::Answer(format!("the status {other:?}"))),
        }
    }

    /// Whether the guest has begun to run, whatever became of it.
    pub(super) async fn has_started(&mut self) -> Result<bool, DriverFailure> {
        Ok(self.status().await? != "prelaunch")
    }

    async fn status(&mut self) -> Result<String, DriverFailure> {
        let answer = self.execute("query-status").await?;
        Ok(answer.get("status").and_then(Value::as_str).unwrap_or_default().to_owned())
    }

    /// Has the guest go on; what stopped it is tried again.
    pub(super) async fn resume(&mut self) -> Result<(), DriverFailure> {
        self.execute("cont").await.map(drop)
    }

    /// Ends the VMM.
    pub(super) async fn quit(&mut self) -> Result<(), DriverFailure> {
        self.execute("quit").await.map(drop)
    }

    async fn execute(&mut self, command: &'static str) -> Result<Value, DriverFailure> {
        within(async {
            let text = format!("{}\n", json!({ "execute": command }));
            self.0.get_mut().write_all(text.as_bytes()).await?;
            for _ in 0..MAX_EVENTS {
                let line: Line = serde_json::from_str(&self.line().await?).map_err(std::io::Error::from)?;
                match line {
                    Line { done: Some(answer), .. } => return Ok(answer),
                    Line { error: Some(error), .. } => return Err(DriverFailure::Answer(error.to_string())),
                    // An event.
                    Line { done: None, error: None } => {}
                }
            }
            Err(DriverFailure::Answer(format!("more than {MAX_EVENTS} events and no answer to {command}")))
        })
        .await
    }

    async fn line(&mut self) -> Result<String, DriverFailure> {
        let mut line = String::new();
        (&mut self.0).take(MAX_LINE).read_line(&mut line).await?;
        if line.ends_with('\n') { Ok(line) } else { Err(DriverFailure::Answer("an unfinished line".to_owned())) }
    }
}

async fn within<T>(act: impl Future<Output = Result<T, DriverFailure>>) -> Result<T, DriverFailure> {
    timeout(DEADLINE, act).await.unwrap_or(Err(DriverFailure::Deadline(DEADLINE)))
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;

    use super::*;

    async fn vmm(said: &str) -> Result<String, DriverFailure> {
        connected(said.to_owned()).await?.name().await
    }

    async fn connected(said: String) -> Result<Qmp, DriverFailure> {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("qmp");
        let listener = UnixListener::bind(&socket).unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(said.as_bytes()).await.unwrap();
            let mut heard = Vec::new();
            let _ = stream.read_to_end(&mut heard).await;
        });
        Qmp::connect(&socket).await
    }

    #[tokio::test]
    async fn events_between_question_and_answer_are_passed_over() {
        let said = "{\"QMP\":{}}\n{\"return\":{}}\n{\"event\":\"RESUME\"}\n{\"return\":{\"name\":\"x\"}}\n";
        assert_eq!(vmm(said).await.unwrap(), "x");
    }

    #[tokio::test]
    async fn fault_1_6_a_guest_that_a_full_disk_has_stopped_is_told_from_one_that_runs_and_from_a_dead_one() {
        let cases = [
            ("running", Some(GuestState::Running)),
            ("io-error", Some(GuestState::Paused(NodeShortage::Disk))),
            ("paused", Some(GuestState::Paused(NodeShortage::Vmm))),
            ("internal-error", None),
            ("x", None),
        ];
        for (status, condition) in cases {
            let said = format!(
                "{{\"QMP\":{{}}}}\n{{\"return\":{{}}}}\n{{\"event\":\"BLOCK_IO_ERROR\"}}\n{{\"return\":{{\"status\":\"{status}\"}}}}\n"
            );
            let mut qmp = connected(said).await.unwrap();
            assert_eq!(qmp.condition().await.ok(), condition, "{status}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_vmm_that_says_nothing_is_left_after_the_deadline() {
        assert!(matches!(vmm("").await, Err(DriverFailure::Deadline(_))));
    }

    #[tokio::test]
    async fn an_error_is_an_answer() {
        let error = vmm("{\"QMP\":{}}\n{\"error\":{\"class\":\"x\"}}\n").await.unwrap_err();
        assert!(matches!(error, DriverFailure::Answer(_)), "{error}");
    }
}
