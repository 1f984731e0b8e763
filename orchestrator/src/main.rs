//! `tandem-orchestrator`: the public face of draft and target services.

use clap::Parser;
use tandem_orchestrator::{OrchestratorArgs, Pair, Tcp, serving};
use tandem_serving::{Shutdown, bind, bind_http, incoming, init_logging};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = OrchestratorArgs::parse();
    init_logging(&args.log, "info")?;
    let listener = bind(args.serve.listen).await?;
    let http = bind_http(&args.serve).await?;
    let shutdown = Shutdown::on_signal()?;
    let connect = Pair::connect(args.names(), args.patience(), args.limits.workers(), Tcp::shared());
    let pair = tokio::select! {
        pair = connect => pair?,
        () = shutdown.draining() => return Ok(()),
    };
    tracing::info!(address = %listener.local_addr()?, "listening");
    Ok(serving(pair, &args, http).run(incoming(listener), shutdown).await?)
}
