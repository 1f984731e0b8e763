//! Services in this process, with the configurations that tests use.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use clap::Parser;
use std::sync::Arc;
use tandem_engine::{ModelArgs, ModelThread};
use tandem_orchestrator::{ConnectError, Network, OrchestratorArgs, Pair};
use tandem_serving::{ServerTls, Serving, Shutdown, bind, incoming};
use tandem_worker::WorkerArgs;
use tokio::net::TcpListener;

/// Services that run until this is dropped.
#[derive(Default)]
pub struct Services {
    shutdown: Shutdown,
}

impl Services {
    /// Serves on a free loopback port, and returns its address.
    pub async fn serve(&self, serving: Serving, tls: Option<ServerTls>) -> SocketAddr {
        let listener = loopback_listener().await;
        let address = listener.local_addr().unwrap();
        tokio::spawn(serving.run(incoming(listener, tls), self.shutdown.clone()));
        address
    }
}

impl Drop for Services {
    fn drop(&mut self) {
        self.shutdown.end_now();
    }
}

/// A listener on a free loopback port.
pub async fn loopback_listener() -> TcpListener {
    bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap()
}

/// Loads the bundled `draft` or `target`.
pub async fn bundled_model(role: &str) -> ModelThread {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/demo").join(role);
    let path = path.canonicalize().unwrap().display().to_string();
    ModelArgs::new(path).start(None).await.unwrap()
}

/// The configuration of a worker whose model is loaded already.
pub fn worker_args(flags: &str) -> WorkerArgs {
    parse(&format!("worker --model none {flags}"))
}

/// The configuration of an orchestrator.
pub fn orchestrator_args(flags: &str) -> OrchestratorArgs {
    parse(&format!("orchestrator {flags}"))
}

fn parse<A: Parser>(command_line: &str) -> A {
    A::try_parse_from(command_line.split_whitespace())
        .unwrap_or_else(|error| panic!("{command_line}: {error}"))
}

/// Connects to the workers that `args` names over `network`, and returns the orchestrator to serve. With `http`, it has the
/// HTTP API on that listener.
pub async fn orchestrator_serving(
    args: &OrchestratorArgs,
    network: Arc<dyn Network>,
    connect_timeout: Duration,
    http: Option<TcpListener>,
) -> Result<Serving, ConnectError> {
    let pair = Pair::connect(args.names(), connect_timeout, args.limits.workers(), network).await?;
    Ok(tandem_orchestrator::serving(pair, args, http.map(|listener| (listener, None))))
}
