//! `tandem-draft`: the draft service.

use clap::Parser;
use tandem_serving::{bind, init_logging, until_signal};
use tandem_worker::WorkerArgs;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = WorkerArgs::parse();
    init_logging(&args.log, "info")?;
    // The port first: one in use is known before a model is loaded.
    let listener = bind(args.serve.listen).await?;
    let model = args.model.start(None).await?;
    Ok(tandem_draft_service::run(model, &args, listener, until_signal()?).await?)
}
