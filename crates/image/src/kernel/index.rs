//! The modules on offer, as a guest's own `modprobe` looks for them: by name, by what the kernel calls them by, and
//! with what they depend on. The host's `depmod` says so.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::KernelError;
use super::initramfs::RootFile;
use super::modules::{Module, Selection};
use super::package::KernelPackage;
use super::strip::strip;
use crate::tool::HostTool;

const DEPMOD: HostTool = HostTool { name: "depmod", package: "kmod", deadline: Duration::from_secs(60) };
/// Where they are in the first root, below the kernel's version.
const FOLDER: &str = "offered";
/// What of depmod's is read in guests: by kmod the first three, by busybox the others.
const READ: [&str; 5] = ["modules.dep.bin", "modules.alias.bin", "modules.builtin.bin", "modules.dep", "modules.alias"];
const MODE: u32 = 0o644;

/// The modules on offer and their index; nothing where the kernel has none of them.
pub(super) fn files(modules: &Selection, package: &KernelPackage) -> Result<Vec<RootFile>, KernelError> {
    if modules.offered.is_empty() {
        return Ok(Vec::new());
    }
    let scratch = tempfile::tempdir().map_err(KernelError::unpack)?;
    let tree = tree(scratch.path(), &package.version)?;
    let at = |name: &str| format!("{FOLDER}/{}/{name}", package.version);
    let mut files = Vec::new();
    for module in &modules.offered {
        let (name, data) = (file_of(module), strip(&module.data));
        write(&tree.join(&name), &data)?;
        files.push(RootFile { path: at(&name), mode: MODE, data });
    }
    // What is written of them has their order, and not that of a folder.
    write(&tree.join("modules.order"), listed(&modules.offered).as_bytes())?;
    write(&tree.join("modules.builtin"), built_in(modules, package)?.as_bytes())?;
    DEPMOD.run(|c| c.arg("-b").arg(scratch.path()).arg(&package.version))?;
    for name in READ {
        files.push(RootFile::read(&tree.join(name), at(name), MODE)?);
    }
    Ok(files)
}

/// A folder for modules where this machine's depmod looks for it: below `/lib`, or below `/usr/lib`.
fn tree(root: &Path, version: &str) -> Result<PathBuf, KernelError> {
    let tree = root.join("usr/lib/modules").join(version);
    let made = fs::create_dir_all(tree.join("kernel")).and_then(|()| symlink("usr/lib", root.join("lib")));
    made.map_err(|source| KernelError::file("make", &tree, source))?;
    Ok(tree)
}

/// What nobody has to load: what the kernel has in it, and what every guest has loaded.
fn built_in(modules: &Selection, package: &KernelPackage) -> Result<String, KernelError> {
    let kernels = package.modules.join("modules.builtin");
    let names = fs::read_to_string(&kernels).map_err(|source| KernelError::file("read", &kernels, source))?;
    Ok(names + &listed(&modules.needed))
}

fn listed(modules: &[Module]) -> String {
    modules.iter().map(|module| format!("{}\n", file_of(module))).collect()
}

/// A module's file, below the kernel's version.
fn file_of(module: &Module) -> String {
    format!("kernel/{}.ko", module.name)
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), KernelError> {
    fs::write(path, bytes).map_err(|source| KernelError::file("write", path, source))
}
