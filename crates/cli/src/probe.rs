//! `tandem probe`: reports the health of a service as an exit code, for container images without another client.

use std::time::Duration;

use anyhow::{Context, bail};
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

    /// Full name of the gRPC service to check, like tandem.v1.Draft [default: the whole server]
    #[arg(long, default_value = "", hide_default_value = true, value_name = "NAME")]
    service: String,

    /// Timeout of the check, in seconds
    #[arg(long, default_value = "2", value_name = "SECONDS", value_parser = seconds)]
    timeout_seconds: Duration,

    #[command(flatten)]
    tls: EndpointTlsArgs,
}

/// Returns an error unless the service reports that it is serving.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let url = &args.endpoint;
    let timeout = args.timeout_seconds;
    let checked = tokio::time::timeout(timeout, check(&args)).await;
    let status =
        checked.with_context(|| format!("{url} did not respond within {} s", timeout.as_secs_f64()))??;
    match status {
        ServingStatus::Serving => Ok(()),
        other => bail!("{url} is {}", other.as_str_name()),
    }
}

async fn check(args: &Args) -> anyhow::Result<ServingStatus> {
    let url = &args.endpoint;
    let channel = args.tls.connect(url).await.with_context(|| format!("cannot reach {url}"))?;
    let request = HealthCheckRequest { service: args.service.clone() };
    match HealthClient::new(channel).check(request).await {
        Ok(response) => Ok(response.into_inner().status()),
        Err(status) => {
            let hint = args.tls.hint(url, &status);
            bail!("{url}: {} ({}){hint}", status.message(), status.code())
        }
    }
}
