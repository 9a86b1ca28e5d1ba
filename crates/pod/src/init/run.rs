//! A machine from power on to power off.

use std::io::Write as _;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use rustix::time::{ClockId, clock_gettime};
use wire::v1::pod::GATEWAY_ADDRESS;

use super::boot::{self, BootMode, NetworkedBoot};
use super::disks::Disks;
use super::machine::Machine;
use super::volumes::VolumeDisks;
use super::{helper, power};
use crate::process::raise_open_files;
use crate::server::PodServer;
use crate::timings::BootStopwatch;

/// Boots, runs the agent, powers off. Comes back only with an error: the end of
/// PID 1 makes the kernel panic, and a guest's kernel reboots at once.
///
/// # Errors
/// A step of the boot failed, or the kernel refuses to power off.
pub(crate) fn run(mut timings: BootStopwatch) -> anyhow::Result<()> {
    if let Ok(since_power_on) = Duration::try_from(clock_gettime(ClockId::Boottime)) {
        timings.note("kernel", since_power_on);
    }
    match boot::mount_kernel_file_systems(&mut timings)? {
        BootMode::Probe => answer_probe()?,
        mode @ (BootMode::Guest | BootMode::Helper) => {
            raise_open_files().context("cannot raise the limit of open files")?;
            let network = boot::bring_up_network(&mut timings)?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.context("cannot start the runtime")?;
            match mode {
                BootMode::Helper => runtime.block_on(helper::run(network, timings))?,
                BootMode::Guest | BootMode::Probe => runtime.block_on(run_guest(network, timings))?,
            }
        }
    }
    power::off().context("cannot power off")
}

/// The answer of a machine that only has to show that it boots.
fn answer_probe() -> anyhow::Result<()> {
    let mut console =
        std::fs::OpenOptions::new().write(true).open("/dev/console").context("cannot open the console")?;
    writeln!(console, "{}", wire::v1::pod::PROBE_ANSWER).context("cannot write to the console")?;
    rustix::termios::tcdrain(&console).context("cannot drain the console")
}

async fn run_guest(network: NetworkedBoot, timings: BootStopwatch) -> anyhow::Result<()> {
    let NetworkedBoot { listener, modules } = network;
    let machine = Arc::new(Machine::default());
    let platform = Arc::<Machine>::clone(&machine);
    let server = PodServer::start(listener, IpAddr::V4(GATEWAY_ADDRESS), platform, timings)?;
    let mut timings = server.pod().timings();
    let (disks, volumes) =
        boot::mount_disks(modules, server.pod().reaper(), server.pod().check(), &mut timings).await?;
    machine.has(volumes);
    server.pod().set_up(timings);
    server.run_agent().await;
    server.close(power::kill_all).await;
    flush(&disks, &machine);
    Ok(())
}

/// Writes out what processes wrote.
fn flush(disks: &Disks, machine: &Machine) {
    rustix::fs::sync();
    let volumes = machine.volumes().map_or(Ok(()), VolumeDisks::remount_read_only);
    if let Err(error) = disks.remount_read_only().and(volumes) {
        let error = format!("{:#}", anyhow::Error::from(error));
        tracing::warn!(error, "a disk could not be made read-only; it is synced");
    }
}
