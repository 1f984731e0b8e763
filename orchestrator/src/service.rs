//! What both public APIs share: a request is admitted, tokenized, and becomes a stream of events.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tandem_decoding::TokenId;
use tandem_generation::{Field, GenerateError, GenerateRequest, Input, InvalidRequest, OpenSession};
use tandem_serving::{AdmissionControl, Permit, trace_id};
use tokenizers::Encoding;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::http::{HeaderMap, HeaderValue};
use tracing::{Instrument, Span, trace_span};

use crate::admission::{Access, ClientIdentity, KeyError};
use crate::error::ServiceError;
use crate::metrics::GenerationMetrics;
use crate::observer::observe;
use crate::pair::Pair;
use crate::prepare::open_session;
use crate::sequence::{Arrival, EventStream, Events, Planned, Sequence, log};
use crate::workers::WorkerStatus;

/// Events that may be buffered for a slow client; then its generation waits too.
const BUFFERED_EVENTS: usize = 16;
/// Prompts up to this size are tokenized at once; a longer one would delay other requests, and gets a thread of its own.
const INLINE_PROMPT_BYTES: usize = 16 << 10;

/// Generates with a pair of models, for the clients of every API.
pub(crate) struct GenerationService {
    pub(crate) pair: Arc<Pair>,
    pub(crate) admission: AdmissionControl,
    /// The longest that a request may take.
    pub(crate) request_timeout: Duration,
    /// What clients call the model.
    pub(crate) model: String,
    pub(crate) access: Access,
    pub(crate) metrics: Arc<GenerationMetrics>,
}

/// What runs here and on the workers.
pub(crate) struct Status {
    pub(crate) running: usize,
    pub(crate) queued: usize,
    pub(crate) workers: Vec<WorkerStatus>,
    pub(crate) target_model: String,
    /// Empty while no draft has answered.
    pub(crate) draft_model: String,
    pub(crate) vocab_size: u32,
    pub(crate) context_length: usize,
    /// Whether the model has a chat template.
    pub(crate) chat: bool,
}

impl GenerationService {
    /// A request that arrives now, and may take no longer than `timeout`.
    pub(crate) fn arrival(&self, timeout: Option<Duration>) -> Arrival {
        let at = Instant::now();
        let timeout = timeout.map_or(self.request_timeout, |timeout| timeout.min(self.request_timeout));
        Arrival { at, deadline: at + timeout }
    }

    /// The client of a request, by the key in its `headers`.
    pub(crate) fn identify(
        &self,
        headers: &HeaderMap,
        address: Option<IpAddr>,
    ) -> Result<ClientIdentity, KeyError> {
        self.access.identify(headers.get("authorization").map(HeaderValue::as_bytes), address)
    }

    /// Whether a request could be served now; the error says why not.
    pub(crate) fn ready(&self) -> Result<(), String> {
        self.pair.ready()
    }

    /// Counts a request that was refused before it was understood.
    pub(crate) fn refused(&self, error: &ServiceError) {
        self.metrics.failed(None, error.kind());
    }

    /// Generates the sequences that `requests` ask for, side by side. Dropping the stream cancels them. The `headers` may name a trace
    /// to continue.
    pub(crate) async fn generate(
        self: &Arc<Self>,
        requests: Vec<GenerateRequest>,
        arrival: Arrival,
        client: &ClientIdentity,
        headers: &HeaderMap,
    ) -> Result<EventStream, ServiceError> {
        self.check_model(&requests).inspect_err(|error| self.refused(error))?;
        let (span, observers) = observe(&self.metrics, &self.model, &requests, headers);
        let admitted = self.admit(requests, arrival, client).instrument(span.clone()).await;
        let admitted = admitted.inspect_err(|error| {
            span.in_scope(|| log(error));
            observers.iter().for_each(|observer| observer.failed(error.kind()));
        })?;
        let (sender, stream) = mpsc::channel(BUFFERED_EVENTS);
        for (index, (planned, observer)) in admitted.sequences.into_iter().zip(observers).enumerate() {
            observer.admitted(&planned.open);
            let span = observer.span();
            let events = Events { index, sender: sender.clone() };
            let sequence =
                Sequence { pair: self.pair.clone(), arrival, admitted: admitted.at, events, observer };
            tokio::spawn(sequence.run(planned).instrument(span));
        }
        Ok(ReceiverStream::new(stream))
    }

    fn check_model(&self, requests: &[GenerateRequest]) -> Result<(), ServiceError> {
        let requested = requests.iter().filter_map(|request| request.model.as_ref());
        match requested.into_iter().find(|&model| *model != self.model) {
            Some(requested) => Err(self.model_not_found(requested)),
            None => Ok(()),
        }
    }

    /// The error about a model that is not served here.
    pub(crate) fn model_not_found(&self, requested: &str) -> ServiceError {
        GenerateError::ModelNotFound { requested: requested.to_owned(), served: self.model.clone() }.into()
    }

    /// Acquires permits and quota for the sequences of `requests`, and tokenizes their prompts.
    async fn admit(
        self: &Arc<Self>,
        requests: Vec<GenerateRequest>,
        arrival: Arrival,
        client: &ClientIdentity,
    ) -> Result<Admitted, ServiceError> {
        let sequences: usize = requests.iter().map(|request| request.n).sum();
        // Queued generations count too: a key's limit is on what it requests at once.
        let mut quota = client.reserve(sequences)?;
        let permits = u32::try_from(sequences).unwrap_or(u32::MAX);
        let acquire = self.admission.acquire(client.address(), permits).instrument(trace_span!("wait"));
        let permit = until(arrival.deadline, acquire).await??;
        let at = Instant::now();
        let (permit, opens) = until(arrival.deadline, self.read(requests, client, permit)).await??;

        let tokens: Vec<(usize, usize)> =
            opens.iter().map(|(_, open)| (open.prompt.len(), open.max_new_tokens)).collect();
        let prompt_tokens = tokens.iter().fold(0usize, |sum, t| sum.saturating_add(t.0));
        let new_tokens = tokens.iter().fold(0usize, |sum, t| sum.saturating_add(t.1));
        quota.reserve(prompt_tokens, new_tokens)?;
        let rights = quota.split(&tokens).into_iter().zip(permit.split());
        let sequences = opens.into_iter().zip(rights);
        let sequences =
            sequences.map(|((request, open), (quota, permit))| Planned { request, open, quota, permit });
        Ok(Admitted { at, sequences: sequences.collect() })
    }

    /// What workers are sent for each sequence. The permit goes along with the work: a client that leaves meanwhile does not release it
    /// before the work is done.
    async fn read(
        self: &Arc<Self>,
        requests: Vec<GenerateRequest>,
        client: &ClientIdentity,
        mut permit: Permit,
    ) -> Result<(Permit, Vec<(Arc<GenerateRequest>, OpenSession)>), ServiceError> {
        let mut sequences = Vec::new();
        for request in requests {
            self.access.log_prompt(client, &request.input);
            let prompt;
            (prompt, permit) = self.tokenize(&request.input, permit).await?;
            let open = open_session(&self.pair, &request, prompt)?;
            let request = Arc::new(request);
            // Each sequence is what it would be alone, with a seed of its own.
            for i in 0..request.n as u64 {
                let open = OpenSession { seed: open.seed.wrapping_add(i), ..open.clone() };
                sequences.push((request.clone(), open));
            }
        }
        Ok((permit, sequences))
    }

    /// The tokens of a prompt.
    async fn tokenize(
        self: &Arc<Self>,
        input: &Input,
        permit: Permit,
    ) -> Result<(Vec<TokenId>, Permit), GenerateError> {
        let bytes = match input {
            Input::Tokens(tokens) => return Ok((tokens.clone(), permit)),
            Input::Text(text) => text.len(),
            Input::Chat(messages) => messages.iter().map(|m| m.role.len() + m.content.len()).sum(),
        };
        if bytes <= INLINE_PROMPT_BYTES {
            return Ok((self.encode(input)?, permit));
        }
        let service = self.clone();
        let input = input.clone();
        let span = Span::current();
        let encode = move || span.in_scope(|| Ok((service.encode(&input)?, permit)));
        let encoding = tokio::task::spawn_blocking(encode);
        encoding.await.map_err(|e| GenerateError::Tokenizer(e.to_string()))?
    }

    fn encode(&self, input: &Input) -> Result<Vec<TokenId>, GenerateError> {
        let encoding = match input {
            Input::Tokens(tokens) => return Ok(tokens.clone()),
            Input::Text(text) => {
                let encoding = self.pair.tokenizer.encode(text.as_str(), true);
                encoding.inspect(warn_of_doubled_token)
            }
            Input::Chat(messages) => {
                let chat = self.pair.chat.as_ref().ok_or_else(|| self.no_chat_template())?;
                // The template sets the special tokens itself.
                self.pair.tokenizer.encode(chat.render(messages)?, false)
            }
        };
        let encoding = encoding.map_err(|e| GenerateError::Tokenizer(e.to_string()))?;
        Ok(encoding.get_ids().iter().copied().map(TokenId).collect())
    }

    fn no_chat_template(&self) -> InvalidRequest {
        let predicate = format!(
            "are not supported by {}, which has no chat template, neither in tokenizer_config.json nor in chat_template.jinja: \
             send a prompt instead",
            self.model
        );
        InvalidRequest::new(Field::Messages, predicate)
    }

    /// What runs here and on the workers.
    pub(crate) async fn status(&self) -> Status {
        Status {
            running: self.admission.in_use(),
            queued: self.admission.queued(),
            workers: self.pair.workers().await,
            target_model: self.pair.target.model_id.clone(),
            draft_model: self.pair.draft().model_id,
            vocab_size: self.pair.vocab(),
            context_length: self.pair.context(),
            chat: self.pair.chat.is_some(),
        }
    }
}

/// Warns of a prompt that begins with a token which the tokenizer adds too. The tokens stay what they are.
fn warn_of_doubled_token(encoding: &Encoding) {
    if let Some(token) = doubled_token(encoding) {
        tracing::warn!(
            trace_id = trace_id(),
            "the prompt begins with {token}, which the tokenizer adds anyway, so that the model reads it twice: leave it out of the prompt"
        );
    }
}

/// The token that the tokenizer added at the beginning, if the text begins with it too.
fn doubled_token(encoding: &Encoding) -> Option<&str> {
    let is_added = encoding.get_special_tokens_mask().first() == Some(&1);
    match encoding.get_ids() {
        [first, second, ..] if is_added && first == second => {
            encoding.get_tokens().first().map(String::as_str)
        }
        _ => None,
    }
}

/// Awaits `work`, but not beyond the deadline of the request.
async fn until<T>(deadline: Instant, work: impl Future<Output = T>) -> Result<T, GenerateError> {
    tokio::time::timeout_at(deadline, work).await.map_err(|_| GenerateError::DeadlineExceeded)
}

/// A request that may run.
struct Admitted {
    /// When it was admitted.
    at: Instant,
    sequences: Vec<Planned>,
}
