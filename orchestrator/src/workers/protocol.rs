//! The protocols of draft and target: their clients, and what a step requests and answers.

use std::future::Future;
use std::time::Duration;

use tandem_decoding::{Accepted, TokenTree};
use tandem_generation::{DraftRequest, Proposal, Role, ScoreRequest, Scores};
use tandem_proto::v1::draft_client::DraftClient;
use tandem_proto::v1::target_client::TargetClient;
use tandem_proto::{COMPUTE_HEADER, InvalidMessage, MAX_MESSAGE_BYTES, v1};
use tandem_serving::inject_trace_context;
use tokio::time::Instant;
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};

/// What every step sends to a worker.
pub(super) struct Step<'a> {
    pub(super) handle: v1::SessionHandle,
    pub(super) number: u64,
    pub(super) commit: Option<&'a Accepted>,
}

/// A service with sessions.
pub(super) trait SessionProtocol: Send + Sync + 'static {
    /// What a step requests.
    type Request: Sync;
    /// What it is answered.
    type Reply: Send;

    /// The model of this service of a worker.
    fn info(
        channel: Channel,
        timeout: Duration,
    ) -> impl Future<Output = Result<v1::ModelInfo, Status>> + Send;
    /// Opens a session.
    fn open(
        channel: Channel,
        open: v1::OpenSessionRequest,
        timeout: Duration,
    ) -> impl Future<Output = Result<v1::OpenSessionResponse, Status>> + Send;
    /// Runs a step. Also returns how much of the time it spent on the network.
    fn step(
        channel: Channel,
        step: Step<'_>,
        request: &Self::Request,
        timeout: Duration,
    ) -> impl Future<Output = Result<(Self::Reply, Duration), StepError>> + Send;
    /// Closes a session.
    fn close(
        channel: Channel,
        handle: v1::SessionHandle,
        timeout: Duration,
    ) -> impl Future<Output = Result<(), Status>> + Send;
    /// The tree that the next commit is about.
    fn tree<'a>(request: &'a Self::Request, reply: &'a Self::Reply) -> &'a TokenTree;
}

/// Why a step failed.
#[derive(Debug)]
pub(super) enum StepError {
    /// The worker, or the transport, answered with a status.
    Status(Status),
    /// The worker's reply is not valid.
    Invalid(InvalidMessage),
}

impl From<Status> for StepError {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

/// Awaits a worker's reply, body included, for at most `timeout`. The worker learns the timeout, and gives up as well; the trace
/// continues there. Also returns how much of the time was spent on the network.
pub(super) async fn call<M, R>(
    timeout: Duration,
    message: M,
    send: impl AsyncFnOnce(Request<M>) -> Result<Response<R>, Status>,
) -> Result<(R, Duration), Status> {
    let late = || Status::deadline_exceeded(format!("no reply within {:.1} s", timeout.as_secs_f64()));
    let mut request = Request::new(message);
    request.set_timeout(timeout);
    inject_trace_context(request.metadata_mut().as_mut());
    let begun = Instant::now();
    match tokio::time::timeout(timeout, send(request)).await {
        Ok(Ok(response)) => {
            let took = begun.elapsed();
            let network = took.saturating_sub(compute(response.metadata()).unwrap_or(took));
            Ok((response.into_inner(), network))
        }
        // What tonic makes of the same deadline, on either side.
        Ok(Err(status)) if status.code() == Code::Cancelled => Err(late()),
        Ok(Err(status)) => Err(status),
        Err(_) => Err(late()),
    }
}

/// How long the worker took, if it says so.
fn compute(metadata: &MetadataMap) -> Option<Duration> {
    let micros = metadata.get(COMPUTE_HEADER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_micros(micros))
}

/// The model that a worker of this role serves.
pub(super) async fn model_info(
    role: Role,
    channel: Channel,
    timeout: Duration,
) -> Result<v1::ModelInfo, Status> {
    match role {
        Role::Draft => DraftProtocol::info(channel, timeout).await,
        Role::Target => TargetProtocol::info(channel, timeout).await,
    }
}

/// The calls that are the same for both, by the client that `$client` makes of a channel: tonic generates a type for each.
macro_rules! session_calls {
    ($client:ident) => {
        async fn info(channel: Channel, timeout: Duration) -> Result<v1::ModelInfo, Status> {
            call(timeout, v1::GetModelInfoRequest {}, async |r| $client(channel).get_model_info(r).await)
                .await
                .map(|(info, _)| info)
        }

        async fn open(
            channel: Channel,
            open: v1::OpenSessionRequest,
            timeout: Duration,
        ) -> Result<v1::OpenSessionResponse, Status> {
            call(timeout, open, async |r| $client(channel).open_session(r).await)
                .await
                .map(|(opened, _)| opened)
        }

        async fn close(channel: Channel, handle: v1::SessionHandle, timeout: Duration) -> Result<(), Status> {
            let message = v1::CloseSessionRequest { handle: Some(handle) };
            call(timeout, message, async |r| $client(channel).close_session(r).await).await.map(drop)
        }
    };
}

/// The protocol of a draft, and of a target that drafts for itself.
pub(super) struct DraftProtocol;

fn draft(channel: Channel) -> DraftClient<Channel> {
    DraftClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES)
}

impl SessionProtocol for DraftProtocol {
    type Request = DraftRequest;
    type Reply = Proposal;

    session_calls!(draft);

    async fn step(
        channel: Channel,
        step: Step<'_>,
        request: &DraftRequest,
        timeout: Duration,
    ) -> Result<(Proposal, Duration), StepError> {
        let message = v1::ProposeRequest {
            handle: Some(step.handle),
            step: step.number,
            commit: step.commit.map(Into::into),
            shape: Some((&request.drafting).into()),
            log_probs: request.log_probs,
        };
        let (reply, network) = call(timeout, message, async |r| draft(channel).propose(r).await).await?;
        let proposal = reply.into_proposal(request).map_err(StepError::Invalid)?;
        Ok((proposal, network))
    }

    fn tree<'a>(_: &'a DraftRequest, proposal: &'a Proposal) -> &'a TokenTree {
        &proposal.draft.tree
    }
}

/// The protocol of a target.
pub(super) struct TargetProtocol;

/// A tree to score.
pub(super) struct TreeToScore {
    pub(super) tree: TokenTree,
    pub(super) request: ScoreRequest,
}

fn target(channel: Channel) -> TargetClient<Channel> {
    TargetClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES)
}

impl SessionProtocol for TargetProtocol {
    type Request = TreeToScore;
    type Reply = Scores;

    session_calls!(target);

    async fn step(
        channel: Channel,
        step: Step<'_>,
        to_score: &TreeToScore,
        timeout: Duration,
    ) -> Result<(Scores, Duration), StepError> {
        let message = v1::ScoreTreeRequest {
            handle: Some(step.handle),
            step: step.number,
            commit: step.commit.map(Into::into),
            tree: Some((&to_score.tree).into()),
            distributions: to_score.request.distributions,
            log_probs: to_score.request.log_probs,
            top_log_probs: u32::try_from(to_score.request.top_log_probs).unwrap_or(u32::MAX),
        };
        let (reply, network) = call(timeout, message, async |r| target(channel).score_tree(r).await).await?;
        let scores = reply.into_scores(&to_score.tree, to_score.request).map_err(StepError::Invalid)?;
        Ok((scores, network))
    }

    fn tree<'a>(to_score: &'a TreeToScore, _: &'a Scores) -> &'a TokenTree {
        &to_score.tree
    }
}
