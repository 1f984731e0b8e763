//! `tandem-draft`: the draft service.

use clap::Parser;
use tandem_serving::init_logging;
use tandem_worker::{WorkerArgs, run_process};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = WorkerArgs::parse();
    init_logging(&args.log, "info")?;
    Ok(run_process(args, tandem_draft_service::serving).await?)
}
