//! The services over mutual TLS, and the public API with keys: real models, real connections, the client of the command line.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

#[path = "../../serving/tests/common/authority.rs"]
mod authority;
mod common;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use authority::Authority;
use clap::Parser;
use common::{ANSWER, PROMPT, greedy};
use tandem_cli::client::{AccessArgs, Client, EndpointTlsArgs, connect, generate};
use tandem_cli::local::PairArgs;
use tandem_engine::ModelThread;
use tandem_orchestrator::{ConnectError, Keys, OrchestratorArgs, Pair, serving};
use tandem_proto::v1;
use tandem_serving::{ServerTls, Serving, Shutdown, bind, incoming};
use tandem_worker::WorkerArgs;
use tonic::{Code, Status};
use tonic_types::StatusExt;

const KEY: &str = "the-key-of-alice-for-tests";

/// Ends what it was given to.
#[derive(Default)]
struct Running(Shutdown);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.end_now();
    }
}

impl Running {
    /// Serves on a port of the system's choice: its URL.
    async fn serve(&self, serving: Serving, tls: Option<ServerTls>) -> String {
        let listener = bind(([127, 0, 0, 1], 0).into()).await.unwrap();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://localhost:{}", listener.local_addr().unwrap().port());
        tokio::spawn(serving.run(incoming(listener, tls), self.0.clone()));
        url
    }

    /// The bundled pair as workers: flags of an orchestrator that name them.
    async fn workers(&self, tls: Option<&ServerTls>) -> String {
        let args = WorkerArgs::parse_from(["worker", "--model", ""]);
        let pair = PairArgs::default();
        let draft: ModelThread = pair.draft_model().unwrap().start(None).await.unwrap();
        let target: ModelThread = pair.target_model().unwrap().start(None).await.unwrap();
        let draft = self.serve(tandem_draft_service::serving(draft, &args), tls.cloned()).await;
        let target = self.serve(tandem_target_service::serving(target, &args), tls.cloned()).await;
        format!("orchestrator --connect-seconds 1 --draft {draft} --target {target}")
    }

    async fn orchestrator(&self, flags: &str) -> Result<String, ConnectError> {
        let args = OrchestratorArgs::try_parse_from(flags.split_whitespace()).unwrap();
        let network = args.worker_tls.network(&args.names()).unwrap().shared();
        let pair = Pair::connect(args.names(), args.patience(), args.limits.workers(), network).await?;
        Ok(self.serve(serving(pair, &args, None), args.serve.tls.load().unwrap()).await)
    }
}

async fn answer(mut client: Client) -> Result<String, Status> {
    generate(&mut client, greedy(v1::Method::Mmtad), |_| ()).await.map(|answer| answer.text)
}

fn with(ca: &Path, identity: Option<&(PathBuf, PathBuf)>) -> AccessArgs {
    let (tls_cert, tls_key) = identity.cloned().unzip();
    let tls = EndpointTlsArgs { tls_ca: Some(ca.to_path_buf()), tls_cert, tls_key };
    AccessArgs { tls, ..AccessArgs::default() }
}

#[tokio::test]
async fn a_text_is_written_over_mutual_tls_from_end_to_end() {
    let dir = tempfile::tempdir().unwrap();
    // Two CAs, so that a user's certificate opens no worker.
    let (inside, public) = (Authority::new(dir.path(), "inside"), Authority::new(dir.path(), "public"));
    let running = Running::default();
    let workers = inside.server(dir.path(), Some(&inside)).load().unwrap();
    let flags = running.workers(workers.as_ref()).await;
    let (cert, key) = inside.sign((dir.path(), "orchestrator"), &["orchestrator"], |_| {});
    let (user, user_key) = public.sign((dir.path(), "user"), &["user"], |_| {});
    let (face, face_key) = public.sign((dir.path(), "face"), &["localhost"], |_| {});
    let trusting = |ca: &Path| format!("{flags} --worker-ca {}", ca.display());
    let shown =
        |cert: &Path, key: &Path| format!("--worker-cert {} --worker-key {}", cert.display(), key.display());

    let known = format!("{} {}", trusting(&inside.ca), shown(&cert, &key));
    let tls = format!(
        "--tls-cert {} --tls-key {} --tls-client-ca {}",
        face.display(),
        face_key.display(),
        public.ca.display()
    );
    let url = running.orchestrator(&format!("{known} {tls}")).await.unwrap();
    let user = (user, user_key);
    let client = with(&public.ca, Some(&user)).connect(&url).await.unwrap();
    assert_eq!(answer(client).await.unwrap(), ANSWER);

    let probe = async |ca: &Path, identity: Option<&(PathBuf, PathBuf)>| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tandem"));
        command.args(["probe", &url, "--timeout-seconds", "20", "--tls-ca"]).arg(ca);
        if let Some((cert, key)) = identity {
            command.arg("--tls-cert").arg(cert).arg("--tls-key").arg(key);
        }
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        (output.status.success(), String::from_utf8(output.stderr).unwrap())
    };
    let (serves, errors) = probe(&public.ca, Some(&user)).await;
    assert!(serves, "{errors}");
    let (serves, errors) = probe(&public.ca, None).await;
    assert!(!serves && errors.contains("--tls-cert"), "{errors}");
    let (serves, errors) = probe(&inside.ca, Some(&user)).await;
    assert!(!serves && errors.contains("UnknownIssuer"), "{errors}");

    // Clients that do not know the CA, or are not known to it.
    let untrusting = with(&inside.ca, Some(&user)).connect(&url).await.unwrap_err();
    assert!(format!("{untrusting:#}").contains("UnknownIssuer"), "{untrusting:#}");
    for identity in [None, Some(&(cert, key))] {
        match with(&public.ca, identity).connect(&url).await {
            // With TLS 1.3 a client thinks that the handshake is over before the server has seen its certificate.
            Ok(client) => drop(answer(client).await.unwrap_err()),
            Err(error) => assert!(format!("{error:#}").contains("certificate"), "{error:#}"),
        }
    }
    // Orchestrators that do not know the workers' CA, or are not known to the workers.
    let error = running.orchestrator(&trusting(&public.ca)).await.unwrap_err().to_string();
    assert!(error.contains("UnknownIssuer"), "{error}");
    for strange in [trusting(&inside.ca), format!("{} {}", trusting(&inside.ca), shown(&user.0, &user.1))] {
        let error = running.orchestrator(&strange).await.unwrap_err();
        assert!(matches!(error, ConnectError::NoWorker { .. }), "{error}");
    }
    // Nor does anybody speak to them in plain text.
    let plain = flags.replace("https://", "http://");
    assert!(running.orchestrator(&plain).await.is_err());
}

fn keyed(key: &str) -> AccessArgs {
    AccessArgs { api_key: key.parse().unwrap(), ..AccessArgs::default() }
}

#[tokio::test]
async fn an_api_with_keys_serves_those_who_have_one_within_its_limits() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys");
    std::fs::write(&path, format!("alice {KEY} concurrent=1 tokens_per_minute=2000\n")).unwrap();
    let running = Running::default();
    let flags = running.workers(None).await;
    let keys = Keys::load(path.clone()).unwrap();
    let mut args = OrchestratorArgs::try_parse_from(flags.split_whitespace()).unwrap();
    args.access.api_keys_file = Some(keys.clone());
    let network = args.worker_tls.network(&args.names()).unwrap().shared();
    let pair = Pair::connect(args.names(), args.patience(), args.limits.workers(), network).await.unwrap();
    let http = bind(([127, 0, 0, 1], 0).into()).await.unwrap();
    let web = format!("http://{}", http.local_addr().unwrap());
    let url = running.serve(serving(pair, &args, Some((http, None))), None).await;

    for stranger in [connect(&url).await.unwrap(), keyed("not-the-key-of-alice").connect(&url).await.unwrap()]
    {
        assert_eq!(answer(stranger.clone()).await.unwrap_err().code(), Code::Unauthenticated);
        let status = stranger.clone().get_status(v1::GetStatusRequest {}).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated);
    }
    // More than a header may have: refused by the transport, and nobody's loss.
    let huge = keyed(&"x".repeat(100_000)).connect(&url).await.unwrap();
    answer(huge).await.unwrap_err();
    let alice = keyed(KEY).connect(&url).await.unwrap();
    assert_eq!(answer(alice.clone()).await.unwrap(), ANSWER);
    alice.clone().get_status(v1::GetStatusRequest {}).await.unwrap();

    over_http(&web).await;

    // One at a time.
    let mut first = alice.clone().generate(endless(100)).await.unwrap().into_inner();
    first.message().await.unwrap().unwrap();
    let refused = answer(alice.clone()).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().contains("alice has 1 generations"), "{refused:?}");
    let busy = reqwest::Client::new().post(format!("{web}/v1/completions")).bearer_auth(KEY);
    let busy = busy.json(&serde_json::json!({ "prompt": PROMPT })).send().await.unwrap();
    assert_eq!((busy.status().as_u16(), busy.headers()["retry-after"].to_str().unwrap()), (429, "1"));
    while first.message().await.unwrap().is_some() {}

    // The tokens of a minute: each text needs its prompt's tokens and 100.
    let retry_after = loop {
        match generate(&mut alice.clone(), endless(100), |_| ()).await {
            Ok(_) => {}
            // The place of the text before is freed just behind its end.
            Err(status) if status.message().contains("alice has 1 generations") => {}
            Err(status) => break status.get_details_retry_info().unwrap().retry_delay.unwrap(),
        }
    };
    assert!(
        retry_after > Duration::from_millis(1) && retry_after < Duration::from_secs(60),
        "{retry_after:?}"
    );

    // Another key, another limit: from the next request on.
    let next = "the-next-key-of-alice-for-tests";
    std::fs::write(&path, format!("alice {KEY}\nbob {next}\n")).unwrap();
    assert!(keys.refresh().unwrap());
    for key in [KEY, next] {
        assert_eq!(answer(keyed(key).connect(&url).await.unwrap()).await.unwrap(), ANSWER);
    }
}

/// The same over HTTP, with its codes.
async fn over_http(web: &str) {
    let client = reqwest::Client::new();
    let post = async |key: Option<&str>, n: u32| {
        let body = serde_json::json!({ "prompt": PROMPT, "n": n, "max_tokens": 4 });
        let request = client.post(format!("{web}/v1/completions")).json(&body);
        key.map_or(request.try_clone().unwrap(), |key| request.bearer_auth(key)).send().await.unwrap()
    };
    for stranger in [None, Some("not-the-key-of-alice")] {
        let refused = post(stranger, 1).await;
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
    // Two texts are two generations at once, which waiting does not change.
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

#[test]
fn no_flag_shows_a_key() {
    let shown = format!("{:?}", keyed(KEY));
    assert!(!shown.contains(KEY) && shown.contains("hidden"), "{shown}");
}
