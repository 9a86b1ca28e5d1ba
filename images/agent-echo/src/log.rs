//! Lines on standard output, which is the agent's log.

use std::io::Write;

/// Writes one line. A log that nobody reads any more stops nobody.
pub(crate) fn line(text: &str) {
    let mut out = std::io::stdout().lock();
    if writeln!(out, "{text}").is_ok() {
        drop(out.flush());
    }
}
