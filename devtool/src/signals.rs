//! The signals that end a command of `./dev` which has something to say or to put away before it goes.

use std::future::poll_fn;
use std::task::{self, Poll};
use std::time::{Duration, Instant};
use std::{fmt, fs};

use anyhow::{Context, Result};
use rustix::process;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::timeout_at;

/// What ends a command: a terminal that is gone, Ctrl-C, Ctrl-\, and whoever bounds its time.
const ENDING: [SignalKind; 4] =
    [SignalKind::hangup(), SignalKind::interrupt(), SignalKind::quit(), SignalKind::terminate()];
/// A further signal is somebody's impatience when it comes so long after the first: `timeout` sends its own twice.
const APART: Duration = Duration::from_secs(1);

/// A command was ended by this signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ended(pub(crate) i32);

impl Ended {
    /// The exit status that a shell gives to such an end.
    pub(crate) fn status(self) -> i32 {
        128 + self.0
    }

    /// The signal, to be handed on.
    pub(crate) fn signal(self) -> Option<process::Signal> {
        process::Signal::from_named_raw(self.0)
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ended by signal {}", self.0)
    }
}

impl std::error::Error for Ended {}

type Heard = Vec<(Ended, Signal)>;

/// Those signals, from now on written down instead of ending the process.
#[derive(Debug)]
pub(crate) struct Signals {
    runtime: Runtime,
    heard: Heard,
    /// A child has ended
    children: Signal,
    came: Came,
}

/// Which signals came.
#[derive(Debug, Default)]
struct Came {
    first: Option<(Ended, Instant)>,
    again: bool,
}

impl Came {
    fn note(&mut self, now: Option<Ended>) {
        let Some(now) = now else { return };
        let (_, at) = *self.first.get_or_insert((now, Instant::now()));
        self.again |= at.elapsed() >= APART;
    }
}

impl Signals {
    pub(crate) fn watch() -> Result<Self> {
        let runtime = Builder::new_current_thread().enable_io().enable_time().build().context("watch for signals")?;
        let ignored = ignored()?;
        let watched = |kind| {
            let _inside = runtime.enter();
            signal(kind).context("watch for signals")
        };
        let mut heard = Vec::new();
        for kind in ENDING {
            let number = kind.as_raw_value();
            if ignored & (1 << (number - 1)) == 0 {
                heard.push((Ended(number), watched(kind)?));
            }
        }
        let children = watched(SignalKind::child())?;
        Ok(Self { runtime, heard, children, came: Came::default() })
    }

    /// The first signal that came. The kernel hands a signal to the process before it lets it know that a child which
    /// the same signal ended is gone.
    pub(crate) fn caught(&mut self) -> Option<Ended> {
        let heard = &mut self.heard;
        let now = self.runtime.block_on(async {
            // The runtime takes in what came between two polls.
            tokio::task::yield_now().await;
            poll_fn(|context| Poll::Ready(came(heard, context))).await
        });
        self.came.note(now);
        self.came.first.map(|(ended, _)| ended)
    }

    /// Whether another one came later: nobody waits for an end any more.
    pub(crate) fn caught_again(&mut self) -> bool {
        self.caught();
        self.came.again
    }

    /// Nothing more is begun once a signal came.
    pub(crate) fn go_on(&mut self) -> Result<(), Ended> {
        self.caught().map_or(Ok(()), Err)
    }

    /// Rests until a signal comes or a child ends, but not longer than until this instant.
    pub(crate) fn rest(&mut self, until: Option<Instant>) {
        let Self { runtime, heard, children, came: noted } = self;
        let woken = poll_fn(|context| {
            let now = came(heard, context);
            noted.note(now);
            let ended = children.poll_recv(context).is_ready();
            if ended || now.is_some() { Poll::Ready(()) } else { Poll::Pending }
        });
        runtime.block_on(async {
            match until {
                // Which of the two it was, whoever rests finds out.
                Some(until) => timeout_at(until.into(), woken).await.unwrap_or_default(),
                None => woken.await,
            }
        });
    }
}

/// Which signal came since this was last asked.
fn came(heard: &mut Heard, context: &mut task::Context<'_>) -> Option<Ended> {
    let came = |(ended, signal): &mut (Ended, Signal)| {
        matches!(signal.poll_recv(context), Poll::Ready(Some(()))).then_some(*ended)
    };
    heard.iter_mut().find_map(came)
}

/// The signals that whoever started us ignores, as `nohup` does, one bit each: they go on being ignored.
fn ignored() -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status").context("read /proc/self/status")?;
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    u64::from_str_radix(mask.context("/proc/self/status says no ignored signals")?.trim(), 16)
        .context("read the ignored signals")
}
