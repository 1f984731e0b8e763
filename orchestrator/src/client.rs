//! The two workers over gRPC.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tandem_decoding::{Accepted, TokenTree};
use tandem_proto::v1::draft_client::DraftClient;
use tandem_proto::v1::target_client::TargetClient;
use tandem_proto::{Fault, OpenSession, Propose, Scores, SessionRef, Wanted, v1};
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};

use crate::{DraftSession, Drafter, GenerateError, Proposal, Scorer, TargetSession};

/// What a worker's model is, as last checked. A session of another incarnation is used only after a look at that worker's
/// model: it may have been restarted with another one, whose tokens mean something else.
#[derive(Clone)]
pub(crate) struct KnownModel(Arc<Mutex<v1::ModelInfo>>);

impl KnownModel {
    pub(crate) fn new(info: v1::ModelInfo) -> Self {
        Self(Arc::new(Mutex::new(info)))
    }

    fn get(&self) -> v1::ModelInfo {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Makes sure that a session of `incarnation` is on the model that was checked.
    async fn check(
        &self,
        worker: &'static str,
        incarnation: u64,
        ask: impl Future<Output = Result<v1::ModelInfo, GenerateError>>,
    ) -> Result<(), GenerateError> {
        let known = self.get();
        if known.incarnation == incarnation {
            return Ok(());
        }
        let now = ask.await?;
        let same = (&now.vocab_hash, now.vocab_size, now.context_length, &now.eos_token_ids)
            == (&known.vocab_hash, known.vocab_size, known.context_length, &known.eos_token_ids);
        if !same {
            return Err(GenerateError::OtherModel { worker, known: known.model_id, now: now.model_id });
        }
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = now;
        Ok(())
    }
}

/// A draft service, or the draft face of a target service.
#[derive(Clone)]
pub struct GrpcDrafter {
    /// "draft" or "target", for errors.
    pub(crate) worker: &'static str,
    pub(crate) client: DraftClient<Channel>,
    pub(crate) timeout: Duration,
    pub(crate) model: KnownModel,
}

/// A target service.
#[derive(Clone)]
pub struct GrpcScorer {
    pub(crate) client: TargetClient<Channel>,
    pub(crate) own: GrpcDrafter,
    pub(crate) timeout: Duration,
    pub(crate) model: KnownModel,
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
}

/// Awaits a worker's reply, for at most `timeout`, the body included; the worker is told, and gives up as well.
pub(crate) async fn call<M, R>(
    worker: &'static str,
    timeout: Duration,
    message: M,
    send: impl AsyncFnOnce(Request<M>) -> Result<Response<R>, Status>,
) -> Result<R, GenerateError> {
    let mut request = Request::new(message);
    request.set_timeout(timeout);
    match tokio::time::timeout(timeout, send(request)).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        // What tonic makes of the same deadline, on either side.
        Ok(Err(status)) if status.code() == Code::Cancelled => {
            Err(GenerateError::Timeout { worker, timeout })
        }
        Ok(Err(status)) => Err(GenerateError::Worker { worker, status }),
        Err(_) => Err(GenerateError::Timeout { worker, timeout }),
    }
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

pub(crate) const DRAFT: &str = "draft";
pub(crate) const TARGET: &str = "target";

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
            call(self.worker, self.timeout, open.into(), async |r| drafter.client.open_session(r).await)
                .await?;
        let progress = Progress::new(self.worker, reply, self.timeout)?;
        let mut client = self.client.clone();
        // Before the check, so that a refused session is closed.
        let session = GrpcDraftSession { drafter, progress };
        let ask = call(self.worker, self.timeout, v1::GetModelInfoRequest {}, async |r| {
            client.get_model_info(r).await
        });
        self.model.check(self.worker, session.progress.session.incarnation, ask).await?;
        Ok(session)
    }
}

impl DraftSession for GrpcDraftSession {
    async fn propose(
        &mut self,
        commit: Option<&Accepted>,
        propose: &Propose,
    ) -> Result<Proposal, GenerateError> {
        let (step, handle) = self.progress.advance(commit);
        let message = v1::ProposeRequest {
            handle: Some(handle),
            step,
            commit: commit.map(Into::into),
            shape: Some((&propose.drafting).into()),
            log_probs: propose.log_probs,
        };
        let (worker, client) = (self.drafter.worker, &mut self.drafter.client);
        let reply = call(worker, self.progress.timeout, message, async |r| client.propose(r).await).await?;
        let (draft, log_probs) = reply.into_draft(propose).map_err(|e| broken(worker, e))?;
        Ok(Proposal { draft, log_probs })
    }
}

impl Drop for GrpcDraftSession {
    fn drop(&mut self) {
        let (worker, mut client) = (self.drafter.worker, self.drafter.client.clone());
        let message = v1::CloseSessionRequest { handle: Some(self.progress.session.into()) };
        let timeout = self.progress.timeout;
        close_in_background(async move {
            let _ = call(worker, timeout, message, async |r| client.close_session(r).await).await;
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
    type Own = GrpcDrafter;

    fn own(&self) -> &GrpcDrafter {
        &self.own
    }

    async fn open(&self, open: &OpenSession) -> Result<GrpcTargetSession, GenerateError> {
        let mut scorer = self.clone();
        let reply =
            call(TARGET, self.timeout, open.into(), async |r| scorer.client.open_session(r).await).await?;
        let progress = Progress::new(TARGET, reply, self.timeout)?;
        let mut client = self.client.clone();
        // Before the check, so that a refused session is closed.
        let session = GrpcTargetSession { scorer, progress };
        let ask =
            call(TARGET, self.timeout, v1::GetModelInfoRequest {}, async |r| client.get_model_info(r).await);
        self.model.check(TARGET, session.progress.session.incarnation, ask).await?;
        Ok(session)
    }
}

impl TargetSession for GrpcTargetSession {
    async fn score(
        &mut self,
        commit: Option<&Accepted>,
        tree: &TokenTree,
        wanted: Wanted,
    ) -> Result<Scores, GenerateError> {
        let (step, handle) = self.progress.advance(commit);
        let message = v1::ScoreTreeRequest {
            handle: Some(handle),
            step,
            commit: commit.map(Into::into),
            tree: Some(tree.into()),
            distributions: wanted.distributions,
            log_probs: wanted.log_probs,
        };
        let client = &mut self.scorer.client;
        let reply =
            call(TARGET, self.progress.timeout, message, async |r| client.score_tree(r).await).await?;
        reply.into_scores(tree, wanted).map_err(|e| broken(TARGET, e))
    }
}

impl Drop for GrpcTargetSession {
    fn drop(&mut self) {
        let mut client = self.scorer.client.clone();
        let message = v1::CloseSessionRequest { handle: Some(self.progress.session.into()) };
        let timeout = self.progress.timeout;
        close_in_background(async move {
            let _ = call(TARGET, timeout, message, async |r| client.close_session(r).await).await;
        });
    }
}
