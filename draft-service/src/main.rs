//! `tandem-draft`: the draft service.

use clap::Parser;
use tandem_serving::init_telemetry;
use tandem_worker::args::WorkerArgs;
use tandem_worker::{WorkerConfig, run_process};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = WorkerArgs::parse();
    let _telemetry = init_telemetry(&args.log.clone().into(), "info", "tandem-draft")?;
    let config = WorkerConfig::from(args);
    Ok(run_process(config, tandem_draft_service::serving).await?)
}
