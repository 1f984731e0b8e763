//! The services over mutual TLS, and the public API with keys: real models and real connections.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tandem_orchestrator::{ConnectError, Tcp};
use tandem_proto::v1;
use tandem_proto::v1::generation_client::GenerationClient;
use tandem_serving::{ClientTls, ClientTlsFiles, ServerTls};
use tandem_testkit::{
    ANSWER, Authority, PROMPT, Services, bundled_model, generate, greedy, loopback_listener,
    orchestrator_config, orchestrator_serving, worker_config,
};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;

const KEY: &str = "the-key-of-alice-for-tests";
/// Several times the interval at which files are checked for changes.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(30);

type Client = GenerationClient<InterceptedService<Channel, Key>>;
/// Files of a certificate and its key.
type Identity = (PathBuf, PathBuf);

/// Puts an API key on every request, if there is one.
#[derive(Clone)]
struct Key(Option<MetadataValue<Ascii>>);

impl Interceptor for Key {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(key) = &self.0 {
            request.metadata_mut().insert("authorization", key.clone());
        }
        Ok(request)
    }
}

/// A client of the orchestrator at `url`, which connects when it is first used.
fn client(url: &str, key: Option<&str>) -> Client {
    with_channel(Endpoint::from_shared(url.to_owned()).unwrap().connect_lazy(), key)
}

fn with_channel(channel: Channel, key: Option<&str>) -> Client {
    let key = key.map(|key| format!("Bearer {key}").parse().unwrap());
    GenerationClient::with_interceptor(channel, Key(key))
}

/// The same over TLS to a server that `ca` has signed, with the certificate `identity`.
async fn tls_client(
    url: &str,
    ca: &Path,
    identity: Option<&Identity>,
) -> Result<Client, tonic::transport::Error> {
    let files = ClientTlsFiles { ca: Some(ca.to_owned()), identity: identity.cloned() };
    let connector = ClientTls::load(&files).unwrap().connector("localhost".to_owned());
    let endpoint = Endpoint::from_shared(url.to_owned()).unwrap();
    Ok(with_channel(endpoint.connect_with_connector(connector).await?, None))
}

async fn answer(mut client: Client) -> Result<String, Status> {
    generate(&mut client, greedy(v1::Method::Mmtad)).await.map(|answer| answer.text)
}

/// The message of an error and of those that caused it.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Serves the bundled pair, and returns the flags of an orchestrator that name the two workers.
async fn serve_workers(services: &Services, tls: Option<&ServerTls>) -> String {
    let args = worker_config("");
    let draft = tandem_draft_service::serving(bundled_model("demo/draft").start(None).await.unwrap(), &args);
    let target =
        tandem_target_service::serving(bundled_model("demo/target").start(None).await.unwrap(), &args);
    let draft = services.serve(draft, tls.cloned()).await.port();
    let target = services.serve(target, tls.cloned()).await.port();
    let scheme = if tls.is_some() { "https" } else { "http" };
    format!("--connect-seconds 1 --draft {scheme}://localhost:{draft} --target {scheme}://localhost:{target}")
}

/// Serves an orchestrator over TLS, if `flags` have a certificate, and returns its URL.
async fn serve_orchestrator(services: &Services, flags: &str) -> Result<String, ConnectError> {
    let config = orchestrator_config(flags);
    let network = Tcp::new(&config.workers, &config.worker_tls).unwrap().shared();
    let serving = orchestrator_serving(&config, network, None).await?;
    let tls = config.serve.load_tls().unwrap();
    let scheme = if tls.is_some() { "https" } else { "http" };
    Ok(format!("{scheme}://localhost:{}", services.serve(serving, tls).await.port()))
}

fn worker_identity((cert, key): &Identity) -> String {
    format!("--worker-cert {} --worker-key {}", cert.display(), key.display())
}

#[tokio::test]
async fn a_generation_runs_over_mutual_tls_from_end_to_end() {
    let dir = tempfile::tempdir().unwrap();
    // Two CAs, so that a user's certificate gives no access to workers.
    let inside = Authority::new(dir.path(), "inside");
    let public = Authority::new(dir.path(), "public");
    let services = Services::default();
    let workers = Some(inside.server(dir.path(), Some(&inside)).load().unwrap());
    let flags = serve_workers(&services, workers.as_ref()).await;
    let inner = inside.sign((dir.path(), "orchestrator"), &["orchestrator"], |_| {});
    let user = public.sign((dir.path(), "user"), &["user"], |_| {});
    let (cert, key) = public.sign((dir.path(), "public-api"), &["localhost"], |_| {});
    let trusting = |ca: &Path| format!("{flags} --worker-ca {}", ca.display());
    let known = format!("{} {}", trusting(&inside.ca), worker_identity(&inner));
    let tls = format!(
        "--tls-cert {} --tls-key {} --tls-client-ca {}",
        cert.display(),
        key.display(),
        public.ca.display()
    );
    let url = serve_orchestrator(&services, &format!("{known} {tls}")).await.unwrap();
    let client = tls_client(&url, &public.ca, Some(&user)).await.unwrap();
    assert_eq!(answer(client).await.unwrap(), ANSWER);

    // A client that does not trust the server, and clients that the server does not trust.
    let untrusting = chain(&tls_client(&url, &inside.ca, Some(&user)).await.unwrap_err());
    assert!(untrusting.contains("UnknownIssuer"), "{untrusting}");
    for identity in [None, Some(&inner)] {
        match tls_client(&url, &public.ca, identity).await {
            // With TLS 1.3 the handshake ends for the client before the server has seen the certificate.
            Ok(client) => drop(answer(client).await.unwrap_err()),
            Err(error) => assert!(chain(&error).contains("certificate"), "{}", chain(&error)),
        }
    }
    // An orchestrator that does not trust the workers, and orchestrators that the workers do not trust.
    let error = serve_orchestrator(&services, &trusting(&public.ca)).await.unwrap_err().to_string();
    assert!(error.contains("UnknownIssuer"), "{error}");
    let unknown = format!("{} {}", trusting(&inside.ca), worker_identity(&user));
    for flags in [trusting(&inside.ca), unknown] {
        let error = serve_orchestrator(&services, &flags).await.unwrap_err();
        assert!(matches!(error, ConnectError::NoWorker { .. }), "{error}");
    }
    // Workers with TLS do not answer in plain text.
    let plain = flags.replace("https://", "http://");
    assert!(serve_orchestrator(&services, &plain).await.is_err());
}

#[tokio::test]
async fn an_api_with_keys_serves_their_owners_within_their_limits() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys");
    std::fs::write(&path, format!("alice {KEY} concurrent=1 tokens_per_minute=2000\n")).unwrap();
    let services = Services::default();
    let mut config = orchestrator_config(&serve_workers(&services, None).await);
    config.access.api_keys_file = Some(path.clone());
    let network = Tcp::default().shared();
    let http = loopback_listener().await;
    let web = format!("http://{}", http.local_addr().unwrap());
    let serving = orchestrator_serving(&config, network, Some(http)).await.unwrap();
    let url = format!("http://{}", services.serve(serving, None).await);

    check_unknown_keys(&url).await;
    let alice = client(&url, Some(KEY));
    assert_eq!(answer(alice.clone()).await.unwrap(), ANSWER);
    alice.clone().get_status(v1::GetStatusRequest {}).await.unwrap();
    check_http(&web).await;
    check_concurrency_limit(&alice, &web).await;
    check_token_limit(&alice).await;

    // A changed file takes effect with the next check of it.
    let next = "the-next-key-of-alice-for-tests";
    std::fs::write(&path, format!("alice {KEY}\nbob {next}\n")).unwrap();
    let mut bob = client(&url, Some(next));
    let admitted = async { while bob.get_status(v1::GetStatusRequest {}).await.is_err() {} };
    tokio::time::timeout(RELOAD_TIMEOUT, admitted).await.expect("the changed file is not in use");
    for key in [KEY, next] {
        assert_eq!(answer(client(&url, Some(key))).await.unwrap(), ANSWER);
    }
}

async fn check_unknown_keys(url: &str) {
    for mut stranger in [client(url, None), client(url, Some("not-the-key-of-alice"))] {
        assert_eq!(answer(stranger.clone()).await.unwrap_err().code(), Code::Unauthenticated);
        let status = stranger.get_status(v1::GetStatusRequest {}).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated);
    }
    // Longer than a header may be: the transport refuses it, and other clients do not notice.
    answer(client(url, Some(&"x".repeat(100_000)))).await.unwrap_err();
}

/// The key allows one generation at a time.
async fn check_concurrency_limit(alice: &Client, web: &str) {
    let mut first = alice.clone().generate(endless(100)).await.unwrap().into_inner();
    first.message().await.unwrap().unwrap();
    let refused = answer(alice.clone()).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().contains("alice already has 1 generations"), "{refused:?}");
    let busy = reqwest::Client::new().post(format!("{web}/v1/completions")).bearer_auth(KEY);
    let busy = busy.json(&serde_json::json!({ "prompt": PROMPT })).send().await.unwrap();
    assert_eq!(busy.status(), 429);
    assert_eq!(busy.headers()["retry-after"], "1");
    while first.message().await.unwrap().is_some() {}
}

/// The key allows some tokens per minute. Each generation needs those of its prompt, and 100.
async fn check_token_limit(alice: &Client) {
    let retry_after = loop {
        match generate(&mut alice.clone(), endless(100)).await {
            Ok(_) => {}
            // The permit of a generation is returned shortly after its stream has ended.
            Err(status) if status.message().contains("alice already has 1 generations") => {}
            Err(status) => break status.get_details_retry_info().unwrap().retry_delay.unwrap(),
        }
    };
    let allowed = Duration::from_millis(1)..Duration::from_secs(60);
    assert!(retry_after > allowed.start && retry_after < allowed.end, "{retry_after:?}");
}

/// Keys over HTTP, with its status codes.
async fn check_http(web: &str) {
    let client = reqwest::Client::new();
    let post = async |key: Option<&str>, n: u32| {
        let body = serde_json::json!({ "prompt": PROMPT, "n": n, "max_tokens": 4 });
        let request = client.post(format!("{web}/v1/completions")).json(&body);
        key.map_or(request.try_clone().unwrap(), |key| request.bearer_auth(key)).send().await.unwrap()
    };
    for key in [None, Some("not-the-key-of-alice")] {
        let refused = post(key, 1).await;
        assert_eq!(refused.status(), 401);
        let error: serde_json::Value = refused.json().await.unwrap();
        assert_eq!(error["error"]["code"], "invalid_api_key");
    }
    for path in ["/v1/models", "/v1/status"] {
        assert_eq!(client.get(format!("{web}{path}")).send().await.unwrap().status(), 401);
        let known = client.get(format!("{web}{path}")).bearer_auth(KEY).send().await.unwrap();
        assert_eq!(known.status(), 200);
    }
    for path in ["/", "/health", "/ready", "/metrics"] {
        assert_eq!(client.get(format!("{web}{path}")).send().await.unwrap().status(), 200, "{path}");
    }
    assert_eq!(post(Some(KEY), 1).await.status(), 200);
    // Two choices are two generations at once, so that this request can never be served.
    assert_eq!(post(Some(KEY), 2).await.status(), 400);
}

fn endless(max_new_tokens: u32) -> v1::GenerateRequest {
    v1::GenerateRequest {
        stop: Vec::new(),
        ignore_eos: true,
        max_new_tokens: Some(max_new_tokens),
        ..greedy(v1::Method::Mmtad)
    }
}
