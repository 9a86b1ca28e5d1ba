//! The first root: `pod` and the modules that bring up disks and network.

use super::KernelError;
use super::cpio::{Archive, Entry};
use super::modules::Module;

/// What ends a signed module.
const SIGNED: &[u8] = b"~Module signature appended~\n";
/// The record before it, whose last four bytes are the signature's length.
const SIGNATURE_RECORD: usize = 12;

/// Directories that `pod` mounts on.
const DIRECTORIES: [&str; 5] = ["dev", "proc", "sys", "mnt", "modules"];

/// The archive: not compressed, since an emulated processor unpacks it slower
/// than the host copies it.
pub(super) fn archive(pod: &[u8], modules: &[Module]) -> Result<Vec<u8>, KernelError> {
    write(pod, modules).map_err(KernelError::unpack)
}

fn write(pod: &[u8], modules: &[Module]) -> std::io::Result<Vec<u8>> {
    let mut archive = Archive::new(Vec::new());
    for name in DIRECTORIES {
        archive.add(name, &Entry::Directory)?;
    }
    archive.add("dev/console", &Entry::Device { major: 5, minor: 1 })?;
    archive.add("init", &Entry::File { mode: 0o755, data: pod })?;
    for (at, module) in modules.iter().enumerate() {
        let name = format!("modules/{at:02}-{}.ko", module.name);
        archive.add(&name, &Entry::File { mode: 0o644, data: unsigned(&module.data) })?;
    }
    archive.finish()
}

/// A module without its signature. The host makes the whole initramfs, so a
/// signature in it protects nothing, and an emulated processor takes about 10 ms
/// to check each.
fn unsigned(module: &[u8]) -> &[u8] {
    cut(module).unwrap_or(module)
}

fn cut(module: &[u8]) -> Option<&[u8]> {
    let record = module.strip_suffix(SIGNED)?;
    let length = u32::from_be_bytes(*record.last_chunk::<4>()?);
    record.get(..record.len().checked_sub(SIGNATURE_RECORD + usize::try_from(length).ok()?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_modules_signature_is_cut_off_and_nothing_else() {
        let mut signed = b"ELF code".to_vec();
        signed.extend([9; 30]);
        signed.extend([0; 8]);
        signed.extend(30u32.to_be_bytes());
        signed.extend(SIGNED);
        assert_eq!(unsigned(&signed), b"ELF code");
        assert_eq!(unsigned(b"ELF code"), b"ELF code");
    }

    #[test]
    fn a_signature_longer_than_its_module_cuts_nothing() {
        let mut odd = b"x".to_vec();
        odd.extend([0; 8]);
        odd.extend(u32::MAX.to_be_bytes());
        odd.extend(SIGNED);
        assert_eq!(unsigned(&odd), odd);
    }

    #[test]
    fn modules_are_named_in_the_order_they_load() {
        let modules = ["virtio_ring", "virtio"].map(|name| Module { name: name.to_owned(), data: b"x".to_vec() });
        let bytes = archive(b"pod", &modules).unwrap();
        let text = String::from_utf8_lossy(&bytes);
        assert!(text.contains("modules/00-virtio_ring.ko") && text.contains("modules/01-virtio.ko"));
    }
}
