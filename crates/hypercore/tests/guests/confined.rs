//! What a guest that broke out of its virtual machine would find: a running VMM is
//! looked at from outside, and its place is tried from inside, as its user.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;
use std::thread;

use rustix::thread::{
    Gid, LinkNameSpaceType, Uid, UnshareFlags, move_into_link_name_space, set_thread_gid, set_thread_uid,
    unshare_unsafe,
};

use crate::machine::Residue;
use crate::node::{NodeProcess, id};

/// The first user of the node with number 11.
const UID: u32 = 1_879_148_192 + 11 * 100_000;

#[tokio::test]
async fn fault_1_8_a_vmm_is_shut_in() {
    let before = Residue::of("pltl");
    let mut node =
        NodeProcess::plan("pltl", 11, "disk_mib_per_second = 50", "uplinks = [\"lo\"]\nmbit_per_second = 80");
    node.start().await;
    node.create(id(1)).await;
    let guest = node.ready(id(1)).await;
    let pid = guest.pid.expect("it runs");
    its_namespaces_are_its_own(pid);
    it_is_alone_and_without_rights(pid);
    its_root_is_small_and_read_only(pid);
    its_files_are_limited(pid);
    nothing_can_be_done_in_its_root(pid);
    its_disk_and_its_link_are_shared_by_its_tier(&format!("pltl-{}", id(1)));
    let line = read(pid, "cmdline");
    assert!(line.contains("\0max,-vmx,-svm\0"), "{line}");

    // It is known again by a daemon that did not start it.
    node.kill();
    node.start().await;
    assert_eq!(node.ready(id(1)).await, guest);
    node.delete(id(1)).await;
    node.end(&before);
}

fn read(pid: u32, file: &str) -> String {
    fs::read_to_string(format!("/proc/{pid}/{file}")).expect("it lives")
}

fn its_namespaces_are_its_own(pid: u32) {
    let namespace = |pid: &str, kind: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}")).expect("a namespace");
    for kind in ["mnt", "pid", "ipc", "user", "net"] {
        assert_ne!(namespace(&pid.to_string(), kind), namespace("self", kind), "{kind}");
    }
}

fn it_is_alone_and_without_rights(pid: u32) {
    let status = read(pid, "status");
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_else(|| panic!("no {name}: {status}")).split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    // Number 1 where it lives.
    assert_eq!(field("NSpid").last().map(String::as_str), Some("1"), "{status}");
    assert_eq!(field("NSpid").len(), field("NSpid").len().max(2), "{status}");
    assert_eq!(field("Uid"), vec![UID.to_string(); 4]);
    assert_eq!(field("Gid"), vec![UID.to_string(); 4]);
    assert!(field("Groups").is_empty(), "{status}");
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(field(set), ["0000000000000000"], "{set}");
    }
    assert_eq!((field("NoNewPrivs"), field("Seccomp")), (vec!["1".to_owned()], vec!["2".to_owned()]));
    // QEMU's own list, and ours around it.
    let filters: u32 = field("Seccomp_filters")[0].parse().expect("a number");
    assert!(filters >= 2, "{status}");
    let map: Vec<String> = read(pid, "uid_map").split_whitespace().map(str::to_owned).collect();
    assert_eq!(map, [UID.to_string(), UID.to_string(), "1".to_owned()]);
}

fn its_root_is_small_and_read_only(pid: u32) {
    let root = format!("/proc/{pid}/root");
    let mut names: Vec<String> = fs::read_dir(&root)
        .expect("its root")
        .map(|entry| entry.expect("a name").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    let known = ["dev", "etc", "kernel", "lib", "lib64", "usr"];
    assert!(names.iter().all(|name| known.contains(&name.as_str())), "{names:?}");
    for absent in ["proc", "sys", "tmp", "dev/shm", "etc/passwd", "usr/bin/env", "usr/bin/ip", "dev/net/tun", "dev/kvm"]
    {
        assert!(!Path::new(&root).join(absent).exists(), "{absent}");
    }
    let mounts = read(pid, "mountinfo");
    assert!(mounts.lines().count() > 3, "{mounts}");
    for mount in mounts.lines() {
        let (at, options) = (mount.split(' ').nth(4).expect("a place"), mount.split(' ').nth(5).expect("options"));
        let has = |option: &str| options.split(',').any(|it| it == option);
        assert!(has("nosuid") && (at.starts_with("/dev/") || (has("ro") && has("nodev"))), "{mount}");
    }
}

fn its_files_are_limited(pid: u32) {
    let limits = read(pid, "limits");
    let of = |name: &str| {
        let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{limits}"));
        line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(of("Max core file size")[..2], ["0", "0"]);
    let largest = (128 * 1024 * 1024).to_string();
    assert_eq!(of("Max file size")[..2], [largest.clone(), largest]);
}

fn its_disk_and_its_link_are_shared_by_its_tier(namespace: &str) {
    let group = format!("pltl/{}", id(1));
    let rate = (50 * 1024 * 1024).to_string();
    let files = [format!("blkio/{group}/blkio.throttle.write_bps_device"), format!("{group}/io.max")];
    let limit = files.iter().find_map(|file| fs::read_to_string(Path::new("/sys/fs/cgroup").join(file)).ok());
    let limit = limit.expect("a limit of its disk");
    assert!(limit.contains(&rate), "{limit}");
    for words in [vec!["qdisc", "show", "dev", "pltl-0"], vec!["-n", namespace, "qdisc", "show", "dev", "up0"]] {
        let shown = Command::new("tc").args(&words).output().expect("tc is installed").stdout;
        let shown = String::from_utf8_lossy(&shown).into_owned();
        assert!(shown.contains("tbf") && shown.contains("rate 80Mbit"), "{words:?}: {shown}");
    }
}

/// Everything is tried by a thread that has entered its mounts and become its user.
fn nothing_can_be_done_in_its_root(pid: u32) {
    let mounts = File::open(format!("/proc/{pid}/ns/mnt")).expect("a namespace");
    let tried = thread::spawn(move || {
        enter(&mounts);
        let write = |path: &str| OpenOptions::new().write(true).create(true).truncate(false).open(path).map(drop);
        let mut done: Vec<String> = Vec::new();
        let mut attempt = |what: &str, result: io::Result<()>| done.extend(result.is_ok().then(|| what.to_owned()));
        for path in ["/x", "/tmp/x", "/dev/shm/x", "/dev/x", "/kernel/x", "/usr/x", "/etc/x", "/kernel/vmlinux"] {
            attempt(path, write(path));
        }
        attempt("mkdir", fs::create_dir("/folder"));
        attempt("remove", fs::remove_file("/kernel/vmlinux"));
        attempt("the host's users", File::open("/etc/passwd").map(drop));
        attempt("the host's processes", fs::read_dir("/proc").map(drop));
        attempt("a mount", rustix::mount::mount_bind("/usr", "/etc").map_err(Into::into));
        attempt("up and out", File::open("/../../../../etc/hostname").map(drop));
        // What it needs is there all the same.
        let needed = File::open("/kernel/vmlinux").map(drop);
        (done, needed.map_err(|error| error.to_string()))
    });
    let (done, needed) = tried.join().expect("the thread");
    assert_eq!(needed, Ok(()));
    assert!(done.is_empty(), "possible from inside: {done:?}");
}

#[expect(unsafe_code, reason = "the thread alone enters, and ends there")]
fn enter(mounts: &File) {
    // SAFETY: no file descriptor is touched.
    unsafe { unshare_unsafe(UnshareFlags::FS) }.expect("a root of its own");
    move_into_link_name_space(mounts.as_fd(), Some(LinkNameSpaceType::Mount)).expect("its mounts");
    set_thread_gid(Gid::from_raw(UID)).expect("its group");
    set_thread_uid(Uid::from_raw(UID)).expect("its user");
}
