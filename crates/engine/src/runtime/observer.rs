//! Reports about the passes of the model thread, for metrics.

use std::sync::Arc;
use std::time::Duration;

/// A forward pass that succeeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PassReport {
    /// Rows of the pass.
    pub rows: usize,
    /// The rows of prompts among them.
    pub prompt_rows: usize,
    /// Sessions that took part.
    pub sessions: usize,
    /// Duration of the pass.
    pub took: Duration,
}

/// Called after every pass, on the model thread: it must return quickly.
pub type PassObserver = Arc<dyn Fn(&PassReport) + Send + Sync>;
