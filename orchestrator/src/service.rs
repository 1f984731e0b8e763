//! The gRPC face: requests checked, limits kept, events streamed.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tandem_decoding::{DraftTree, Drafting, TokenId};
use tandem_proto::v1::generation_server::{Generation, GenerationServer};
use tandem_proto::{
    FILE_DESCRIPTOR_SET, Fault, GenerateParams, Input, MAX_MESSAGE_BYTES, OpenSession, method_to_wire, v1,
};
use tandem_serving::{ServeArgs, ServeError, Serving};
use tokenizers::Tokenizer;
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::service::RoutesBuilder;
use tonic::{Request, Response, Status};
use tracing::Instrument;

use crate::{Finish, FinishReason, GenerateError, Job, Pair, Statistics, Trace, Update, generate};

/// Events that may wait for a slow client; then its generation waits too.
const WAITING_EVENTS: usize = 16;
/// Text that is tokenized at once; a longer one would hold up other requests, and gets a thread of its own.
const INLINE_TEXT_BYTES: usize = 16 << 10;
/// How long a client may leave its events unread.
const SLOW_CLIENT: Duration = Duration::from_secs(60);
/// When a refused client may try again: about the length of a short request.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// Implements `tandem.v1.Generation` on a pair of models.
pub struct GenerationService {
    pair: Arc<Pair>,
    places: Arc<Semaphore>,
    limit: usize,
}

impl GenerationService {
    /// At most `limit` generations at once.
    pub fn new(pair: Arc<Pair>, limit: usize) -> Self {
        Self { pair, places: Arc::new(Semaphore::new(limit)), limit }
    }

    fn admit(&self) -> Result<OwnedSemaphorePermit, Fault> {
        self.places.clone().try_acquire_owned().map_err(|_| Fault::Exhausted {
            message: format!("{} generations run, the limit: try again later", self.limit),
            retry_after: RETRY_AFTER,
        })
    }
}

type Events = Pin<Box<dyn Stream<Item = Result<v1::GenerateResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Generation for GenerationService {
    type GenerateStream = Events;

    async fn generate(&self, request: Request<v1::GenerateRequest>) -> Result<Response<Events>, Status> {
        let arrived = Instant::now();
        let params = GenerateParams::try_from(request.into_inner())?;
        let place = self.admit()?;
        let (prompt, place) = tokenize(&self.pair, &params.input, place).await?;
        let open = prepare(&self.pair, &params, prompt)?;
        let (events, stream) = mpsc::channel(WAITING_EVENTS);
        let pair = self.pair.clone();
        let run = async move {
            let result = tokio::select! {
                result = stream_events(&pair, &params, open, arrived, &events) => result,
                () = events.closed() => Err(GenerateError::Cancelled),
            };
            if let Err(error) = result {
                tracing::info!(%error, "generation failed");
                let _ = events.send(Err(error.into())).await;
            }
            drop(place);
        };
        tokio::spawn(run.in_current_span());
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}

/// The prompt's tokens. The place goes along: a client that leaves meanwhile does not free it before the work is done.
async fn tokenize(
    pair: &Arc<Pair>,
    input: &Input,
    place: OwnedSemaphorePermit,
) -> Result<(Vec<TokenId>, OwnedSemaphorePermit), GenerateError> {
    let encode = |pair: &Pair, text: &str| -> Result<Vec<TokenId>, GenerateError> {
        let encoding =
            pair.tokenizer.encode(text, true).map_err(|e| GenerateError::Tokenizer(e.to_string()))?;
        Ok(encoding.get_ids().iter().copied().map(TokenId).collect())
    };
    match input {
        Input::Tokens(tokens) => Ok((tokens.clone(), place)),
        Input::Text(text) if text.len() <= INLINE_TEXT_BYTES => Ok((encode(pair, text)?, place)),
        Input::Text(text) => {
            let (pair, text) = (pair.clone(), text.clone());
            let encoding = tokio::task::spawn_blocking(move || Ok((encode(&pair, &text)?, place))).await;
            encoding.map_err(|e| GenerateError::Tokenizer(e.to_string()))?
        }
    }
}

/// Fits the request to the models.
fn prepare(pair: &Pair, params: &GenerateParams, prompt: Vec<TokenId>) -> Result<OpenSession, GenerateError> {
    let context = pair.context();
    if prompt.len() >= context {
        let message = format!(
            "has {} tokens, but the context has {context} and needs one for the answer: shorten the prompt",
            prompt.len()
        );
        return Err(Fault::invalid("prompt", message).into());
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
    Err(Fault::invalid("sampling", message))
}

type EventSender = mpsc::Sender<Result<v1::GenerateResponse, Status>>;

async fn stream_events(
    pair: &Pair,
    params: &GenerateParams,
    open: OpenSession,
    arrived: Instant,
    events: &EventSender,
) -> Result<(), GenerateError> {
    use v1::generate_response::Event;
    let send = async |event| {
        let event = Ok(v1::GenerateResponse { event: Some(event) });
        // A client that does not read must not hold its place for ever.
        let sent = tokio::time::timeout(SLOW_CLIENT, events.send(event)).await;
        sent.map_err(|_| GenerateError::Cancelled)?.map_err(|_| GenerateError::Cancelled)
    };
    send(Event::Started(v1::Started {
        prompt_tokens: count(open.prompt.len()),
        seed: open.seed,
        method: method_to_wire(params.decoding.method()).into(),
        target_model: pair.target.model_id.clone(),
        draft_model: pair.draft.model_id.clone(),
    }))
    .await?;
    let job = Job {
        open,
        decoding: params.decoding.clone(),
        log_probs: params.log_probs,
        trace: params.trace,
        eos: if params.ignore_eos { &[] } else { &pair.eos },
        stops: &params.stop,
        tokenizer: &pair.tokenizer,
        arrived,
    };
    let (pieces, mut received) = mpsc::channel::<Update>(1);
    let generating = async {
        // Moved in, so that the channel closes with the generation.
        let pieces = pieces;
        generate(&pair.drafter, &pair.scorer, &job, &pieces).await
    };
    let forwarding = async {
        while let Some(update) = received.recv().await {
            send(Event::Chunk(chunk(update, &pair.tokenizer)?)).await?;
        }
        Ok::<(), GenerateError>(())
    };
    let (finish, ()) = tokio::try_join!(generating, forwarding)?;
    send(Event::Finished(finish.into())).await
}

fn chunk(update: Update, tokenizer: &Tokenizer) -> Result<v1::Chunk, GenerateError> {
    Ok(v1::Chunk {
        text: update.piece.text,
        token_ids: update.piece.tokens.iter().map(|t| t.0).collect(),
        log_probs: update.log_probs,
        iteration: update.trace.map(|trace| iteration(&trace, tokenizer)).transpose()?,
    })
}

fn iteration(trace: &Trace, tokenizer: &Tokenizer) -> Result<v1::Iteration, GenerateError> {
    let text = |token: TokenId| {
        tokenizer.decode(&[token.0], false).map_err(|e| GenerateError::Tokenizer(e.to_string()))
    };
    let DraftTree { tree, joint, .. } = &trace.proposal.draft;
    // Nobody scored it: it was committed whole, and its last token took the place of the bonus token.
    let whole = trace.scores.drawn.is_empty();
    let bonus = Some(trace.accepted.bonus).filter(|_| !whole);
    let accepted_nodes = if whole {
        (0..count(tree.len())).collect()
    } else {
        trace.accepted.path.iter().map(|&n| count(n)).collect()
    };
    Ok(v1::Iteration {
        tree: Some(tree.into()),
        texts: tree.tokens().iter().map(|&t| text(t)).collect::<Result<_, _>>()?,
        draft_joint_log_probs: joint.as_slice().to_vec(),
        target_joint_log_probs: trace.scores.joint.as_slice().to_vec(),
        accepted_nodes,
        bonus_token: bonus.map(|token| token.0),
        bonus_text: bonus.map(text).transpose()?.unwrap_or_default(),
    })
}

impl From<Finish> for v1::Finished {
    fn from(finish: Finish) -> Self {
        let (reason, stop) = match finish.reason {
            FinishReason::EndOfSequence => (v1::FinishReason::Eos, String::new()),
            FinishReason::Stop(stop) => (v1::FinishReason::Stop, stop),
            FinishReason::Length => (v1::FinishReason::Length, String::new()),
        };
        Self { reason: reason.into(), stop, statistics: Some(finish.statistics.into()) }
    }
}

impl From<Statistics> for v1::Statistics {
    fn from(s: Statistics) -> Self {
        let ms = |d: Duration| d.as_secs_f64() * 1e3;
        Self {
            method: method_to_wire(s.method).into(),
            lossless: s.method.is_lossless(),
            new_tokens: count(s.new_tokens),
            iterations: count(s.iterations),
            drafted_tokens: count(s.drafted),
            accepted_tokens: count(s.accepted),
            accepted_by_depth: s.accepted_by_depth.iter().map(|&n| count(n)).collect(),
            block_efficiency: s.block_efficiency(),
            acceptance_rate: s.acceptance_rate(),
            total_ms: ms(s.total),
            draft_ms: ms(s.draft),
            target_ms: ms(s.target),
            orchestration_ms: ms(s.orchestration()),
            time_to_first_token_ms: ms(s.first_token),
            prefill_ms: ms(s.prefill),
            asked_tokens: count(s.depth_asked),
        }
    }
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// Serves generations by `pair` on `listener` until `shutdown`.
pub async fn run(
    pair: Pair,
    serve: &ServeArgs,
    listener: TcpListener,
    shutdown: CancellationToken,
) -> Result<(), ServeError> {
    tracing::info!(
        address = %listener.local_addr()?,
        target = pair.target.model_id,
        draft = pair.draft.model_id,
        "serving"
    );
    let service = GenerationServer::new(GenerationService::new(Arc::new(pair), serve.max_sessions))
        .max_decoding_message_size(MAX_MESSAGE_BYTES);
    let mut routes = RoutesBuilder::default();
    routes.add_service(service);
    let grace = serve.shutdown_grace();
    let serving = Serving { name: "tandem.v1.Generation", routes, descriptors: FILE_DESCRIPTOR_SET, grace };
    serving.run(listener, shutdown).await
}
