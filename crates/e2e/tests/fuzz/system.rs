//! The services in one process, connected in memory, and what clients do to them.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use arbitrary::{Result, Unstructured};
use tandem_engine::{KvBudget, ModelThread};
use tandem_proto::v1::draft_client::DraftClient;
use tandem_proto::v1::draft_server::DraftServer;
use tandem_proto::v1::generation_client::GenerationClient;
use tandem_proto::v1::target_client::TargetClient;
use tandem_proto::v1::target_server::TargetServer;
use tandem_proto::{FILE_DESCRIPTOR_SET, v1};
use tandem_serving::{Metrics, Serving};
use tandem_testkit::{ToyModel, orchestrator_config, orchestrator_serving, worker_config};
use tokio::time::{sleep, timeout};
use tonic::service::RoutesBuilder;
use tonic::transport::Channel;
use tonic::{Response, Status};

use super::lies::Liar;
use super::memory::MemoryNetwork;
use super::messages as make;

/// A request that takes longer, on the simulated clock, hangs.
const HANGS_AFTER: Duration = Duration::from_secs(120);
/// How often budgets are checked once all sessions are closed.
const FREED_POLL: Duration = Duration::from_millis(50);
/// Calls of one input.
const CALLS: usize = 24;
/// KV-cache tokens of a worker.
const KV_TOKENS: usize = 2000;

const DRAFT_PORT: u16 = 1;
const TARGET_PORT: u16 = 2;
const ORCHESTRATOR_PORT: u16 = 3;

/// Lets clients do what the bytes choose.
pub(super) async fn exercise(u: &mut Unstructured<'_>) -> Result<()> {
    let network = MemoryNetwork::default();
    let honest = u.ratio(3, 4)?;
    let budgets = if honest { start_workers(&network) } else { start_liars(&network, u)? };
    start_orchestrator(&network).await;
    let mut client = Client {
        draft: DraftClient::new(network.connect(DRAFT_PORT)),
        target: TargetClient::new(network.connect(TARGET_PORT)),
        generation: GenerationClient::new(network.connect(ORCHESTRATOR_PORT)),
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
    assert!(before_hanging(all_freed(&budgets)).await.is_some(), "rows of KV cache stay held");
    result
}

/// Starts workers with toy models, and returns their budgets.
fn start_workers(network: &MemoryNetwork) -> Vec<KvBudget> {
    let args = worker_config("--max-sessions 8");
    let draft = ModelThread::start_as_task(ToyModel::DRAFT.loaded("draft", KV_TOKENS));
    let target = ModelThread::start_as_task(ToyModel::TARGET.loaded("target", KV_TOKENS));
    let budgets = vec![draft.budget().clone(), target.budget().clone()];
    network.serve(DRAFT_PORT, tandem_draft_service::serving(draft, &args));
    network.serve(TARGET_PORT, tandem_target_service::serving(target, &args));
    budgets
}

/// Starts workers whose replies are drawn from the bytes.
fn start_liars(network: &MemoryNetwork, u: &mut Unstructured<'_>) -> Result<Vec<KvBudget>> {
    // From half of the bytes, so that some are left for the requests.
    let liar = draw_lies(&mut Unstructured::new(u.bytes(u.len() / 2)?));
    let mut draft = RoutesBuilder::default();
    draft.add_service(DraftServer::new(liar.clone()));
    network.serve(DRAFT_PORT, bare_serving("tandem.v1.Draft", draft));
    let mut target = RoutesBuilder::default();
    target.add_service(TargetServer::new(liar.clone())).add_service(DraftServer::new(liar));
    network.serve(TARGET_PORT, bare_serving("tandem.v1.Target", target));
    Ok(Vec::new())
}

/// A service with nothing but its routes.
fn bare_serving(name: &'static str, routes: RoutesBuilder) -> Serving {
    Serving {
        name,
        routes,
        descriptors: FILE_DESCRIPTOR_SET,
        admission: Vec::new(),
        metrics: Metrics::default(),
        http: None,
        grace: Duration::ZERO,
    }
}

async fn start_orchestrator(network: &MemoryNetwork) {
    // The orchestrator waits for a busy worker as long as a request may last, so that must not be long.
    let args = orchestrator_config(
        "--connect-seconds 10 --draft http://memory:1 --target http://memory:2 --failover-seconds 5 --max-request-seconds 60",
    );
    let shared = Arc::new(network.clone());
    let serving = orchestrator_serving(&args, shared, None).await;
    network.serve(ORCHESTRATOR_PORT, serving.unwrap());
}

/// As many replies as the bytes are good for.
fn draw_lies(u: &mut Unstructured<'_>) -> Liar {
    let liar = Liar::default();
    for _ in 0..CALLS {
        let Ok((proposal, scores, handle)) = draw_lie(u) else { break };
        liar.proposals.lock().unwrap_or_else(PoisonError::into_inner).push_back(proposal);
        liar.scores.lock().unwrap_or_else(PoisonError::into_inner).push_back(scores);
        liar.handles.lock().unwrap_or_else(PoisonError::into_inner).push_back(handle);
    }
    liar
}

fn draw_lie(
    u: &mut Unstructured<'_>,
) -> Result<(v1::ProposeResponse, v1::ScoreTreeResponse, v1::SessionHandle)> {
    let nodes = u.int_in_range(0..=6)?;
    let handle = v1::SessionHandle { incarnation: 1, ..make::handle(u)? };
    Ok((make::proposal(u)?, make::scores(u, nodes)?, handle))
}

async fn all_freed(budgets: &[KvBudget]) {
    while budgets.iter().any(|budget| budget.used() > 0) {
        #[allow(
            clippy::disallowed_methods,
            reason = "the clock is simulated, and a budget has no event to await"
        )]
        sleep(FREED_POLL).await;
    }
}

/// The output of `future`, or `None` if it hangs.
async fn before_hanging<T>(future: impl Future<Output = T>) -> Option<T> {
    timeout(HANGS_AFTER, future).await.ok()
}

struct Client {
    draft: DraftClient<Channel>,
    target: TargetClient<Channel>,
    generation: GenerationClient<Channel>,
    /// Handle and next step of each open session.
    drafts: Vec<(v1::SessionHandle, u64)>,
    targets: Vec<(v1::SessionHandle, u64)>,
}

impl Client {
    /// Makes the call that the bytes choose. Only the orchestrator is called if the workers are not honest.
    async fn call(&mut self, u: &mut Unstructured<'_>, honest: bool) -> Result<()> {
        let answered = match if honest { u.int_in_range(0..=5)? } else { 5 } {
            0 => {
                let opened = before_hanging(self.draft.open_session(make::open(u)?)).await;
                opened.map(|o| self.drafts.extend(handle_of(o)))
            }
            1 => {
                let opened = before_hanging(self.target.open_session(make::open(u)?)).await;
                opened.map(|o| self.targets.extend(handle_of(o)))
            }
            2 => {
                let at = pick(u, self.drafts.len())?;
                let request = make::propose(u, at.map(|i| self.drafts[i]))?;
                let answer = before_hanging(self.draft.propose(request.clone())).await;
                answer.map(|a| step(&mut self.drafts, at, request.handle, a.is_ok()))
            }
            3 => {
                let at = pick(u, self.targets.len())?;
                let request = make::score(u, at.map(|i| self.targets[i]))?;
                let answer = before_hanging(self.target.score_tree(request.clone())).await;
                answer.map(|a| step(&mut self.targets, at, request.handle, a.is_ok()))
            }
            4 => {
                let handle = Some(make::handle(u)?);
                let close = v1::CloseSessionRequest { handle };
                before_hanging(self.target.close_session(close)).await.map(drop)
            }
            _ => self.generate(make::generate(u)?).await,
        };
        assert!(answered.is_some(), "a request hangs");
        Ok(())
    }

    async fn generate(&mut self, request: v1::GenerateRequest) -> Option<()> {
        let mut client = self.generation.clone();
        before_hanging(async move {
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
    opened: std::result::Result<Response<v1::OpenSessionResponse>, Status>,
) -> Option<(v1::SessionHandle, u64)> {
    opened.ok()?.into_inner().handle.map(|handle| (handle, 1))
}

/// An index below `count`, or one time in ten none.
fn pick(u: &mut Unstructured<'_>, count: usize) -> Result<Option<usize>> {
    if count == 0 || u.ratio(1, 10)? { Ok(None) } else { u.choose_index(count).map(Some) }
}

/// Records a step that a worker took.
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
