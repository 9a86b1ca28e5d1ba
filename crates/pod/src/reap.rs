//! PID 1 inherits every orphan and buries every child.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, WaitStatus, wait};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use crate::exit::Exit;

/// Buries the dead and tells those who asked. Nobody else in this program may
/// wait for a child: the burial takes all of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reaper(Arc<Mutex<HashMap<Pid, oneshot::Sender<Exit>>>>);

impl Reaper {
    /// Hears of the end of a child. To be called in the same breath as its
    /// start, before this thread sees another signal.
    pub(crate) fn expect(&self, child: Pid) -> oneshot::Receiver<Exit> {
        let (tell, hear) = oneshot::channel();
        self.asked().insert(child, tell);
        hear
    }

    /// Buries until the end of the world.
    ///
    /// # Errors
    /// Signals cannot be heard.
    pub(crate) fn run(&self) -> std::io::Result<impl Future<Output = ()> + use<>> {
        let mut deaths: Signal = signal(SignalKind::child())?;
        let reaper = self.clone();
        Ok(async move {
            while deaths.recv().await.is_some() {
                let _ = reaper.bury();
            }
        })
    }

    /// Buries who is dead; says whether nobody is left.
    pub(crate) fn bury(&self) -> bool {
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((child, status))) => self.tell(child, status),
                Ok(None) => return false,
                Err(error) => return error == Errno::CHILD,
            }
        }
    }

    fn tell(&self, child: Pid, status: WaitStatus) {
        let Some(exit) = Exit::of(status) else { return };
        if let Some(tell) = self.asked().remove(&child) {
            // Whoever asked may be gone; the child is buried all the same.
            let _ = tell.send(exit);
        }
    }

    fn asked(&self) -> MutexGuard<'_, HashMap<Pid, oneshot::Sender<Exit>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
