//! Our own terminal: raw while a shell elsewhere has it, and as it was afterwards, however
//! that ends.

use std::io::{self, IsTerminal};
use std::panic;
use std::sync::{Mutex, Once, PoisonError};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use wire::process::PtySize;

/// The size of a terminal that does not say its own.
const USUAL: PtySize = PtySize { cols: 80, rows: 24 };

/// How the terminal was before it became raw.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);
static HOOK: Once = Once::new();

/// That our terminal is raw; it is as before when this is dropped, and when the program panics.
#[derive(Debug)]
pub(crate) struct RawTerminal(());

impl RawTerminal {
    /// Makes the terminal at our standard input raw: each key is handed on as it is.
    pub(crate) fn enter() -> io::Result<Self> {
        Self::with(OptionalActions::Now, Termios::make_raw)
    }

    /// Keys come as they are pressed, and are neither shown nor obeyed; what is written is shown as ever.
    pub(crate) fn keys() -> io::Result<Self> {
        Self::with(OptionalActions::Drain, |modes| {
            modes.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG);
        })
    }

    fn with(when: OptionalActions, change: impl FnOnce(&mut Termios)) -> io::Result<Self> {
        let stdin = io::stdin();
        let before = tcgetattr(&stdin)?;
        let mut raw = before.clone();
        change(&mut raw);
        // In this order: whatever happens between, what is put back is what was there.
        *lock() = Some(before);
        HOOK.call_once(|| {
            let told = panic::take_hook();
            panic::set_hook(Box::new(move |info| {
                restore();
                told(info);
            }));
        });
        let raw_terminal = Self(());
        tcsetattr(&stdin, when, &raw)?;
        Ok(raw_terminal)
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        restore();
    }
}

fn lock() -> std::sync::MutexGuard<'static, Option<Termios>> {
    BEFORE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Puts the terminal back, where it is not yet: also for one who ends while another thread reads keys.
pub(crate) fn restore() {
    // One that is gone needs nothing any more.
    if let Some(before) = lock().take() {
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &before);
    }
}

/// Whether our standard input is a terminal.
pub(crate) fn is_ours() -> bool {
    io::stdin().is_terminal()
}

/// Its size.
pub(crate) fn size() -> PtySize {
    let said = tcgetwinsize(io::stdin()).ok().map(|size| PtySize { cols: size.ws_col, rows: size.ws_row });
    said.filter(|size| size.cols > 0 && size.rows > 0).unwrap_or(USUAL)
}
