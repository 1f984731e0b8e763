//! What the services, as processes, do under a load that is meant to hurt.
//!
//! `stall`: how much a running stream slows down while the longest prompts are admitted beside it. `cycles`: what thousands of
//! clients that disconnect leave behind. `overload`: which requests are served and which are refused when ten times as many
//! arrive as can be served.
//!
//! ```text
//! crates/e2e/load.sh stall --rounds 2
//! ```

mod args;
mod client;
mod cluster;
mod cycles;
mod figures;
mod overload;
mod stall;

use anyhow::Context;
use serde::Serialize;

use args::Section;

pub(crate) use args::Args;

/// Everything that was measured.
#[derive(Debug, Default, Serialize)]
struct Report {
    processors: usize,
    worker_flags: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    stall: Vec<stall::Stall>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cycles: Option<cycles::Cycles>,
    #[serde(skip_serializing_if = "Option::is_none")]
    overload: Option<overload::Overload>,
    /// A sentence each; none in a good run.
    violations: Vec<String>,
}

/// Runs the sections that were requested, prints their figures, and returns the violations.
pub(crate) async fn run(args: Args) -> anyhow::Result<Vec<String>> {
    let mut report = Report {
        processors: std::thread::available_parallelism().map_or(0, usize::from),
        worker_flags: args.setup.worker_flags(),
        ..Report::default()
    };
    run_sections(&args, &mut report).await?;
    if let Some(path) = &args.setup.json {
        let mut json = serde_json::to_string_pretty(&report)?;
        json.push('\n');
        std::fs::write(path, json).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(report.violations)
}

/// Prints each section as soon as it is done.
async fn run_sections(args: &Args, report: &mut Report) -> anyhow::Result<()> {
    let setup = &args.setup;
    if let Section::Stall(flags) | Section::All { stall: flags, .. } = &args.section {
        report.stall = stall::run(setup, flags).await?;
        anstream::println!("{}\n", stall::show(&report.stall));
    }
    if let Section::Cycles(flags) | Section::All { cycles: flags, .. } = &args.section {
        let cycles = cycles::run(setup, flags, &mut report.violations).await?;
        anstream::println!("{}\n", cycles.show());
        report.cycles = Some(cycles);
    }
    if let Section::Overload(flags) | Section::All { overload: flags, .. } = &args.section {
        let overload = overload::run(setup, flags, &mut report.violations).await?;
        anstream::println!("{}\n", overload.show());
        report.overload = Some(overload);
    }
    Ok(())
}
