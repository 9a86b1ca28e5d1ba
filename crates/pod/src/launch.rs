//! Starting a process of the agent's: as its user, with nothing of `pod`'s.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

use rustix::fs::{Mode, OFlags};
use rustix::process::{Gid, Resource, Rlimit, Uid, ioctl_tiocsctty, setrlimit, setsid};
use rustix::thread::{CapabilitySet, remove_capability_from_bounding_set, set_no_new_privs};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
use wire::Secret;

use crate::user::User;

/// Files a process may have open.
const OPEN_FILES: u64 = 64 * 1024;
/// The kernel's last capability has a number below this.
const CAPABILITIES: u32 = 64;

/// What to start, and as whom.
#[derive(Debug)]
pub(crate) struct Launch<'a> {
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
    pub(crate) spare: Spare,
}

/// Who goes first when memory runs out. PID 1 never does.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Spare {
    /// The agent.
    Later,
    /// A command beside it.
    Sooner,
}

impl Spare {
    /// The kernel's `oom_score_adj`.
    const fn score(self) -> &'static [u8] {
        match self {
            Self::Later => b"100",
            Self::Sooner => b"500",
        }
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

impl Launch<'_> {
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
        let confine = Confinement::new(self, streams.terminal);
        // SAFETY: the closure makes system calls and nothing else: it allocates
        // nothing and takes no lock, and this process has a single thread.
        unsafe { command.pre_exec(move || confine.apply().map_err(io::Error::from)) };
        command.spawn()
    }
}

struct Confinement {
    uid: Uid,
    gid: Gid,
    groups: Vec<Gid>,
    spare: Spare,
    terminal: bool,
}

impl Confinement {
    fn new(launch: &Launch<'_>, terminal: bool) -> Self {
        let user = launch.user;
        let groups = user.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
        Self { uid: Uid::from_raw(user.uid), gid: Gid::from_raw(user.gid), groups, spare: launch.spare, terminal }
    }

    /// Runs in the child. The order matters: the bounding set and the groups
    /// need the rights that the change of user takes away.
    fn apply(&self) -> rustix::io::Result<()> {
        setsid()?;
        if self.terminal {
            ioctl_tiocsctty(rustix::stdio::stdin())?;
        }
        let none = Rlimit { current: Some(0), maximum: Some(0) };
        setrlimit(Resource::Core, none)?;
        setrlimit(Resource::Nofile, Rlimit { current: Some(OPEN_FILES), maximum: Some(OPEN_FILES) })?;
        rank(self.spare)?;
        drop_bounding_set()?;
        set_thread_groups(&self.groups)?;
        set_thread_res_gid(self.gid, self.gid, self.gid)?;
        set_thread_res_uid(self.uid, self.uid, self.uid)?;
        set_no_new_privs(true)
    }
}

fn rank(spare: Spare) -> rustix::io::Result<()> {
    let file = rustix::fs::open(c"/proc/self/oom_score_adj", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(&file, spare.score()).map(|_| ())
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
