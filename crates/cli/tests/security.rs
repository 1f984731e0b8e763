//! The client of the command line against an orchestrator with mutual TLS and API keys.

use std::path::{Path, PathBuf};
use std::process::Command;

use tandem_cli::client::{AccessArgs, Client, EndpointTlsArgs, generate};
use tandem_orchestrator::Tcp;
use tandem_proto::v1;
use tandem_testkit::{
    ANSWER, Authority, Services, bundled_model, greedy, orchestrator_config, orchestrator_serving,
    worker_config,
};
use tonic::{Code, Status};

const KEY: &str = "the-key-of-alice-for-tests";

/// Files of a certificate and its key.
type Identity = (PathBuf, PathBuf);

/// Serves the bundled pair with an orchestrator that requires TLS, a certificate of `public` and an API key. Returns its URL.
async fn serve(services: &Services, dir: &Path, public: &Authority) -> String {
    let worker = worker_config("");
    let draft =
        tandem_draft_service::serving(bundled_model("demo/draft").start(None).await.unwrap(), &worker);
    let target =
        tandem_target_service::serving(bundled_model("demo/target").start(None).await.unwrap(), &worker);
    let draft = services.serve(draft, None).await;
    let target = services.serve(target, None).await;
    let keys = dir.join("keys");
    std::fs::write(&keys, format!("alice {KEY}\n")).unwrap();
    let mut config = orchestrator_config(&format!("--draft http://{draft} --target http://{target}"));
    config.access.api_keys_file = Some(keys);
    let network = Tcp::default().shared();
    let serving = orchestrator_serving(&config, network, None).await.unwrap();
    let tls = Some(public.server(dir, Some(public)).load().unwrap());
    format!("https://localhost:{}", services.serve(serving, tls).await.port())
}

fn access(ca: &Path, identity: Option<&Identity>, key: &str) -> AccessArgs {
    let (tls_cert, tls_key) = identity.cloned().unzip();
    let tls = EndpointTlsArgs { tls_ca: Some(ca.to_owned()), tls_cert, tls_key };
    AccessArgs { tls, api_key: key.parse().unwrap() }
}

async fn answer(mut client: Client) -> Result<String, Status> {
    generate(&mut client, greedy(v1::Method::Mmtad), |_| ()).await.map(|answer| answer.text)
}

async fn probe(url: &str, ca: &Path, identity: Option<&Identity>) -> (bool, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tandem"));
    command.args(["probe", url, "--timeout-seconds", "20", "--tls-ca"]).arg(ca);
    if let Some((cert, key)) = identity {
        command.arg("--tls-cert").arg(cert).arg("--tls-key").arg(key);
    }
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    (output.status.success(), String::from_utf8(output.stderr).unwrap())
}

#[tokio::test]
async fn certificates_and_keys_are_used_and_missing_ones_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let public = Authority::new(dir.path(), "public");
    let other = Authority::new(dir.path(), "other");
    let services = Services::default();
    let url = serve(&services, dir.path(), &public).await;
    let user = public.sign((dir.path(), "user"), &["user"], |_| {});
    let stranger = other.sign((dir.path(), "stranger"), &["stranger"], |_| {});

    let client = access(&public.ca, Some(&user), KEY).connect(&url).await.unwrap();
    assert_eq!(answer(client).await.unwrap(), ANSWER);
    for key in ["", "not-the-key-of-alice"] {
        let client = access(&public.ca, Some(&user), key).connect(&url).await.unwrap();
        assert_eq!(answer(client).await.unwrap_err().code(), Code::Unauthenticated);
    }

    let untrusting = access(&other.ca, Some(&user), KEY).connect(&url).await.unwrap_err();
    assert!(format!("{untrusting:#}").contains("UnknownIssuer"), "{untrusting:#}");
    for identity in [None, Some(&stranger)] {
        match access(&public.ca, identity, KEY).connect(&url).await {
            // With TLS 1.3 the handshake ends for the client before the server has seen the certificate.
            Ok(client) => drop(answer(client).await.unwrap_err()),
            Err(error) => assert!(format!("{error:#}").contains("certificate"), "{error:#}"),
        }
    }

    let (serves, errors) = probe(&url, &public.ca, Some(&user)).await;
    assert!(serves, "{errors}");
    let (serves, errors) = probe(&url, &public.ca, None).await;
    assert!(!serves && errors.contains("--tls-cert"), "{errors}");
    let (serves, errors) = probe(&url, &other.ca, Some(&user)).await;
    assert!(!serves && errors.contains("UnknownIssuer"), "{errors}");
}

#[test]
fn no_flag_shows_a_key() {
    let shown = format!("{:?}", access(Path::new("ca.pem"), None, KEY));
    assert!(!shown.contains(KEY) && shown.contains("hidden"), "{shown}");
}
