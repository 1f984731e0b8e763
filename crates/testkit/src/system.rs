//! The three services with the bundled pair, and requests to them.

use std::net::SocketAddr;
use std::time::Duration;

use tandem_engine::{EngineConfig, KvBudget};
use tandem_orchestrator::Tcp;
use tandem_proto::v1::generation_client::GenerationClient;
use tandem_proto::v1::target_client::TargetClient;
use tandem_proto::{Answer, MAX_MESSAGE_BYTES, v1};
use tonic::Status;
use tonic::body::Body;
use tonic::client::GrpcService;
use tonic::codegen::{Body as HttpBody, Bytes, StdError};
use tonic::transport::{Channel, Endpoint};

use crate::services::{
    Services, bundled_model, loopback_listener, orchestrator_config, orchestrator_serving, worker_config,
};

/// A question in the form that the bundled pair was trained on.
pub const PROMPT: &str = include_str!("../../../models/demo/prompt.txt");
/// The greedy answer to [`PROMPT`], up to the stop sequence `;`.
pub const ANSWER: &str = " SELECT T1.brand FROM car AS T1 JOIN company AS T2 ON T1.company_id = T2.company_id WHERE T2.country = 'Norway'";
/// How long sessions that were closed may hold their KV-cache tokens.
const FREE_TIMEOUT: Duration = Duration::from_secs(10);

/// The three services in this process, on loopback ports, with real gRPC between them.
pub struct System {
    /// The address of the draft service.
    pub draft: SocketAddr,
    /// The address of the target service.
    pub target: SocketAddr,
    /// The address of the orchestrator's gRPC API.
    pub orchestrator: SocketAddr,
    /// The address of the orchestrator's HTTP API.
    pub http: SocketAddr,
    /// A client of the orchestrator.
    pub client: GenerationClient<Channel>,
    budgets: [KvBudget; 2],
    _services: Services,
}

impl System {
    /// Loads the bundled pair, starts the services, and connects a client.
    pub async fn start() -> Self {
        Self::start_pair(&bundled_model("demo/draft"), &bundled_model("demo/target")).await
    }

    /// The same with other models.
    pub async fn start_pair(draft: &EngineConfig, target: &EngineConfig) -> Self {
        let services = Services::default();
        // One after the other: each measures its passes and the free memory undisturbed.
        let draft_model = draft.start(None).await.unwrap();
        let target_model = target.start(None).await.unwrap();
        let budgets = [draft_model.budget().clone(), target_model.budget().clone()];
        let worker = worker_config("");
        let draft = services.serve(tandem_draft_service::serving(draft_model, &worker), None).await;
        let target = services.serve(tandem_target_service::serving(target_model, &worker), None).await;
        let workers = format!("--connect-seconds 10 --draft http://{draft} --target http://{target}");
        let config = orchestrator_config(&workers);
        let http_listener = loopback_listener().await;
        let http = http_listener.local_addr().unwrap();
        let network = Tcp::default().shared();
        let serving = orchestrator_serving(&config, network, Some(http_listener));
        let orchestrator = services.serve(serving.await.unwrap(), None).await;
        let client = GenerationClient::new(channel(orchestrator).await);
        let client = client.max_decoding_message_size(MAX_MESSAGE_BYTES);
        Self { draft, target, orchestrator, http, client, budgets, _services: services }
    }

    /// The URL of the orchestrator.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.orchestrator)
    }

    /// KV-cache tokens that sessions of both workers hold now.
    pub fn kv_tokens_used(&self) -> usize {
        self.budgets.iter().map(KvBudget::used).sum()
    }

    /// Runs a request to its end.
    pub async fn generate(&mut self, request: v1::GenerateRequest) -> Result<Answer, Status> {
        generate(&mut self.client, request).await
    }

    /// The services still answer, and no session is left.
    pub async fn assert_well(&mut self) {
        let answer = self.generate(greedy(v1::Method::Mmtad)).await.unwrap();
        assert_eq!(answer.text, ANSWER);
        self.assert_all_freed().await;
    }

    /// No session holds KV-cache tokens. Closing is asynchronous, so this polls until that is so.
    pub async fn assert_all_freed(&self) {
        let mut target = TargetClient::new(channel(self.target).await);
        let freed = async {
            while self.kv_tokens_used() > 0 {
                // A round trip, so that the services get to run.
                target.get_model_info(v1::GetModelInfoRequest {}).await.unwrap();
            }
        };
        tokio::time::timeout(FREE_TIMEOUT, freed).await.expect("KV-cache tokens are still held");
    }
}

/// Runs a request to its end.
pub async fn generate<T>(
    client: &mut GenerationClient<T>,
    request: v1::GenerateRequest,
) -> Result<Answer, Status>
where
    T: GrpcService<Body>,
    T::Error: Into<StdError>,
    T::ResponseBody: HttpBody<Data = Bytes> + Send + 'static,
    <T::ResponseBody as HttpBody>::Error: Into<StdError> + Send,
{
    Answer::collect(client.generate(request).await?.into_inner(), |_| {}).await
}

/// Connects to a service without TLS.
pub async fn channel(address: SocketAddr) -> Channel {
    Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap()
}

/// The statistics of a finished generation.
pub fn statistics(answer: &Answer) -> v1::Statistics {
    answer.finished.statistics.clone().unwrap()
}

/// A request for up to 80 tokens, with a fixed seed and the stop sequence `;`.
pub fn request(prompt: &str, method: v1::Method) -> v1::GenerateRequest {
    v1::GenerateRequest {
        input: Some(v1::generate_request::Input::Prompt(prompt.into())),
        max_new_tokens: Some(80),
        seed: Some(7),
        stop: vec![";".into()],
        decoding: Some(v1::DecodingParams { method: method.into(), ..v1::DecodingParams::default() }),
        ..v1::GenerateRequest::default()
    }
}

/// The request whose answer is [`ANSWER`].
pub fn greedy(method: v1::Method) -> v1::GenerateRequest {
    v1::GenerateRequest { temperature: Some(0.0), ..request(PROMPT, method) }
}
