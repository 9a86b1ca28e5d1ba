//! Work on files with a user's rights, and with no others: whatever links a path leads
//! over, the kernel lets this program do there what it would let the user do.

use std::io;
use std::sync::Arc;
use std::thread;

use rustix::process::{Gid, Uid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::error::FileError;
use crate::process::{User, am_root};

/// Pieces of work at the same time; more wait for their turn.
const MAX_JOBS: usize = 16;
/// Bytes of a thread's stack.
const STACK: usize = 256 * 1024;

/// Where work on files is done. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct FileWorkers(Arc<Semaphore>);

impl Default for FileWorkers {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MAX_JOBS)))
    }
}

impl FileWorkers {
    /// Does a piece of work that ends soon.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        user: &User,
        work: impl FnOnce() -> Result<T, FileError> + Send + 'static,
    ) -> Result<T, FileError> {
        let turn = Arc::clone(&self.0).acquire_owned().await.ok();
        start(user, move |_: &UserRights| {
            let _turn: Option<OwnedSemaphorePermit> = turn;
            work()
        })
        .await
    }
}

/// That this thread has a user's rights.
pub(super) struct UserRights(());

/// Does work that may last, in a thread of its own. Whoever calls it bounds their number.
pub(super) async fn start<T: Send + 'static>(
    user: &User,
    work: impl FnOnce(&UserRights) -> Result<T, FileError> + Send + 'static,
) -> Result<T, FileError> {
    let (sender, receiver) = oneshot::channel();
    spawn(user, move |rights| {
        // Whoever asked may be gone; the work is done all the same.
        let _ = sender.send(rights.and_then(|rights| work(&rights)));
    })?;
    receiver.await.unwrap_or_else(|_| Err(FileError::Thread(io::ErrorKind::Interrupted.into())))
}

/// Starts a thread with the user's rights.
pub(super) fn spawn(
    user: &User,
    work: impl FnOnce(Result<UserRights, FileError>) + Send + 'static,
) -> Result<(), FileError> {
    let user = user.clone();
    let thread = thread::Builder::new().name("files".to_owned()).stack_size(STACK);
    thread.spawn(move || work(UserRights::take(&user))).map(drop).map_err(FileError::Thread)
}

impl UserRights {
    /// Gives this thread the user's rights, for good: it ends with its work.
    ///
    /// Its real and saved ids stay this program's, so that no process of the user's may
    /// send it a signal. That its effective id is not root's any more takes all of its
    /// capabilities from it.
    fn take(user: &User) -> Result<Self, FileError> {
        if !am_root() {
            // This program is that user already (`Accounts` holds it to that).
            return Ok(Self(()));
        }
        let groups: Vec<Gid> = user.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
        let taken = set_thread_groups(&groups)
            .and_then(|()| set_thread_res_gid(None, Gid::from_raw(user.gid), None))
            .and_then(|()| set_thread_res_uid(None, Uid::from_raw(user.uid), None));
        taken.map(|()| Self(())).map_err(|error| FileError::Rights(error.into()))
    }
}
