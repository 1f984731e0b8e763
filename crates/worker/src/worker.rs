//! A model and the sessions on it.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;

use tandem_engine::{ModelThread, TreeCache};
use tandem_generation::{OpenSession, SessionHandle};
use tandem_proto::{InvalidMessage, TOKENIZER_CHUNK_BYTES, v1};
use tandem_serving::AdmissionControl;
use tokio::sync::Mutex;
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tracing::Instrument;

use crate::error::WorkerError;
use crate::metrics::Calls;
use crate::session::{Ends, Session, StepRequest, StepTask};
use crate::session_table::{SessionTable, TableLimits};

/// The files of a tokenizer, part by part.
pub type TokenizerParts = Pin<Box<dyn Stream<Item = Result<v1::GetTokenizerResponse, Status>> + Send>>;

/// A worker whose steps reply `R`. Clones share it.
#[derive(Clone)]
pub struct Worker<R> {
    model: ModelThread,
    sessions: SessionTable<Open<R>>,
    calls: Calls,
}

/// A session that clients may address.
struct Open<R> {
    session: Arc<Mutex<Session<R>>>,
    /// Cancelled when the session is closed: a step that still waits for its pass need not run.
    closed: CancellationToken,
}

impl<R: Clone + Send + 'static> Worker<R> {
    /// A worker on `model` whose sessions are within `limits` and whose calls are counted by `calls`. A task ends sessions whose lease
    /// has expired.
    pub fn new(model: ModelThread, incarnation: u64, limits: TableLimits, calls: Calls) -> Self {
        let sessions = SessionTable::new(incarnation, limits);
        tokio::spawn(sessions.clone().expire_forever());
        Self { model, sessions, calls }
    }

    /// Metrics of the calls of its sessions.
    pub fn calls(&self) -> &Calls {
        &self.calls
    }

    /// The model, as it is described on the wire.
    pub fn info(&self) -> v1::ModelInfo {
        let spec = self.model.spec();
        v1::ModelInfo {
            model_id: spec.id.clone(),
            vocab_size: u32::try_from(spec.vocab_size).unwrap_or(u32::MAX),
            vocab_hash: spec.vocabulary.as_ref().map(|v| v.hash.clone()).unwrap_or_default(),
            context_length: u32::try_from(spec.context_length).unwrap_or(u32::MAX),
            eos_token_ids: spec.eos.iter().map(|t| t.0).collect(),
            parameters: spec.parameters,
            dtype: spec.dtype.as_str().to_owned(),
            device: spec.device.to_string(),
            incarnation: self.sessions.incarnation(),
            kv_cache_tokens: self.model.budget().total() as u64,
            load: Some(v1::Load {
                sessions: u32::try_from(self.sessions.admission().in_use()).unwrap_or(u32::MAX),
                kv_cache_tokens_used: self.model.budget().used() as u64,
            }),
        }
    }

    /// The admission of its sessions, to be closed when it drains.
    pub fn admission(&self) -> AdmissionControl {
        self.sessions.admission().clone()
    }

    /// Admits a session of `client` and prefills it.
    pub async fn open(
        &self,
        request: v1::OpenSessionRequest,
        client: Option<IpAddr>,
    ) -> Result<v1::OpenSessionResponse, WorkerError> {
        let id = if request.session_id == 0 { rand::random() } else { request.session_id };
        let open = OpenSession::try_from(request)?;
        let spec = self.model.spec();
        if open.prompt.len() >= spec.context_length {
            return Err(WorkerError::PromptTooLong {
                tokens: open.prompt.len(),
                context: spec.context_length,
                model: spec.id.clone(),
            });
        }
        if let Some(token) = open.prompt.iter().find(|t| t.0 as usize >= spec.vocab_size) {
            let message =
                format!("has token {token}, which is outside the vocabulary of {}", spec.vocab_size);
            return Err(WorkerError::invalid("prompt_tokens", message));
        }
        let permit = self.sessions.admit(client)?;
        let cache = TreeCache::open(&self.model, &open.prompt, open.max_new_tokens, open.max_tree_nodes)
            .await
            .map_err(|error| WorkerError::engine(error, "max_new_tokens"))?;
        let session = Arc::new(Mutex::new(Session::new(&open, cache, spec)));
        let open_session = Open { session, closed: CancellationToken::new() };
        permit.fill(id, open_session)?;
        let incarnation = self.sessions.incarnation();
        let handle = SessionHandle { incarnation, id, committed: open.prompt.len() };
        let lease_ms = u32::try_from(self.sessions.lease().as_millis()).unwrap_or(u32::MAX);
        Ok(v1::OpenSessionResponse { handle: Some(handle.into()), lease_ms })
    }

    /// Runs a step. Once begun it runs to its end even if the client disconnects, so that a repetition finds the reply; unless the
    /// session is closed meanwhile.
    pub async fn step<T: StepTask<Reply = R>>(
        &self,
        request: StepRequest,
        task: T,
    ) -> Result<R, WorkerError> {
        let SessionHandle { incarnation, id, .. } = request.session;
        let open = self.sessions.get(incarnation, id)?;
        // One step at a time: a client that sends more while one runs would only pile them up here.
        let Ok(mut session) = open.session.clone().try_lock_owned() else {
            return Err(WorkerError::StepRunning);
        };
        let worker = self.clone();
        let step = async move {
            let result = tokio::select! {
                biased;
                () = open.closed.cancelled() => Err((WorkerError::ClosedMeanwhile, Ends::Nothing)),
                result = session.step(&request, task, worker.model.spec()) => result,
            };
            // A long step must not use up the lease.
            let _ = worker.sessions.get(incarnation, id);
            result.map_err(|(error, ends)| {
                if ends == Ends::Session {
                    worker.sessions.remove(incarnation, id);
                }
                error
            })
        };
        let done = tokio::spawn(step.in_current_span()).await;
        done.unwrap_or_else(|e| Err(WorkerError::Internal(format!("the step ended early: {e}"))))
    }

    /// Frees a session. One that no longer exists is not an error.
    pub fn close(
        &self,
        request: v1::CloseSessionRequest,
    ) -> Result<v1::CloseSessionResponse, InvalidMessage> {
        let session = v1::SessionHandle::read(request.handle)?;
        if let Some(open) = self.sessions.remove(session.incarnation, session.id) {
            open.closed.cancel();
        }
        Ok(v1::CloseSessionResponse {})
    }

    /// The files of the tokenizer, in messages of a size that every client accepts.
    pub fn tokenizer(&self) -> Result<TokenizerParts, WorkerError> {
        let vocabulary = self.model.spec().vocabulary.as_ref().ok_or_else(|| {
            WorkerError::invalid("model", "has random weights, which are for timing only, and no tokenizer")
        })?;
        let first = v1::GetTokenizerResponse {
            config: vocabulary.config.to_vec(),
            chat_template: vocabulary.chat_template.to_string(),
            chunk: Vec::new(),
        };
        let chunks = vocabulary.json.chunks(TOKENIZER_CHUNK_BYTES);
        let chunks =
            chunks.map(|chunk| v1::GetTokenizerResponse { chunk: chunk.to_vec(), ..Default::default() });
        let parts: Vec<_> = std::iter::once(first).chain(chunks).map(Ok).collect();
        Ok(Box::pin(tokio_stream::iter(parts)))
    }
}
