//! What every driver must do, whoever it is. Called by each driver's own test.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use domain::{RunId, UnixMillis};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep, timeout};
use wire::node::{KeptCause, Retention};
use wire::pod::PORT;

use crate::{Condition, Facts, Fate, Refusal, Remains, Runtime, RuntimeError, Seat, Spec};

/// For how long disks are kept in this suite.
const RETENTION: Retention = Retention { since: UnixMillis(1), until: UnixMillis(2), cause: KeptCause::Found };
/// Pause between two looks at a guest that is starting.
const PAUSE: Duration = Duration::from_millis(20);

/// A driver under test, on a machine of its own.
#[async_trait]
pub trait Bench: Send + Sync {
    /// A driver as a daemon makes it at its start; the machine is the same each time.
    async fn driver(&self) -> Arc<dyn Runtime>;
    /// A disk that guests boot from.
    fn base(&self) -> PathBuf;
    /// Ends a guest from outside the driver, as a crash does.
    async fn crash(&self, id: RunId, facts: &Facts);
    /// How long a guest may take until its first port answers.
    fn boot_deadline(&self) -> Duration;
}

/// The result of one rule: which was broken, and how.
pub type Verdict = Result<(), String>;

/// Runs the suite: two boots.
///
/// # Errors
/// The first rule that the driver breaks.
pub async fn run(bench: &dyn Bench) -> Verdict {
    let driver = bench.driver().await;
    let spec = |bits, slot| Spec {
        seat: Seat { id: RunId::from_bits(bits), slot },
        cores: 1,
        memory_mib: 128,
        base: bench.base(),
        ran: false,
    };
    let one = spec(0x0c0f_0001, 1);
    what_was_never_made_can_be_stopped(&*driver, &one).await?;
    what_does_not_run_is_refused(&*driver, &one).await?;
    a_missing_seat_is_refused(&*driver, &spec(0x0c0f_0002, u16::MAX)).await?;
    let mut guest = done("create", driver.create(&one).await)?;
    a_guest_is_made_once(&*driver, &one).await?;
    answers(&*driver, one.seat.id, bench.boot_deadline()).await?;
    a_running_guest_can_be_measured(&*driver, &one).await?;
    a_running_guest_is_said_to_run(&*driver, &one).await?;
    what_is_there_is_seen(&*driver, &one).await?;
    // A daemon ends before the next one begins.
    drop(driver);
    let next = bench.driver().await;
    a_guest_is_adopted_by_its_own_facts_only(&*next, &one, &guest.facts).await?;
    a_sweep_spares_the_known(&*next, &one).await?;
    let adopted = done("adopt", next.adopt(&one, &guest.facts).await)?;
    let mut adopted = adopted.ok_or("adopt: a running guest is not found by its facts")?;
    bench.crash(one.seat.id, &guest.facts).await;
    heard("the next driver", timeout(bench.boot_deadline(), adopted.exit.wait()).await)?;
    done("stop(Keep)", next.stop(one.seat, Fate::Keep).await)?;
    guest = done("create after a crash", next.create(&one).await)?;
    a_sweep_removes_the_unknown(&*next, &one).await?;
    a_sweep_erases_nothing(&*next, &one).await?;
    heard("the driver that made it", timeout(bench.boot_deadline(), guest.exit.wait()).await)?;
    what_does_not_run_is_refused(&*next, &one).await?;
    the_end_may_come_twice(&*next, &one).await?;
    done("close", next.close().await)
}

async fn what_was_never_made_can_be_stopped(driver: &dyn Runtime, spec: &Spec) -> Verdict {
    for fate in [Fate::Keep, Fate::SetAside(RETENTION), Fate::Wipe] {
        done("stop of what was never made", driver.stop(spec.seat, fate).await)?;
    }
    Ok(())
}

async fn what_does_not_run_is_refused(driver: &dyn Runtime, spec: &Spec) -> Verdict {
    let id = spec.seat.id;
    refuses("stats", driver.stats(id).await, &Refusal::NotRunning)?;
    refuses("console", driver.console(id).await.map(drop), &Refusal::NotRunning)?;
    refuses("connect", driver.connect(id, PORT).await.map(drop), &Refusal::NotRunning)
}

async fn a_missing_seat_is_refused(driver: &dyn Runtime, spec: &Spec) -> Verdict {
    let slots = driver.about().slots;
    refuses("create", driver.create(spec).await, &Refusal::NoSlot { slot: spec.seat.slot, slots })
}

async fn a_guest_is_made_once(driver: &dyn Runtime, spec: &Spec) -> Verdict {
    refuses("create of what runs", driver.create(spec).await, &Refusal::Runs)
}

async fn answers(driver: &dyn Runtime, id: RunId, deadline: Duration) -> Verdict {
    let until = Instant::now() + deadline;
    loop {
        match timeout(deadline, health(driver, id)).await {
            Ok(Ok(said)) if said.starts_with("HTTP/1.1 204") => return Ok(()),
            Ok(Ok(said)) => return Err(format!("connect: the guest answered {said:?}")),
            other if Instant::now() > until => return Err(format!("connect: no answer in {deadline:?}: {other:?}")),
            _ => sleep(PAUSE).await,
        }
    }
}

async fn health(driver: &dyn Runtime, id: RunId) -> Result<String, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let mut link = driver.connect(id, PORT).await.map_err(|error| text(&error))?;
    let request = "GET /health HTTP/1.1\r\nhost: guest\r\nconnection: close\r\n\r\n";
    link.write_all(request.as_bytes()).await.map_err(|error| text(&error))?;
    let mut said = String::new();
    link.read_to_string(&mut said).await.map_err(|error| text(&error))?;
    Ok(said)
}

async fn a_running_guest_can_be_measured(driver: &dyn Runtime, spec: &Spec) -> Verdict {
    let stats = done("stats", driver.stats(spec.seat.id).await)?;
    let empty = stats.cpu_us == 0 || stats.memory_bytes == 0 || stats.resident_bytes == 0;
    if empty { Err(format!("stats: a running guest uses nothing: {stats:?}")) } else { Ok(()) }
}

async fn a_guest_is_adopted_by_its_own_facts_only(driver: &dyn Runtime, spec: &Spec, facts: &Facts) -> Verdict {
    let lies = [
        Facts { started: facts.started + 1, ..facts.clone() },
        Facts { boot: "another boot".to_owned(), ..facts.clone() },
        Facts { pid: std::process::id() + 1_000_000, ..facts.clone() },
    ];
    for lie in lies {
        if done("adopt", driver.adopt(spec, &lie).await)?.is_some() {
            return Err(format!("adopt: {lie:?} was taken for {facts:?}"));
        }
    }
    let stranger = Spec { seat: Seat { id: RunId::from_bits(0x0c0f_0003), ..spec.seat }, ..spec.clone() };
    match done("adopt", driver.adopt(&stranger, facts).await)? {
        Some(_) => Err("adopt: one sandbox was given another's guest".to_owned()),
        None => Ok(()),
    }
}

async fn a_sweep_spares_the_known(driver: &dyn Runtime, spec: &Spec) -> Verdict {
    // The second is one whose record cannot be read.
    for slot in [Some(spec.seat.slot), None] {
        let known = BTreeMap::from([(spec.seat.id, slot)]);
        match done("sweep", driver.sweep(&known, &RETENTION).await)? {
            0 => done("stats after a sweep", driver.stats(spec.seat.id).await)?,
            some => return Err(format!("sweep: {some} removed although all were known")),
        };
    }
    Ok(())
}

async fn what_is_there_is_seen(driver: &dyn Runtime, spec: &Spec) -> Verdict {
    let remains = done("remains", driver.remains().await)?;
    let wanted = Remains { runs: true, slot: Some(spec.seat.slot) };
    match remains.get(&spec.seat.id) {
        Some(found) if *found == wanted => Ok(()),
        other => Err(format!("remains: {other:?} where it should be {wanted:?}")),
    }
}

async fn a_running_guest_is_said_to_run(driver: &dyn Runtime, spec: &Spec) -> Verdict {
    done("resume of what runs", driver.resume(spec.seat.id).await)?;
    match done("condition", driver.condition(spec.seat.id).await)? {
        Condition::Running => Ok(()),
        other @ Condition::Paused(_) => Err(format!("condition: {other:?}")),
    }
}

async fn a_sweep_removes_the_unknown(driver: &dyn Runtime, spec: &Spec) -> Verdict {
    match done("sweep", driver.sweep(&BTreeMap::new(), &RETENTION).await)? {
        1 => what_does_not_run_is_refused(driver, spec).await,
        some => Err(format!("sweep: {some} removed instead of one")),
    }
}

async fn a_sweep_erases_nothing(driver: &dyn Runtime, spec: &Spec) -> Verdict {
    let kept = done("kept", driver.kept().await)?;
    let [disk] = kept.as_slice() else { return Err(format!("kept: {kept:?} instead of one")) };
    if disk.id != spec.seat.id || disk.retention != Some(RETENTION) || disk.bytes == 0 {
        return Err(format!("kept: {disk:?}"));
    }
    for _ in 0..2 {
        done("erase", driver.erase(&disk.name).await)?;
    }
    let left = done("kept", driver.kept().await)?;
    if left.is_empty() { Ok(()) } else { Err(format!("erase: {left:?} is left")) }
}

async fn the_end_may_come_twice(driver: &dyn Runtime, spec: &Spec) -> Verdict {
    for _ in 0..2 {
        done("stop(Wipe)", driver.stop(spec.seat, Fate::Wipe).await)?;
    }
    Ok(())
}

fn done<T, E: std::error::Error>(what: &str, result: Result<T, E>) -> Result<T, String> {
    result.map_err(|error| {
        let mut words = format!("{what}: {error}");
        let mut source = error.source();
        while let Some(cause) = source {
            words.push_str(&format!(": {cause}"));
            source = cause.source();
        }
        words
    })
}

fn refuses<T>(what: &str, result: Result<T, RuntimeError>, wanted: &Refusal) -> Verdict {
    match result {
        Ok(_) => Err(format!("{what}: done, where it should be refused because {wanted}")),
        Err(error) if error.refusal() == Some(wanted) => Ok(()),
        Err(error) => Err(format!("{what}: said {error}, where it should be refused because {wanted}")),
    }
}

fn heard<T, E>(who: &str, end: Result<T, E>) -> Verdict {
    end.map(drop).map_err(|_| format!("exit: {who} did not hear of the guest's end"))
}
