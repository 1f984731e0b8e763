//! The gRPC face: requests checked, limits kept, events streamed.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tandem_decoding::{Drafting, TokenId};
use tandem_proto::v1::generation_server::{Generation, GenerationServer};
use tandem_proto::{
    FILE_DESCRIPTOR_SET, Fault, GenerateParams, Input, MAX_MESSAGE_BYTES, OpenSession, method_to_wire, v1,
};
use tandem_serving::{Place, Places, Serving};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataMap;
use tonic::service::RoutesBuilder;
use tonic::{Request, Response, Status};
use tracing::Instrument;

use crate::events::{chunk, count};
use crate::{
    AccessArgs, Caller, GenerateError, Job, KeyError, OrchestratorArgs, Pair, Ticket, Update, generate,
};

/// Events that may wait for a slow client; then its generation waits too.
const WAITING_EVENTS: usize = 16;
/// Text that is tokenized at once; a longer one would hold up other requests, and gets a thread of its own.
const INLINE_TEXT_BYTES: usize = 16 << 10;
/// How long a client may leave its events unread.
const SLOW_CLIENT: Duration = Duration::from_secs(60);

/// Implements `tandem.v1.Generation` on a pair of models.
pub struct GenerationService {
    pair: Arc<Pair>,
    places: Places,
    longest: Duration,
    access: AccessArgs,
}

impl GenerationService {
    /// Generations have `places`, and take at most `longest`; `access` says whose there are.
    pub fn new(pair: Arc<Pair>, places: Places, longest: Duration, access: AccessArgs) -> Self {
        Self { pair, places, longest, access }
    }

    fn caller<T>(&self, request: &Request<T>) -> Result<Caller, KeyError> {
        let header = request.metadata().get("authorization").map(|value| value.as_encoded_bytes());
        self.access.caller(header, request.remote_addr().map(|address| address.ip()))
    }

    /// When a request that arrives now must have ended.
    fn deadline(&self, metadata: &MetadataMap, arrived: Instant) -> Instant {
        let asked = metadata.get("grpc-timeout").and_then(|value| timeout(value.to_str().ok()?));
        arrived + asked.map_or(self.longest, |asked| asked.min(self.longest))
    }
}

/// `grpc-timeout`: at most eight digits and a unit (https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md).
fn timeout(value: &str) -> Option<Duration> {
    let (digits, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    let n: u64 = digits.parse().ok().filter(|_| digits.len() <= 8)?;
    Some(match unit {
        "H" => Duration::from_secs(n * 3600),
        "M" => Duration::from_secs(n * 60),
        "S" => Duration::from_secs(n),
        "m" => Duration::from_millis(n),
        "u" => Duration::from_micros(n),
        "n" => Duration::from_nanos(n),
        _ => return None,
    })
}

type Events = Pin<Box<dyn Stream<Item = Result<v1::GenerateResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Generation for GenerationService {
    type GenerateStream = Events;

    async fn generate(&self, request: Request<v1::GenerateRequest>) -> Result<Response<Events>, Status> {
        let arrived = Instant::now();
        let by = self.deadline(request.metadata(), arrived);
        let caller = self.caller(&request)?;
        let params = GenerateParams::try_from(request.into_inner())?;
        let mut ticket = caller.admit()?;
        self.access.log_prompt(&caller, &params.input);
        let place = tokio::time::timeout_at(by, self.places.take(caller.client())).await;
        let place = place.map_err(|_| GenerateError::Deadline)?.map_err(GenerateError::from)?;
        let times = Times { arrived, admitted: Instant::now(), by };
        let (prompt, place) = tokenize(&self.pair, &params.input, place).await?;
        let open = prepare(&self.pair, &params, prompt)?;
        ticket.reserve(open.prompt.len(), open.max_new_tokens)?;
        let (events, stream) = mpsc::channel(WAITING_EVENTS);
        let pair = self.pair.clone();
        let run = async move {
            let result = tokio::select! {
                // In this order, so that a request whose end and deadline coincide always ends in the same way.
                biased;
                result = stream_events(&pair, &params, open, (times, &mut ticket), &events) => result,
                () = events.closed() => Err(GenerateError::Cancelled),
                () = tokio::time::sleep_until(by) => Err(GenerateError::Deadline),
            };
            drop((place, ticket));
            if let Err(error) = result {
                tracing::info!(%error, "generation failed");
                // A client that reads nothing any more learns nothing any more.
                let _ = tokio::time::timeout(SLOW_CLIENT, events.send(Err(error.into()))).await;
            }
        };
        tokio::spawn(run.in_current_span());
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn get_status(
        &self,
        request: Request<v1::GetStatusRequest>,
    ) -> Result<Response<v1::GetStatusResponse>, Status> {
        self.caller(&request)?;
        Ok(Response::new(v1::GetStatusResponse {
            running: count(self.places.taken()),
            waiting: count(self.places.waiting()),
            workers: self.pair.workers().await,
            target_model: self.pair.target.model_id.clone(),
            draft_model: self.pair.draft().model_id,
            vocab_size: self.pair.vocab(),
            context_length: count(self.pair.context()),
        }))
    }
}

/// The prompt's tokens. The place goes along: a client that leaves meanwhile does not free it before the work is done.
async fn tokenize(
    pair: &Arc<Pair>,
    input: &Input,
    place: Place,
) -> Result<(Vec<TokenId>, Place), GenerateError> {
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

/// Of a request.
#[derive(Clone, Copy)]
struct Times {
    arrived: Instant,
    admitted: Instant,
    by: Instant,
}

type EventSender = mpsc::Sender<Result<v1::GenerateResponse, Status>>;

async fn stream_events(
    pair: &Pair,
    params: &GenerateParams,
    open: OpenSession,
    (times, ticket): (Times, &mut Ticket),
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
        draft_model: pair.draft().model_id,
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
        arrived: times.arrived,
        admitted: times.admitted,
        by: times.by,
    };
    let (pieces, mut received) = mpsc::channel::<Update>(1);
    let generating = async {
        // Moved in, so that the channel closes with the generation.
        let pieces = pieces;
        generate(&pair.drafter, &pair.scorer, &job, &pieces).await
    };
    let forwarding = async {
        while let Some(update) = received.recv().await {
            ticket.spend(update.piece.tokens.len());
            send(Event::Chunk(chunk(update, &pair.tokenizer)?)).await?;
        }
        Ok::<(), GenerateError>(())
    };
    let (finish, ()) = tokio::try_join!(generating, forwarding)?;
    send(Event::Finished(finish.into())).await
}

/// Serves generations by `pair`.
pub fn serving(pair: Pair, args: &OrchestratorArgs) -> Serving {
    tracing::info!(target = pair.target.model_id, draft = pair.draft().model_id, "serving");
    let places = Places::new(args.places());
    let service = GenerationService::new(
        Arc::new(pair),
        places.clone(),
        args.limits.max_request_seconds,
        args.access.clone(),
    );
    let service = GenerationServer::new(service).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let mut routes = RoutesBuilder::default();
    routes.add_service(service);
    Serving {
        name: "tandem.v1.Generation",
        routes,
        descriptors: FILE_DESCRIPTOR_SET,
        places: vec![places],
        http: None,
        grace: args.serve.shutdown_grace(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_are_read_as_grpc_writes_them() {
        let cases = [
            ("5S", Some(5000)),
            ("2M", Some(120_000)),
            ("1H", Some(3_600_000)),
            ("99999999m", Some(99_999_999)),
            ("7000u", Some(7)),
            ("7000000n", Some(7)),
        ];
        for (text, milliseconds) in cases {
            assert_eq!(timeout(text), milliseconds.map(Duration::from_millis), "{text}");
        }
        for nonsense in ["", "S", "5", "-1S", "1.5S", "123456789S", "5é", "é"] {
            assert_eq!(timeout(nonsense), None, "{nonsense}");
        }
    }
}
