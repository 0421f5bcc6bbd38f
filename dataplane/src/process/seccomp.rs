//! System calls that the proxy has no use for and an attacker would, refused by the kernel.
//!
//! A list of what is refused, not of what is allowed: a C library that turns to a new call for an old thing, as they do with every release, must not stop a proxy that
//! runs. No program can be started and no process made, so that what is not refused is used by this program alone.

use seccompiler::{
    SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch, apply_filter,
    apply_filter_all_threads,
};
use std::collections::BTreeMap;

// Newer than the table of numbers; these are the same for all processors.
const FCHMODAT2: i64 = 452;
const SETXATTRAT: i64 = 463;
const REMOVEXATTRAT: i64 = 466;
const OPEN_TREE_ATTR: i64 = 467;
const FILE_SETATTR: i64 = 469;

/// Refused with EPERM.
const REFUSED: &[i64] = &[
    // Other programs, other processes.
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_kcmp,
    libc::SYS_pidfd_getfd,
    libc::SYS_userfaultfd,
    libc::SYS_personality,
    // Other views of the system.
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_chroot,
    libc::SYS_pivot_root,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_move_mount,
    libc::SYS_mount_setattr,
    libc::SYS_open_tree,
    OPEN_TREE_ATTR,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_quotactl,
    libc::SYS_acct,
    // Files by other ways than their names, and what landlock does not cover.
    libc::SYS_open_by_handle_at,
    libc::SYS_name_to_handle_at,
    libc::SYS_fanotify_init,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    FCHMODAT2,
    SETXATTRAT,
    REMOVEXATTRAT,
    FILE_SETATTR,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_fsetxattr,
    libc::SYS_removexattr,
    libc::SYS_lremovexattr,
    libc::SYS_fremovexattr,
    libc::SYS_mknodat,
    // The kernel itself.
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_reboot,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_syslog,
    libc::SYS_vhangup,
    // Keys, clocks, names.
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_adjtimex,
    libc::SYS_clock_adjtime,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    // Users: what was given up stays given up.
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setgroups,
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
    libc::SYS_capset,
];

/// What only this processor has, from before it was spelled otherwise.
#[cfg(target_arch = "x86_64")]
const REFUSED_HERE: &[i64] = &[
    libc::SYS_fork,
    libc::SYS_vfork,
    libc::SYS_chmod,
    libc::SYS_chown,
    libc::SYS_lchown,
    libc::SYS_mknod,
    libc::SYS_uselib,
    libc::SYS_ustat,
    libc::SYS_sysfs,
    libc::SYS_modify_ldt,
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS_nfsservctl,
    libc::SYS__sysctl,
];
#[cfg(not(target_arch = "x86_64"))]
const REFUSED_HERE: &[i64] = &[];

/// Answered as if the kernel did not have them, so that programs turn to the older call: what these would do stands in memory, where a filter cannot see it.
const ABSENT: &[i64] = &[libc::SYS_clone3, libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register];

/// Refuses them: for all threads, or for this one and those that it starts.
///
/// # Errors
/// The kernel does not filter, or this processor is unknown.
pub(super) fn apply(all_threads: bool) -> Result<usize, String> {
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(|error| error.to_string())?;
    let mut refused: BTreeMap<i64, Vec<SeccompRule>> = everywhere(REFUSED.iter().chain(REFUSED_HERE)).collect();
    // Threads, and no processes.
    let process =
        condition(0, SeccompCmpOp::MaskedEq(libc::CLONE_THREAD.unsigned_abs().into()), 0).and_then(|thread| SeccompRule::new(vec![thread]));
    let families = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];
    // Netlink is how the C library looks at interfaces.
    let other: Result<Vec<_>, _> = families.iter().map(|family| condition(0, SeccompCmpOp::Ne, family.unsigned_abs().into())).collect();
    let family = other.and_then(SeccompRule::new);
    for (call, rule) in [(libc::SYS_clone, process), (libc::SYS_socket, family)] {
        refused.insert(call, vec![rule.map_err(|error| error.to_string())?]);
    }
    for (rules, errno) in [(everywhere(ABSENT.iter()).collect(), libc::ENOSYS), (refused, libc::EPERM)] {
        let filter = SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(errno.unsigned_abs()), arch);
        let program: Result<seccompiler::BpfProgram, _> = filter.and_then(TryInto::try_into);
        let apply = if all_threads { apply_filter_all_threads } else { apply_filter };
        apply(&program.map_err(|error| error.to_string())?).map_err(|error| error.to_string())?;
    }
    Ok(REFUSED.len() + REFUSED_HERE.len() + ABSENT.len())
}

fn condition(argument: u8, operator: SeccompCmpOp, value: u64) -> Result<SeccompCondition, seccompiler::BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)
}

/// The calls under all their numbers.
fn everywhere<'a>(calls: impl Iterator<Item = &'a i64>) -> impl Iterator<Item = (i64, Vec<SeccompRule>)> {
    let calls = calls.copied();
    // x86-64 has all calls twice, for programs with short pointers, and those from 512 on under numbers of their own: the filter's check of the processor cannot tell.
    #[cfg(target_arch = "x86_64")]
    let calls = calls.flat_map(|call| [call, call | X32]).chain((512..=547).map(|call| call | X32));
    calls.map(|call| (call, Vec::new()))
}

/// The bit in numbers of calls of programs with short pointers (`__X32_SYSCALL_BIT`).
#[cfg(target_arch = "x86_64")]
const X32: i64 = 0x4000_0000;
