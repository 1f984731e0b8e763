//! A model and the sessions on it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tandem_engine::{ModelThread, TreeCache, Vocabulary};
use tandem_proto::{Fault, OpenSession, Reason, SessionRef, v1};
use tandem_serving::AdmissionControl;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::fault::{engine_fault, session_fault};
use crate::metrics::Calls;
use crate::session::{Ends, Job, Session, StepRequest};
use crate::session_table::{SessionTable, TableLimits};

/// When a client may ask again for a step that is running.
const STEP_RETRY_AFTER: Duration = Duration::from_millis(50);

/// A worker whose steps reply `R`. Clones share it.
#[derive(Clone)]
pub struct Worker<R> {
    model: ModelThread,
    sessions: SessionTable<Open<R>>,
    calls: Calls,
}

/// A session that clients may name.
struct Open<R> {
    session: Arc<Mutex<Session<R>>>,
    /// Cancelled when it is closed: a step that still waits for its pass is not worth running.
    closed: CancellationToken,
}

impl<R: Clone + Send + 'static> Worker<R> {
    /// Sessions on `model` within `limits`, asked for by `calls`. A task ends those whose lease expires.
    pub fn new(model: ModelThread, incarnation: u64, limits: TableLimits, calls: Calls) -> Self {
        let sessions = SessionTable::new(incarnation, limits);
        tokio::spawn(sessions.clone().expire_forever());
        Self { model, sessions, calls }
    }

    /// The calls of its sessions.
    pub fn calls(&self) -> &Calls {
        &self.calls
    }

    /// What the model is, on the wire.
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

    /// Admits a session of `client`, prefills it, and hands it over.
    pub async fn open(
        &self,
        request: v1::OpenSessionRequest,
        client: Option<IpAddr>,
    ) -> Result<v1::OpenSessionResponse, Fault> {
        let id = if request.session_id == 0 { rand::random() } else { request.session_id };
        let open = OpenSession::try_from(request)?;
        let spec = self.model.spec();
        if open.prompt.len() >= spec.context_length {
            return Err(Fault::too_long("prompt_tokens", open.prompt.len(), spec.context_length, &spec.id));
        }
        if let Some(token) = open.prompt.iter().find(|t| t.0 as usize >= spec.vocab_size) {
            let message = format!("token {token} is outside the vocabulary of {}", spec.vocab_size);
            return Err(Fault::invalid("prompt_tokens", message));
        }
        let place = self.sessions.admit(client).map_err(session_fault)?;
        let cache = TreeCache::open(&self.model, &open.prompt, open.max_new_tokens, open.max_tree_nodes)
            .await
            .map_err(|e| engine_fault(e, "max_new_tokens"))?;
        let session = Arc::new(Mutex::new(Session::new(&open, cache, spec)));
        let open_session = Open { session, closed: CancellationToken::new() };
        place.fill(id, open_session).map_err(session_fault)?;
        let incarnation = self.sessions.incarnation();
        let handle = SessionRef { incarnation, id, committed: open.prompt.len() };
        let lease_ms = u32::try_from(self.sessions.lease().as_millis()).unwrap_or(u32::MAX);
        Ok(v1::OpenSessionResponse { handle: Some(handle.into()), lease_ms })
    }

    /// Runs a step. Once begun it runs to its end even if the caller goes away, so that a repeated step finds its
    /// reply; unless the session is closed meanwhile.
    pub async fn step<J: Job<Reply = R>>(&self, request: StepRequest, job: J) -> Result<R, Fault> {
        let SessionRef { incarnation, id, .. } = request.session;
        let open = self.sessions.get(incarnation, id).map_err(session_fault)?;
        // One step at a time: whoever sends more while one runs would only pile them up here.
        let Ok(mut session) = open.session.clone().try_lock_owned() else {
            let message = "a step of this session is still running: try again".into();
            return Err(Fault::Exhausted { message, retry_after: STEP_RETRY_AFTER });
        };
        let worker = self.clone();
        let step = async move {
            let result = tokio::select! {
                biased;
                () = open.closed.cancelled() => {
                    let message = "the session was closed while its step ran".into();
                    Err((Fault::Gone { reason: Reason::UnknownSession, message }, Ends::Nothing))
                }
                result = session.step(&request, job, worker.model.spec()) => result,
            };
            // A long step must not use up the lease of the next one.
            let _ = worker.sessions.get(incarnation, id);
            result.map_err(|(fault, ends)| {
                if ends == Ends::Session {
                    worker.sessions.remove(incarnation, id);
                }
                fault
            })
        };
        let done = tokio::spawn(step.in_current_span()).await;
        done.unwrap_or_else(|e| Err(Fault::Bug(format!("the step broke off: {e}"))))
    }

    /// Frees a session. One that is gone already is fine.
    pub fn close(&self, request: v1::CloseSessionRequest) -> Result<v1::CloseSessionResponse, Fault> {
        let session = SessionRef::try_from(request.handle)?;
        if let Some(open) = self.sessions.remove(session.incarnation, session.id) {
            open.closed.cancel();
        }
        Ok(v1::CloseSessionResponse {})
    }

    /// The tokenizer.
    pub fn vocabulary(&self) -> Result<&Vocabulary, Fault> {
        self.model.spec().vocabulary.as_ref().ok_or_else(|| {
            Fault::invalid("model", "random weights have no tokenizer: they are for timing alone")
        })
    }
}
