//! What a run showed.

use std::time::Duration;

/// What a run, or several of them, showed.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// What must not happen, a sentence each.
    pub(crate) violations: Vec<String>,
    /// Streams that ended with a finish reason.
    pub(crate) finished: usize,
    /// Streams that ended with an error.
    pub(crate) failed: usize,
    /// Streams that their client cancelled.
    pub(crate) cancelled: usize,
    /// Sessions that were opened again on another worker.
    pub(crate) failovers: usize,
    /// Iterations without a draft.
    pub(crate) undrafted: usize,
    /// Simulated time.
    pub(crate) elapsed: Duration,
    /// What the clients saw; equal in two runs that showed the same.
    pub(crate) log: String,
}

impl Report {
    /// Adds the counts and the violations of the run of `seed`.
    pub(crate) fn add(&mut self, seed: u64, report: Self) {
        for violation in report.violations {
            self.violations.push(format!("TANDEM_SIM_SEED={seed}: {violation}"));
        }
        self.finished += report.finished;
        self.failed += report.failed;
        self.cancelled += report.cancelled;
        self.failovers += report.failovers;
        self.undrafted += report.undrafted;
        self.elapsed += report.elapsed;
    }
}
