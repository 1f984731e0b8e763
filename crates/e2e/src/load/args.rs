//! Flags.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Subcommand;
use clap::builder::RangedU64ValueParser;
use tandem_serving::args::seconds;

use crate::programs::Programs;

/// Measure draft, target and orchestrator under loads that are meant to hurt
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) section: Section,
    #[command(flatten)]
    pub(crate) setup: Setup,
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Section {
    /// Time per output token of a running stream, alone and while the longest prompts are admitted
    Stall(StallArgs),
    /// What clients that disconnect at any moment leave behind
    Cycles(CyclesArgs),
    /// Ten times as many requests as can be served
    Overload(OverloadArgs),
    /// All of the above
    All {
        #[command(flatten)]
        stall: StallArgs,
        #[command(flatten)]
        cycles: CyclesArgs,
        #[command(flatten)]
        overload: OverloadArgs,
    },
}

/// What is started, and where the figures go.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Setup {
    #[command(flatten)]
    pub(crate) programs: Programs,

    /// Processors that each model may use [default: all]
    #[arg(long, global = true, value_name = "N")]
    threads: Option<usize>,

    /// Seed of prompts, lengths, arrivals and of when clients disconnect
    #[arg(long, global = true, default_value_t = 0, value_name = "N")]
    pub(crate) seed: u64,

    /// Write all figures as JSON
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

/// Flags of `stall`.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct StallArgs {
    /// Seconds alone and seconds disturbed, per round
    #[arg(long, default_value = "5", value_name = "SECONDS", value_parser = seconds)]
    pub(crate) phase: Duration,

    /// Rounds of both, so that a machine that gets slower does so for both
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rounds: u32,

    /// Context of the pair with random weights; 0 skips it
    #[arg(long, default_value_t = 4096, value_name = "TOKENS", value_parser = context)]
    pub(crate) long_context: u32,

    /// Length of the prompts that are admitted to that pair
    #[arg(long, default_value_t = 2000, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) long_prompt: u32,
}

/// Flags of `cycles`.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct CyclesArgs {
    /// Generations in all
    #[arg(long, default_value_t = 10_000, value_name = "N", value_parser = clap::value_parser!(u64).range(10..))]
    pub(crate) cycles: u64,

    /// Clients that run them, each with a connection of its own
    #[arg(long, default_value_t = 8, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(1..=64))]
    pub(crate) clients: usize,

    /// Seconds without a step after which a worker drops a session
    #[arg(long, default_value_t = 30, value_name = "SECONDS")]
    pub(crate) lease: u64,
}

/// Flags of `overload`.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct OverloadArgs {
    /// Seconds of overload
    #[arg(long = "overload", default_value = "60", value_name = "SECONDS", value_parser = seconds)]
    pub(crate) duration: Duration,

    /// Seconds of the closed loops before and after
    #[arg(long, default_value = "10", value_name = "SECONDS", value_parser = seconds)]
    pub(crate) closed: Duration,

    /// Arrivals as a multiple of what can be served
    #[arg(long, default_value_t = 10.0, value_name = "X")]
    pub(crate) times: f64,

    /// Deadline of each request
    #[arg(long, default_value = "10", value_name = "SECONDS", value_parser = seconds)]
    pub(crate) deadline: Duration,

    /// --max-sessions of the orchestrator; as many run at once in the closed loops
    #[arg(long, default_value_t = 8, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(1..=64))]
    pub(crate) max_sessions: usize,

    /// --max-waiting of the orchestrator
    #[arg(long, default_value_t = 16, value_name = "N")]
    pub(crate) max_waiting: usize,

    /// --max-waiting-seconds of the orchestrator
    #[arg(long, default_value_t = 2.0, value_name = "SECONDS")]
    pub(crate) max_waiting_seconds: f64,
}

impl Setup {
    /// Flags of both workers.
    pub(crate) fn worker_flags(&self) -> Vec<String> {
        self.threads.map_or_else(Vec::new, |threads| vec!["--threads".into(), threads.to_string()])
    }
}

fn context(text: &str) -> anyhow::Result<u32> {
    let tokens = text.parse().with_context(|| format!("{text:?} is not a number"))?;
    ensure!(tokens == 0 || tokens >= 512, "it must be 0, or at least 512 tokens");
    Ok(tokens)
}
