//! What is fuzzed of the readers of kernel packages.

use super::modules::ModuleInfo;
use super::strip::strip;
use super::unpack::{XZ, unpack, vmlinux};

/// A kernel, and a module: what is taken off a module is nothing that it needs.
///
/// # Panics
/// When the bytes break that.
pub fn kernel(bytes: &[u8]) {
    // A program of its own unpacks xz, and is started for each.
    if bytes.starts_with(XZ) {
        return;
    }
    let unpacked = unpack(bytes.to_vec());
    drop(vmlinux(bytes.to_vec()));
    let Ok(module) = unpacked else { return };
    let stripped = strip(&module);
    // And a table of its sections.
    assert!(stripped.len() <= 3 * module.len() + 4096, "{} of {}", stripped.len(), module.len());
    if let Some(needs) = ModuleInfo::of(&module) {
        assert_eq!(ModuleInfo::of(&stripped), Some(needs), "it needs what it needed");
    }
}
