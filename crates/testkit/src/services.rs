//! Services in this process, with the configurations that tests use.

use std::net::SocketAddr;
use std::path::Path;

use clap::Parser;
use std::sync::Arc;
use tandem_engine::EngineConfig;
use tandem_orchestrator::args::OrchestratorArgs;
use tandem_orchestrator::{ConnectError, Network, OrchestratorConfig, Pair};
use tandem_serving::{ServerTls, Serving, Shutdown, bind, incoming};
use tandem_worker::WorkerConfig;
use tandem_worker::args::WorkerArgs;
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

/// The model in the directory `name` of the bundled models, with the defaults.
pub fn bundled_model(name: &str) -> EngineConfig {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models").join(name);
    EngineConfig::new(path.canonicalize().unwrap().display().to_string())
}

/// The configuration of a worker whose model is loaded already.
pub fn worker_config(flags: &str) -> WorkerConfig {
    parse::<WorkerArgs>(&format!("worker --model none {flags}")).into()
}

/// The configuration of an orchestrator.
pub fn orchestrator_config(flags: &str) -> OrchestratorConfig {
    parse::<OrchestratorArgs>(&format!("orchestrator {flags}")).into()
}

fn parse<A: Parser>(command_line: &str) -> A {
    A::try_parse_from(command_line.split_whitespace())
        .unwrap_or_else(|error| panic!("{command_line}: {error}"))
}

/// Connects to the workers that `config` names over `network`, and returns the orchestrator to serve. With `http`, it has the
/// HTTP API on that listener.
pub async fn orchestrator_serving(
    config: &OrchestratorConfig,
    network: Arc<dyn Network>,
    http: Option<TcpListener>,
) -> Result<Serving, ConnectError> {
    let workers = config.workers.clone();
    let pair = Pair::connect(workers, config.connect_timeout, config.worker_timeouts, network).await?;
    let http = http.map(|listener| (listener, None));
    Ok(tandem_orchestrator::serving(pair, config, http).unwrap())
}
