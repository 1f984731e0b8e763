//! The three services in one process, on ports of their own.

// Each test file uses a part of it.
#![allow(dead_code)]

use std::net::SocketAddr;
use std::time::Duration;

use tandem_cli::client::{Answer, Client, connect, generate};
use tandem_cli::local::{Front, Local, PairArgs};
use tandem_proto::v1;
use tandem_proto::v1::target_client::TargetClient;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

pub(crate) const PROMPT: &str = include_str!("../../../../models/demo/prompt.txt");
pub(crate) const ANSWER: &str = " SELECT T1.brand FROM car AS T1 JOIN company AS T2 ON T1.company_id = T2.company_id WHERE T2.country = 'Norway'";

pub(crate) struct System {
    pub(crate) local: Local,
    pub(crate) client: Client,
}

pub(crate) async fn channel(address: SocketAddr) -> Channel {
    Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap()
}

impl System {
    pub(crate) async fn start() -> Self {
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        let local = Local::start(
            &PairArgs::default(),
            Front { http_listen: Some(loopback), ..Front::anywhere() },
            false,
        )
        .await
        .unwrap();
        let client = connect(&local.endpoint()).await.unwrap();
        Self { local, client }
    }

    pub(crate) async fn generate(&mut self, request: v1::GenerateRequest) -> Result<Answer, Status> {
        generate(&mut self.client, request, |_| ()).await
    }

    /// The services still work, and nothing is held for anybody.
    pub(crate) async fn assert_well(&mut self) {
        let text = self.generate(greedy(v1::Method::Mmtad)).await.unwrap();
        assert_eq!(text.text, ANSWER);
        self.assert_all_freed().await;
    }

    /// Closing is asynchronous: ask until it is done.
    pub(crate) async fn assert_all_freed(&self) {
        let mut target = TargetClient::new(channel(self.local.target).await);
        let freed = async {
            while self.local.kv_tokens_used() > 0 {
                // A round trip, so that the services get to run.
                target.get_model_info(v1::GetModelInfoRequest {}).await.unwrap();
            }
        };
        tokio::time::timeout(Duration::from_secs(10), freed).await.expect("KV-cache tokens are still held");
    }
}

pub(crate) fn statistics(answer: &Answer) -> v1::Statistics {
    answer.finished.statistics.clone().unwrap()
}

pub(crate) fn request(prompt: &str, method: v1::Method) -> v1::GenerateRequest {
    v1::GenerateRequest {
        input: Some(v1::generate_request::Input::Prompt(prompt.into())),
        max_new_tokens: Some(80),
        seed: Some(7),
        stop: vec![";".into()],
        decoding: Some(v1::DecodingParams { method: method.into(), ..v1::DecodingParams::default() }),
        ..v1::GenerateRequest::default()
    }
}

pub(crate) fn greedy(method: v1::Method) -> v1::GenerateRequest {
    v1::GenerateRequest { temperature: Some(0.0), ..request(PROMPT, method) }
}
