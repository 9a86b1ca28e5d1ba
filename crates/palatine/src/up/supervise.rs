//! A part is kept: asked, now and then, for what it is for, and started again with
//! growing pauses when it has died. A chain that hangs is killed first.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use anyhow::{Error, Result, anyhow};
use domain::Backoff;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::health::{HealthRecorder, PartName, PartState};
use super::process::Part;

/// How often a part that starts is asked whether it is ready.
pub(super) const ASK_EVERY: Duration = Duration::from_millis(20);
/// How often a part is asked.
const PROBE_EVERY: Duration = Duration::from_secs(2);
/// How long its answer may take.
const PROBE_LIMIT: Duration = Duration::from_secs(5);
/// How long a chain may give no answer before it is killed and started anew.
const HUNG_AFTER: Duration = Duration::from_secs(12);
/// The pauses before starts after a death.
const BACKOFF: Backoff = Backoff { first: Duration::from_millis(500), longest: Duration::from_secs(30) };
/// A part that ran for so long starts with the first pause again.
const STEADY: Duration = Duration::from_secs(60);

/// What is known of one kind of part.
pub(super) trait Service {
    const NAME: PartName;
    /// Whether one that runs and gives no answer is killed and started anew. Only
    /// what holds nothing that its next start has not.
    const RESTARTS_WHEN_HUNG: bool;

    /// Starts it into `part`, which holds it from its first instant, and waits until
    /// it is ready.
    async fn start(&mut self, part: &mut Option<Part>, recorder: &HealthRecorder) -> Result<()>;

    /// Asks for what it is for.
    async fn probe(&self) -> Result<()>;
}

/// A part, its process, and how it is started again.
#[derive(Debug)]
pub(super) struct Supervised<S> {
    service: S,
    part: Option<Part>,
}

impl<S: Service> Supervised<S> {
    pub(super) const fn new(service: S) -> Self {
        Self { service, part: None }
    }

    pub(super) const fn service(&self) -> &S {
        &self.service
    }

    /// Starts it, for the first time or again.
    pub(super) async fn start(&mut self, recorder: &HealthRecorder) -> Result<()> {
        self.service.start(&mut self.part, recorder).await?;
        recorder.note(S::NAME, PartState::Ok, None);
        Ok(())
    }

    /// Waits until one that was started does all that it is for.
    pub(super) async fn wait_healthy(&mut self, limit: Duration) -> Result<()> {
        let Self { service, part } = self;
        let Some(part) = part else { return Err(anyhow!("it was never started")) };
        part.until(limit, async {
            while service.probe().await.is_err() {
                sleep(ASK_EVERY).await;
            }
        })
        .await
    }

    /// Keeps it, until this is dropped.
    pub(super) async fn keep(&mut self, recorder: &HealthRecorder) -> Infallible {
        let mut pauses = BACKOFF.pauses();
        loop {
            let began = Instant::now();
            let end = self.watch(recorder).await;
            if began.elapsed() >= STEADY {
                pauses.succeeded();
            }
            self.down(recorder, &end).await;
            loop {
                sleep(pauses.failed()).await;
                match self.start(recorder).await {
                    Ok(()) => break,
                    Err(error) => self.down(recorder, &error).await,
                }
            }
        }
    }

    /// The process, for who ends it.
    pub(super) fn into_part(self) -> Option<Part> {
        self.part
    }

    /// Returns when the part has died, or was killed because it hung.
    async fn watch(&mut self, recorder: &HealthRecorder) -> Error {
        let Self { service, part } = self;
        let Some(part) = part else { return anyhow!("it was never started") };
        let mut failing_since = None;
        let mut turn = interval(PROBE_EVERY);
        turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let answer = async {
                turn.tick().await;
                let late = || Err(anyhow!("no answer within {PROBE_LIMIT:?}"));
                timeout(PROBE_LIMIT, service.probe()).await.unwrap_or_else(|_| late())
            };
            let answer = tokio::select! {
                death = part.died() => return death,
                answer = answer => answer,
            };
            part.bound_log();
            match answer {
                Ok(()) => {
                    failing_since = None;
                    recorder.note(S::NAME, PartState::Ok, None);
                }
                Err(error) => {
                    recorder.note(S::NAME, PartState::Sick, Some(format!("{error:#}")));
                    let since: Instant = *failing_since.get_or_insert_with(Instant::now);
                    if S::RESTARTS_WHEN_HUNG && since.elapsed() >= HUNG_AFTER {
                        return error
                            .context(format!("it gave no answer for {} s and is killed", HUNG_AFTER.as_secs()));
                    }
                }
            }
        }
    }

    /// Nothing of it is left, and everybody can see why.
    async fn down(&mut self, recorder: &HealthRecorder, why: &Error) {
        if let Some(part) = self.part.take() {
            part.kill().await;
        }
        recorder.note(S::NAME, PartState::Down, Some(format!("{why:#}")));
    }
}

#[cfg(test)]
mod tests {
    use tokio::process::Command;

    use super::super::health::Health;
    use super::*;

    /// A shell script that is well while a file is there.
    struct Script {
        dir: tempfile::TempDir,
        script: &'static str,
    }

    impl Service for Script {
        const NAME: PartName = PartName::Solana;
        const RESTARTS_WHEN_HUNG: bool = true;

        async fn start(&mut self, part: &mut Option<Part>, recorder: &HealthRecorder) -> Result<()> {
            let mut command = Command::new("sh");
            command.args(["-c", self.script]).current_dir(self.dir.path());
            let part = part.insert(Part::start(Self::NAME.as_str(), self.dir.path(), command)?);
            recorder.spawned(Self::NAME, part.facts());
            Ok(())
        }

        async fn probe(&self) -> Result<()> {
            if self.dir.path().join("well").exists() { Ok(()) } else { Err(anyhow!("no file")) }
        }
    }

    async fn until(path: &std::path::Path, what: impl Fn(&Health) -> bool) -> Health {
        let limit = Instant::now() + Duration::from_secs(60);
        loop {
            let health = Health::read(path).unwrap_or_default();
            if what(&health) {
                return health;
            }
            assert!(Instant::now() < limit, "{health:?}");
            sleep(Duration::from_millis(20)).await;
        }
    }

    #[tokio::test]
    async fn fault_1_5_a_part_that_dies_is_started_again_and_named_with_its_last_words() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("parts.json");
        let recorder = HealthRecorder::new(path.clone());
        let script = "echo alas >&2; test -e stay && exec sleep 1000; exit 3";
        let mut kept = Supervised::new(Script { dir, script });
        let work = async {
            kept.start(&recorder).await.unwrap();
            kept.keep(&recorder).await
        };
        let look = async {
            let down =
                until(&path, |health| health.parts.first().is_some_and(|part| part.state == PartState::Down)).await;
            let why = down.parts[0].why.clone().unwrap();
            assert!(why.contains("exit status: 3") && why.contains("alas"), "{why}");
            for file in ["stay", "well"] {
                std::fs::write(path.with_file_name(file), "").unwrap();
            }
            until(&path, |health| health.is_ok() && health.parts[0].restarts > 0).await
        };
        let well = tokio::select! {
            never = work => match never {},
            health = look => health,
        };
        assert!(sandbox::process::find(well.parts[0].process.as_ref().unwrap()).unwrap().is_some());
    }

    #[tokio::test]
    async fn fault_1_0_a_part_that_hangs_is_said_to_be_sick_and_then_started_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("parts.json");
        let recorder = HealthRecorder::new(path.clone());
        let mut kept = Supervised::new(Script { dir, script: "trap '' TERM; exec sleep 1000" });
        let work = async {
            kept.start(&recorder).await.unwrap();
            kept.keep(&recorder).await
        };
        let look = async {
            let sick =
                until(&path, |health| health.parts.first().is_some_and(|part| part.state == PartState::Sick)).await;
            until(&path, |health| health.parts[0].restarts > 0).await;
            let first = sick.parts[0].process.as_ref().unwrap();
            assert!(sandbox::process::find(first).unwrap().is_none(), "the one that hung is gone");
        };
        tokio::select! {
            never = work => match never {},
            () = look => {}
        }
    }
}
