//! pass@1: a Python program is right if it runs to its end.
//!
//! The program runs in a process of its own, which may compute and read files, and little else (see
//! `sandbox`). That limits the damage of accidents and of simple attacks. It is not a full isolation: the
//! kernel is shared, files can be read, and a program that searches for the judge's own variables can claim
//! to be right. Run code from an adversary in a virtual machine.

#[cfg(target_os = "linux")]
mod process;
#[cfg(target_os = "linux")]
mod sandbox;

use std::time::Duration;

#[cfg(target_os = "linux")]
pub use self::process::judge;

/// Time limit of a program, its tests included.
pub const TIMEOUT: Duration = Duration::from_secs(10);

/// Runs `program`, which raises an error if it is wrong.
#[cfg(not(target_os = "linux"))]
pub fn judge(_program: &str, _timeout: Duration) -> crate::judge::verdict::Verdict {
    crate::judge::verdict::Verdict::not_judged(
        "no sandbox",
        "there is no sandbox on this system: judge answers in Python on Linux",
    )
}
