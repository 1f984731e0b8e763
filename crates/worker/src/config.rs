//! What a worker needs to know to run.

use std::time::Duration;

use tandem_engine::EngineConfig;
use tandem_serving::ServeConfig;

use crate::session_table::TableLimits;

pub(crate) const SESSION_LEASE: Duration = Duration::from_secs(90);

/// The configuration of a worker.
#[derive(Clone, Debug)]
pub struct WorkerConfig {
    /// The model, and the resources that it may use.
    pub engine: EngineConfig,
    /// Where the worker listens, and within which limits it serves.
    pub serve: ServeConfig,
    /// Sessions that one orchestrator, by its IP address, may hold at once; `None`: any number.
    pub max_sessions_per_orchestrator: Option<usize>,
    /// How long a session is kept without a step.
    pub session_lease: Duration,
    /// Number of this run of the worker, which is part of session handles. Drawn at random for every start.
    pub incarnation: u64,
}

impl WorkerConfig {
    /// The default configuration around a model.
    pub fn new(engine: EngineConfig) -> Self {
        Self {
            engine,
            serve: ServeConfig::default(),
            max_sessions_per_orchestrator: None,
            session_lease: SESSION_LEASE,
            incarnation: rand::random(),
        }
    }

    /// Limits of the session table.
    pub fn table_limits(&self) -> TableLimits {
        TableLimits {
            lease: self.session_lease,
            sessions: self.serve.max_sessions,
            per_client: self.max_sessions_per_orchestrator.unwrap_or(usize::MAX),
        }
    }
}

impl Default for WorkerConfig {
    /// Names no model: for workers whose model is already loaded.
    fn default() -> Self {
        Self::new(EngineConfig::new(""))
    }
}
