//! A program under way. What ends it comes from here alone, when a signal came or its time is over: it has a session of
//! its own, because nextest takes a second signal, from a terminal or from `timeout`, for an order to kill its tests.

use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::{
    Pid, Signal, getpid, getppid, kill_process, kill_process_group, set_parent_process_death_signal, setsid,
};

use crate::signals::{Ended, Signals};

/// How long a program may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// For its work; without one, as long as it wants
    pub(crate) work: Option<Duration>,
    /// For its end, when it was asked to end
    pub(crate) end: Duration,
}

/// How a program ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct End {
    pub(crate) status: ExitStatus,
    /// Its time was over
    pub(crate) over: bool,
}

/// Runs a program within its bounds. A signal that ends us is handed on to it, and is the error.
pub(crate) fn run(command: &mut Command, signals: &mut Signals, bounds: Bounds) -> Result<End> {
    signals.go_on()?;
    let named = command.get_program().to_owned();
    let mut child = apart(command).spawn().with_context(|| format!("run {}", named.display()))?;
    let until = bounds.work.map(|work| Instant::now() + work);
    let end = waited(&mut child, signals, until, bounds.end);
    let end = end.with_context(|| format!("wait for {}", named.display()))?;
    signals.go_on()?;
    Ok(end)
}

/// Runs a program that puts away what was begun, within this time, whatever signals come.
pub(crate) fn finish(command: &mut Command, signals: &mut Signals, bound: Duration) -> Result<End> {
    let named = command.get_program().to_owned();
    let mut child = apart(command).spawn().with_context(|| format!("run {}", named.display()))?;
    let ended = rest(&mut child, signals, Some(Instant::now() + bound), |_| false);
    let ended = ended.with_context(|| format!("wait for {}", named.display()))?;
    let over = ended.is_none();
    if over {
        kill(Pid::from_child(&child));
    }
    let status = ended.map_or_else(|| child.wait(), Ok).with_context(|| format!("wait for {}", named.display()))?;
    Ok(End { status, over })
}

/// A session of its own, without our terminal: a program that would ask there fails with its own words, where one of
/// a mere group of its own would be stopped for ever. It is asked to end when we are killed.
#[expect(unsafe_code, reason = "what a child does before it is another program has no other place")]
fn apart(command: &mut Command) -> &mut Command {
    let us = getpid();
    let begin = move || -> io::Result<()> {
        setsid()?;
        set_parent_process_death_signal(Some(Signal::TERM))?;
        // We were killed before that.
        if getppid() == Some(us) { Ok(()) } else { Err(io::ErrorKind::Interrupted.into()) }
    };
    // SAFETY: it makes system calls alone, and allocates nothing.
    unsafe { command.pre_exec(begin) }
}

fn waited(child: &mut Child, signals: &mut Signals, until: Option<Instant>, for_end: Duration) -> io::Result<End> {
    if let Some(status) = rest(child, signals, until, |signals| signals.caught().is_some())? {
        return Ok(End { status, over: false });
    }
    let (group, signal) = (Pid::from_child(child), signals.caught());
    ask(group, signal.and_then(Ended::signal).unwrap_or(Signal::TERM));
    let ended = rest(child, signals, Some(Instant::now() + for_end), Signals::caught_again)?;
    kill(group);
    let status = ended.map_or_else(|| child.wait(), Ok)?;
    Ok(End { status, over: signal.is_none() })
}

/// Waits for a child's end, but not longer than until this instant, or until signals say so.
fn rest(
    child: &mut Child,
    signals: &mut Signals,
    until: Option<Instant>,
    say_so: impl Fn(&mut Signals) -> bool,
) -> io::Result<Option<ExitStatus>> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        let late = until.is_some_and(|until| Instant::now() >= until);
        if late || say_so(signals) {
            return Ok(None);
        }
        signals.rest(until);
    }
}

/// Asks a group to end, as a terminal does; also one that was stopped. One that is gone already needs no asking.
fn ask(group: Pid, signal: Signal) {
    let _ = kill_process_group(group, signal);
    let _ = kill_process_group(group, Signal::CONT);
}

/// Kills what is left of a group, and all that its first program has started in groups of their own.
fn kill(group: Pid) {
    for pid in descendants(group) {
        let _ = kill_process(pid, Signal::KILL);
    }
    let _ = kill_process_group(group, Signal::KILL);
}

/// What a program has started, and what that has: as far as their parents live.
fn descendants(of: Pid) -> Vec<Pid> {
    let parents = parents();
    let mut found = vec![of];
    let mut seen = 0;
    while let Some(parent) = found.get(seen).copied() {
        found.extend(parents.iter().filter(|(_, its)| *its == parent).map(|(pid, _)| *pid));
        seen += 1;
    }
    found.split_off(1)
}

/// Every process with its parent.
fn parents() -> Vec<(Pid, Pid)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let parent = |entry: fs::DirEntry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let status = fs::read_to_string(entry.path().join("status")).ok()?;
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()?;
        Some((Pid::from_raw(pid)?, Pid::from_raw(parent)?))
    };
    entries.filter_map(parent).collect()
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, PipeReader, Read, pipe};
    use std::os::unix::process::ExitStatusExt;
    use std::sync::mpsc::{self, RecvTimeoutError};
    use std::thread;

    use super::*;

    const SOON: Duration = Duration::from_millis(50);
    const LATER: Duration = Duration::from_secs(600);

    /// A shell that does this, and what it and all that it starts say.
    fn bash(does: &str) -> (Command, BufReader<PipeReader>) {
        let (said, says) = pipe().unwrap();
        let mut bash = Command::new("bash");
        bash.args(["-c", does]).stdout(says);
        (bash, BufReader::new(said))
    }

    /// Waits until nobody is left who could say something.
    fn silent(mut said: BufReader<PipeReader>, bash: Command) {
        drop(bash);
        said.read_to_string(&mut String::new()).unwrap();
    }

    #[test]
    fn a_program_whose_time_is_over_is_asked_to_end_with_its_group() {
        let mut signals = Signals::watch().unwrap();
        let (mut command, said) = bash("sleep 1000 & wait");
        let end = run(&mut command, &mut signals, Bounds { work: Some(SOON), end: LATER }).unwrap();
        assert!(end.over);
        assert_eq!(end.status.signal(), Some(Signal::TERM.as_raw()));
        silent(said, command);
    }

    #[test]
    fn a_program_that_ends_in_its_time_ends_as_it_wants() {
        let mut signals = Signals::watch().unwrap();
        let (mut command, _said) = bash("exit 7");
        let end = run(&mut command, &mut signals, Bounds { work: Some(LATER), end: LATER }).unwrap();
        assert!(!end.over);
        assert_eq!(end.status.code(), Some(7));
    }

    #[test]
    fn what_ignores_the_signal_of_its_group_is_killed_with_what_it_started_in_other_groups() {
        let mut signals = Signals::watch().unwrap();
        // `set -m` gives what is started a group of its own, as nextest gives one to each test.
        let (mut command, mut said) = bash("trap '' TERM; set -m; sleep 1000 & echo on; wait");
        let signalled = thread::spawn(move || {
            said.read_line(&mut String::new()).unwrap();
            kill_process(getpid(), Signal::TERM).unwrap();
            said
        });
        let error = run(&mut command, &mut signals, Bounds { work: None, end: SOON }).unwrap_err();
        assert_eq!(error.downcast_ref(), Some(&Ended(Signal::TERM.as_raw())));
        silent(signalled.join().unwrap(), command);
    }

    #[test]
    fn what_puts_away_is_ended_by_no_signal_but_by_its_bound() {
        let mut signals = Signals::watch().unwrap();
        let (mut command, _said) = bash("kill -INT $PPID; kill -TERM $PPID; sleep 0.1; exit 7");
        let end = finish(&mut command, &mut signals, LATER).unwrap();
        assert_eq!((end.status.code(), end.over), (Some(7), false));
        let (mut command, said) = bash("sleep 1000 & wait");
        assert!(finish(&mut command, &mut signals, SOON).unwrap().over);
        silent(said, command);
    }

    #[test]
    fn a_second_signal_waits_for_no_end() {
        let mut signals = Signals::watch().unwrap();
        let (mut command, mut said) = bash("trap '' INT; echo on; while :; do sleep 1000; done");
        let (ends, ended) = mpsc::channel::<()>();
        let impatient = thread::spawn(move || {
            said.read_line(&mut String::new()).unwrap();
            // The first asks; one that comes a while after it is meant.
            while ended.recv_timeout(SOON) == Err(RecvTimeoutError::Timeout) {
                kill_process(getpid(), Signal::INT).unwrap();
            }
            said
        });
        let error = run(&mut command, &mut signals, Bounds { work: None, end: LATER }).unwrap_err();
        drop(ends);
        assert_eq!(error.downcast_ref(), Some(&Ended(Signal::INT.as_raw())));
        silent(impatient.join().unwrap(), command);
    }

    #[test]
    fn a_program_has_a_session_of_its_own_and_no_terminal_to_ask_at() {
        let mut signals = Signals::watch().unwrap();
        let (mut command, _said) = bash("read -r line < /proc/$$/stat; set -- ${line##*) }; [ $4 -eq $$ ]");
        let end = run(&mut command, &mut signals, Bounds { work: Some(LATER), end: LATER }).unwrap();
        assert!(end.status.success());
    }

    #[test]
    fn nothing_is_started_after_a_signal() {
        let mut signals = Signals::watch().unwrap();
        kill_process(getpid(), Signal::HUP).unwrap();
        // Another thread may be handed it.
        signals.rest(None);
        let mut nothing = Command::new("no-such-program");
        let error = run(&mut nothing, &mut signals, Bounds { work: None, end: SOON }).unwrap_err();
        assert_eq!(error.downcast_ref(), Some(&Ended(Signal::HUP.as_raw())));
    }
}
