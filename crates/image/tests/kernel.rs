//! The kernel's preparation, from packages that this test makes: one as Debian's
//! (plain modules, an LZ4 kernel), one as Ubuntu's (packed modules in a package of
//! their own, a Zstandard kernel).

#![expect(clippy::unwrap_used, reason = "a test may stop where it stands")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use palatine_image::kernel::{Kernel, KernelError, prepare};
use palatine_image::{Config, NoProgress};

const VERSION: &str = "6.9.0-1-test";

fn u16s(values: &[u16]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn u64s(values: &[u64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// An ELF file's head: so many program headers at 64, so many sections at `sections`.
fn elf(kind: u16, programs: u16, sections: (u64, u16)) -> Vec<u8> {
    let ident = [0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0].to_vec();
    let program_offset = if programs == 0 { 0 } else { 64 };
    let tail = u16s(&[64, 56, programs, 64, sections.1, sections.1.saturating_sub(1)]);
    let version = 1_u32.to_le_bytes().to_vec();
    [ident, u16s(&[kind, 62]), version, u64s(&[0, program_offset, sections.0]), vec![0; 4], tail].concat()
}

/// A kernel module of nothing but its own words.
fn module(words: &str) -> Vec<u8> {
    let info = words.replace('\n', "\0").into_bytes();
    let names = b"\0.modinfo\0.shstrtab\0";
    let (info_at, names_at) = (64, 64 + info.len() as u64);
    let sections_at = names_at + names.len() as u64;
    let section = |name: u32, kind: u32, at: u64, size: usize| {
        let head = [name.to_le_bytes(), kind.to_le_bytes()].concat();
        [head, u64s(&[0, 0, at, size as u64]), vec![0; 8], u64s(&[1, 0])].concat()
    };
    let sections =
        [section(0, 0, 0, 0), section(1, 1, info_at, info.len()), section(10, 3, names_at, names.len())].concat();
    [elf(1, 0, (sections_at, 3)), info, names.to_vec(), sections].concat()
}

/// A kernel that has a PVH entry, and nothing else.
fn vmlinux() -> Vec<u8> {
    let words = |values: [u32; 3]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>();
    let note = [words([4, 4, 18]), b"Xen\0".to_vec(), vec![0; 4]].concat();
    let kind = [4_u32.to_le_bytes(), 4_u32.to_le_bytes()].concat();
    let (at, size) = (64 + 56, note.len() as u64);
    [elf(2, 1, (0, 0)), kind, u64s(&[at, 0, 0, size, size, 4]), note].concat()
}

/// A bzImage around a packed kernel.
fn vmlinuz(payload: &[u8]) -> Vec<u8> {
    let mut image = vec![0; 0x400];
    image[0x1f1] = 1;
    image[0x202..0x206].copy_from_slice(b"HdrS");
    image[0x24c..0x250].copy_from_slice(&u32::try_from(payload.len()).unwrap().to_le_bytes());
    [image, payload.to_vec()].concat()
}

fn lz4(plain: &[u8]) -> Vec<u8> {
    let block = lz4_flex::block::compress(plain);
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap().to_le_bytes().to_vec();
    [vec![0x02, 0x21, 0x4c, 0x18], length(&block), block, length(plain)].concat()
}

fn zstd(plain: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(plain, ruzstd::encoding::CompressionLevel::Fastest)
}

/// Packs a tree as the package manager would.
fn package(tree: &Path, name: &str, into: &Path) -> PathBuf {
    fs::create_dir_all(tree.join("DEBIAN")).unwrap();
    let control = format!("Package: {name}\nVersion: 1\nArchitecture: amd64\nMaintainer: t <t@t>\nDescription: t\n");
    fs::write(tree.join("DEBIAN/control"), control).unwrap();
    let path = into.join(format!("{name}.deb"));
    let done = Command::new("dpkg-deb").arg("-b").arg(tree).arg(&path).output().expect("dpkg is installed");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    path
}

fn put(tree: &Path, path: &str, bytes: &[u8]) {
    let path = tree.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

/// All modules that the guest needs; `ext4` is built in, or comes with what it
/// needs itself.
fn modules(tree: &Path, ext4_built_in: bool, suffix: &str, pack: impl Fn(&[u8]) -> Vec<u8>) {
    let root = format!("lib/modules/{VERSION}");
    let add = |name: &str, words: &str| {
        put(tree, &format!("{root}/kernel/drivers/{name}.ko{suffix}"), &pack(&module(words)));
    };
    add("virtio_pci", "depends=virtio,virtio-ring\n");
    add("virtio", "depends=virtio_ring\n");
    add("virtio_ring", "license=GPL\ndepends=\n");
    add("virtio_blk", "depends=virtio\n");
    add("virtio_net", "depends=net_failover\n");
    add("net_failover", "depends=\n");
    add("erofs", "depends=libcrc32c\n");
    add("libcrc32c", "depends=\nsoftdep=pre: crc32c\n");
    add("overlay", "depends=\n");
    add("sound", "depends=\n");
    add("bridge", "alias=rtnl-link-bridge\ndepends=stp,virtio\n");
    add("stp", "depends=\n");
    let mut builtin = "kernel/lib/other.ko\n".to_owned();
    if ext4_built_in {
        builtin += "kernel/fs/ext4/ext4.ko\nkernel/crypto/crc32c_generic.ko\n";
        put(tree, &format!("{root}/modules.builtin.modinfo"), b"crc32c_generic.alias=crc32c\0");
    } else {
        add("ext4", "depends=jbd2\nsoftdep=pre: crc32c\n");
        add("jbd2", "depends=\n");
        add("crc32c_generic", "depends=\n");
        add("crc32c-intel", "depends=\n");
    }
    put(tree, &format!("{root}/modules.builtin"), builtin.as_bytes());
}

struct Place {
    dir: tempfile::TempDir,
    config: Config,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let given = dir.path().join("given");
        fs::create_dir_all(&given).unwrap();
        fs::write(dir.path().join("pod"), "the pod").unwrap();
        let config = Config { store: dir.path().join("store"), kernel: Some(given), ..Config::default() };
        Self { dir, config }
    }

    fn prepare(&self) -> Result<Kernel, KernelError> {
        prepare(&self.config, &self.dir.path().join("pod"), &NoProgress)
    }

    /// Debian's way: one package.
    fn debian(&self) {
        let tree = self.dir.path().join("tree");
        modules(&tree, true, "", <[u8]>::to_vec);
        put(&tree, &format!("boot/vmlinuz-{VERSION}"), &vmlinuz(&lz4(&vmlinux())));
        package(&tree, "linux-image", self.config.kernel.as_ref().unwrap());
    }
}

/// The names in an initramfs, in their order.
fn names(archive: &Path) -> Vec<String> {
    let file = fs::File::open(archive).unwrap();
    let listed = Command::new("cpio").args(["-t", "--quiet"]).stdin(file).output().expect("cpio is installed");
    String::from_utf8(listed.stdout).unwrap().lines().map(str::to_owned).collect()
}

fn loaded(archive: &Path) -> Vec<String> {
    let names = names(archive);
    let modules = names.iter().filter_map(|name| name.strip_prefix("modules/")?.strip_suffix(".ko"));
    modules.map(|name| name.split_once('-').unwrap().1.to_owned()).collect()
}

#[test]
fn a_package_as_debians_gives_a_kernel_and_its_modules_in_order() {
    let place = Place::new();
    place.debian();
    let kernel = place.prepare().unwrap();
    assert_eq!(kernel.version, VERSION);
    assert_eq!(fs::read(&kernel.vmlinux).unwrap(), vmlinux());
    let expected = [
        "virtio_ring",
        "virtio",
        "virtio_pci",
        "net_failover",
        "virtio_net",
        "virtio_blk",
        "libcrc32c",
        "erofs",
        "overlay",
    ];
    assert_eq!(loaded(&kernel.initramfs), expected);
    for name in ["init", "dev", "proc", "sys", "mnt", "dev/console"] {
        assert!(names(&kernel.initramfs).iter().any(|listed| listed == name), "{name}");
    }
}

#[test]
fn what_guests_may_ask_for_is_offered_with_what_finds_it_and_is_not_loaded() {
    let place = Place::new();
    place.debian();
    let names = names(&place.prepare().unwrap().initramfs);
    let offered: Vec<_> = names.iter().filter_map(|name| name.strip_prefix(&format!("offered/{VERSION}/"))).collect();
    let expected = [
        "kernel",
        "kernel/stp.ko",
        "kernel/bridge.ko",
        "modules.dep.bin",
        "modules.alias.bin",
        "modules.builtin.bin",
        "modules.dep",
        "modules.alias",
    ];
    assert!(expected.iter().all(|name| offered.contains(name)), "{offered:?}");
    assert_eq!(offered.len(), expected.len(), "{offered:?}");
}

#[test]
fn a_kernel_that_has_nothing_of_what_is_offered_boots_guests_without_it() {
    let place = Place::new();
    let tree = place.config.kernel.clone().unwrap();
    modules(&tree, true, "", <[u8]>::to_vec);
    for name in ["bridge", "stp"] {
        fs::remove_file(tree.join(format!("lib/modules/{VERSION}/kernel/drivers/{name}.ko"))).unwrap();
    }
    put(&tree, &format!("boot/vmlinuz-{VERSION}"), &vmlinuz(&lz4(&vmlinux())));
    let names = names(&place.prepare().unwrap().initramfs);
    assert!(!names.iter().any(|name| name.contains("offered")), "{names:?}");
}

#[test]
fn packages_as_ubuntus_give_unpacked_modules_and_what_ext4_needs() {
    let place = Place::new();
    let (image, rest) = (place.dir.path().join("image"), place.dir.path().join("rest"));
    put(&image, &format!("boot/vmlinuz-{VERSION}"), &vmlinuz(&zstd(&vmlinux())));
    modules(&rest, false, ".zst", zstd);
    let given = place.config.kernel.clone().unwrap();
    package(&image, "linux-image", &given);
    package(&rest, "linux-modules", &given);
    let kernel = place.prepare().unwrap();
    assert_eq!(fs::read(&kernel.vmlinux).unwrap(), vmlinux());
    let loaded = loaded(&kernel.initramfs);
    let at = |name: &str| loaded.iter().position(|one| one == name).unwrap_or_else(|| panic!("{name}: {loaded:?}"));
    assert!(at("jbd2") < at("ext4") && at("crc32c_generic") < at("ext4") && at("crc32c_generic") < at("erofs"));
    assert!(!loaded.iter().any(|name| name == "sound" || name == "crc32c_intel"));
}

#[test]
fn what_was_prepared_is_not_prepared_again_until_something_changes() {
    let place = Place::new();
    place.debian();
    let first = place.prepare().unwrap();
    let made = |path: &Path| fs::metadata(path).unwrap().modified().unwrap();
    let times = (made(&first.vmlinux), made(&first.initramfs));
    assert_eq!(place.prepare().unwrap(), first);
    assert_eq!((made(&first.vmlinux), made(&first.initramfs)), times);
    fs::write(place.dir.path().join("pod"), "another pod").unwrap();
    let second = place.prepare().unwrap();
    assert_eq!(second.vmlinux, first.vmlinux);
    assert_ne!(second.initramfs, first.initramfs);
    assert!(first.initramfs.exists(), "a daemon may still boot it");
    let files = || fs::read_dir(place.config.store.join("kernels")).unwrap().count();
    let before = files();
    for version in 0..12 {
        fs::write(place.dir.path().join("pod"), format!("pod {version}")).unwrap();
        place.prepare().unwrap();
    }
    assert!(files() < before + 12, "old ones are never removed");
}

#[test]
fn a_kernels_own_tree_is_used_where_it_lies() {
    let place = Place::new();
    let tree = place.config.kernel.clone().unwrap();
    modules(&tree, true, "", <[u8]>::to_vec);
    put(&tree, &format!("boot/vmlinuz-{VERSION}"), &vmlinuz(&lz4(&vmlinux())));
    assert_eq!(place.prepare().unwrap().version, VERSION);
    assert!(tree.join(format!("lib/modules/{VERSION}/kernel/drivers/sound.ko")).exists(), "it is not ours to trim");
}

#[test]
fn what_is_missing_is_named() {
    let place = Place::new();
    assert!(matches!(place.prepare(), Err(KernelError::NoKernel(_))));
    let tree = place.config.kernel.clone().unwrap();
    modules(&tree, true, "", <[u8]>::to_vec);
    put(&tree, &format!("boot/vmlinuz-{VERSION}"), b"no kernel");
    assert!(matches!(place.prepare(), Err(KernelError::NotAKernel)));
    put(&tree, &format!("boot/vmlinuz-{VERSION}"), &vmlinuz(&lz4(&elf(2, 0, (0, 0)))));
    assert!(matches!(place.prepare(), Err(KernelError::NoPvh)));
    put(&tree, &format!("boot/vmlinuz-{VERSION}"), &vmlinuz(&lz4(&vmlinux())));
    fs::remove_file(tree.join(format!("lib/modules/{VERSION}/kernel/drivers/net_failover.ko"))).unwrap();
    assert!(matches!(place.prepare(), Err(KernelError::NoModule { name, .. }) if name == "net_failover"));
}

#[test]
fn a_guest_may_be_booted_by_somebody_who_is_not_root() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    place.debian();
    let kernel = place.prepare().unwrap();
    for path in [&kernel.vmlinux, &kernel.initramfs] {
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o644);
    }
    assert_eq!(fs::metadata(kernel.vmlinux.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o755);
}
