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
pub(crate) struct TerminalSignals(Vec<(Heard, Signal)>);

impl TerminalSignals {
    pub(crate) fn listen() -> io::Result<Self> {
        let mut all = Self::ending()?;
        all.0.push((Heard::End(2), signal(SignalKind::interrupt())?));
        all.0.push((Heard::Resized, signal(SignalKind::window_change())?));
        Ok(all)
    }

    /// Those alone that end also who takes Ctrl-C for something else.
    pub(crate) fn ending() -> io::Result<Self> {
        let kinds = [(1, SignalKind::hangup()), (3, SignalKind::quit()), (15, SignalKind::terminate())];
        let heard = kinds.map(|(number, kind)| Ok((Heard::End(number), signal(kind)?)));
        heard.into_iter().collect::<io::Result<_>>().map(Self)
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
