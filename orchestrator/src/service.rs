//! What both public APIs share: a request is checked, gets its admission, and becomes a stream of events.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tandem_decoding::{Drafting, TokenId};
use tandem_proto::{Fault, GenerateParams, Input, MAX_MESSAGE_BYTES, OpenSession, method_to_wire, v1};
use tandem_serving::{AdmissionControl, Permit, trace_id};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::codegen::http::{HeaderMap, HeaderValue};
use tracing::{Instrument, trace_span};

use crate::events::{Chunks, count};
use crate::metrics::GenerationMetrics;
use crate::observe::{Watch, watch};
use crate::{AccessArgs, Caller, GenerateError, Job, KeyError, Pair, Ticket, Update, generate};

/// Events that may wait for a slow client; then its generation waits too.
const WAITING_EVENTS: usize = 16;
/// Text that is tokenized at once; a longer one would hold up other requests, and gets a thread of its own.
const INLINE_TEXT_BYTES: usize = 16 << 10;
/// How long a client may leave its events unread.
const SLOW_CLIENT: Duration = Duration::from_secs(60);

/// Generates by a pair of models, for the clients of every API.
pub(crate) struct Front {
    pub(crate) pair: Pair,
    pub(crate) admission: AdmissionControl,
    /// The longest that a request may take.
    pub(crate) longest: Duration,
    /// What clients call the model.
    pub(crate) model: String,
    /// Who may ask.
    pub(crate) access: AccessArgs,
    pub(crate) metrics: Arc<GenerationMetrics>,
}

/// When a request came, and when it must have ended.
#[derive(Clone, Copy)]
pub(crate) struct Arrival {
    pub(crate) at: Instant,
    pub(crate) by: Instant,
}

/// What a client gets; an error is the last.
pub(crate) type Events = ReceiverStream<Result<v1::GenerateResponse, Status>>;
type EventSender = mpsc::Sender<Result<v1::GenerateResponse, Status>>;

impl Front {
    /// A request that arrives now, and may take `asked` at most.
    pub(crate) fn arrival(&self, asked: Option<Duration>) -> Arrival {
        let at = Instant::now();
        Arrival { at, by: at + asked.map_or(self.longest, |asked| asked.min(self.longest)) }
    }

    /// Who asks from `client`, by the key in the `headers`.
    pub(crate) fn caller(&self, headers: &HeaderMap, client: Option<IpAddr>) -> Result<Caller, KeyError> {
        self.access.caller(headers.get("authorization").map(HeaderValue::as_bytes), client)
    }

    /// Writes the texts that `requests` ask for, side by side: those of the first, then those of the next. Dropping the stream ends
    /// them. The `headers` may name a trace to go on with.
    pub(crate) async fn generate(
        self: &Arc<Self>,
        requests: Vec<v1::GenerateRequest>,
        (arrival, caller): (Arrival, &Caller),
        headers: &HeaderMap,
    ) -> Result<Events, Status> {
        let requests = self.check(requests).inspect_err(|status| self.metrics.failed(None, status.code()))?;
        let (span, watches) = watch(&self.metrics, &self.model, &requests, headers);
        let admitted = self.admit(requests, arrival, caller).instrument(span.clone()).await;
        let (admitted, texts) = admitted.map_err(|error| {
            span.in_scope(|| log(&error));
            let status = Status::from(error);
            watches.iter().for_each(|watch| watch.failed(status.code()));
            status
        })?;
        let (events, stream) = mpsc::channel(WAITING_EVENTS);
        for (index, (planned, watch)) in texts.into_iter().zip(watches).enumerate() {
            let Planned { params, open, mut ticket, place } = planned;
            watch.admitted(&open);
            let span = watch.span();
            let text = Text { index: count(index), params, arrival, admitted, events: events.clone(), watch };
            let front = self.clone();
            let run = async move {
                let ended = text.run(&front.pair, open, &mut ticket).await;
                drop((place, ticket));
                if let Err(error) = ended {
                    log(&error);
                    let status = Status::from(error);
                    text.watch.failed(status.code());
                    // A client that reads nothing any more learns nothing any more.
                    let _ = tokio::time::timeout(SLOW_CLIENT, text.events.send(Err(status))).await;
                }
            };
            tokio::spawn(run.instrument(span));
        }
        Ok(ReceiverStream::new(stream))
    }

    /// Refuses what is wrong whatever the models are.
    fn check(&self, requests: Vec<v1::GenerateRequest>) -> Result<Vec<GenerateParams>, Status> {
        let requests: Vec<GenerateParams> =
            requests.into_iter().map(GenerateParams::try_from).collect::<Result<_, _>>()?;
        let unknown = |r: &&GenerateParams| !r.model.is_empty() && r.model != self.model;
        if let Some(GenerateParams { model, .. }) = requests.iter().find(unknown) {
            let message = format!("there is no model {model:?} here: use {:?}", self.model);
            return Err(Status::not_found(message));
        }
        Ok(requests)
    }

    /// Waits for admission, and makes of requests what workers are asked: a text each, which got its place when it says.
    async fn admit(
        self: &Arc<Self>,
        requests: Vec<GenerateParams>,
        arrival: Arrival,
        caller: &Caller,
    ) -> Result<(Instant, Vec<Planned>), GenerateError> {
        let texts: usize = requests.iter().map(|r| r.candidates).sum();
        // Those who wait count as well: a key's limit is on what it asks for at once.
        let mut ticket = caller.admit(texts)?;
        let admission = self.admission.acquire(caller.client(), count(texts)).instrument(trace_span!("wait"));
        let place = tokio::time::timeout_at(arrival.by, admission).await;
        let place = place.map_err(|_| GenerateError::Deadline)?.map_err(GenerateError::from)?;
        let admitted = Instant::now();
        let reading = self.read(requests, caller, place);
        let (place, opens) =
            tokio::time::timeout_at(arrival.by, reading).await.map_err(|_| GenerateError::Deadline)??;
        let tokens: Vec<(usize, usize)> =
            opens.iter().map(|(_, o)| (o.prompt.len(), o.max_new_tokens)).collect();
        let sum = |of: fn(&(usize, usize)) -> usize| tokens.iter().map(of).fold(0, usize::saturating_add);
        ticket.reserve(sum(|t| t.0), sum(|t| t.1))?;
        let rights = ticket.split(&tokens).into_iter().zip(place.split());
        let planned = opens.into_iter().zip(rights);
        let planned =
            planned.map(|((params, open), (ticket, place))| Planned { params, open, ticket, place });
        Ok((admitted, planned.collect()))
    }

    /// What workers are asked for each text. The admission go along with the work: a client that leaves meanwhile does not free them
    /// before it is done.
    async fn read(
        self: &Arc<Self>,
        requests: Vec<GenerateParams>,
        caller: &Caller,
        mut place: Permit,
    ) -> Result<(Permit, Vec<(Arc<GenerateParams>, OpenSession)>), GenerateError> {
        let mut texts = Vec::new();
        for params in requests {
            self.access.log_prompt(caller, &params.input);
            let prompt;
            (prompt, place) = self.tokenize(&params.input, place).await?;
            let open = prepare(&self.pair, &params, prompt)?;
            let params = Arc::new(params);
            // Each as it would be alone, with a seed of its own.
            texts.extend((0..params.candidates as u64).map(|i| {
                let open = OpenSession { seed: open.seed.wrapping_add(i), ..open.clone() };
                (params.clone(), open)
            }));
        }
        Ok((place, texts))
    }

    /// The prompt's tokens.
    async fn tokenize(
        self: &Arc<Self>,
        input: &Input,
        place: Permit,
    ) -> Result<(Vec<TokenId>, Permit), GenerateError> {
        let bytes = match input {
            Input::Tokens(tokens) => return Ok((tokens.clone(), place)),
            Input::Text(text) => text.len(),
            Input::Chat(messages) => messages.iter().map(|m| m.role.len() + m.content.len()).sum(),
        };
        if bytes <= INLINE_TEXT_BYTES {
            return Ok((self.encode(input)?, place));
        }
        let (front, input) = (self.clone(), input.clone());
        let encoding = tokio::task::spawn_blocking(move || Ok((front.encode(&input)?, place)));
        encoding.await.map_err(|e| GenerateError::Tokenizer(e.to_string()))?
    }

    fn encode(&self, input: &Input) -> Result<Vec<TokenId>, GenerateError> {
        // A template sets the special tokens itself.
        let encoding = match input {
            Input::Tokens(tokens) => return Ok(tokens.clone()),
            Input::Text(text) => self.pair.tokenizer.encode(text.as_str(), true),
            Input::Chat(messages) => {
                let chat = self.pair.chat.as_ref().ok_or_else(|| self.no_chat())?;
                self.pair.tokenizer.encode(chat.render(messages)?, false)
            }
        };
        let encoding = encoding.map_err(|e| GenerateError::Tokenizer(e.to_string()))?;
        Ok(encoding.get_ids().iter().copied().map(TokenId).collect())
    }

    fn no_chat(&self) -> Fault {
        let message = format!(
            "{} has no chat template, neither in tokenizer_config.json nor as chat_template.jinja: send a prompt instead",
            self.model
        );
        Fault::invalid("messages", message)
    }

    /// What runs here and behind.
    pub(crate) async fn status(&self) -> v1::GetStatusResponse {
        v1::GetStatusResponse {
            running: count(self.admission.in_use()),
            waiting: count(self.admission.queued()),
            workers: self.pair.workers().await,
            target_model: self.pair.target.model_id.clone(),
            draft_model: self.pair.draft().model_id,
            vocab_size: self.pair.vocab(),
            context_length: count(self.pair.context()),
            chat: self.pair.chat.is_some(),
        }
    }
}

/// One text of a request, before it begins.
struct Planned {
    params: Arc<GenerateParams>,
    open: OpenSession,
    ticket: Ticket,
    place: Permit,
}

/// A line for each request that fails, with its trace; louder if it is not the client's doing.
fn log(error: &GenerateError) {
    if error.is_clients() {
        tracing::info!(%error, trace_id = trace_id(), "generation refused");
    } else {
        tracing::warn!(%error, trace_id = trace_id(), "generation failed");
    }
}

/// One text of a request.
struct Text {
    index: u32,
    params: Arc<GenerateParams>,
    arrival: Arrival,
    admitted: Instant,
    events: EventSender,
    watch: Watch,
}

impl Text {
    async fn run(&self, pair: &Pair, open: OpenSession, ticket: &mut Ticket) -> Result<(), GenerateError> {
        tokio::select! {
            // In this order, so that a request whose end and deadline coincide always ends in the same way.
            biased;
            result = self.stream(pair, open, ticket) => result,
            () = self.events.closed() => Err(GenerateError::Cancelled),
            () = tokio::time::sleep_until(self.arrival.by) => Err(GenerateError::Deadline),
        }
    }

    async fn stream(&self, pair: &Pair, open: OpenSession, ticket: &mut Ticket) -> Result<(), GenerateError> {
        use v1::generate_response::Event;
        let params = &self.params;
        self.send(Event::Started(v1::Started {
            prompt_tokens: count(open.prompt.len()),
            seed: open.seed,
            method: method_to_wire(params.decoding.method()).into(),
            target_model: pair.target.model_id.clone(),
            draft_model: pair.draft().model_id,
        }))
        .await?;
        let job = Job {
            open,
            decoding: params.decoding.clone(),
            log_probs: params.log_probs,
            top_log_probs: params.top_log_probs,
            trace: params.trace,
            eos: if params.ignore_eos { &[] } else { &pair.eos },
            stops: &params.stop,
            tokenizer: &pair.tokenizer,
            arrived: self.arrival.at,
            admitted: self.admitted,
            by: self.arrival.by,
            watch: &self.watch,
        };
        let (pieces, mut received) = mpsc::channel::<Update>(1);
        let generating = async {
            // Moved in, so that the channel closes with the generation.
            let pieces = pieces;
            generate(&pair.drafter, &pair.scorer, &job, &pieces).await
        };
        let forwarding = async {
            let mut chunks = Chunks::new(&job);
            while let Some(update) = received.recv().await {
                ticket.spend(update.piece.tokens.len());
                self.send(Event::Chunk(chunks.chunk(update)?)).await?;
            }
            Ok::<(), GenerateError>(())
        };
        let (finish, ()) = tokio::try_join!(generating, forwarding)?;
        self.send(Event::Finished(finish.into())).await
    }

    async fn send(&self, event: v1::generate_response::Event) -> Result<(), GenerateError> {
        let event = Ok(v1::GenerateResponse { event: Some(event), index: self.index });
        // A client that does not read must not hold its place for ever.
        let sent = tokio::time::timeout(SLOW_CLIENT, self.events.send(event)).await;
        sent.map_err(|_| GenerateError::Cancelled)?.map_err(|_| GenerateError::Cancelled)
    }
}

/// Fits the request to the models.
fn prepare(pair: &Pair, params: &GenerateParams, prompt: Vec<TokenId>) -> Result<OpenSession, GenerateError> {
    let context = pair.context();
    if prompt.len() >= context {
        return Err(Fault::too_long("prompt", prompt.len(), context, &pair.target.model_id).into());
    }
    let vocab = pair.vocab();
    if let Some(token) = prompt.iter().find(|t| t.0 >= vocab) {
        let message = format!("token {token} is outside the vocabulary of {vocab}");
        return Err(Fault::invalid("tokens", message).into());
    }
    check_distributions(params, vocab)?;
    Ok(OpenSession {
        max_new_tokens: params.max_new_tokens.min(context - prompt.len()),
        prompt,
        max_tree_nodes: params.decoding.max_tree_nodes(),
        sampling: params.sampling,
        seed: params.seed.unwrap_or_else(rand::random),
        vocab_limit: Some(vocab as usize),
    })
}

/// Rejection sampling needs distributions, which without filters are as large as the vocabulary: a reply must not be too large to
/// be read. (Top-p alone may keep many tokens too; what then is too large fails as a reply.)
fn check_distributions(params: &GenerateParams, vocab: u32) -> Result<(), Fault> {
    /// An f32; without filters tokens are not named.
    const BYTES: usize = 4;
    let candidates = matches!(params.decoding.drafting(), Some(Drafting::Candidates { .. }));
    if !candidates || params.sampling.is_greedy() || params.sampling.filters(vocab as usize) {
        return Ok(());
    }
    let rows = params.decoding.max_tree_nodes() + 1;
    let bytes = rows * vocab as usize * BYTES;
    if bytes <= MAX_MESSAGE_BYTES {
        return Ok(());
    }
    let message = format!(
        "{} without top_k and top_p needs {rows} distributions over {vocab} tokens per iteration, {} MiB: set top_k, \
         draft fewer tokens, or use exact-match, which is lossless too",
        params.decoding.method(),
        bytes >> 20
    );
    Err(Fault::invalid("top_k", message))
}
