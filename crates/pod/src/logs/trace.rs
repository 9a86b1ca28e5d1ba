//! `pod`'s own words: into the ring as stream `pod`, and warnings onto the
//! console, where the node's operator finds them when nothing else works.

use std::io::{self, Write};

use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

use super::Logs;

/// Sends all events of level INFO and above there.
///
/// # Errors
/// Another subscriber is installed.
pub(crate) fn install(logs: Logs) -> anyhow::Result<()> {
    let subscriber = tracing_subscriber::fmt()
        .without_time()
        .with_target(false)
        .with_ansi(false)
        .with_max_level(Level::INFO)
        .with_writer(Ears { logs })
        .finish();
    Ok(tracing::subscriber::set_global_default(subscriber)?)
}

struct Ears {
    logs: Logs,
}

/// Takes one event's text.
struct Line {
    logs: Logs,
    loud: bool,
}

impl<'a> MakeWriter<'a> for Ears {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line { logs: self.logs.clone(), loud: false }
    }

    fn make_writer_for(&'a self, event: &Metadata<'_>) -> Line {
        Line { logs: self.logs.clone(), loud: *event.level() <= Level::WARN }
    }
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes).trim().to_owned();
        if self.loud {
            // The console may be gone; the ring has the line all the same.
            let _ = writeln!(io::stderr(), "pod: {text}");
        }
        self.logs.push("pod", text);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
