//! `tandem-target`: the target service.

use clap::Parser;
use tandem_serving::init_telemetry;
use tandem_worker::{WorkerArgs, run_process};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = WorkerArgs::parse();
    let _telemetry = init_telemetry(&args.log, "info", "tandem-target")?;
    Ok(run_process(args, tandem_target_service::serving).await?)
}
