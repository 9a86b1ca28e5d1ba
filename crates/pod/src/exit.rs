//! How a process ended, in the words every shell user knows.

use rustix::process::WaitStatus;

/// The end of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

impl Exit {
    /// Reads the kernel's answer; `None` for a process that did not end.
    pub(crate) fn of(status: WaitStatus) -> Option<Self> {
        status.exit_status().map(Self::Code).or_else(|| status.terminating_signal().map(Self::Signal))
    }

    /// The code as E2B reports it: -1 for a signal.
    pub(crate) const fn code(self) -> i32 {
        match self {
            Self::Code(code) => code,
            Self::Signal(_) => -1,
        }
    }

    /// `exit status 3`, `signal: killed`.
    pub(crate) fn words(self) -> String {
        match self {
            Self::Code(code) => format!("exit status {code}"),
            Self::Signal(number) => match signal_words(number) {
                Some(words) => format!("signal: {words}"),
                None => format!("signal: signal {number}"),
            },
        }
    }

    /// As the process protocol reports it.
    pub(crate) fn ended(self) -> wire::process::Ended {
        let error = (self != Self::Code(0)).then(|| self.words());
        wire::process::Ended {
            exit_code: self.code(),
            exited: matches!(self, Self::Code(_)),
            status: self.words(),
            error,
        }
    }
}

const fn signal_words(number: i32) -> Option<&'static str> {
    Some(match number {
        1 => "hangup",
        2 => "interrupt",
        3 => "quit",
        4 => "illegal instruction",
        5 => "trace/breakpoint trap",
        6 => "aborted",
        7 => "bus error",
        8 => "floating point exception",
        9 => "killed",
        10 => "user defined signal 1",
        11 => "segmentation fault",
        12 => "user defined signal 2",
        13 => "broken pipe",
        14 => "alarm clock",
        15 => "terminated",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_told_as_the_protocol_tells_them() {
        let killed = Exit::Signal(9).ended();
        assert_eq!((killed.exit_code, killed.exited, &*killed.status), (-1, false, "signal: killed"));
        assert_eq!(killed.error.as_deref(), Some("signal: killed"));
        let fine = Exit::Code(0).ended();
        assert_eq!((fine.exit_code, fine.exited, &*fine.status, fine.error), (0, true, "exit status 0", None));
        assert_eq!(Exit::Code(3).ended().error.as_deref(), Some("exit status 3"));
        assert_eq!(Exit::Signal(40).words(), "signal: signal 40");
    }
}
