//! The first root: `pod`, the modules that bring up disks and network, what checks volumes, and modules on offer.

use std::collections::BTreeSet;
use std::path::Path;

use super::KernelError;
use super::cpio::{CpioWriter, Entry};
use super::modules::Module;
use super::strip::strip;

/// Directories that `pod` mounts on.
const DIRECTORIES: [&str; 5] = ["dev", "proc", "sys", "mnt", "modules"];

/// A file of the first root.
#[derive(Clone)]
pub(super) struct RootFile {
    /// Its path there, without a leading slash.
    pub(super) path: String,
    pub(super) mode: u32,
    pub(super) data: Vec<u8>,
}

impl RootFile {
    /// A file of this machine, under another path.
    pub(super) fn read(file: &Path, path: String, mode: u32) -> Result<Self, KernelError> {
        let data = std::fs::read(file).map_err(|source| KernelError::file("read", file, source))?;
        Ok(Self { path, mode, data })
    }
}

/// The archive: not compressed, since an emulated processor unpacks it slower
/// than the host copies it.
pub(super) fn archive(pod: &[u8], modules: &[Module], files: &[RootFile]) -> Result<Vec<u8>, KernelError> {
    write(pod, modules, files).map_err(KernelError::unpack)
}

fn write(pod: &[u8], modules: &[Module], files: &[RootFile]) -> std::io::Result<Vec<u8>> {
    let mut archive = CpioWriter::new(Vec::new());
    for name in DIRECTORIES {
        archive.add(name, &Entry::Directory)?;
    }
    archive.add("dev/console", &Entry::Device { major: 5, minor: 1 })?;
    archive.add("init", &Entry::File { mode: 0o755, data: pod })?;
    for (at, module) in modules.iter().enumerate() {
        let name = format!("modules/{at:02}-{}.ko", module.name);
        archive.add(&name, &Entry::File { mode: 0o644, data: &strip(&module.data) })?;
    }
    for directory in directories_of(files) {
        archive.add(&directory, &Entry::Directory)?;
    }
    for file in files {
        archive.add(&file.path, &Entry::File { mode: file.mode, data: &file.data })?;
    }
    archive.finish()
}

/// The directories above these files, each after those above it.
fn directories_of(files: &[RootFile]) -> BTreeSet<String> {
    let above = files.iter().flat_map(|file| Path::new(&file.path).ancestors().skip(1));
    above.map(|directory| directory.to_string_lossy().into_owned()).filter(|name| !name.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_named_in_the_order_they_load() {
        let modules = ["virtio_ring", "virtio"].map(|name| Module { name: name.to_owned(), data: b"x".to_vec() });
        let bytes = archive(b"pod", &modules, &[]).unwrap();
        let text = String::from_utf8_lossy(&bytes);
        assert!(text.contains("modules/00-virtio_ring.ko") && text.contains("modules/01-virtio.ko"));
    }

    #[test]
    fn a_files_directories_come_before_it() {
        let files =
            ["lib/a/x.so", "sbin/y"].map(|path| RootFile { path: path.to_owned(), mode: 0o644, data: b"x".to_vec() });
        let directories: Vec<_> = directories_of(&files).into_iter().collect();
        assert_eq!(directories, ["lib", "lib/a", "sbin"]);
    }
}
