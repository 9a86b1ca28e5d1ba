//! Changes of state, told to whoever listens in any gateway.
//!
//! A change is written to `news` in the transaction that makes it. One task per gateway
//! asks for what was committed since its last look: every [`PERIOD`], and at once after a
//! transaction of this gateway. A look is a snapshot of the server, and what is new is
//! what the last snapshot did not see: nothing is missed and nothing told twice,
//! whichever transaction was begun first. `NOTIFY` would have all commits wait for each
//! other.

use std::sync::Arc;
use std::time::Duration;

use domain::PodId;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, PgPool, Row, query};
use tokio::sync::{Notify, broadcast};
use tokio::task::JoinHandle;

use crate::codec::{integer, millis, natural, state_columns, state_of};
use crate::error::StoreError;
use crate::record::{CHANGE_QUEUE, RunChange};

/// Between two looks when nothing happens here: how late a change of another gateway's
/// agents is told at most.
const PERIOD: Duration = Duration::from_millis(250);

const READ: &str = "read what other gateways did";

/// The way to the listeners.
#[derive(Debug)]
pub(crate) struct ChangeFeed {
    listeners: broadcast::Sender<(PodId, RunChange)>,
    wake: Arc<Notify>,
}

impl ChangeFeed {
    pub(crate) fn subscribe(&self) -> broadcast::Receiver<(PodId, RunChange)> {
        self.listeners.subscribe()
    }

    /// There is something new.
    pub(crate) fn look(&self) {
        self.wake.notify_one();
    }
}

/// Starts the task that looks.
pub(crate) async fn start(pool: PgPool) -> Result<(ChangeFeed, JoinHandle<()>), StoreError> {
    let (listeners, _) = broadcast::channel(CHANGE_QUEUE);
    let wake = Arc::new(Notify::new());
    let row = query("SELECT pg_current_snapshot()::text").fetch_one(&pool).await;
    let seen = row.and_then(|row| row.try_get(0)).map_err(|error| StoreError::postgres(READ, error))?;
    let task = tokio::spawn(tell(pool, seen, listeners.clone(), Arc::clone(&wake)));
    Ok((ChangeFeed { listeners, wake }, task))
}

async fn tell(pool: PgPool, mut seen: String, listeners: broadcast::Sender<(PodId, RunChange)>, wake: Arc<Notify>) {
    loop {
        // What is woken for before this sleeps is remembered.
        let _ = tokio::time::timeout(PERIOD, wake.notified()).await;
        match since(&pool, &seen).await {
            Ok((now, changes)) => {
                seen = now;
                for change in changes {
                    // Nobody listens: nobody is told.
                    let _ = listeners.send(change);
                }
            }
            Err(error) => tracing::warn!(%error, "changes by other gateways cannot be read now; trying again"),
        }
    }
}

/// What a later snapshot sees and this one did not, and that snapshot.
async fn since(pool: &PgPool, seen: &str) -> sqlx::Result<(String, Vec<(PodId, RunChange)>)> {
    let sql = "SELECT look.at::text, news.pod, news.seq, news.at, news.state, news.reason \
               FROM (SELECT pg_current_snapshot() AS at) AS look \
               LEFT JOIN news ON news.tx >= pg_snapshot_xmin($1::pg_snapshot) \
               AND NOT pg_visible_in_snapshot(news.tx, $1::pg_snapshot) ORDER BY news.pod, news.seq";
    let rows = query(sql).bind(seen).fetch_all(pool).await?;
    let now = rows.first().map_or(Ok(seen.to_owned()), |row| row.try_get(0))?;
    let changes = rows.iter().filter_map(|row| decode(row).transpose()).collect::<sqlx::Result<_>>()?;
    Ok((now, changes))
}

fn decode(row: &PgRow) -> sqlx::Result<Option<(PodId, RunChange)>> {
    let Some(pod) = row.try_get::<Option<String>, _>(1)? else { return Ok(None) };
    let pod = pod.parse().map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
    let (name, reason): (String, Option<String>) = (row.try_get(4)?, row.try_get(5)?);
    let state = state_of(&name, reason.as_deref()).map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
    let change = RunChange { seq: natural(row.try_get(2)?), at: millis(row.try_get(3)?), state };
    Ok(Some((pod, change)))
}

/// Writes a change down for the listeners, in the transaction that makes it.
pub(crate) async fn write(conn: &mut PgConnection, pod: PodId, change: &RunChange) -> sqlx::Result<()> {
    let (state, reason) = state_columns(change.state);
    let sql = "INSERT INTO news (pod, seq, at, state, reason) VALUES ($1, $2, $3, $4, $5)";
    let insert = query(sql).bind(pod.as_str().to_owned()).bind(integer(change.seq)).bind(integer(change.at.0));
    insert.bind(state).bind(reason).execute(conn).await.map(drop)
}
