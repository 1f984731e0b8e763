//! What differs between a draft and a target: the client, and what a step asks and answers.

use std::future::Future;
use std::time::Duration;

use tandem_decoding::{Accepted, TokenTree};
use tandem_proto::v1::draft_client::DraftClient;
use tandem_proto::v1::target_client::TargetClient;
use tandem_proto::{COMPUTE_HEADER, Fault, MAX_MESSAGE_BYTES, Propose, Scores, Wanted, v1};
use tandem_serving::inject_trace_context;
use tokio::time::Instant;
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};

use super::WorkerKind;
use crate::Proposal;

/// A step as a worker gets it.
pub(super) struct Step<'a> {
    pub(super) handle: v1::SessionHandle,
    pub(super) number: u64,
    pub(super) commit: Option<&'a Accepted>,
}

/// A service with sessions.
pub(super) trait Role: Send + Sync + 'static {
    /// What a step asks.
    type Ask: Sync;
    /// What it gets.
    type Answer: Send;

    /// The model behind this face of a worker.
    fn info(channel: Channel, within: Duration)
    -> impl Future<Output = Result<v1::ModelInfo, Status>> + Send;
    /// Opens a session.
    fn open(
        channel: Channel,
        open: v1::OpenSessionRequest,
        within: Duration,
    ) -> impl Future<Output = Result<v1::OpenSessionResponse, Status>> + Send;
    /// Runs a step; also how much of the time it was on the way there and back.
    fn step(
        channel: Channel,
        step: Step<'_>,
        ask: &Self::Ask,
        within: Duration,
    ) -> impl Future<Output = Result<(Self::Answer, Duration), StepError>> + Send;
    /// Closes a session.
    fn close(
        channel: Channel,
        handle: v1::SessionHandle,
        within: Duration,
    ) -> impl Future<Output = Result<(), Status>> + Send;
    /// The tree that the next commit is about.
    fn tree<'a>(ask: &'a Self::Ask, answer: &'a Self::Answer) -> &'a TokenTree;
}

/// Why a step failed.
#[derive(Debug)]
pub(super) enum StepError {
    /// What the worker, or the way to it, said.
    Status(Status),
    /// What it said makes no sense.
    Broken(Fault),
}

impl From<Status> for StepError {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

/// Awaits a worker's reply, for at most `within`, the body included; the worker is told, and gives up as well. Also how much of that
/// time was none of the worker's; the trace goes on there.
pub(super) async fn call<M, R>(
    within: Duration,
    message: M,
    send: impl AsyncFnOnce(Request<M>) -> Result<Response<R>, Status>,
) -> Result<(R, Duration), Status> {
    let late = || Status::deadline_exceeded(format!("no reply within {:.1} s", within.as_secs_f64()));
    let mut request = Request::new(message);
    request.set_timeout(within);
    inject_trace_context(request.metadata_mut().as_mut());
    let begun = Instant::now();
    match tokio::time::timeout(within, send(request)).await {
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

/// The model that a worker of `kind` serves.
pub(super) async fn model_info(
    kind: WorkerKind,
    channel: Channel,
    within: Duration,
) -> Result<v1::ModelInfo, Status> {
    match kind {
        WorkerKind::Draft => Proposes::info(channel, within).await,
        WorkerKind::Target => Judges::info(channel, within).await,
    }
}

/// The calls that are the same for both, by the client that `$client` makes of a channel: tonic generates a type for each.
macro_rules! session_calls {
    ($client:ident) => {
        async fn info(channel: Channel, within: Duration) -> Result<v1::ModelInfo, Status> {
            let asked = v1::GetModelInfoRequest {};
            call(within, asked, async |r| $client(channel).get_model_info(r).await)
                .await
                .map(|(info, _)| info)
        }

        async fn open(
            channel: Channel,
            open: v1::OpenSessionRequest,
            within: Duration,
        ) -> Result<v1::OpenSessionResponse, Status> {
            call(within, open, async |r| $client(channel).open_session(r).await)
                .await
                .map(|(opened, _)| opened)
        }

        async fn close(channel: Channel, handle: v1::SessionHandle, within: Duration) -> Result<(), Status> {
            let message = v1::CloseSessionRequest { handle: Some(handle) };
            call(within, message, async |r| $client(channel).close_session(r).await).await.map(drop)
        }
    };
}

/// A draft, or the draft face of a target.
pub(super) struct Proposes;

fn draft(channel: Channel) -> DraftClient<Channel> {
    DraftClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES)
}

impl Role for Proposes {
    type Ask = Propose;
    type Answer = Proposal;

    session_calls!(draft);

    async fn step(
        channel: Channel,
        step: Step<'_>,
        ask: &Propose,
        within: Duration,
    ) -> Result<(Proposal, Duration), StepError> {
        let message = v1::ProposeRequest {
            handle: Some(step.handle),
            step: step.number,
            commit: step.commit.map(Into::into),
            shape: Some((&ask.drafting).into()),
            log_probs: ask.log_probs,
        };
        let (reply, network) = call(within, message, async |r| draft(channel).propose(r).await).await?;
        let (draft, log_probs) = reply.into_draft(ask).map_err(StepError::Broken)?;
        Ok((Proposal { draft, log_probs }, network))
    }

    fn tree<'a>(_: &'a Propose, answer: &'a Proposal) -> &'a TokenTree {
        &answer.draft.tree
    }
}

/// A target.
pub(super) struct Judges;

/// A tree to score.
pub(super) struct ScoreAsk {
    pub(super) tree: TokenTree,
    pub(super) wanted: Wanted,
}

fn target(channel: Channel) -> TargetClient<Channel> {
    TargetClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES)
}

impl Role for Judges {
    type Ask = ScoreAsk;
    type Answer = Scores;

    session_calls!(target);

    async fn step(
        channel: Channel,
        step: Step<'_>,
        ask: &ScoreAsk,
        within: Duration,
    ) -> Result<(Scores, Duration), StepError> {
        let message = v1::ScoreTreeRequest {
            handle: Some(step.handle),
            step: step.number,
            commit: step.commit.map(Into::into),
            tree: Some((&ask.tree).into()),
            distributions: ask.wanted.distributions,
            log_probs: ask.wanted.log_probs,
            top_log_probs: u32::try_from(ask.wanted.top_log_probs).unwrap_or(u32::MAX),
        };
        let (reply, network) = call(within, message, async |r| target(channel).score_tree(r).await).await?;
        let scores = reply.into_scores(&ask.tree, ask.wanted).map_err(StepError::Broken)?;
        Ok((scores, network))
    }

    fn tree<'a>(ask: &'a ScoreAsk, _: &'a Scores) -> &'a TokenTree {
        &ask.tree
    }
}
