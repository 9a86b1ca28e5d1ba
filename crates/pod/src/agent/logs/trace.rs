//! `pod`'s own events: into the logs as stream `pod`, and warnings onto the
//! console, where the node's operator finds them when nothing else works.

use std::io::{self, Write};

use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

use super::log::Logs;

/// Writes all events of level INFO and above there.
///
/// # Errors
/// Another subscriber is installed.
pub(crate) fn log_events(logs: Logs) -> anyhow::Result<()> {
    let subscriber = tracing_subscriber::fmt()
        .without_time()
        .with_target(false)
        .with_ansi(false)
        .with_max_level(Level::INFO)
        .with_writer(LogWriter { logs })
        .finish();
    Ok(tracing::subscriber::set_global_default(subscriber)?)
}

struct LogWriter {
    logs: Logs,
}

/// Takes one event's text.
struct EventWriter {
    logs: Logs,
    to_console: bool,
}

impl<'a> MakeWriter<'a> for LogWriter {
    type Writer = EventWriter;

    fn make_writer(&'a self) -> EventWriter {
        EventWriter { logs: self.logs.clone(), to_console: false }
    }

    fn make_writer_for(&'a self, event: &Metadata<'_>) -> EventWriter {
        EventWriter { logs: self.logs.clone(), to_console: *event.level() <= Level::WARN }
    }
}

impl Write for EventWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes).trim().to_owned();
        if self.to_console {
            // The console may be gone; the logs have the line all the same.
            let _ = writeln!(io::stderr(), "pod: {text}");
        }
        self.logs.push("pod", text);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
