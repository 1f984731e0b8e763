//! `tandem serve`: runs all three services in one process.

use std::net::SocketAddr;

use tandem_serving::{LogArgs, Shutdown, init_telemetry};

use crate::local::{Front, Local, PairArgs};

/// Flags of `tandem serve`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pair: PairArgs,

    /// Address of the orchestrator's gRPC API; the workers listen on free loopback ports
    #[arg(long, env = "TANDEM_LISTEN", default_value = "127.0.0.1:7700", value_name = "IP:PORT")]
    listen: SocketAddr,

    /// Address of the OpenAI-compatible HTTP API and of the web page
    #[arg(long, env = "TANDEM_HTTP_LISTEN", default_value = "127.0.0.1:8000", value_name = "IP:PORT")]
    http_listen: SocketAddr,

    #[command(flatten)]
    log: LogArgs,
}

/// Serves until a signal asks the process to end.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let _telemetry = init_telemetry(&args.log, "info", "tandem")?;
    let shutdown = Shutdown::on_signal()?;
    let front = Front { listen: args.listen, http_listen: Some(args.http_listen) };
    let mut local = tokio::select! {
        local = Local::start(&args.pair, front, true) => local?,
        () = shutdown.draining() => return Ok(()),
    };
    anstream::println!("orchestrator  http://{}", local.orchestrator);
    if let Some(http) = local.http {
        anstream::println!("http          http://{http}");
    }
    anstream::println!("draft         http://{}", local.draft);
    anstream::println!("target        http://{}", local.target);
    anstream::println!(
        "\ntry: tandem generate --endpoint {} --stop ';' < models/demo/prompt.txt",
        local.endpoint()
    );
    tokio::select! {
        ended = local.ended() => ended,
        () = shutdown.draining() => tokio::select! {
            stopped = local.stop() => stopped,
            () = shutdown.ending() => Ok(()),
        },
    }
}
