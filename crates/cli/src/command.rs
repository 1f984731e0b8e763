//! The command line and its subcommands.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::{bench, doctor, eval, generate, probe, serve};

/// LLM text generation with multi-candidate multi-token assisted decoding (MMTAD), from a draft and a target model
#[derive(Parser)]
#[command(name = "tandem", version)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Continue a prompt, or answer it, and show statistics
    Generate(Box<generate::Args>),
    /// Run the draft, target and orchestrator services in one process
    ///
    /// For a single machine: connections are not encrypted and there are no API keys. TLS and API keys are
    /// available in the separate programs of the three services (see tandem-orchestrator --help); their
    /// environment variables have no effect here.
    Serve(Box<serve::Args>),
    /// Measure decoding methods on a dataset: task score, perplexity, speed, energy; writes a report
    Eval(Box<eval::Args>),
    /// Put load on the services in a closed or open loop: throughput, latencies, errors
    Bench(Box<bench::Args>),
    /// Check this machine and a pair of models, and time their forward passes
    Doctor(doctor::Args),
    /// Check the health of a service: the exit code is 0 if it is serving
    Probe(probe::Args),
}

impl Cli {
    /// Runs the subcommand.
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let success = |()| ExitCode::SUCCESS;
        match self.command {
            Command::Generate(args) => generate::run(*args).await.map(success),
            Command::Serve(args) => serve::run(*args).await.map(success),
            Command::Eval(args) => eval::run(*args).await,
            Command::Bench(args) => bench::run(*args).await,
            Command::Doctor(args) => tokio::task::block_in_place(|| doctor::run(&args)).map(success),
            Command::Probe(args) => probe::run(args).await.map(success),
        }
    }
}
