//! Names of hosts.

/// The host of the orchestrator.
pub(crate) const ORCHESTRATOR: &str = "orchestrator";

/// The host of a worker; `role` alone is the name of all workers of that role.
pub(crate) fn worker(role: &str, index: usize) -> String {
    format!("{role}-{index}")
}
