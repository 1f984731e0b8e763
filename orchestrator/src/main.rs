//! `tandem-orchestrator`: the public face of a draft and a target service.

use clap::Parser;
use tandem_orchestrator::{OrchestratorArgs, Pair, run};
use tandem_serving::{bind, init_logging, until_signal};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = OrchestratorArgs::parse();
    init_logging(&args.log, "info")?;
    let listener = bind(args.serve.listen).await?;
    let pair = Pair::connect(&args.draft, &args.target, args.patience(), args.step_timeout()).await?;
    Ok(run(pair, &args.serve, listener, until_signal()?).await?)
}
