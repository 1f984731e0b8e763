//! A shutdown in two stages: drain, then at once.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Tells a service to end. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    drain: CancellationToken,
    now: CancellationToken,
}

impl Shutdown {
    /// Not yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The first SIGTERM or SIGINT drains, the second ends at once.
    pub fn on_signal() -> Result<Self, std::io::Error> {
        let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let shutdown = Self::new();
        let told = shutdown.clone();
        tokio::spawn(async move {
            let mut next = async || {
                tokio::select! {
                    _ = term.recv() => {}
                    _ = int.recv() => {}
                }
            };
            next().await;
            tracing::info!("draining; a second signal ends this process at once");
            told.drain();
            next().await;
            told.end_now();
        });
        Ok(shutdown)
    }

    /// Nothing new; what runs may end.
    pub fn drain(&self) {
        self.drain.cancel();
    }

    /// What runs is broken off.
    pub fn end_now(&self) {
        self.drain.cancel();
        self.now.cancel();
    }

    /// Returns once it drains.
    pub async fn draining(&self) {
        self.drain.cancelled().await;
    }

    /// Whether it drains.
    pub fn is_draining(&self) -> bool {
        self.drain.is_cancelled()
    }

    /// Returns once it is to end at once.
    pub async fn ending(&self) {
        self.now.cancelled().await;
    }
}
