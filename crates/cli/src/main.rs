//! The `tandem` command: generates text, runs the services, measures and checks them.

use std::process::ExitCode;

use clap::Parser;
use tandem_cli::Cli;
use tandem_cli::output;

#[tokio::main]
async fn main() -> ExitCode {
    match Cli::parse().run().await {
        Ok(code) => code,
        Err(error) => {
            anstream::eprintln!("{}error:{} {error:#}", output::BAD, output::BAD.render_reset());
            ExitCode::FAILURE
        }
    }
}
