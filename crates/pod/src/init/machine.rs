//! An identity in a machine of its own: clock, entropy, names, the agent's disk.

use std::fmt::Write as _;
use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::os::unix::fs::chown;
use std::path::Path;
use std::sync::OnceLock;

use domain::PodId;
use rustix::system::sethostname;
use rustix::time::{ClockId, Timespec, clock_settime};
use wire::v1::pod::{GUEST_ADDRESS, GuestConfig};

use super::disks::DATA;
use super::entropy;
use super::mounts::bind;
use super::volumes::VolumeDisks;
use crate::identity::{Platform, ValidGuestConfig};
use crate::process::{Privileges, User};
use crate::step::{Context as _, StepError, make_dir};

const NANOS: u64 = 1_000_000_000;

/// The virtual machine whose PID 1 this is.
#[derive(Debug, Default)]
pub(super) struct Machine {
    /// Its volumes, once they are checked: before an identity is taken.
    volumes: OnceLock<VolumeDisks>,
}

impl Machine {
    /// It has these volumes.
    pub(super) fn has(&self, volumes: VolumeDisks) {
        // Told once, at the end of the boot.
        let _ = self.volumes.set(volumes);
    }

    /// Its volumes, once it has them.
    pub(super) fn volumes(&self) -> Option<&VolumeDisks> {
        self.volumes.get()
    }
}

impl Platform for Machine {
    fn apply(&self, identity: &GuestConfig, valid: &ValidGuestConfig) -> Result<(), StepError> {
        set_clock(identity.clock_unix_ns).context("set the clock")?;
        entropy::add(&valid.entropy)?;
        set_names(identity.pod_id, &valid.resolvers)?;
        open_state_dir(&identity.run.state_dir, &valid.user)
    }

    fn mount_volumes(&self, identity: &GuestConfig, valid: &ValidGuestConfig) -> Result<(), String> {
        match (self.volumes(), &identity.volumes[..]) {
            (_, []) => Ok(()),
            (Some(disks), volumes) => disks.mount(volumes, &valid.user),
            (None, _) => Err("the volumes are not there yet".to_owned()),
        }
    }

    fn privileges(&self) -> Privileges {
        Privileges::Machine
    }
}

/// Sets the machine's clock to the node's.
pub(super) fn set_clock(unix_ns: u64) -> io::Result<()> {
    let whole = i64::try_from(unix_ns / NANOS).map_err(io::Error::other)?;
    let rest = i64::try_from(unix_ns % NANOS).map_err(io::Error::other)?;
    Ok(clock_settime(ClockId::Realtime, Timespec { tv_sec: whole, tv_nsec: rest })?)
}

/// The machine's name, and whom it asks for those of others.
fn set_names(agent: PodId, resolvers: &[IpAddr]) -> Result<(), StepError> {
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
fn replace(path: &str, text: &str) -> Result<(), StepError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error).context(format_args!("replace {path}")),
        _ => {}
    }
    std::fs::write(path, text).context(format_args!("write {path}"))
}

/// The agent's own directory on its own disk.
fn open_state_dir(state_dir: &str, user: &User) -> Result<(), StepError> {
    chown(DATA, Some(user.uid), Some(user.gid)).context("give the agent its disk")?;
    if Path::new(state_dir) != Path::new(DATA) {
        bind(DATA, state_dir)?;
    }
    Ok(())
}
