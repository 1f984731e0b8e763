//! `tandem serve`: runs all three services in one process.

use std::net::SocketAddr;

use tandem_orchestrator::args::LimitArgs;
use tandem_serving::args::LogArgs;
use tandem_serving::{MetricsPrefix, Shutdown, init_telemetry};

use crate::local::{Local, LocalConfig};
use crate::pair::PairArgs;

/// Flags of `tandem serve`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pair: PairArgs,

    /// Address of the orchestrator's gRPC API; the workers listen on free loopback ports
    #[arg(long, env = "TANDEM_LISTEN", default_value = "127.0.0.1:7700", value_name = "IP:PORT")]
    listen: SocketAddr,

    /// Address of the OpenAI-compatible HTTP API and of the web page
    #[arg(long, env = "TANDEM_HTTP_LISTEN", default_value = "127.0.0.1:8000", value_name = "IP:PORT")]
    http_listen: SocketAddr,

    /// Generations at once; more are queued
    #[arg(long, env = "TANDEM_MAX_SESSIONS", default_value_t = 64, value_name = "N")]
    max_sessions: usize,

    /// Repeat the metrics that other servers have too under this prefix, as in vllm:
    #[arg(long, env = "TANDEM_METRICS_ALIAS", value_name = "PREFIX")]
    metrics_alias: Option<MetricsPrefix>,

    #[command(flatten)]
    limits: LimitArgs,

    #[command(flatten)]
    log: LogArgs,
}

impl Args {
    fn config(&self) -> anyhow::Result<LocalConfig> {
        let mut config = LocalConfig::new(&self.pair)?;
        let orchestrator = &mut config.orchestrator;
        self.limits.clone().apply(orchestrator);
        orchestrator.serve.listen = self.listen;
        orchestrator.serve.http_listen = Some(self.http_listen);
        orchestrator.serve.max_sessions = self.max_sessions;
        orchestrator.serve.metrics_alias = self.metrics_alias.clone();
        config.draft.serve.max_sessions = self.max_sessions;
        config.target.serve.max_sessions = self.max_sessions;
        Ok(config)
    }
}

/// Serves until a signal asks the process to end.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let _telemetry = init_telemetry(&args.log.clone().into(), "info", "tandem")?;
    let shutdown = Shutdown::on_signal()?;
    let config = args.config()?;
    let mut local = tokio::select! {
        local = Local::start(config, true) => local?,
        () = shutdown.draining() => return Ok(()),
    };
    anstream::println!("orchestrator  http://{}", local.orchestrator);
    if let Some(http) = local.http {
        anstream::println!("http          http://{http}");
    }
    anstream::println!("draft         http://{}", local.draft);
    anstream::println!("target        http://{}", local.target);
    anstream::println!(
        "\ntry: tandem generate --endpoint {} --stop ';' < models/demo/prompt.txt",
        local.endpoint()
    );
    tokio::select! {
        ended = local.ended() => ended,
        () = shutdown.draining() => tokio::select! {
            stopped = local.stop() => stopped,
            () = shutdown.ending() => Ok(()),
        },
    }
}
