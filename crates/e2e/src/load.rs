//! `under-load`: what the services, as processes, do under a load that is meant to hurt.
//!
//! `stall`: what a running text feels of the longest prompt that is admitted beside it. `cycles`: what thousands of clients that go
//! away leave behind. `overload`: who is served and who is refused when ten times as much is asked as can be done.

mod args;
mod client;
mod cluster;
mod cycles;
mod figures;
mod overload;
mod progress;
mod stall;

use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use serde::Serialize;

use crate::args::{Args, Section};

/// All that was measured.
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

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    let mut report = Report {
        processors: std::thread::available_parallelism().map_or(0, usize::from),
        worker_flags: args.setup.worker_flags(),
        ..Report::default()
    };
    run(&args, &mut report).await?;
    if let Some(path) = &args.setup.json {
        let mut json = serde_json::to_string_pretty(&report)?;
        json.push('\n');
        std::fs::write(path, json).with_context(|| format!("cannot write {}", path.display()))?;
    }
    for violation in &report.violations {
        anstream::eprintln!("violation: {violation}");
    }
    Ok(if report.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The sections asked for, each shown as soon as it is there.
async fn run(args: &Args, report: &mut Report) -> anyhow::Result<()> {
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
