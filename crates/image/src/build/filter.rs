//! The system calls that nothing which is shut in may make, compiled for `bwrap --seccomp`.
//!
//! What installs and builds software needs nearly all of them, and mounts; what is left out are those by which a user
//! namespace reaches more of the kernel than a build needs: more user namespaces, keys, programs for the kernel, rings
//! of calls, file systems by parts, other processes' memory, clocks, modules, swaps. They are answered as by a kernel
//! that does not have them.

use std::collections::BTreeMap;

use libc::c_long;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, sock_filter,
};

const REFUSED: &[c_long] = &[
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_adjtimex,
    libc::SYS_bpf,
    libc::SYS_clock_adjtime,
    libc::SYS_clock_settime,
    // Its flags lie in memory, where no filter reads them; everybody falls back to `clone`.
    libc::SYS_clone3,
    libc::SYS_delete_module,
    libc::SYS_fanotify_init,
    libc::SYS_finit_module,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_init_module,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_ioperm,
    libc::SYS_iopl,
    libc::SYS_kcmp,
    libc::SYS_kexec_file_load,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_lookup_dcookie,
    libc::SYS_modify_ldt,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_move_pages,
    libc::SYS_nfsservctl,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_perf_event_open,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
    libc::SYS_quotactl,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_settimeofday,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_sysfs,
    libc::SYS_syslog,
    libc::SYS_userfaultfd,
    libc::SYS_ustat,
    libc::SYS_vhangup,
];
/// From here on calls are numbered of an interface that programs of this architecture have beside
/// their own; a list of numbers would not meet them.
const FIRST_X32: u32 = 0x4000_0000;
/// Loads the number of the call; compares; answers.
const LOAD: u16 = 0x20;
const IS_AT_LEAST: u16 = 0x35;
const RETURN: u16 = 0x06;
const ERRNO: u32 = 0x0005_0000;

/// The list as the kernel takes it.
pub(super) fn program() -> Result<Vec<u8>, BackendError> {
    let list = [jump_over_x32().to_vec(), compiled()?].concat();
    Ok(list.iter().flat_map(bytes).collect())
}

fn compiled() -> Result<BpfProgram, BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = REFUSED.iter().map(|call| (*call, Vec::new())).collect();
    for call in [libc::SYS_clone, libc::SYS_unshare] {
        rules.insert(call, vec![of_user_namespaces()?]);
    }
    let refuse = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    SeccompFilter::new(rules, SeccompAction::Allow, refuse, TargetArch::x86_64)?.try_into()
}

fn of_user_namespaces() -> Result<SeccompRule, BackendError> {
    let flag = libc::CLONE_NEWUSER.unsigned_abs().into();
    let asked = SeccompCondition::new(0, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(flag), flag)?;
    SeccompRule::new(vec![asked])
}

const fn jump_over_x32() -> [sock_filter; 3] {
    let refuse = ERRNO | libc::ENOSYS.unsigned_abs();
    [
        sock_filter { code: LOAD, jt: 0, jf: 0, k: 0 },
        sock_filter { code: IS_AT_LEAST, jt: 0, jf: 1, k: FIRST_X32 },
        sock_filter { code: RETURN, jt: 0, jf: 0, k: refuse },
    ]
}

fn bytes(one: &sock_filter) -> impl Iterator<Item = u8> + use<> {
    let [a, b] = one.code.to_ne_bytes();
    [a, b, one.jt, one.jf].into_iter().chain(one.k.to_ne_bytes())
}

#[cfg(test)]
mod tests {
    use std::{io, thread};

    use rustix::io::Errno;
    use rustix::thread::{UnshareFlags, unshare_unsafe};

    use super::*;

    #[test]
    fn the_list_refuses_what_no_build_needs_and_nothing_else() {
        let filter: BpfProgram = [jump_over_x32().to_vec(), compiled().unwrap()].concat();
        assert_eq!(program().unwrap().len(), filter.len() * 8);
        // A list is its thread's alone.
        #[expect(unsafe_code, reason = "the calls are refused, which is what is tried")]
        let tried = thread::spawn(move || {
            seccompiler::apply_filter(&filter).unwrap();
            let child = std::process::Command::new("true").status().map(|status| status.success());
            // SAFETY: the call is refused.
            let user = unsafe { unshare_unsafe(UnshareFlags::NEWUSER) };
            let raw = |number: c_long| {
                // SAFETY: none of these calls is made with an address.
                let done = unsafe { libc::syscall(number, 0, 0, 0, 0, 0) };
                if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
            };
            let x32 = raw(c_long::from(FIRST_X32) + libc::SYS_getpid);
            let others = [raw(libc::SYS_keyctl), raw(libc::SYS_bpf), raw(libc::SYS_ptrace), x32];
            (child.unwrap(), user, others.map(|one| one.unwrap_err().raw_os_error()))
        });
        let (child, user, others) = tried.join().unwrap();
        assert_eq!((child, user), (true, Err(Errno::NOSYS)));
        assert_eq!(others, [Some(Errno::NOSYS.raw_os_error()); 4]);
    }
}
