//! The services as processes on this machine: under faults (`chaos`) and under load (`load`).

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program for people, and its report is what it is for"
)]

mod chaos;
mod load;
mod programs;
mod progress;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

/// Tests of the services as processes on this machine
#[derive(Clone, Debug, Parser)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Debug, Subcommand)]
enum Command {
    Chaos(chaos::Args),
    Load(load::Args),
}

#[tokio::main]
async fn main() -> ExitCode {
    // When an interrupt drops the run, that ends the processes it started.
    let result = tokio::select! {
        result = run(Args::parse().command) => result,
        result = interrupted() => result,
    };
    match result {
        Ok(violations) => {
            for violation in &violations {
                anstream::eprintln!("violation: {violation}");
            }
            if violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            anstream::eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the command, and returns a sentence for each thing that must not happen and did.
async fn run(command: Command) -> anyhow::Result<Vec<String>> {
    match command {
        Command::Chaos(args) => chaos::run(args).await,
        Command::Load(args) => load::run(args).await,
    }
}

/// Returns when this process receives SIGTERM or SIGINT.
async fn interrupted() -> anyhow::Result<Vec<String>> {
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    anyhow::bail!("interrupted before the end, so that nothing was shown")
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn flags_do_not_collide() {
        Args::command().debug_assert();
    }
}
