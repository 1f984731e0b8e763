//! The services in one process, connected in memory, and what is done to them.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arbitrary::{Error, Result, Unstructured};
use clap::Parser;
use hyper_util::rt::TokioIo;
use tandem_engine::{KvBudget, ModelThread};
use tandem_orchestrator::{Boxed, Network, OrchestratorArgs, Pair};
use tandem_proto::v1::draft_client::DraftClient;
use tandem_proto::v1::draft_server::DraftServer;
use tandem_proto::v1::generation_client::GenerationClient;
use tandem_proto::v1::target_client::TargetClient;
use tandem_proto::v1::target_server::TargetServer;
use tandem_proto::{FILE_DESCRIPTOR_SET, v1};
use tandem_serving::{Metrics, Serving, Shutdown};
use tandem_worker::WorkerArgs;
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::service::RoutesBuilder;
use tonic::transport::{Channel, Endpoint};

use super::lies::Liar;
use super::messages as make;
use crate::sim::{DRAFT, TARGET};

/// What no request takes, on the simulated clock: beyond it, it hangs.
const HANGS: Duration = Duration::from_secs(120);
/// Calls of one input.
const CALLS: usize = 24;

/// Services by host name, connected in memory.
#[derive(Clone, Default)]
struct Memory(Arc<Mutex<HashMap<u8, mpsc::Sender<io::Result<DuplexStream>>>>>);

const DRAFT_HOST: u8 = 1;
const TARGET_HOST: u8 = 2;
const ORCHESTRATOR_HOST: u8 = 3;

impl Memory {
    fn serve(&self, host: u8, serving: Serving) {
        let (connect, connections) = mpsc::channel(8);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(host, connect);
        tokio::spawn(serving.run(ReceiverStream::new(connections), Shutdown::new()));
    }

    fn channel_to(&self, endpoint: &Endpoint) -> Channel {
        let memory = self.clone();
        endpoint.connect_with_connector_lazy(tower::service_fn(move |uri: tonic::transport::Uri| {
            let port = uri.port_u16().and_then(|port| u8::try_from(port).ok()).unwrap_or_default();
            let host = memory.0.lock().unwrap_or_else(PoisonError::into_inner).get(&port).cloned();
            async move {
                let (near, far) = tokio::io::duplex(64 << 10);
                let host = host.ok_or_else(|| io::Error::other("no such host"))?;
                host.send(Ok(far)).await.map_err(io::Error::other)?;
                Ok::<_, io::Error>(TokioIo::new(near))
            }
        }))
    }

    fn channel(&self, host: u8) -> Channel {
        self.channel_to(&Endpoint::from_static(match host {
            DRAFT_HOST => "http://memory:1",
            TARGET_HOST => "http://memory:2",
            _ => "http://memory:3",
        }))
    }
}

impl Network for Memory {
    fn resolve(&self, _: String, port: u16) -> Boxed<io::Result<Vec<SocketAddr>>> {
        Box::pin(async move { Ok(vec![SocketAddr::from(([127, 0, 0, 1], port))]) })
    }

    fn channel(&self, endpoint: Endpoint, _: Option<String>) -> Channel {
        self.channel_to(&endpoint)
    }
}

/// Starts workers, honest or not, and an orchestrator.
async fn start(u: &mut Unstructured<'_>, honest: bool) -> Result<(Memory, Vec<KvBudget>)> {
    let memory = Memory::default();
    let mut budgets = Vec::new();
    if honest {
        let args = WorkerArgs::try_parse_from(["worker", "--model", "toy", "--max-sessions", "8"]);
        let args = args.map_err(|_| Error::IncorrectFormat)?;
        let draft = ModelThread::start_as_task(DRAFT.loaded("draft", 2000));
        let target = ModelThread::start_as_task(TARGET.loaded("target", 2000));
        budgets.extend([draft.budget().clone(), target.budget().clone()]);
        memory.serve(DRAFT_HOST, tandem_draft_service::serving(draft, &args));
        memory.serve(TARGET_HOST, tandem_target_service::serving(target, &args));
    } else {
        // Half of the bytes, so that some are left for the requests.
        let liar = lie(&mut Unstructured::new(u.bytes(u.len() / 2)?));
        let serving = |name, routes| Serving {
            name,
            routes,
            descriptors: FILE_DESCRIPTOR_SET,
            admission: Vec::new(),
            metrics: Metrics::default(),
            http: None,
            grace: Duration::ZERO,
        };
        let (mut draft, mut target) = (RoutesBuilder::default(), RoutesBuilder::default());
        draft.add_service(DraftServer::new(liar.clone()));
        target.add_service(TargetServer::new(liar.clone())).add_service(DraftServer::new(liar));
        memory.serve(DRAFT_HOST, serving("tandem.v1.Draft", draft));
        memory.serve(TARGET_HOST, serving("tandem.v1.Target", target));
    }
    // A worker that is busy for ever is waited for as long as the request may last: not long, here.
    let flags = "orchestrator --draft http://memory:1 --target http://memory:2 --failover-seconds 5 --max-request-seconds 60";
    let args = OrchestratorArgs::try_parse_from(flags.split(' ')).map_err(|_| Error::IncorrectFormat)?;
    let (patience, limits) = (Duration::from_secs(10), args.limits.workers());
    let pair = Pair::connect(args.names(), patience, limits, Arc::new(memory.clone())).await;
    #[allow(clippy::expect_used, reason = "workers that answer these questions rightly")]
    let pair = pair.expect("the workers are there");
    memory.serve(ORCHESTRATOR_HOST, tandem_orchestrator::serving(pair, &args, None));
    Ok((memory, budgets))
}

/// As many lies as the bytes are good for.
fn lie(u: &mut Unstructured<'_>) -> Liar {
    let liar = Liar::default();
    for _ in 0..CALLS {
        let Ok((proposal, scores, handle)) = one_lie(u) else { break };
        liar.proposals.lock().unwrap_or_else(PoisonError::into_inner).push_back(proposal);
        liar.scores.lock().unwrap_or_else(PoisonError::into_inner).push_back(scores);
        liar.handles.lock().unwrap_or_else(PoisonError::into_inner).push_back(handle);
    }
    liar
}

fn one_lie(
    u: &mut Unstructured<'_>,
) -> Result<(v1::ProposeResponse, v1::ScoreTreeResponse, v1::SessionHandle)> {
    let nodes = u.int_in_range(0..=6)?;
    let handle = v1::SessionHandle { incarnation: 1, ..make::handle(u)? };
    Ok((make::proposal(u)?, make::scores(u, nodes)?, handle))
}

/// Lets clients do what the bytes say.
pub(super) async fn exercise(u: &mut Unstructured<'_>) -> Result<()> {
    let honest = u.ratio(3, 4)?;
    let (memory, budgets) = start(u, honest).await?;
    let mut client = Client {
        draft: DraftClient::new(memory.channel(DRAFT_HOST)),
        target: TargetClient::new(memory.channel(TARGET_HOST)),
        generation: GenerationClient::new(memory.channel(ORCHESTRATOR_HOST)),
        drafts: Vec::new(),
        targets: Vec::new(),
    };
    let mut result = Ok(());
    for _ in 0..CALLS {
        if u.is_empty() {
            break;
        }
        result = client.call(u, honest).await;
        if result.is_err() {
            break;
        }
    }
    client.close().await;
    let freed = async {
        while budgets.iter().any(|b| b.used() > 0) {
            tokio::time::sleep_until(tokio::time::Instant::now() + Duration::from_millis(50)).await;
        }
    };
    assert!(within(freed).await.is_some(), "rows of KV cache stay held");
    result
}

async fn within<T>(what: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(HANGS, what).await.ok()
}

struct Client {
    draft: DraftClient<Channel>,
    target: TargetClient<Channel>,
    generation: GenerationClient<Channel>,
    /// Handles, and the next step of each.
    drafts: Vec<(v1::SessionHandle, u64)>,
    targets: Vec<(v1::SessionHandle, u64)>,
}

impl Client {
    async fn call(&mut self, u: &mut Unstructured<'_>, honest: bool) -> Result<()> {
        let answered = match if honest { u.int_in_range(0..=5)? } else { 5 } {
            0 => {
                let opened = within(self.draft.open_session(make::open(u)?)).await;
                opened.map(|o| self.drafts.extend(handle_of(o)))
            }
            1 => {
                let opened = within(self.target.open_session(make::open(u)?)).await;
                opened.map(|o| self.targets.extend(handle_of(o)))
            }
            2 => {
                let at = pick(u, self.drafts.len())?;
                let request = make::propose(u, at.map(|i| self.drafts[i]))?;
                let answer = within(self.draft.propose(request.clone())).await;
                answer.map(|a| step(&mut self.drafts, at, request.handle, a.is_ok()))
            }
            3 => {
                let at = pick(u, self.targets.len())?;
                let request = make::score(u, at.map(|i| self.targets[i]))?;
                let answer = within(self.target.score_tree(request.clone())).await;
                answer.map(|a| step(&mut self.targets, at, request.handle, a.is_ok()))
            }
            4 => {
                let handle = Some(make::handle(u)?);
                let close = v1::CloseSessionRequest { handle };
                within(self.target.close_session(close)).await.map(drop)
            }
            _ => self.generate(make::generate(u)?).await,
        };
        assert!(answered.is_some(), "a request hangs");
        Ok(())
    }

    async fn generate(&mut self, request: v1::GenerateRequest) -> Option<()> {
        let mut client = self.generation.clone();
        within(async move {
            let Ok(events) = client.generate(request).await else { return };
            let mut events = events.into_inner();
            while let Ok(Some(_)) = events.message().await {}
        })
        .await
    }

    async fn close(&mut self) {
        for (handle, _) in self.drafts.drain(..) {
            let _ = self.draft.close_session(v1::CloseSessionRequest { handle: Some(handle) }).await;
        }
        for (handle, _) in self.targets.drain(..) {
            let _ = self.target.close_session(v1::CloseSessionRequest { handle: Some(handle) }).await;
        }
    }
}

fn handle_of(
    opened: std::result::Result<tonic::Response<v1::OpenSessionResponse>, Status>,
) -> Option<(v1::SessionHandle, u64)> {
    opened.ok()?.into_inner().handle.map(|handle| (handle, 1))
}

fn pick(u: &mut Unstructured<'_>, count: usize) -> Result<Option<usize>> {
    if count == 0 || u.ratio(1, 10)? { Ok(None) } else { u.choose_index(count).map(Some) }
}

/// A step that was taken is the last one.
fn step(
    sessions: &mut [(v1::SessionHandle, u64)],
    at: Option<usize>,
    handle: Option<v1::SessionHandle>,
    taken: bool,
) {
    if let (Some(at), Some(handle), true) = (at, handle, taken) {
        sessions[at] = (handle, sessions[at].1 + 1);
    }
}
