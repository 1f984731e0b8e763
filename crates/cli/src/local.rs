//! All three services in one process, on loopback ports, with real gRPC between them.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use tandem_orchestrator::{OrchestratorConfig, Pair, Tcp, WorkerNames};
use tandem_serving::{ServeConfig, Serving, Shutdown, bind, incoming};
use tandem_worker::WorkerConfig;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::pair::PairArgs;
use crate::progress::LoadingBar;

/// The configurations of the three services.
#[derive(Clone, Debug)]
pub struct LocalConfig {
    /// The draft service.
    pub draft: WorkerConfig,
    /// The target service.
    pub target: WorkerConfig,
    /// The orchestrator. Its workers are these two; it uses neither TLS nor API keys.
    pub orchestrator: OrchestratorConfig,
}

impl LocalConfig {
    /// The defaults around a pair of models: gRPC on free loopback ports, no HTTP.
    pub fn new(pair: &PairArgs) -> anyhow::Result<Self> {
        let mut orchestrator = OrchestratorConfig::new(WorkerNames::default());
        orchestrator.connect_timeout = Duration::from_secs(10);
        Ok(Self {
            draft: WorkerConfig::new(pair.draft_model()?),
            target: WorkerConfig::new(pair.target_model()?),
            orchestrator,
        })
    }
}

/// The services, which run until this is dropped or [`Local::stop`] is called.
pub struct Local {
    /// Where the draft service listens.
    pub draft: SocketAddr,
    /// Where the target service listens.
    pub target: SocketAddr,
    /// Where the orchestrator listens.
    pub orchestrator: SocketAddr,
    /// Where it listens for HTTP, if it does.
    pub http: Option<SocketAddr>,
    /// Stops the orchestrator, which goes first, so that its requests can still finish.
    stop_orchestrator: Shutdown,
    stop_workers: Shutdown,
    services: JoinSet<anyhow::Result<()>>,
}

/// The listeners of the services, opened before any model is loaded, so that a port in use is reported at once.
struct Listeners {
    draft: TcpListener,
    target: TcpListener,
    orchestrator: TcpListener,
    http: Option<TcpListener>,
}

impl Listeners {
    async fn bind(config: &LocalConfig) -> anyhow::Result<Self> {
        let ServeConfig { listen, http_listen, .. } = config.orchestrator.serve;
        let orchestrator = bind(listen).await?;
        let http = match http_listen {
            Some(address) => Some(bind(address).await?),
            None => None,
        };
        let draft = bind(config.draft.serve.listen).await?;
        let target = bind(config.target.serve.listen).await?;
        Ok(Self { draft, target, orchestrator, http })
    }
}

impl Local {
    /// Loads both models, with a progress bar if `progress`, and starts the three services.
    pub async fn start(mut config: LocalConfig, progress: bool) -> anyhow::Result<Self> {
        let listeners = Listeners::bind(&config).await?;
        let draft = listeners.draft.local_addr()?;
        let target = listeners.target.local_addr()?;
        let orchestrator = listeners.orchestrator.local_addr()?;
        let http = listeners.http.as_ref().map(TcpListener::local_addr).transpose()?;

        let bar = LoadingBar::new("loading models", 2, progress);
        // One after the other: each then measures its passes, and the memory that is left, undisturbed.
        let draft_model = config.draft.engine.start(Some(bar.part(0))).await.context("loading the draft")?;
        let target_model =
            config.target.engine.start(Some(bar.part(1))).await.context("loading the target")?;
        bar.finish();

        let stop_orchestrator = Shutdown::new();
        let stop_workers = Shutdown::new();
        let mut services = JoinSet::new();
        let draft_service = tandem_draft_service::serving(draft_model, &config.draft);
        services.spawn(run(draft_service, listeners.draft, stop_workers.clone()));
        let target_service = tandem_target_service::serving(target_model, &config.target);
        services.spawn(run(target_service, listeners.target, stop_workers.clone()));

        config.orchestrator.workers = WorkerNames {
            draft: vec![format!("http://{draft}").parse().map_err(anyhow::Error::msg)?],
            target: vec![format!("http://{target}").parse().map_err(anyhow::Error::msg)?],
        };
        let OrchestratorConfig { connect_timeout, worker_timeouts, .. } = config.orchestrator;
        let workers = config.orchestrator.workers.clone();
        let pair = Pair::connect(workers, connect_timeout, worker_timeouts, Tcp::default().shared()).await?;
        let http_listener = listeners.http.map(|listener| (listener, None));
        let serving = tandem_orchestrator::serving(pair, &config.orchestrator, http_listener)?;
        let stop = stop_orchestrator.clone();
        let workers = stop_workers.clone();
        services.spawn(async move {
            let result = run(serving, listeners.orchestrator, stop).await;
            workers.drain();
            result
        });
        Ok(Self { draft, target, orchestrator, http, stop_orchestrator, stop_workers, services })
    }

    /// Where to send requests.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.orchestrator)
    }

    /// Returns when a service ends.
    pub async fn ended(&mut self) -> anyhow::Result<()> {
        self.services.join_next().await.map_or(Ok(()), |ended| ended?)
    }

    /// Shuts the services down and waits for their end.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        self.stop_orchestrator.drain();
        while let Some(ended) = self.services.join_next().await {
            ended??;
        }
        Ok(())
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        self.stop_orchestrator.end_now();
        self.stop_workers.end_now();
    }
}

async fn run(serving: Serving, listener: TcpListener, shutdown: Shutdown) -> anyhow::Result<()> {
    Ok(serving.run(incoming(listener, None), shutdown).await?)
}
