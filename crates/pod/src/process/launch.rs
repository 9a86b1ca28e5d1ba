//! Starting a process of the agent's: as its user, with nothing of `pod`'s. In a machine it may
//! become whatever the image lets it (`sudo`), for the machine is the tenant's.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

use rustix::fs::{FileType, Mode, OFlags, fchown, fstat};
use rustix::process::{Gid, Resource, Rlimit, Uid, getrlimit, ioctl_tiocsctty, setrlimit, setsid};
use rustix::thread::{CapabilitySet, CapabilitySets, remove_capability_from_bounding_set, set_capabilities};
use rustix::thread::{set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid};
use wire::Secret;

use super::user::{Privileges, User, am_root};

/// Files a process may have open, where this program may allow as many.
const OPEN_FILES: u64 = 64 * 1024;
/// The kernel's last capability has a number below this.
const CAPABILITIES: u32 = 64;

/// What to start, and as whom.
#[derive(Debug)]
pub(crate) struct ProcessSpec<'a> {
    /// The program, by path or by a name in the environment's `PATH`.
    pub(crate) program: &'a str,
    /// Its arguments.
    pub(crate) args: &'a [String],
    /// Its whole environment.
    pub(crate) env: &'a BTreeMap<String, Secret>,
    /// Its working directory.
    pub(crate) cwd: &'a str,
    /// Its user.
    pub(crate) user: &'a User,
    /// How readily it is ended when memory runs out.
    pub(crate) oom_score: OomScore,
}

/// Who is killed first when memory runs out; this program is after both.
#[derive(Clone, Copy, Debug)]
pub(crate) enum OomScore {
    /// The agent.
    Agent,
    /// A command beside it.
    Command,
}

impl OomScore {
    /// The kernel's `oom_score_adj`, never below this program's own: in a
    /// container it may be high already, and only who has the right may lower it.
    fn adjustment(self) -> i32 {
        let own = std::fs::read_to_string("/proc/self/oom_score_adj").ok().and_then(|text| text.trim().parse().ok());
        let wanted = match self {
            Self::Agent => 100,
            Self::Command => 500,
        };
        own.unwrap_or(0).max(wanted)
    }
}

/// What a process reads and writes.
pub(crate) struct Streams {
    /// Standard input.
    pub(crate) stdin: Stdio,
    /// Standard output.
    pub(crate) stdout: Stdio,
    /// Standard error.
    pub(crate) stderr: Stdio,
    /// Whether standard input is a terminal it shall control.
    pub(crate) terminal: bool,
}

/// Lets this program, and so the processes it starts, have as many files open as
/// an agent may need.
///
/// # Errors
/// It is neither root nor PID 1 of a machine.
pub(crate) fn raise_open_files() -> rustix::io::Result<()> {
    setrlimit(Resource::Nofile, Rlimit { current: Some(OPEN_FILES), maximum: Some(OPEN_FILES) })
}

impl ProcessSpec<'_> {
    /// Starts it, in a session of its own.
    ///
    /// # Errors
    /// What the kernel says: no such program, no such directory, no memory.
    #[expect(unsafe_code, reason = "code between fork and exec")]
    pub(crate) fn start(&self, streams: Streams) -> io::Result<Child> {
        let mut command = Command::new(self.program);
        command.args(self.args).current_dir(self.cwd).env_clear();
        command.envs(self.env.iter().map(|(name, value)| (name, value.expose())));
        command.stdin(streams.stdin).stdout(streams.stdout).stderr(streams.stderr);
        let confinement = Confinement::new(self, streams.terminal);
        // SAFETY: the closure makes system calls and nothing else: it allocates
        // nothing and takes no lock that another thread could have held at the fork.
        unsafe { command.pre_exec(move || confinement.apply().map_err(io::Error::from)) };
        command.spawn()
    }
}

/// What a process is shut in by, worked out before it is forked.
struct Confinement {
    credentials: Credentials,
    /// `None` where this program is not root: its memory is hidden, so the kernel
    /// lets it write no file of its own process.
    oom_score_adj: Option<String>,
    open_files: Rlimit,
    terminal: bool,
    privileges: Privileges,
}

/// How a process becomes its user.
enum Credentials {
    /// This program is root: it gives up its rights for the user's.
    Become { uid: Uid, gid: Gid, groups: Vec<Gid>, privileges: Privileges },
    /// This program is that user already ([`super::Accounts`] holds it to that).
    Keep,
}

impl Credentials {
    fn new(user: &User) -> Self {
        if !am_root() {
            return Self::Keep;
        }
        let groups = user.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
        let (uid, gid, privileges) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid), user.privileges);
        Self::Become { uid, gid, groups, privileges }
    }

    /// The order matters: the bounding set and the groups need the rights that
    /// the change of user takes away.
    fn apply(&self) -> rustix::io::Result<()> {
        match self {
            Self::Become { uid, gid, groups, privileges } => {
                own_streams(*uid, *gid)?;
                match privileges {
                    Privileges::Machine => {}
                    Privileges::Container => drop_bounding_set()?,
                }
                set_thread_groups(groups)?;
                set_thread_res_gid(*gid, *gid, *gid)?;
                set_thread_res_uid(*uid, *uid, *uid)
            }
            // Without capabilities and without new privileges its bounding set gives it nothing.
            Self::Keep => set_capabilities(None, NO_CAPABILITIES),
        }
    }
}

const NO_CAPABILITIES: CapabilitySets = CapabilitySets {
    effective: CapabilitySet::empty(),
    permitted: CapabilitySet::empty(),
    inheritable: CapabilitySet::empty(),
};

impl Confinement {
    fn new(spec: &ProcessSpec<'_>, terminal: bool) -> Self {
        let allowed = getrlimit(Resource::Nofile).maximum.unwrap_or(OPEN_FILES).min(OPEN_FILES);
        Self {
            credentials: Credentials::new(spec.user),
            oom_score_adj: am_root().then(|| spec.oom_score.adjustment().to_string()),
            open_files: Rlimit { current: Some(allowed), maximum: Some(allowed) },
            terminal,
            privileges: spec.user.privileges,
        }
    }

    /// Runs in the child.
    fn apply(&self) -> rustix::io::Result<()> {
        setsid()?;
        if self.terminal {
            ioctl_tiocsctty(rustix::stdio::stdin())?;
        }
        setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
        setrlimit(Resource::Nofile, self.open_files)?;
        if let Some(adjustment) = &self.oom_score_adj {
            set_oom_score(adjustment)?;
        }
        self.credentials.apply()?;
        match self.privileges {
            Privileges::Machine => Ok(()),
            Privileges::Container => set_no_new_privs(true),
        }
    }
}

/// Gives the user the pipes it was started with: they are this program's, and the user could
/// not open them by name, as `/dev/stdout`.
fn own_streams(uid: Uid, gid: Gid) -> rustix::io::Result<()> {
    for stream in [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()] {
        if FileType::from_raw_mode(fstat(stream)?.st_mode) == FileType::Fifo {
            fchown(stream, Some(uid), Some(gid))?;
        }
    }
    Ok(())
}

fn set_oom_score(adjustment: &str) -> rustix::io::Result<()> {
    let file = rustix::fs::open(c"/proc/self/oom_score_adj", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(&file, adjustment.as_bytes()).map(|_| ())
}

fn drop_bounding_set() -> rustix::io::Result<()> {
    for number in 0..CAPABILITIES {
        match remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << number)) {
            // The first number this kernel does not know.
            Err(rustix::io::Errno::INVAL) => break,
            done => done?,
        }
    }
    Ok(())
}
