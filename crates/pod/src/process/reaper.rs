//! The ends of children, and of orphans: as PID 1 or as a subreaper this process
//! inherits every one of them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, WaitStatus, wait};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use super::exit::Exit;

/// Reaps every child and tells those who asked. Nobody else in this program may
/// wait for a child: this takes all of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reaper(Arc<Mutex<HashMap<Pid, oneshot::Sender<Exit>>>>);

impl Reaper {
    /// Hears of the end of a child. To be called right after its start, before
    /// this thread sees another signal.
    pub(crate) fn subscribe(&self, child: Pid) -> oneshot::Receiver<Exit> {
        let (sender, receiver) = oneshot::channel();
        self.waiting().insert(child, sender);
        receiver
    }

    /// Reaps for ever.
    ///
    /// # Errors
    /// Signals cannot be heard.
    pub(crate) fn run(&self) -> std::io::Result<impl Future<Output = ()> + use<>> {
        let mut exits: Signal = signal(SignalKind::child())?;
        let reaper = self.clone();
        Ok(async move {
            while exits.recv().await.is_some() {
                let _ = reaper.reap();
            }
        })
    }

    /// Reaps who has ended; says whether no child is left.
    pub(crate) fn reap(&self) -> bool {
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((child, status))) => self.notify(child, status),
                Ok(None) => return false,
                Err(error) => return error == Errno::CHILD,
            }
        }
    }

    fn notify(&self, child: Pid, status: WaitStatus) {
        let Some(exit) = Exit::of(status) else { return };
        if let Some(sender) = self.waiting().remove(&child) {
            // Whoever asked may be gone; the child is reaped all the same.
            let _ = sender.send(exit);
        }
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<Pid, oneshot::Sender<Exit>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
