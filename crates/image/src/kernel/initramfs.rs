//! The first root: `pod` and the modules that bring up disks and network.

use super::KernelError;
use super::cpio::{CpioWriter, Entry};
use super::modules::Module;
use super::strip::strip;

/// Directories that `pod` mounts on.
const DIRECTORIES: [&str; 5] = ["dev", "proc", "sys", "mnt", "modules"];

/// The archive: not compressed, since an emulated processor unpacks it slower
/// than the host copies it.
pub(super) fn archive(pod: &[u8], modules: &[Module]) -> Result<Vec<u8>, KernelError> {
    write(pod, modules).map_err(KernelError::unpack)
}

fn write(pod: &[u8], modules: &[Module]) -> std::io::Result<Vec<u8>> {
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
    archive.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_named_in_the_order_they_load() {
        let modules = ["virtio_ring", "virtio"].map(|name| Module { name: name.to_owned(), data: b"x".to_vec() });
        let bytes = archive(b"pod", &modules).unwrap();
        let text = String::from_utf8_lossy(&bytes);
        assert!(text.contains("modules/00-virtio_ring.ko") && text.contains("modules/01-virtio.ko"));
    }
}
