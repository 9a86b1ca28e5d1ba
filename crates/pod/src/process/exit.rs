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

    /// As the process protocol reports it.
    pub(crate) fn ended(self) -> wire::process::Ended {
        match self {
            Self::Code(code) => wire::process::Ended::by_itself(code),
            Self::Signal(number) => wire::process::Ended::by_signal(number),
        }
    }
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
        assert_eq!(Exit::Signal(40).ended().status, "signal: signal 40");
    }
}
