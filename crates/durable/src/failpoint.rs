//! Named points at which a test kills the program.

/// `<point>` or `<point>#<n>`: where a debug build kills itself as `kill -9` does,
/// the n-th time it comes there (the first, if nothing is said).
pub const AT: &str = "PALATINE_KILL_AT";
/// A file to which a debug build adds the name of each point it passes, so that a
/// test learns which there are.
pub const SEEN: &str = "PALATINE_KILL_POINTS";
/// The name of a program: where a debug build would kill itself it kills its own child of that
/// name instead, and goes on.
pub const CHILD: &str = "PALATINE_KILL_CHILD";

/// A point at which tests kill the program. Release builds have none.
#[inline]
pub fn failpoint(what: &str, step: &str) {
    #[cfg(debug_assertions)]
    debug::pass(what, step);
    #[cfg(not(debug_assertions))]
    let _ = (what, step);
}

#[cfg(debug_assertions)]
mod debug {
    use std::fs::{self, OpenOptions};
    use std::io::Write;
    use std::path::PathBuf;
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    use rustix::process::{Pid, Signal, getpid, kill_process};

    use super::{AT, CHILD, SEEN};

    static PLAN: LazyLock<Option<Plan>> = LazyLock::new(|| Plan::read(&std::env::var(AT).ok()?));
    static LIST: LazyLock<Option<PathBuf>> = LazyLock::new(|| std::env::var_os(SEEN).map(PathBuf::from));

    /// Where to die, and how often to come there first.
    struct Plan {
        point: String,
        left: AtomicU64,
    }

    impl Plan {
        fn read(text: &str) -> Option<Self> {
            let (point, times) = text.split_once('#').unwrap_or((text, "1"));
            Some(Self { point: point.to_owned(), left: AtomicU64::new(times.parse().ok()?) })
        }
    }

    pub(super) fn pass(what: &str, step: &str) {
        if let Some(list) = &*LIST {
            let line = format!("{what}.{step}\n");
            let listed = OpenOptions::new().create(true).append(true).open(list);
            // A test that finds no list fails; the program goes on.
            let _ = listed.and_then(|mut file| file.write_all(line.as_bytes()));
        }
        let Some(plan) = &*PLAN else { return };
        let here = plan.point.strip_prefix(what).and_then(|rest| rest.strip_prefix('.')) == Some(step);
        if here && plan.left.fetch_sub(1, Ordering::SeqCst) == 1 {
            if let Ok(name) = std::env::var(CHILD) {
                for child in children(&name) {
                    let _ = kill_process(child, Signal::KILL);
                }
                return;
            }
            let _ = kill_process(getpid(), Signal::KILL);
            // The signal is on its way; nothing more is done here.
            loop {
                std::thread::park();
            }
        }
    }

    /// The children of this process that are called so.
    fn children(name: &str) -> impl Iterator<Item = Pid> {
        let ours = format!(" ({name}) ");
        let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = pids.filter_map(|entry| entry.file_name().to_string_lossy().parse().ok().and_then(Pid::from_raw));
        pids.filter(move |pid| {
            // `<pid> (<name>) <state> <parent> …`
            let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
            let parent = stat.split_once(&ours).and_then(|(_, rest)| rest.split(' ').nth(1)?.parse().ok());
            parent == Some(getpid().as_raw_nonzero().get())
        })
    }
}
