//! Room for the node's own records on a disk that others have filled.

use std::io;
use std::path::Path;

use durable::BallastFile;
use sandbox::is_full;

/// Tens of thousands of marks, or a thousand records.
const BYTES: usize = 4 * 1024 * 1024;

/// The room that is kept for the node's own records.
pub(crate) fn of(state: &Path) -> BallastFile {
    BallastFile::at(state, BYTES)
}

/// Gives that room up, if the disk is full and it is there: then what was tried may be
/// tried again.
pub(crate) fn make_room(reserve: &BallastFile, error: &io::Error) -> bool {
    let made = is_full(error) && reserve.release();
    if made {
        tracing::error!("the disk under the node's state is full: the room kept for its records is in use now");
        metrics::counter!("hypercore_reserve_releases_total").increment(1);
    }
    made
}
