//! A shutdown in two stages: draining, then an immediate end.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The signal that a service is to end. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    drain: CancellationToken,
    now: CancellationToken,
}

impl Shutdown {
    /// A shutdown that has not begun.
    pub fn new() -> Self {
        Self::default()
    }

    /// A shutdown that begins with the first SIGTERM or SIGINT, and ends at once with the second.
    pub fn on_signal() -> Result<Self, std::io::Error> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let shutdown = Self::new();
        let signalled = shutdown.clone();
        tokio::spawn(async move {
            let mut next_signal = async || {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
            };
            next_signal().await;
            tracing::info!("draining; a second signal ends this process at once");
            signalled.drain();
            next_signal().await;
            signalled.end_now();
        });
        Ok(shutdown)
    }

    /// Begins to drain: nothing new is accepted, and running work may finish.
    pub fn drain(&self) {
        self.drain.cancel();
    }

    /// Ends at once: running work is aborted.
    pub fn end_now(&self) {
        self.drain.cancel();
        self.now.cancel();
    }

    /// Returns once draining has begun.
    pub async fn draining(&self) {
        self.drain.cancelled().await;
    }

    /// Whether draining has begun.
    pub fn is_draining(&self) -> bool {
        self.drain.is_cancelled()
    }

    /// Returns once [`Self::end_now`] was called.
    pub async fn ending(&self) {
        self.now.cancelled().await;
    }
}
