//! What an untrusted process is left with: it computes, reads files, and writes to what it was given.

use std::collections::BTreeMap;
use std::env::consts::ARCH;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use libc::{c_int, c_long};
use seccompiler::SeccompCmpArgLen::{Dword, Qword};
use seccompiler::SeccompCmpOp::{Eq, MaskedEq};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCondition, SeccompFilter, SeccompRule, apply_filter,
};

const MEMORY_BYTES: u64 = 1 << 30;
const OPEN_FILES: u64 = 32;

/// Allowed with any arguments. Everything else is refused with EPERM: sockets, processes, signals, changes to files.
const ALLOWED: &[c_long] = &[
    // Memory.
    libc::SYS_brk,
    libc::SYS_madvise,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_munmap,
    // Files that are open, and what there is to read.
    libc::SYS_close,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_fstat,
    libc::SYS_getcwd,
    libc::SYS_getdents64,
    libc::SYS_lseek,
    libc::SYS_newfstatat,
    libc::SYS_ppoll,
    libc::SYS_pread64,
    libc::SYS_pselect6,
    libc::SYS_read,
    libc::SYS_readlinkat,
    libc::SYS_readv,
    libc::SYS_statx,
    libc::SYS_write,
    libc::SYS_writev,
    // Time and chance.
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_getrandom,
    libc::SYS_gettimeofday,
    libc::SYS_nanosleep,
    // The process itself. `clone3` is refused by a filter of its own, see [`filters`].
    libc::SYS_clone3,
    libc::SYS_execve,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_getrusage,
    libc::SYS_gettid,
    libc::SYS_getuid,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_set_tid_address,
    libc::SYS_sigaltstack,
    libc::SYS_sysinfo,
    libc::SYS_uname,
];

/// Old calls that newer architectures do not have.
#[cfg(target_arch = "x86_64")]
const ALLOWED_OLD: &[c_long] = &[
    libc::SYS_access,
    libc::SYS_arch_prctl,
    libc::SYS_dup2,
    libc::SYS_getrlimit,
    libc::SYS_lstat,
    libc::SYS_poll,
    libc::SYS_readlink,
    libc::SYS_select,
    libc::SYS_stat,
    libc::SYS_time,
];
#[cfg(not(target_arch = "x86_64"))]
const ALLOWED_OLD: &[c_long] = &[];

/// Commands of `fcntl` and `ioctl` that change only the process's own descriptors; others send signals or drive devices.
const FCNTL: [c_int; 5] = [libc::F_DUPFD, libc::F_DUPFD_CLOEXEC, libc::F_GETFD, libc::F_SETFD, libc::F_GETFL];
/// TCGETS, FIONCLEX and FIOCLEX, whose types differ between C libraries.
const IOCTL: [u64; 3] = [0x5401, 0x5450, 0x5451];

/// What makes or changes a file. `O_TMPFILE` comes with `O_DIRECTORY`, but needs an access mode to write.
const WRITING: c_int = libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC;

/// Puts the limits on what `command` starts. It is in a process group of its own and dies with the thread that started it.
pub(super) fn confine(command: &mut Command, cpu_time: Duration) -> io::Result<()> {
    let (filter, no_clone3) = filters().map_err(io::Error::other)?;
    let seconds = cpu_time.as_secs().saturating_add(2);
    // SAFETY: between fork and exec the closure makes only system calls that are safe in a signal handler, and it
    // neither allocates nor frees: the filters were compiled before, and errors are bare numbers.
    unsafe {
        command.pre_exec(move || {
            succeeded(libc::setsid())?;
            succeeded(libc::prctl(
                libc::PR_SET_PDEATHSIG,
                libc::c_ulong::from(libc::SIGKILL.cast_unsigned()),
            ))?;
            for (resource, limit) in [
                (libc::RLIMIT_AS, MEMORY_BYTES),
                (libc::RLIMIT_CPU, seconds),
                (libc::RLIMIT_FSIZE, 0),
                (libc::RLIMIT_NOFILE, OPEN_FILES),
                (libc::RLIMIT_CORE, 0),
            ] {
                succeeded(libc::setrlimit(resource, &libc::rlimit { rlim_cur: limit, rlim_max: limit }))?;
            }
            // Sockets and files that a library left open. An old kernel does not know the call.
            libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC);
            apply_filter(&no_clone3).map_err(|_| io::Error::last_os_error())?;
            apply_filter(&filter).map_err(|_| io::Error::last_os_error())
        });
    }
    Ok(())
}

fn succeeded(result: c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// What is allowed, and beside it the refusal of `clone3` as unknown, not as forbidden: its flags are behind a pointer,
/// so a filter cannot tell threads from processes, and the C library then falls back to `clone`.
fn filters() -> Result<(BpfProgram, BpfProgram), BackendError> {
    let masked = |argument, mask: c_int, value: c_int| {
        SeccompCondition::new(
            argument,
            Dword,
            MaskedEq(u64::from(mask.cast_unsigned())),
            u64::from(value.cast_unsigned()),
        )
    };
    let one_of = |values: &[u64]| {
        values.iter().map(|&v| SeccompCondition::new(1, Dword, Eq, v)).collect::<Result<_, _>>()
    };
    let conditional = [
        (libc::SYS_openat, vec![masked(2, WRITING, 0)?]),
        (libc::SYS_clone, vec![masked(0, libc::CLONE_THREAD, libc::CLONE_THREAD)?]),
        // Of other processes too, unless there is nothing to set.
        (libc::SYS_prlimit64, vec![SeccompCondition::new(2, Qword, Eq, 0)?]),
        (libc::SYS_fcntl, one_of(&FCNTL.map(|command| u64::from(command.cast_unsigned())))?),
        (libc::SYS_ioctl, one_of(&IOCTL)?),
        #[cfg(target_arch = "x86_64")]
        (libc::SYS_open, vec![masked(1, WRITING, 0)?]),
    ];

    let mut rules: BTreeMap<_, _> =
        ALLOWED.iter().chain(ALLOWED_OLD).map(|&call| (call, Vec::new())).collect();
    for (call, conditions) in conditional {
        let any = conditions.into_iter().map(|condition| SeccompRule::new(vec![condition]));
        rules.insert(call, any.collect::<Result<_, _>>()?);
    }
    let compile =
        |rules, otherwise, listed| SeccompFilter::new(rules, otherwise, listed, ARCH.try_into()?)?.try_into();
    let refuse = SeccompAction::Errno(libc::EPERM.cast_unsigned());
    let unknown = SeccompAction::Errno(libc::ENOSYS.cast_unsigned());
    Ok((
        compile(rules, refuse, SeccompAction::Allow)?,
        compile(BTreeMap::from([(libc::SYS_clone3, Vec::new())]), SeccompAction::Allow, unknown)?,
    ))
}
