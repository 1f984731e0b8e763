//! The three services as processes on this machine, under load, while their workers are killed, stopped and drained at
//! random. No stream may be lost, no token may differ from the undisturbed sequence, and the orchestrator may not grow.
//!
//! ```text
//! crates/e2e/chaos.sh --streams 32 --faults 100
//! ```

mod args;
mod cases;
mod faults;
mod report;
mod services;
mod streams;
mod verdict;

use std::time::Duration;

use indicatif::{ProgressBar, ProgressState, ProgressStyle};
use tokio::time::Instant;

use faults::Storm;
use report::{Memory, Report};
use services::System;
use streams::Streams;

pub(crate) use args::Args;

/// Runs everything, prints the report, and returns its violations.
pub(crate) async fn run(args: Args) -> anyhow::Result<Vec<String>> {
    let seed = args.seed.unwrap_or_else(rand::random);
    println!("seed {seed}");
    let begun = Instant::now();
    let mut system = System::start(&args).await?;
    let mut client = system.client().await?;
    let cases = cases::undisturbed(&mut client, &args).await?;
    let undisturbed = system.orchestrator_bytes();

    let streams = Streams::start(&system, cases, &args, seed).await?;
    let bar = progress_bar(args.faults, &streams);
    let mut storm = Storm::new(system.take_workers(), seed, &args, bar.clone());
    let first_third = args.faults / 3;
    storm.strike(first_third).await?;
    let third = system.orchestrator_bytes();
    storm.strike(args.faults - first_third).await?;
    let (workers, faults) = storm.calm().await?;
    let end = system.orchestrator_bytes();
    bar.finish_and_clear();
    let tally = streams.finish().await?;

    let settled = verdict::settles(&mut client, &workers, args.lease()).await;
    let report = Report {
        tally,
        faults,
        memory: Memory { undisturbed, third, end },
        workers,
        settled,
        orchestrator_ended: system.orchestrator_ended()?,
        took: begun.elapsed(),
    };
    println!("{}", report.table());
    Ok(report.violations())
}

/// A bar over the faults, with the number of streams that have finished.
fn progress_bar(faults: u64, streams: &Streams) -> ProgressBar {
    let bar = ProgressBar::new(faults);
    let board = streams.board();
    let finished = move |_: &ProgressState, out: &mut dyn std::fmt::Write| {
        let tally = board.tally();
        let _ = write!(out, "{} streams finished, {} lost", tally.finished, tally.lost.len());
    };
    if let Ok(style) = ProgressStyle::with_template("{pos}/{len} faults {wide_bar} {streams} {elapsed}") {
        bar.set_style(style.with_key("streams", finished));
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}
