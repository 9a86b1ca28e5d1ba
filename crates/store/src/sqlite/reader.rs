//! The threads that read: a connection each, never in a writer's way.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::connection::connect_to_read;
use crate::error::StoreError;

/// Questions that may wait for one reader.
const QUEUE: usize = 1024;

type Question = Box<dyn FnOnce(&Connection) + Send>;

/// The readers, asked in turn.
#[derive(Debug)]
pub(crate) struct Readers {
    queues: Vec<mpsc::Sender<Question>>,
    next: AtomicUsize,
}

impl Readers {
    /// Opens `count` connections on threads of their own.
    pub(crate) fn start(count: usize, database: &Path) -> Result<(Self, Vec<JoinHandle<()>>), StoreError> {
        let mut queues = Vec::new();
        let mut threads = Vec::new();
        for at in 0..count {
            let conn = connect_to_read(database)?;
            let (queue, questions) = mpsc::channel(QUEUE);
            let thread = std::thread::Builder::new()
                .name(format!("store-reader-{at}"))
                .spawn(move || serve(&conn, questions))
                .map_err(|error| StoreError::file("start a reader of", database, error))?;
            queues.push(queue);
            threads.push(thread);
        }
        Ok((Self { queues, next: AtomicUsize::new(0) }, threads))
    }

    /// Asks the next reader.
    pub(crate) async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed) % self.queues.len();
        let (reply, answer) = oneshot::channel();
        let question: Question = Box::new(move |conn| {
            // A caller that went away needs no answer.
            let _ = reply.send(question(conn));
        });
        self.queues[turn].send(question).await.map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }
}

fn serve(conn: &Connection, mut questions: mpsc::Receiver<Question>) {
    while let Some(question) = questions.blocking_recv() {
        question(conn);
    }
}
