//! The signals that one who sits at a terminal may send us.

use std::io;

use futures_util::future::select_all;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// What was heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// The signal of this number: we are to end.
    End(u8),
    /// The terminal has another size.
    Resized,
}

/// Signals that end us, and the one of another size. Caught from when this is made.
pub(crate) struct TerminalSignals([(Heard, Signal); 5]);

impl TerminalSignals {
    pub(crate) fn listen() -> io::Result<Self> {
        let heard = |heard, kind| Ok::<_, io::Error>((heard, signal(kind)?));
        Ok(Self([
            heard(Heard::End(1), SignalKind::hangup())?,
            heard(Heard::End(2), SignalKind::interrupt())?,
            heard(Heard::End(3), SignalKind::quit())?,
            heard(Heard::End(15), SignalKind::terminate())?,
            heard(Heard::Resized, SignalKind::window_change())?,
        ]))
    }

    /// The next one. Safe to cancel.
    pub(crate) async fn next(&mut self) -> Heard {
        let each = self.0.iter_mut().map(|(heard, signal)| {
            let heard = *heard;
            Box::pin(async move {
                signal.recv().await;
                heard
            })
        });
        select_all(each).await.0
    }
}
