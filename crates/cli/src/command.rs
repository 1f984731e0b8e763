//! The command line.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::{bench, doctor, eval, generate, probe, serve};

/// Multi-candidate multi-token assisted decoding: better text, sooner, from a draft and a target model
#[derive(Parser)]
#[command(name = "tandem", version)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Continue a prompt and show what it took
    Generate(Box<generate::Args>),
    /// Run the draft, target and orchestrator services in one process
    ///
    /// For one machine, in plain text and without API keys: TLS and keys are of the three services as programs of their own
    /// (tandem-orchestrator --help), and their variables in the environment count for nothing here.
    Serve(serve::Args),
    /// Measure methods on a dataset: task score, perplexity, speed, energy; writes a report
    Eval(Box<eval::Args>),
    /// Put load on the services, closed or open loop: throughput, latencies, errors
    Bench(Box<bench::Args>),
    /// Check a machine and a pair of models, and time their passes
    Doctor(doctor::Args),
    /// Ask a service for its health: the exit code says whether it serves
    Probe(probe::Args),
}

impl Cli {
    /// Does what was asked for.
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let success = |()| ExitCode::SUCCESS;
        match self.command {
            Command::Generate(args) => generate::run(*args).await.map(success),
            Command::Serve(args) => serve::run(args).await.map(success),
            Command::Eval(args) => eval::run(*args).await,
            Command::Bench(args) => bench::run(*args).await,
            Command::Doctor(args) => tokio::task::block_in_place(|| doctor::run(&args)).map(success),
            Command::Probe(args) => probe::run(args).await.map(success),
        }
    }
}
