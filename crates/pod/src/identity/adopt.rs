//! Making an identity true: clock, entropy, names, the agent's directory.

use std::fmt::Write as _;
use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::os::unix::fs::chown;
use std::path::Path;

use domain::AgentId;
use rustix::ioctl::{IntegerSetter, Opcode, Updater, ioctl, opcode};
use rustix::system::sethostname;
use rustix::time::{ClockId, Timespec, clock_settime};
use wire::Secret;
use wire::pod::{GUEST_ADDRESS, Identity};
use zeroize::Zeroize as _;

use super::check::{Checked, IdentityError, check};
use crate::agent::{Plan, environment};
use crate::boot::{BootError, Context, DATA, bind, make_dir};
use crate::user::{Accounts, User};

const NANOS: u64 = 1_000_000_000;

/// Why an identity was not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AdoptError {
    /// It is wrong.
    #[error(transparent)]
    Wrong(#[from] IdentityError),
    /// The guest could not do it.
    #[error("the guest cannot take its identity")]
    Guest(#[from] BootError),
}

/// Checks an identity and makes it true; gives the token and the plan of the
/// agent. What else was secret in it is wiped when this returns.
///
/// # Errors
/// It is wrong, or the guest could not do it; the guest waits on then.
pub(crate) fn adopt(identity: Identity) -> Result<(Secret, Plan), AdoptError> {
    let checked = check(&identity, &Accounts::read())?;
    set_clock(identity.clock_unix_ns).context("set the clock")?;
    stir(&checked.entropy)?;
    name_guest(identity.agent_id, &checked.resolvers)?;
    open_directories(&identity, &checked.user)?;
    let Identity { agent_id, token, run, env, traceparent, .. } = identity;
    let Checked { user, stop_signal, .. } = checked;
    let trace_id = trace_id(traceparent.as_deref()).to_owned();
    let env = environment(agent_id, &run, &user, env, traceparent);
    Ok((token, Plan { agent: agent_id, run, trace_id, stop_signal, user, env }))
}

/// The trace id of a W3C `traceparent`: `version-trace-parent-flags`.
fn trace_id(traceparent: Option<&str>) -> &str {
    let id = traceparent.and_then(|text| text.split('-').nth(1)).unwrap_or_default();
    if id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()) { id } else { "" }
}

fn set_clock(unix_ns: u64) -> io::Result<()> {
    let whole = i64::try_from(unix_ns / NANOS).map_err(io::Error::other)?;
    let rest = i64::try_from(unix_ns % NANOS).map_err(io::Error::other)?;
    Ok(clock_settime(ClockId::Realtime, Timespec { tv_sec: whole, tv_nsec: rest })?)
}

/// The kernel's `struct rand_pool_info`, with room for the most that is taken.
#[repr(C)]
struct Pool {
    bits: i32,
    bytes: i32,
    pool: [u8; 512],
}

const RNDADDENTROPY: Opcode = opcode::write::<[i32; 2]>(b'R', 0x03);
const RNDRESEEDCRNG: Opcode = opcode::none(b'R', 0x07);

/// Credits the bytes to the kernel's generator and has it use them at once.
#[expect(unsafe_code, reason = "ioctls: the opcodes take exactly these arguments, and only read them")]
fn stir(entropy: &[u8]) -> Result<(), BootError> {
    let device = std::fs::OpenOptions::new().write(true).open("/dev/urandom").context("open /dev/urandom")?;
    let bytes = i32::try_from(entropy.len()).map_err(io::Error::other).context("count the entropy")?;
    let mut pool = Pool { bits: bytes * 8, bytes, pool: [0; 512] };
    pool.pool[..entropy.len()].copy_from_slice(entropy);
    // SAFETY: RNDADDENTROPY reads two integers and as many bytes as the second
    // says, which is at most the pool's size; RNDRESEEDCRNG has no argument.
    let (added, reseeded) = unsafe {
        let added = ioctl(&device, Updater::<RNDADDENTROPY, Pool>::new(&mut pool));
        (added, ioctl(&device, IntegerSetter::<RNDRESEEDCRNG>::new_usize(0)))
    };
    pool.pool.zeroize();
    added.context("add entropy")?;
    reseeded.context("reseed the kernel's generator")
}

/// The guest's name, and whom it asks for those of others.
fn name_guest(agent: AgentId, resolvers: &[IpAddr]) -> Result<(), BootError> {
    sethostname(agent.to_string().as_bytes()).context("set the host name")?;
    make_dir("/etc")?;
    let mut names = String::new();
    for resolver in resolvers {
        // Writing to a text does not fail.
        let _ = writeln!(names, "nameserver {resolver}");
    }
    replace("/etc/resolv.conf", &names)?;
    replace("/etc/hostname", &format!("{agent}\n"))?;
    replace("/etc/hosts", &format!("127.0.0.1\tlocalhost\n{GUEST_ADDRESS}\t{agent}\n"))
}

/// Writes a file anew; an image may have a link or a directory's mount point there.
fn replace(path: &str, text: &str) -> Result<(), BootError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error).context(format_args!("replace {path}")),
        _ => {}
    }
    std::fs::write(path, text).context(format_args!("write {path}"))
}

/// The agent's own directory on its own disk, and the one it starts in.
fn open_directories(identity: &Identity, user: &User) -> Result<(), BootError> {
    chown(DATA, Some(user.uid), Some(user.gid)).context("give the agent its disk")?;
    let state = Path::new(&identity.run.state_dir);
    if state != Path::new(DATA) {
        bind(DATA, &identity.run.state_dir)?;
    }
    make_dir(&identity.run.cwd)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_id_is_taken_from_a_traceparent_and_from_nothing_else() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert_eq!(trace_id(Some(good)), "0af7651916cd43dd8448eb211c80319c");
        for other in [None, Some(""), Some("00-short-x-01"), Some("nonsense")] {
            assert_eq!(trace_id(other), "");
        }
    }
}
