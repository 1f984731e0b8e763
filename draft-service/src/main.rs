//! `tandem-draft`: the draft service.

use clap::Parser;
use tandem_serving::init_telemetry;
use tandem_worker::{WorkerArgs, run_process};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = WorkerArgs::parse();
    let _telemetry = init_telemetry(&args.log, "info", "tandem-draft")?;
    Ok(run_process(args, tandem_draft_service::serving).await?)
}
