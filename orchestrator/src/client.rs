//! The two workers over gRPC.

use std::time::Duration;

use tandem_decoding::{Accepted, DraftTree, TokenTree};
use tandem_proto::v1::draft_client::DraftClient;
use tandem_proto::v1::target_client::TargetClient;
use tandem_proto::{Fault, OpenSession, ProposeShape, SessionRef, v1};
use tonic::transport::Channel;
use tonic::{Request, Status};

use crate::{DraftSession, Drafter, GenerateError, Scored, Scorer, TargetSession};

/// A draft service.
#[derive(Clone)]
pub struct GrpcDrafter {
    pub(crate) client: DraftClient<Channel>,
    pub(crate) timeout: Duration,
}

/// A target service.
#[derive(Clone)]
pub struct GrpcScorer {
    pub(crate) client: TargetClient<Channel>,
    pub(crate) timeout: Duration,
}

/// Where a session stands.
struct Progress {
    session: SessionRef,
    step: u64,
    timeout: Duration,
}

impl Progress {
    fn new(
        worker: &'static str,
        reply: v1::OpenSessionResponse,
        timeout: Duration,
    ) -> Result<Self, GenerateError> {
        let session = SessionRef::try_from(reply.handle).map_err(|e| broken(worker, e))?;
        Ok(Self { session, step: 0, timeout })
    }

    /// The next step, behind `commit`: its number and its handle.
    fn advance(&mut self, commit: Option<&Accepted>) -> (u64, v1::SessionHandle) {
        self.step += 1;
        self.session.committed += commit.map_or(0, |c| c.path.len() + 1);
        (self.step, self.session.into())
    }

    /// A request that the worker gives up on together with us.
    fn request<T>(&self, message: T) -> Request<T> {
        timed(message, self.timeout)
    }
}

fn timed<T>(message: T, timeout: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(timeout);
    request
}

fn failed(worker: &'static str) -> impl Fn(Status) -> GenerateError {
    move |status| GenerateError::Worker { worker, status }
}

fn broken(worker: &'static str, fault: Fault) -> GenerateError {
    GenerateError::BrokenReply { worker, fault }
}

/// Runs `close` in the background, if the runtime still lives; if not, the lease ends the session.
fn close_in_background(close: impl Future<Output = ()> + Send + 'static) {
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        runtime.spawn(close);
    }
}

const DRAFT: &str = "draft";
const TARGET: &str = "target";

/// A session on a draft service.
pub struct GrpcDraftSession {
    drafter: GrpcDrafter,
    progress: Progress,
}

impl Drafter for GrpcDrafter {
    type Session = GrpcDraftSession;

    async fn open(&self, open: &OpenSession) -> Result<GrpcDraftSession, GenerateError> {
        let mut drafter = self.clone();
        let reply =
            drafter.client.open_session(timed(open.into(), self.timeout)).await.map_err(failed(DRAFT))?;
        let progress = Progress::new(DRAFT, reply.into_inner(), self.timeout)?;
        Ok(GrpcDraftSession { drafter, progress })
    }
}

impl DraftSession for GrpcDraftSession {
    async fn propose(
        &mut self,
        commit: Option<&Accepted>,
        shape: ProposeShape,
    ) -> Result<DraftTree, GenerateError> {
        let (step, handle) = self.progress.advance(commit);
        let message = v1::ProposeRequest {
            handle: Some(handle),
            step,
            commit: commit.map(Into::into),
            beam_width: u32::try_from(shape.beam_width).unwrap_or(u32::MAX),
            draft_tokens: u32::try_from(shape.draft_tokens).unwrap_or(u32::MAX),
            with_replacement: shape.with_replacement,
            best_beam_only: shape.best_beam_only,
        };
        let reply =
            self.drafter.client.propose(self.progress.request(message)).await.map_err(failed(DRAFT))?;
        let (tree, joint) = reply.into_inner().into_draft().map_err(|e| broken(DRAFT, e))?;
        Ok(DraftTree { tree, joint })
    }
}

impl Drop for GrpcDraftSession {
    fn drop(&mut self) {
        let mut client = self.drafter.client.clone();
        let message = v1::CloseSessionRequest { handle: Some(self.progress.session.into()) };
        let request = self.progress.request(message);
        close_in_background(async move {
            let _ = client.close_session(request).await;
        });
    }
}

/// A session on a target service.
pub struct GrpcTargetSession {
    scorer: GrpcScorer,
    progress: Progress,
}

impl Scorer for GrpcScorer {
    type Session = GrpcTargetSession;

    async fn open(&self, open: &OpenSession) -> Result<GrpcTargetSession, GenerateError> {
        let mut scorer = self.clone();
        let reply =
            scorer.client.open_session(timed(open.into(), self.timeout)).await.map_err(failed(TARGET))?;
        let progress = Progress::new(TARGET, reply.into_inner(), self.timeout)?;
        Ok(GrpcTargetSession { scorer, progress })
    }
}

impl TargetSession for GrpcTargetSession {
    async fn score(&mut self, commit: Option<&Accepted>, tree: &TokenTree) -> Result<Scored, GenerateError> {
        let (step, handle) = self.progress.advance(commit);
        let message = v1::ScoreTreeRequest {
            handle: Some(handle),
            step,
            commit: commit.map(Into::into),
            tree: Some(tree.into()),
        };
        let reply =
            self.scorer.client.score_tree(self.progress.request(message)).await.map_err(failed(TARGET))?;
        let (joint, drawn) = reply.into_inner().into_scores(tree).map_err(|e| broken(TARGET, e))?;
        Ok(Scored { joint, drawn })
    }
}

impl Drop for GrpcTargetSession {
    fn drop(&mut self) {
        let mut client = self.scorer.client.clone();
        let message = v1::CloseSessionRequest { handle: Some(self.progress.session.into()) };
        let request = self.progress.request(message);
        close_in_background(async move {
            let _ = client.close_session(request).await;
        });
    }
}
