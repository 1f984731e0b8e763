//! TLS of a service: which clients it accepts, and that no client can keep others out.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

// Included, because this crate is below most of what the testkit stands on.
#[path = "../../testkit/src/authority.rs"]
#[allow(unreachable_pub, reason = "public in the testkit")]
mod authority;

use std::error::Error;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use authority::Authority;
use axum::Router;
use axum::extract::ConnectInfo;
use axum::routing::get;
use rcgen::date_time_ymd;
use tandem_serving::{
    ClientTls, ClientTlsFiles, Http, Metrics, ServeConfig, ServerTls, Serving, Shutdown, TlsFiles, bind,
    incoming,
};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::service::RoutesBuilder;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

/// A service with only the health service, and an HTTP path that returns the address of its client.
struct Service {
    grpc: SocketAddr,
    http: SocketAddr,
    tls: ServerTls,
    shutdown: Shutdown,
}

impl Drop for Service {
    fn drop(&mut self) {
        self.shutdown.end_now();
    }
}

async fn serve(files: &TlsFiles) -> Service {
    let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
    let grpc = bind(loopback).await.unwrap();
    let http = bind(loopback).await.unwrap();
    let tls = files.load().unwrap();
    let whoami = get(|ConnectInfo(address): ConnectInfo<SocketAddr>| async move { address.to_string() });
    let shutdown = Shutdown::new();
    let service = Service {
        grpc: grpc.local_addr().unwrap(),
        http: http.local_addr().unwrap(),
        tls: tls.clone(),
        shutdown: shutdown.clone(),
    };
    let routes = Router::new().route("/whoami", whoami);
    let serving = Serving {
        name: "test",
        routes: RoutesBuilder::default(),
        descriptors: &[],
        admission: Vec::new(),
        metrics: Metrics::default(),
        http: Some(Http { routes, ..Http::plain(http, Some(tls.clone())) }),
        grace: Duration::ZERO,
    };
    tokio::spawn(serving.run(incoming(grpc, Some(tls)), shutdown));
    service
}

/// A client that trusts `ca`.
fn trusting_client(ca: &Path, identity: Option<(PathBuf, PathBuf)>) -> ClientTls {
    ClientTls::load(&ClientTlsFiles { ca: Some(ca.to_path_buf()), identity }).unwrap()
}

async fn channel(address: SocketAddr, tls: &ClientTls, host: &str) -> Result<Channel, String> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    endpoint.connect_with_connector(tls.connector(host.into())).await.map_err(|e| causes(&e))
}

/// Checks the health. With TLS 1.3 a server may refuse a certificate after the client has completed the handshake, so a channel proves
/// nothing.
async fn health(address: SocketAddr, tls: &ClientTls) -> Result<(), String> {
    let channel = channel(address, tls, "localhost").await?;
    let checked = HealthClient::new(channel).check(HealthCheckRequest { service: "test".into() }).await;
    checked.map(|_| ()).map_err(|e| causes(&e))
}

fn causes(error: &dyn Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", causes(source)),
        None => error.to_string(),
    }
}

/// A request over HTTP/1.1, as probes and browsers send it: the status, the body, and the client's address.
async fn http_get(address: SocketAddr, tls: &ClientTls, path: &str) -> (u16, String, SocketAddr) {
    use tower::Service as _;
    let mut connector = tls.connector("localhost".into());
    let uri = format!("http://{address}").parse().unwrap();
    let mut stream = connector.call(uri).await.unwrap().into_inner();
    let local = stream.get_ref().0.local_addr().unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut reply = Vec::new();
    // A connection that ends without a TLS alert has still ended.
    let _ = stream.read_to_end(&mut reply).await;
    let reply = String::from_utf8(reply).unwrap();
    let (head, body) = reply.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned(), local)
}

fn setup() -> (TempDir, Authority, Authority) {
    let dir = tempfile::tempdir().unwrap();
    let ours = Authority::new(dir.path(), "ours");
    let other = Authority::new(dir.path(), "other");
    (dir, ours, other)
}

#[tokio::test]
async fn both_ports_use_tls_and_clients_verify_them() {
    let (dir, ours, other) = setup();
    let service = serve(&ours.server(dir.path(), None)).await;
    let client = trusting_client(&ours.ca, None);
    health(service.grpc, &client).await.unwrap();
    let (status, body, local) = http_get(service.http, &client, "/whoami").await;
    assert_eq!((status, body), (200, local.to_string()));

    let refused = health(service.grpc, &trusting_client(&other.ca, None)).await.unwrap_err();
    assert!(refused.contains("UnknownIssuer"), "{refused}");
    let refused = channel(service.grpc, &client, "elsewhere.example").await.unwrap_err();
    assert!(refused.contains("not valid for name"), "{refused}");
    // Plain text is not answered.
    let plain = Endpoint::from_shared(format!("http://{}", service.grpc)).unwrap().connect().await;
    assert!(
        match plain {
            Ok(channel) => HealthClient::new(channel).check(HealthCheckRequest::default()).await.is_err(),
            Err(_) => true,
        },
        "plain text was answered"
    );
    health(service.grpc, &client).await.unwrap();
}

#[tokio::test]
async fn with_a_client_ca_only_probes_need_no_certificate() {
    let (dir, ours, other) = setup();
    let service = serve(&ours.server(dir.path(), Some(&ours))).await;
    let known = trusting_client(&ours.ca, Some(ours.sign((dir.path(), "client"), &["client"], |_| {})));
    let foreign = trusting_client(&ours.ca, Some(other.sign((dir.path(), "foreign"), &["client"], |_| {})));
    let anonymous = trusting_client(&ours.ca, None);

    health(service.grpc, &known).await.unwrap();
    for refused in [&anonymous, &foreign] {
        health(service.grpc, refused).await.unwrap_err();
    }
    assert_eq!(http_get(service.http, &known, "/whoami").await.0, 200);
    assert_eq!(http_get(service.http, &anonymous, "/health").await.0, 200);
    assert_eq!(http_get(service.http, &anonymous, "/ready").await.0, 200);
    for path in ["/whoami", "/nowhere", "/health/../whoami", "//whoami"] {
        let (status, body, _) = http_get(service.http, &anonymous, path).await;
        assert_eq!(status, 401, "{path}");
        assert!(body.contains("no_client_certificate"), "{body}");
    }
    health(service.grpc, &known).await.unwrap();
}

#[tokio::test]
async fn changed_certificates_apply_to_new_connections() {
    let (dir, ours, other) = setup();
    let files = ours.server(dir.path(), None);
    let service = serve(&files).await;
    let trusting = dir.path().join("trusted.pem");
    std::fs::copy(&ours.ca, &trusting).unwrap();
    let client = trusting_client(&trusting, None);
    let before = channel(service.grpc, &client, "localhost").await.unwrap();

    // A new key without its certificate: the old pair stays in use.
    std::fs::write(&files.key, rcgen::KeyPair::generate().unwrap().serialize_pem()).unwrap();
    assert!(service.tls.refresh().unwrap_err().to_string().contains("is not the key of"));
    health(service.grpc, &client).await.unwrap();

    other.server(dir.path(), None);
    assert!(service.tls.refresh().unwrap());
    assert!(!service.tls.refresh().unwrap());
    health(service.grpc, &client).await.unwrap_err();
    std::fs::copy(&other.ca, &trusting).unwrap();
    assert!(client.refresh().unwrap());
    health(service.grpc, &client).await.unwrap();
    // A connection that was open before stays open.
    let request = HealthCheckRequest { service: "test".into() };
    HealthClient::new(before).check(request).await.unwrap();
}

#[tokio::test]
async fn silent_clients_do_not_delay_others() {
    let (dir, ours, _) = setup();
    let service = serve(&ours.server(dir.path(), None)).await;
    let mut silent = Vec::new();
    for address in [service.grpc, service.http].repeat(50) {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    for halfway in silent.iter_mut().step_by(2) {
        halfway.write_all(&[22, 3, 1, 2, 0, 1]).await.unwrap();
    }
    let client = trusting_client(&ours.ca, None);
    let both = async {
        health(service.grpc, &client).await.unwrap();
        assert_eq!(http_get(service.http, &client, "/health").await.0, 200);
    };
    tokio::time::timeout(Duration::from_secs(5), both).await.expect("others were delayed");
}

/// The paused clock advances by itself when all tasks are idle.
#[tokio::test(start_paused = true)]
async fn a_handshake_that_takes_too_long_is_ended() {
    let (dir, ours, _) = setup();
    let service = serve(&ours.server(dir.path(), None)).await;
    let mut silent = TcpStream::connect(service.grpc).await.unwrap();
    let closed = tokio::time::timeout(Duration::from_secs(60), silent.read(&mut [0; 1])).await;
    assert!(matches!(closed.expect("still open"), Ok(0) | Err(_)));
}

#[tokio::test]
async fn unusable_files_are_refused_at_the_start() {
    let (dir, ours, _) = setup();
    let dir = dir.path();
    let good = ours.server(dir, Some(&ours));
    let expired = ours.sign((dir, "expired"), &["localhost"], |p| {
        (p.not_before, p.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
    });
    let future = ours.sign((dir, "future"), &["localhost"], |p| p.not_before = date_time_ymd(3000, 1, 1));
    let another = ours.sign((dir, "another"), &["localhost"], |_| {});
    std::fs::write(dir.join("empty"), "").unwrap();
    let error = |cert: &Path, key: &Path, ca: &Path| {
        let files = TlsFiles { cert: cert.into(), key: key.into(), client_ca: Some(ca.into()) };
        files.load().err().expect("was accepted").to_string()
    };
    let TlsFiles { cert, key, .. } = &good;
    let empty = dir.join("empty");
    for (error, expected) in [
        (error(&expired.0, &expired.1, &ours.ca), "expired.pem: certificate expired"),
        (error(&future.0, &future.1, &ours.ca), "future.pem: certificate not valid yet"),
        (error(cert, &another.1, &ours.ca), "another.key: is not the key of "),
        (error(&empty, key, &ours.ca), "empty: has no certificate"),
        (error(cert, cert, &ours.ca), "server.pem: has no private key"),
        (error(cert, key, &empty), "empty: has no certificate"),
        (error(cert, key, key), "server.key: has no certificate"),
        (error(&dir.join("nowhere"), key, &ours.ca), "cannot read "),
    ] {
        assert!(error.contains(expected), "{expected:?} is not in {error:?}");
        assert!(!error.contains("BEGIN"), "{error}");
    }
    assert!(ServeConfig::default().load_tls().unwrap().is_none());
}

/// Names the endpoint for [`child_trusts_the_system`].
const ADDRESS: &str = "TANDEM_TEST_ADDRESS";

/// Environment variables of a process cannot be changed safely while threads run, so the client is this test binary once more.
fn trusts_by_environment(address: SocketAddr, cert_file: &Path) -> (bool, String) {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["child_trusts_the_system", "--exact", "--ignored", "--nocapture"])
        .env(ADDRESS, address.to_string())
        .env("SSL_CERT_FILE", cert_file)
        .env_remove("SSL_CERT_DIR")
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(stdout.contains("running 1 test"), "{stdout}");
    (output.status.success(), stdout + &stderr)
}

#[tokio::test]
async fn without_a_ca_file_clients_trust_the_system() {
    let (dir, ours, other) = setup();
    let service = serve(&ours.server(dir.path(), None)).await;
    let child = async |cert_file: PathBuf| {
        tokio::task::spawn_blocking(move || trusts_by_environment(service.grpc, &cert_file)).await.unwrap()
    };
    let (trusts, output) = child(ours.ca.clone()).await;
    assert!(trusts, "{output}");
    let (trusts, output) = child(other.ca.clone()).await;
    assert!(!trusts && output.contains("UnknownIssuer"), "{output}");
    let (trusts, output) = child(dir.path().join("nowhere")).await;
    let expected = "no usable CA certificates were found on this system";
    assert!(!trusts && output.contains(expected) && output.contains("nowhere"), "{output}");
}

#[tokio::test]
#[ignore = "part of without_a_ca_file_clients_trust_the_system"]
async fn child_trusts_the_system() {
    let Ok(address) = std::env::var(ADDRESS) else { return };
    match ClientTls::load(&ClientTlsFiles::default()) {
        Ok(client) => health(address.parse().unwrap(), &client).await.unwrap(),
        Err(error) => panic!("{error}"),
    }
}
