//! `tandem probe`: the health of a service, as an exit code. For images that have no other client.

use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use tandem_serving::args::seconds;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::client::EndpointTlsArgs;

/// Flags of `tandem probe`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// URL of an orchestrator or a worker, like http://127.0.0.1:7701 or https://draft:7701
    #[arg(value_name = "URL")]
    endpoint: String,

    /// Full name of a gRPC service whose health is asked, like tandem.v1.Draft [default: that of the whole server]
    #[arg(long, default_value = "", hide_default_value = true, value_name = "NAME")]
    service: String,

    /// Seconds that the answer may take
    #[arg(long, default_value = "2", value_name = "SECONDS", value_parser = seconds)]
    timeout_seconds: Duration,

    #[command(flatten)]
    tls: EndpointTlsArgs,
}

/// Fails unless the service says that it serves.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let Args { endpoint: url, service, timeout_seconds: patience, tls } = args;
    let asked = tokio::time::timeout(patience, async {
        let channel = tls.connect(&url).await.with_context(|| format!("cannot reach {url}"))?;
        let request = HealthCheckRequest { service: service.clone() };
        let answer = HealthClient::new(channel).check(request).await;
        answer.map_err(|status| {
            anyhow!("{url}: {} ({}){}", status.message(), status.code(), tls.hint(&url, &status))
        })
    });
    let answer =
        asked.await.with_context(|| format!("{url} did not answer in {} s", patience.as_secs_f64()))??;
    match answer.into_inner().status() {
        ServingStatus::Serving => Ok(()),
        other => bail!("{url} is {}", other.as_str_name()),
    }
}
