//! Restricts an untrusted process: it may compute, read files, and write to the descriptors it was given.

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

/// System calls that are allowed with any arguments. All others are refused with EPERM: sockets, processes,
/// signals, changes to files.
const ALLOWED: &[c_long] = &[
    // Memory.
    libc::SYS_brk,
    libc::SYS_madvise,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_munmap,
    // Open files, and reading.
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
    // Time and randomness.
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_getrandom,
    libc::SYS_gettimeofday,
    libc::SYS_nanosleep,
    // The process itself. A separate filter refuses `clone3`, see [`Filters`].
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

/// Old system calls that newer architectures do not have.
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

/// Commands of `fcntl` that change only the process's own descriptors; others send signals.
const FCNTL: [c_int; 5] = [libc::F_DUPFD, libc::F_DUPFD_CLOEXEC, libc::F_GETFD, libc::F_SETFD, libc::F_GETFL];
/// Commands of `ioctl` that change only the process's own descriptors; others control devices. TCGETS, FIONCLEX
/// and FIOCLEX, as numbers because their types differ between C libraries.
const IOCTL: [u64; 3] = [0x5401, 0x5450, 0x5451];

/// Flags of `open` that create or change a file. `O_TMPFILE` is not needed: it requires an access mode to write.
const WRITING: c_int = libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC;

/// Restricts the process that `command` starts. It gets a session of its own and dies with the thread that
/// started it.
pub(super) fn confine(command: &mut Command, cpu_time: Duration) -> io::Result<()> {
    let filters = Filters::new().map_err(io::Error::other)?;
    let limits = [
        (libc::RLIMIT_AS, MEMORY_BYTES),
        (libc::RLIMIT_CPU, cpu_time.as_secs().saturating_add(2)),
        (libc::RLIMIT_FSIZE, 0),
        (libc::RLIMIT_NOFILE, OPEN_FILES),
        (libc::RLIMIT_CORE, 0),
    ];
    // SAFETY: between fork and exec the closure makes only system calls that are safe in a signal handler, and it
    // neither allocates nor frees: the filters are compiled already, and errors are plain numbers.
    unsafe {
        command.pre_exec(move || {
            succeeded(libc::setsid())?;
            succeeded(libc::prctl(
                libc::PR_SET_PDEATHSIG,
                libc::c_ulong::from(libc::SIGKILL.cast_unsigned()),
            ))?;
            for (resource, limit) in limits {
                succeeded(libc::setrlimit(resource, &libc::rlimit { rlim_cur: limit, rlim_max: limit }))?;
            }
            // Closes sockets and files that a library left open. Old kernels do not have this call.
            libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC);
            apply_filter(&filters.no_clone3).map_err(|_| io::Error::last_os_error())?;
            apply_filter(&filters.allowed).map_err(|_| io::Error::last_os_error())
        });
    }
    Ok(())
}

fn succeeded(result: c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The compiled seccomp filters.
struct Filters {
    /// Refuses every system call that is not allowed, with EPERM.
    allowed: BpfProgram,
    /// Refuses `clone3` with ENOSYS, as if the kernel did not have it. Its flags are behind a pointer, so a
    /// filter cannot distinguish threads from processes; after ENOSYS the C library falls back to `clone`.
    no_clone3: BpfProgram,
}

impl Filters {
    fn new() -> Result<Self, BackendError> {
        let mut rules: BTreeMap<_, _> =
            ALLOWED.iter().chain(ALLOWED_OLD).map(|&call| (call, Vec::new())).collect();
        for (call, alternatives) in conditional_rules()? {
            let alternatives = alternatives.into_iter().map(|condition| SeccompRule::new(vec![condition]));
            rules.insert(call, alternatives.collect::<Result<_, _>>()?);
        }
        let refuse = SeccompAction::Errno(libc::EPERM.cast_unsigned());
        let unknown = SeccompAction::Errno(libc::ENOSYS.cast_unsigned());
        let clone3 = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
        Ok(Self {
            allowed: compile(rules, refuse, SeccompAction::Allow)?,
            no_clone3: compile(clone3, SeccompAction::Allow, unknown)?,
        })
    }
}

/// A filter that applies `listed` to the calls of `rules` and `otherwise` to all others.
fn compile(
    rules: BTreeMap<c_long, Vec<SeccompRule>>,
    otherwise: SeccompAction,
    listed: SeccompAction,
) -> Result<BpfProgram, BackendError> {
    SeccompFilter::new(rules, otherwise, listed, ARCH.try_into()?)?.try_into()
}

/// System calls that are allowed if one of their conditions holds.
fn conditional_rules() -> Result<Vec<(c_long, Vec<SeccompCondition>)>, BackendError> {
    Ok(vec![
        (libc::SYS_openat, vec![masked(2, WRITING, 0)?]),
        #[cfg(target_arch = "x86_64")]
        (libc::SYS_open, vec![masked(1, WRITING, 0)?]),
        (libc::SYS_clone, vec![masked(0, libc::CLONE_THREAD, libc::CLONE_THREAD)?]),
        // Limits can be read, also those of other processes, but not set.
        (libc::SYS_prlimit64, vec![SeccompCondition::new(2, Qword, Eq, 0)?]),
        (libc::SYS_fcntl, one_of(&FCNTL.map(|command| u64::from(command.cast_unsigned())))?),
        (libc::SYS_ioctl, one_of(&IOCTL)?),
    ])
}

/// The bits `mask` of the argument are equal to `value`.
fn masked(argument: u8, mask: c_int, value: c_int) -> Result<SeccompCondition, BackendError> {
    let mask = u64::from(mask.cast_unsigned());
    SeccompCondition::new(argument, Dword, MaskedEq(mask), u64::from(value.cast_unsigned()))
}

/// The second argument is one of `values`.
fn one_of(values: &[u64]) -> Result<Vec<SeccompCondition>, BackendError> {
    values.iter().map(|&value| SeccompCondition::new(1, Dword, Eq, value)).collect()
}
