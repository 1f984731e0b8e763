//! `tandem-orchestrator`: the public face of draft and target services.

use clap::Parser;
use tandem_orchestrator::{OrchestratorArgs, Pair, Tcp, serving};
use tandem_serving::{Shutdown, bind, bind_http, incoming, init_telemetry};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = OrchestratorArgs::parse();
    let _telemetry = init_telemetry(&args.log, "info", "tandem-orchestrator")?;
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
