//! `tandem-orchestrator`: the public APIs in front of draft and target services.

use clap::Parser;
use tandem_orchestrator::args::OrchestratorArgs;
use tandem_orchestrator::{OrchestratorConfig, Pair, Tcp, serving};
use tandem_serving::{Shutdown, bind, bind_http, incoming, init_telemetry};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = OrchestratorArgs::parse();
    let _telemetry = init_telemetry(&args.log.clone().into(), "info", "tandem-orchestrator")?;
    let config = OrchestratorConfig::from(args);
    config.warn_of_keys_in_plain_text();
    let tls = config.serve.load_tls()?;
    let network = Tcp::new(&config.workers, &config.worker_tls)?.shared();
    let listener = bind(config.serve.listen).await?;
    let http = bind_http(&config.serve).await?.map(|listener| (listener, tls.clone()));
    let shutdown = Shutdown::on_signal()?;
    let workers = config.workers.clone();
    let connect = Pair::connect(workers, config.connect_timeout, config.worker_timeouts, network);
    let pair = tokio::select! {
        pair = connect => pair?,
        () = shutdown.draining() => return Ok(()),
    };
    tracing::info!(address = %listener.local_addr()?, "listening");
    Ok(serving(pair, &config, http)?.run(incoming(listener, tls), shutdown).await?)
}
