//! The system calls that a VMM may make. Everything else is answered as by a kernel that
//! does not have it, which is what libraries are prepared for.

use std::collections::BTreeMap;

use libc::c_long;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

use crate::DriverFailure;
use crate::drivers::qemu::probe::Accelerator;

/// Files that are open or lie in its root; memory; threads; signals to itself; waiting.
/// No new sockets, no new namespaces, no other processes, no mounts, no keys.
const ALLOWED: &[c_long] = &[
    // Its own start, of which QEMU's list takes the right away again.
    libc::SYS_execve,
    libc::SYS_arch_prctl,
    libc::SYS_set_tid_address,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_seccomp,
    // Files.
    libc::SYS_open,
    libc::SYS_openat,
    libc::SYS_access,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_stat,
    libc::SYS_fstat,
    libc::SYS_lstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_statfs,
    libc::SYS_fstatfs,
    libc::SYS_readlink,
    libc::SYS_readlinkat,
    libc::SYS_getdents64,
    libc::SYS_getcwd,
    libc::SYS_fchdir,
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_dup,
    libc::SYS_dup2,
    libc::SYS_dup3,
    libc::SYS_fcntl,
    libc::SYS_lseek,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_preadv2,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_pwritev2,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_fallocate,
    libc::SYS_ftruncate,
    // Sockets that were handed over.
    libc::SYS_listen,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_shutdown,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    // Waiting.
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_select,
    libc::SYS_pselect6,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_wait,
    libc::SYS_epoll_pwait,
    libc::SYS_eventfd2,
    libc::SYS_signalfd4,
    libc::SYS_pipe2,
    libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep,
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_gettimeofday,
    libc::SYS_restart_syscall,
    // Memory.
    libc::SYS_brk,
    libc::SYS_mmap,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_mprotect,
    libc::SYS_madvise,
    libc::SYS_membarrier,
    // Threads and signals.
    libc::SYS_futex,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_tgkill,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_rt_sigpending,
    libc::SYS_sigaltstack,
    // What it is and where.
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_uname,
    libc::SYS_sysinfo,
    libc::SYS_getrandom,
];

/// The settings of itself that a process may change.
const PRCTL: [u32; 6] = [
    libc::PR_SET_NAME.unsigned_abs(),
    libc::PR_GET_NAME.unsigned_abs(),
    libc::PR_SET_NO_NEW_PRIVS.unsigned_abs(),
    libc::PR_SET_SECCOMP.unsigned_abs(),
    libc::PR_SET_TIMERSLACK.unsigned_abs(),
    libc::PR_MCE_KILL.unsigned_abs(),
];
/// `_IOC_TYPE` and the upper two bits of `_IOC_NR`: of the calls of type `T` this leaves
/// those of tun devices and none of terminals.
const TUN_MASK: u64 = 0xffc0;
const TUN: u64 = 0x54c0;
/// `_IOC_TYPE`: every call to KVM.
const KVM_MASK: u64 = 0xff00;
const KVM: u64 = 0xae00;

/// The list, compiled.
pub(super) fn program(accelerator: Accelerator) -> Result<BpfProgram, DriverFailure> {
    compile(accelerator)
        .map_err(|error| DriverFailure::Missing(format!("the list of system calls cannot be compiled: {error}")))
}

fn compile(accelerator: Accelerator) -> Result<BpfProgram, seccompiler::BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = ALLOWED.iter().map(|call| (*call, Vec::new())).collect();
    let thread = libc::CLONE_THREAD.unsigned_abs().into();
    rules.insert(libc::SYS_clone, vec![masked(0, thread, thread)?]);
    let own_settings: Result<_, _> = PRCTL.iter().map(|option| masked(0, u64::MAX, (*option).into())).collect();
    rules.insert(libc::SYS_prctl, own_settings?);
    // Limits may be read.
    rules.insert(libc::SYS_prlimit64, vec![masked(2, u64::MAX, 0)?]);
    let mut devices = vec![masked(1, TUN_MASK, TUN)?];
    if accelerator == Accelerator::Kvm {
        devices.push(masked(1, KVM_MASK, KVM)?);
    }
    rules.insert(libc::SYS_ioctl, devices);
    let refuse = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    SeccompFilter::new(rules, refuse, SeccompAction::Allow, TargetArch::x86_64)?.try_into()
}

fn masked(argument: u8, mask: u64, value: u64) -> Result<SeccompRule, seccompiler::BackendError> {
    let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(mask), value)?;
    SeccompRule::new(vec![condition])
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io;
    use std::net::TcpListener;
    use std::os::unix::net::UnixStream;
    use std::process::Command;
    use std::thread;

    use rustix::io::Errno;
    use rustix::thread::{UnshareFlags, unshare_unsafe};

    use super::*;

    /// What a thread is told behind the list: the list is that thread's alone.
    fn behind(
        accelerator: Accelerator,
        tries: fn() -> Vec<(&'static str, io::Result<()>)>,
    ) -> Vec<(&'static str, Option<i32>)> {
        let list = program(accelerator).unwrap();
        let tried = thread::spawn(move || {
            seccompiler::apply_filter(&list).unwrap();
            tries()
        });
        tried
            .join()
            .unwrap()
            .into_iter()
            .map(|(what, done)| (what, done.err().and_then(|error| error.raw_os_error())))
            .collect()
    }

    #[expect(unsafe_code, reason = "the call is refused, which is what is tried")]
    fn forbidden() -> Vec<(&'static str, io::Result<()>)> {
        let raw = |number: c_long, first: usize, second: usize| {
            // SAFETY: none of these calls is made with an address.
            let done = unsafe { libc::syscall(number, first, second, 0, 0, 0) };
            if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
        };
        vec![
            ("a socket of the internet", TcpListener::bind("127.0.0.1:0").map(drop)),
            ("a socket of the machine", UnixStream::pair().map(drop)),
            // SAFETY: the call is refused.
            ("a user namespace", unsafe { unshare_unsafe(UnshareFlags::NEWUSER) }.map_err(Into::into)),
            ("another program", Command::new("/bin/true").spawn().map(drop)),
            ("a mount", rustix::mount::unmount("/nowhere", rustix::mount::UnmountFlags::empty()).map_err(Into::into)),
            ("another process's memory", raw(libc::SYS_ptrace, 0, 0)),
            ("a signal to another process", raw(libc::SYS_kill, 1, 0)),
            ("a key", raw(libc::SYS_keyctl, 0, 0)),
            ("a ring of calls", raw(libc::SYS_io_uring_setup, 1, 0)),
            ("a program for the kernel", raw(libc::SYS_bpf, 0, 0)),
            ("a memory file", raw(libc::SYS_memfd_create, 0, 0)),
            ("its own limits", raw(libc::SYS_setpriority, 0, 0)),
            ("a call to a terminal", raw(libc::SYS_ioctl, 0, 0x5412)),
            ("a call to KVM", raw(libc::SYS_ioctl, usize::MAX, 0xae00)),
            ("a core scheduling group", raw(libc::SYS_prctl, 62, 0)),
        ]
    }

    #[test]
    fn fault_1_8_what_is_not_on_the_list_is_not_there() {
        for (what, error) in behind(Accelerator::Tcg, forbidden) {
            assert_eq!(error, Some(Errno::NOSYS.raw_os_error()), "{what}");
        }
    }

    #[test]
    fn what_a_vmm_needs_is_there() {
        let tries = || {
            let thread = || thread::Builder::new().spawn(|| ()).map(|thread| thread.join().unwrap());
            vec![
                ("a file", File::open("/etc/hostname").map(drop)),
                ("a thread", thread()),
                ("a pipe", io::pipe().map(drop)),
            ]
        };
        for (what, error) in behind(Accelerator::Tcg, tries) {
            assert_eq!(error, None, "{what}");
        }
        let kvm = || {
            // SAFETY: no file has this number.
            #[expect(unsafe_code, reason = "there is no safe call for what is not there")]
            let done = unsafe { libc::syscall(libc::SYS_ioctl, -1, 0xae00, 0) };
            vec![("KVM", if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) })]
        };
        // The kernel itself answers: there is no such file.
        assert_eq!(behind(Accelerator::Kvm, kvm), [("KVM", Some(Errno::BADF.raw_os_error()))]);
    }
}
