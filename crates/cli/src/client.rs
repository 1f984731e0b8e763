//! A client of the public gRPC API.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context, bail};
use tandem_proto::v1::generation_client::GenerationClient;
use tandem_proto::{Answer, MAX_MESSAGE_BYTES, v1};
use tandem_serving::{ClientTls, ClientTlsFiles, inject_trace_context};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, IntoRequest, Request, Status};

/// A connection to an orchestrator.
pub type Client = GenerationClient<InterceptedService<Channel, ApiKey>>;

/// TLS for connections to services in other processes.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct EndpointTlsArgs {
    /// CA certificates to verify an https:// endpoint, PEM [default: those of the system]
    #[arg(long, env = "TANDEM_ENDPOINT_CA", value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,

    /// Client certificate for an endpoint that requires one (mutual TLS), PEM
    #[arg(long, env = "TANDEM_ENDPOINT_CERT", value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,

    /// Private key of that certificate, PEM
    #[arg(long, env = "TANDEM_ENDPOINT_KEY", value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
}

/// Credentials for an orchestrator in another process.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct AccessArgs {
    #[command(flatten)]
    #[allow(missing_docs, reason = "flattened")]
    pub tls: EndpointTlsArgs,

    /// API key; other users of this machine can see it on the command line, but not in the environment
    #[arg(
        long,
        env = "TANDEM_API_KEY",
        value_name = "KEY",
        hide_env_values = true,
        default_value = "",
        hide_default_value = true
    )]
    pub api_key: ApiKey,
}

/// Adds the API key, if there is one, to every request. Its `Debug` output hides the key.
#[derive(Clone, Default)]
pub struct ApiKey(Option<MetadataValue<Ascii>>);

impl FromStr for ApiKey {
    type Err = &'static str;

    fn from_str(key: &str) -> Result<Self, Self::Err> {
        if key.is_empty() {
            return Ok(Self(None));
        }
        let header = format!("Bearer {key}").parse();
        let mut header: MetadataValue<Ascii> =
            header.map_err(|_| "an API key must consist of printable ASCII characters")?;
        header.set_sensitive(true);
        Ok(Self(Some(header)))
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "ApiKey(hidden)" } else { "ApiKey(none)" })
    }
}

impl Interceptor for ApiKey {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(header) = &self.0 {
            request.metadata_mut().insert("authorization", header.clone());
        }
        Ok(request)
    }
}

/// Connects to the orchestrator at `url` without credentials.
pub async fn connect(url: &str) -> anyhow::Result<Client> {
    AccessArgs::default().connect(url).await
}

impl AccessArgs {
    /// Connects to the orchestrator at `url`, over TLS if it is https://.
    pub async fn connect(&self, url: &str) -> anyhow::Result<Client> {
        let channel = self.tls.connect(url).await;
        let channel = channel.with_context(|| format!("cannot reach the orchestrator at {url}"))?;
        let client = GenerationClient::with_interceptor(channel, self.api_key.clone());
        Ok(client.max_decoding_message_size(MAX_MESSAGE_BYTES))
    }
}

impl EndpointTlsArgs {
    /// Connects to the service at `url`, over TLS if it is https://.
    pub async fn connect(&self, url: &str) -> anyhow::Result<Channel> {
        let invalid = || {
            format!(
                "{url:?} is not a valid URL of a service: write it like http://host:7700 or https://host:7700"
            )
        };
        let uri: Uri = url.parse().with_context(invalid)?;
        match (uri.scheme_str(), uri.host()) {
            (Some("https"), Some(host)) => {
                let identity = self.tls_cert.clone().zip(self.tls_key.clone());
                let tls = ClientTls::load(&ClientTlsFiles { ca: self.tls_ca.clone(), identity })?;
                let connector = tls.connector(host.trim_matches(['[', ']']).to_owned());
                Ok(Endpoint::from(uri).connect_with_connector(connector).await?)
            }
            (Some("http"), Some(_)) => Ok(Endpoint::from(uri).connect().await?),
            _ => bail!(invalid()),
        }
    }

    /// A hint for an error that a missing client certificate may have caused.
    ///
    /// With TLS 1.3 a server that requires a certificate rejects the client only after the handshake, by closing the
    /// connection.
    pub fn hint(&self, url: &str, status: &Status) -> &'static str {
        let closed = matches!(status.code(), Code::Cancelled | Code::Unknown | Code::Unavailable);
        if closed && url.starts_with("https:") && self.tls_cert.is_none() {
            "; if the server requires client certificates, give --tls-cert and --tls-key"
        } else {
            ""
        }
    }
}

/// Runs `request` to its end as part of the current span's trace. `on_text` receives the text as it arrives.
pub async fn generate(
    client: &mut Client,
    request: impl IntoRequest<v1::GenerateRequest>,
    on_text: impl FnMut(&str),
) -> Result<Answer, Status> {
    let mut request = request.into_request();
    inject_trace_context(request.metadata_mut().as_mut());
    Answer::collect(client.generate(request).await?.into_inner(), on_text).await
}
