//! `tandem-orchestrator`: the public face of draft and target services.

use clap::Parser;
use tandem_orchestrator::{OrchestratorArgs, Pair, serving};
use tandem_serving::{Shutdown, bind, incoming, init_logging};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = OrchestratorArgs::parse();
    init_logging(&args.log, "info")?;
    let tls = args.serve.tls.load()?;
    let network = args.worker_tls.network(&args.names())?.shared();
    args.warn_of_open_keys();
    let listener = bind(args.serve.listen).await?;
    let shutdown = Shutdown::on_signal()?;
    let connect = Pair::connect(args.names(), args.patience(), args.limits.workers(), network);
    let pair = tokio::select! {
        pair = connect => pair?,
        () = shutdown.draining() => return Ok(()),
    };
    tracing::info!(address = %listener.local_addr()?, "listening");
    Ok(serving(pair, &args).run(incoming(listener, tls), shutdown).await?)
}
