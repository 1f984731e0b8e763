//! All three services in one process, on loopback ports, with real gRPC between them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use clap::builder::Resettable;
use tandem_engine::{DeviceChoice, KvBudget, ModelArgs, WeightDtype};
use tandem_orchestrator::{OrchestratorArgs, Pair, Tcp};
use tandem_serving::{Serving, Shutdown, bind, incoming};
use tandem_worker::WorkerArgs;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::progress::LoadingBar;

/// Flags that services in one process do not take from the environment: who may reach them, and where.
const OUTER: [&str; 10] = [
    "listen",
    "http_listen",
    "tls_cert",
    "tls_key",
    "tls_client_ca",
    "worker_ca",
    "worker_cert",
    "worker_key",
    "api_keys_file",
    "log_prompts",
];

/// Which pair to run, and how.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct PairArgs {
    /// Target model: a directory in HF layout, a .gguf file, a config.json (random weights), or a hub id [default: the bundled demo target]
    #[arg(long, env = "TARGET_MODEL_ID", value_name = "DIR|FILE|ID")]
    pub target: Option<String>,

    /// Draft model of the same family [default: the bundled demo draft]
    #[arg(long, env = "DRAFT_MODEL_ID", value_name = "DIR|FILE|ID")]
    pub draft: Option<String>,

    /// Device of the target: cpu or cuda:N
    #[arg(long, env = "DEVICE", default_value = "cpu")]
    pub device: DeviceChoice,

    /// Device of the draft [default: the target's]
    #[arg(long, env = "DRAFT_DEVICE")]
    pub draft_device: Option<DeviceChoice>,

    /// Dtype of the weights: auto (as in the checkpoint), f32, bf16 or f16
    #[arg(long, env = "DTYPE", default_value = "auto")]
    pub dtype: WeightDtype,

    /// Tokens that the KV caches of each model may hold [default: 0.4 of the memory that is free]
    #[arg(long, env = "KV_CACHE_TOKENS", value_name = "TOKENS")]
    pub kv_cache_tokens: Option<usize>,
}

impl PairArgs {
    /// Flags of the target's worker.
    pub fn target_model(&self) -> anyhow::Result<ModelArgs> {
        let model = self.target.clone().map_or_else(|| bundled_model("target"), Ok)?;
        Ok(self.model(model, self.device))
    }

    /// Flags of the draft's worker.
    pub fn draft_model(&self) -> anyhow::Result<ModelArgs> {
        let model = self.draft.clone().map_or_else(|| bundled_model("draft"), Ok)?;
        let device = self.draft_device.unwrap_or(self.device);
        Ok(self.model(model, device))
    }

    fn model(&self, id: String, device: DeviceChoice) -> ModelArgs {
        let (dtype, kv_cache_tokens) = (self.dtype, self.kv_cache_tokens);
        ModelArgs { device, dtype, kv_cache_tokens, ..ModelArgs::new(id) }
    }
}

/// A bundled model, as its directory.
fn bundled_model(model: &str) -> anyhow::Result<String> {
    let dir = bundled(model).with_context(|| format!("give another model with --{model}"))?;
    Ok(dir.display().to_string())
}

/// A directory of `models/demo`: under `TANDEM_MODELS`, the working directory, beside the binary, or in the sources that it was
/// built from.
pub(crate) fn bundled(part: &str) -> anyhow::Result<PathBuf> {
    let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join("models")));
    let places = [
        std::env::var_os("TANDEM_MODELS").map(PathBuf::from),
        Some(PathBuf::from("models")),
        beside,
        Some(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models")),
    ];
    let found = places.into_iter().flatten().map(|p| p.join("demo").join(part)).find(|p| p.is_dir());
    let found = found.with_context(|| {
        format!("the bundled models/demo/{part} is not here: set TANDEM_MODELS to the models directory")
    })?;
    // Shorter in reports, and free of the `..` above.
    let found = found.canonicalize().unwrap_or(found);
    let here = std::env::current_dir().and_then(|dir| dir.canonicalize()).ok();
    let short = here.and_then(|here| found.strip_prefix(here).ok().map(Path::to_path_buf));
    Ok(short.unwrap_or(found))
}

/// Where the orchestrator listens.
#[derive(Clone, Copy, Debug)]
pub struct Front {
    /// For gRPC.
    pub listen: SocketAddr,
    /// For HTTP, if it is to.
    pub http_listen: Option<SocketAddr>,
}

impl Front {
    /// A free loopback port, for gRPC alone.
    pub fn anywhere() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 0)), http_listen: None }
    }
}

/// The services, up until this is dropped or [`Local::stop`] is called.
pub struct Local {
    /// Where the draft service listens.
    pub draft: SocketAddr,
    /// Where the target service listens.
    pub target: SocketAddr,
    /// Where the orchestrator listens.
    pub orchestrator: SocketAddr,
    /// Where it listens for HTTP, if it does.
    pub http: Option<SocketAddr>,
    budgets: [KvBudget; 2],
    /// Of the orchestrator, which goes first, so that its requests can still end.
    stop_orchestrator: Shutdown,
    stop_workers: Shutdown,
    services: JoinSet<anyhow::Result<()>>,
}

impl Local {
    /// Loads both models, with a progress bar if `progress`, and starts the three services; the orchestrator at `front`.
    pub async fn start(pair: &PairArgs, front: Front, progress: bool) -> anyhow::Result<Self> {
        let orchestrator_listener = bind(front.listen).await?;
        let http_listener = match front.http_listen {
            Some(address) => Some(bind(address).await?),
            None => None,
        };
        let http = http_listener.as_ref().map(TcpListener::local_addr).transpose()?;
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        let (draft_listener, target_listener) = (bind(loopback).await?, bind(loopback).await?);
        let (draft, target, orchestrator) = (
            draft_listener.local_addr()?,
            target_listener.local_addr()?,
            orchestrator_listener.local_addr()?,
        );
        let bar = LoadingBar::new("loading models", 2, progress);
        let (draft_args, target_args) = (worker(pair.draft_model()?), worker(pair.target_model()?));
        // One after the other: each then measures its passes, and the memory that is left, undisturbed.
        let draft_model = draft_args.model.start(Some(bar.part(0))).await.context("loading the draft")?;
        let target_model = target_args.model.start(Some(bar.part(1))).await.context("loading the target")?;
        bar.finish();
        let budgets = [draft_model.budget().clone(), target_model.budget().clone()];

        let (stop_orchestrator, stop_workers) = (Shutdown::new(), Shutdown::new());
        let mut services = JoinSet::new();
        for (serving, listener) in [
            (tandem_draft_service::serving(draft_model, &draft_args), draft_listener),
            (tandem_target_service::serving(target_model, &target_args), target_listener),
        ] {
            services.spawn(run(serving, listener, stop_workers.clone()));
        }
        let flags = format!("orchestrator --draft http://{draft} --target http://{target}");
        let args: OrchestratorArgs = inner_args(&flags);
        let patience = Duration::from_secs(10);
        let pair =
            Pair::connect(args.names(), patience, args.limits.workers(), Tcp::default().shared()).await?;
        let serving = tandem_orchestrator::serving(pair, &args, http_listener.map(|l| (l, None)));
        let (stop, workers) = (stop_orchestrator.clone(), stop_workers.clone());
        services.spawn(async move {
            let result = run(serving, orchestrator_listener, stop).await;
            workers.drain();
            result
        });
        Ok(Self { draft, target, orchestrator, http, budgets, stop_orchestrator, stop_workers, services })
    }

    /// Where to send requests.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.orchestrator)
    }

    /// KV-cache tokens that sessions of both workers hold now.
    pub fn kv_tokens_used(&self) -> usize {
        self.budgets.iter().map(KvBudget::used).sum()
    }

    /// Ends when a service does.
    pub async fn ended(&mut self) -> anyhow::Result<()> {
        self.services.join_next().await.map_or(Ok(()), |ended| ended?)
    }

    /// Shuts down and waits.
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

/// The defaults of a worker's flags around `model`.
fn worker(model: ModelArgs) -> WorkerArgs {
    let mut args: WorkerArgs = inner_args("worker --model none");
    args.model = model;
    args
}

/// Flags of a service in this process: its limits may come from the environment, as those of one with a process of its own, but not
/// keys and certificates that were meant for another.
fn inner_args<A: Parser>(flags: &str) -> A {
    let command = A::command().mut_args(|flag| {
        if OUTER.contains(&flag.get_id().as_str()) { flag.env(Resettable::Reset) } else { flag }
    });
    let parsed = A::from_arg_matches(&command.get_matches_from(flags.split(' ')));
    parsed.unwrap_or_else(|error| error.exit())
}
