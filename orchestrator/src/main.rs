//! `tandem-orchestrator`: the public face of draft and target services.

use clap::Parser;
use tandem_orchestrator::{OrchestratorArgs, Pair, serving};
use tandem_serving::{ServeConfig, Shutdown, bind, bind_http, incoming, init_telemetry};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = OrchestratorArgs::parse();
    let _telemetry = init_telemetry(&args.log.clone().into(), "info", "tandem-orchestrator")?;
    let serve = ServeConfig::from(args.serve.clone());
    let tls = serve.load_tls()?;
    let network = args.worker_tls.network(&args.names())?.shared();
    args.warn_of_open_keys();
    let listener = bind(serve.listen).await?;
    let http = bind_http(&serve).await?;
    let shutdown = Shutdown::on_signal()?;
    let connect = Pair::connect(args.names(), args.patience(), args.limits.workers(), network);
    let pair = tokio::select! {
        pair = connect => pair?,
        () = shutdown.draining() => return Ok(()),
    };
    tracing::info!(address = %listener.local_addr()?, "listening");
    let http = http.map(|listener| (listener, tls.clone()));
    Ok(serving(pair, &args, http).run(incoming(listener, tls), shutdown).await?)
}
