//! Kernel modules: `/modules/NN-name.ko`, loaded in the order of their names.

use std::collections::VecDeque;
use std::ffi::CStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::system::finit_module;

use crate::step::{Context as _, StepError};
use crate::timings::BootStopwatch;

const DIRECTORY: &str = "/modules";

/// What is still to be loaded.
#[derive(Debug)]
pub(super) struct Modules {
    files: VecDeque<PathBuf>,
    spent: Duration,
}

impl Modules {
    /// Lists the modules the initramfs brought.
    pub(super) fn read() -> Result<Self, StepError> {
        let entries = std::fs::read_dir(DIRECTORY).context("list /modules")?;
        let names = entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>();
        Ok(Self { files: in_order(names.context("list /modules")?), spent: Duration::ZERO })
    }

    /// How long all loading took so far.
    pub(super) const fn spent(&self) -> Duration {
        self.spent
    }

    /// Loads the next one, whose driver takes its devices; says whether there was one.
    pub(super) fn load_next(&mut self, timings: &mut BootStopwatch) -> Result<bool, StepError> {
        self.load(c"", timings)
    }

    /// The same, but a driver takes its devices while further modules load.
    pub(super) fn load_next_async(&mut self, timings: &mut BootStopwatch) -> Result<bool, StepError> {
        self.load(probe_parameter(self.files.len()), timings)
    }

    fn load(&mut self, parameters: &CStr, timings: &mut BootStopwatch) -> Result<bool, StepError> {
        let Some(file) = self.files.pop_front() else { return Ok(false) };
        let before = Instant::now();
        load(&file, parameters)?;
        let took = before.elapsed();
        self.spent += took;
        timings.note(&format!("module.{}", plain_name(&file)), took);
        Ok(true)
    }
}

/// Loads one module and frees the memory its file takes.
fn load(file: &Path, parameters: &CStr) -> Result<(), StepError> {
    let open = File::open(file).context(format_args!("open {}", file.display()))?;
    match finit_module(&open, parameters, 0) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error).context(format_args!("load {}", file.display())),
    }
    std::fs::remove_file(file).context(format_args!("free {}", file.display()))
}

/// What lets a driver take its devices in the background. The last module that is
/// left goes without it: at the end of such a load the kernel waits for all
/// drivers, so that every device is there then.
const fn probe_parameter(left: usize) -> &'static CStr {
    if left > 1 { c"async_probe" } else { c"" }
}

fn in_order(mut files: Vec<PathBuf>) -> VecDeque<PathBuf> {
    files.retain(|file| file.extension().is_some_and(|extension| extension == "ko"));
    files.sort();
    files.into()
}

/// `virtio_net` of `/modules/07-virtio_net.ko`.
fn plain_name(file: &Path) -> String {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    stem.trim_start_matches(|c: char| c.is_ascii_digit() || c == '-').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_load_in_the_order_of_their_names_and_nothing_else_does() {
        let listed = ["/m/10-overlay.ko", "/m/02-virtio.ko", "/m/readme", "/m/01-virtio_ring.ko"];
        let order = in_order(listed.iter().map(PathBuf::from).collect());
        assert_eq!(order, ["/m/01-virtio_ring.ko", "/m/02-virtio.ko", "/m/10-overlay.ko"].map(PathBuf::from));
    }

    #[test]
    fn the_last_modules_load_waits_for_the_devices_of_all() {
        assert_eq!([3, 2, 1].map(probe_parameter), [c"async_probe", c"async_probe", c""]);
    }

    #[test]
    fn a_modules_plain_name_has_neither_number_nor_ending() {
        assert_eq!(plain_name(Path::new("/modules/07-virtio_net.ko")), "virtio_net");
    }
}
