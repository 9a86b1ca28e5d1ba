//! Which kernel modules guests get: what they need, in the order in which it is loaded, and what is loaded when
//! something in them asks for it.
//!
//! The package's `modules.dep` is written by its installation, which never
//! happens here, so the modules themselves are asked: each says in `.modinfo`
//! what it depends on.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use object::read::elf::{FileHeader, SectionHeader};
use object::{Endianness, elf};

use super::KernelError;
use super::unpack::unpack;

/// What the guest needs: its bus, disks, network and file systems.
const NEEDED: [&str; 6] = ["virtio_pci", "virtio_blk", "virtio_net", "erofs", "overlay", "ext4"];

/// What a guest's own `modprobe` finds: the networks of a Docker daemon, and the rules that iptables writes for them. A
/// kernel may lack some of it; whoever asks for that hears so.
const OFFERED: [&str; 15] = [
    "bridge",
    "br_netfilter",
    "veth",
    "nft_compat",
    "nft_chain_nat",
    "nf_conntrack_netlink",
    "xt_MASQUERADE",
    "xt_REDIRECT",
    "xt_addrtype",
    "xt_comment",
    "xt_conntrack",
    "xt_mark",
    "xt_nat",
    "xt_tcpudp",
    "ipt_REJECT",
];

/// What of it is loaded before the rest: `pod` listens as soon as the guest has a
/// network card, and loads the rest then.
const FIRST: [&str; 2] = ["virtio_pci", "virtio_net"];

/// Directories below each other at most under `lib/modules/<version>`.
const MAX_DEPTH: usize = 16;

/// A module, unpacked.
pub(super) struct Module {
    pub(super) name: String,
    pub(super) data: Vec<u8>,
}

/// The modules of one kernel that guests get. What one depends on stands before it.
pub(super) struct Selection {
    /// Loaded at each boot: the network's first.
    pub(super) needed: Vec<Module>,
    /// Loaded when something asks for them.
    pub(super) offered: Vec<Module>,
}

impl Selection {
    /// What guests get of the kernel whose modules are below `root`.
    pub(super) fn of(root: &Path) -> Result<Self, KernelError> {
        let mut order = Order { tree: Tree::read(root)?, seen: BTreeSet::new(), modules: Vec::new() };
        for name in FIRST.iter().chain(&NEEDED) {
            order.require(name)?;
        }
        let needed = std::mem::take(&mut order.modules);
        for name in OFFERED {
            if order.tree.files.contains_key(name) {
                order.require(name)?;
            }
        }
        Ok(Self { needed, offered: order.modules })
    }

    /// What they are selected from: another version of this program may select others.
    pub(super) fn names() -> String {
        NEEDED.into_iter().chain(OFFERED).collect::<Vec<_>>().join(",")
    }

    /// Removes the modules below `root` that are not among them.
    pub(super) fn keep_alone(&self, root: &Path) -> Result<(), KernelError> {
        let kept: BTreeSet<&str> = self.needed.iter().chain(&self.offered).map(|module| module.name.as_str()).collect();
        for (name, path) in Tree::read(root)?.files {
            if !kept.contains(name.as_str()) {
                std::fs::remove_file(&path).map_err(|source| KernelError::file("remove", &path, source))?;
            }
        }
        Ok(())
    }
}

/// The modules of one kernel, by name.
struct Tree {
    root: PathBuf,
    files: BTreeMap<String, PathBuf>,
    builtin: BTreeSet<String>,
}

impl Tree {
    fn read(root: &Path) -> Result<Self, KernelError> {
        let mut files = BTreeMap::new();
        collect(&root.join("kernel"), MAX_DEPTH, &mut files)?;
        let mut builtin = BTreeSet::new();
        let listed = root.join("modules.builtin");
        let text = std::fs::read_to_string(&listed).map_err(|source| KernelError::file("read", &listed, source))?;
        builtin.extend(text.lines().filter_map(|line| module_name(Path::new(line))));
        // Names other than the file's own, by which soft dependencies call: "crc32c".
        if let Ok(info) = std::fs::read(root.join("modules.builtin.modinfo")) {
            let aliases = info.split(|b| *b == 0).filter_map(|entry| std::str::from_utf8(entry).ok());
            builtin.extend(aliases.filter_map(|entry| entry.split_once(".alias=")).map(|(_, alias)| plain(alias)));
        }
        Ok(Self { root: root.to_owned(), files, builtin })
    }
}

fn collect(dir: &Path, depth: usize, into: &mut BTreeMap<String, PathBuf>) -> Result<(), KernelError> {
    let failed = |source| KernelError::file("list", dir, source);
    if depth == 0 {
        return Ok(());
    }
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let path = entry.path();
        if entry.file_type().map_err(failed)?.is_dir() {
            collect(&path, depth - 1, into)?;
        } else if let Some(name) = module_name(&path) {
            into.insert(name, path);
        }
    }
    Ok(())
}

/// `crc32c_intel` for `…/crc32c-intel.ko.zst`.
fn module_name(path: &Path) -> Option<String> {
    let (stem, packing) = path.file_name()?.to_str()?.split_once(".ko")?;
    matches!(packing, "" | ".gz" | ".xz" | ".zst").then(|| plain(stem))
}

fn plain(name: &str) -> String {
    name.replace('-', "_")
}

struct Order {
    tree: Tree,
    seen: BTreeSet<String>,
    modules: Vec<Module>,
}

impl Order {
    fn require(&mut self, name: &str) -> Result<(), KernelError> {
        let name = plain(name);
        if self.tree.builtin.contains(&name) || !self.seen.insert(name.clone()) {
            return Ok(());
        }
        let Some(path) = self.tree.files.get(&name).cloned() else {
            return Err(KernelError::NoModule { name, tree: self.tree.root.clone() });
        };
        let packed = std::fs::read(&path).map_err(|source| KernelError::file("read", &path, source))?;
        let data = unpack(packed)?;
        let info = ModuleInfo::of(&data).ok_or(KernelError::BadModule(path))?;
        for soft in &info.soft {
            self.prefer(soft)?;
        }
        for hard in &info.depends {
            self.require(hard)?;
        }
        self.modules.push(Module { name, data });
        Ok(())
    }

    /// A soft dependency may name a module, or an algorithm that one of several
    /// modules implements; then the portable one runs on every processor.
    fn prefer(&mut self, name: &str) -> Result<(), KernelError> {
        let name = plain(name);
        let generic = format!("{name}_generic");
        [name, generic].iter().find(|one| self.tree.files.contains_key(*one)).map_or(Ok(()), |found| {
            let found = found.clone();
            self.require(&found)
        })
    }
}

/// What a module says it needs.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ModuleInfo {
    depends: Vec<String>,
    soft: Vec<String>,
}

impl ModuleInfo {
    pub(super) fn of(module: &[u8]) -> Option<Self> {
        let header = elf::FileHeader64::<Endianness>::parse(module).ok()?;
        let endian = header.endian().ok()?;
        let sections = header.sections(endian, module).ok()?;
        let (_, section) = sections.section_by_name(endian, b".modinfo")?;
        Some(Self::parse(section.data(endian, module).ok()?))
    }

    fn parse(modinfo: &[u8]) -> Self {
        let mut info = Self::default();
        for entry in modinfo.split(|b| *b == 0).filter_map(|entry| std::str::from_utf8(entry).ok()) {
            match entry.split_once('=') {
                Some(("depends", names)) => {
                    info.depends.extend(names.split(',').filter(|n| !n.is_empty()).map(plain));
                }
                Some(("softdep", line)) => info.soft.extend(before(line)),
                _ => {}
            }
        }
        info
    }
}

/// The names after `pre:` in `pre: a b post: c`.
fn before(softdep: &str) -> Vec<String> {
    softdep
        .split_whitespace()
        .skip_while(|word| *word != "pre:")
        .skip(1)
        .take_while(|w| *w != "post:")
        .map(plain)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_modules_own_words_say_what_it_needs() {
        let info =
            ModuleInfo::parse(b"license=GPL\0depends=virtio,virtio-ring\0softdep=pre: crc32c post: later\0depends=\0");
        assert_eq!(info.depends, ["virtio", "virtio_ring"]);
        assert_eq!(info.soft, ["crc32c"]);
    }

    #[test]
    fn modules_are_named_alike_whatever_packs_them() {
        for file in ["a/crc32c-intel.ko", "crc32c-intel.ko.zst", "crc32c_intel.ko.xz"] {
            assert_eq!(module_name(Path::new(file)).as_deref(), Some("crc32c_intel"), "{file}");
        }
        assert_eq!(module_name(Path::new("modules.order")), None);
        assert_eq!(module_name(Path::new("x.ko.sig")), None);
    }
}
