//! One sequence of a request, from its admission to its end.

use std::sync::Arc;
use std::time::Duration;

use tandem_generation::{
    Chunk, Event, GenerateError, GenerateRequest, Generation, OpenSession, SequenceStart, generate,
};
use tandem_serving::{Permit, trace_id};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;

use crate::admission::QuotaReservation;
use crate::error::ServiceError;
use crate::observer::RequestObserver;
use crate::pair::Pair;

/// How long a client may leave its events unread.
const SLOW_CLIENT_TIMEOUT: Duration = Duration::from_secs(60);

/// When a request arrived, and when it must have ended.
#[derive(Clone, Copy)]
pub(crate) struct Arrival {
    pub(crate) at: Instant,
    pub(crate) deadline: Instant,
}

/// An event of one of the sequences of a request.
#[derive(Clone, Debug)]
pub(crate) struct SequenceEvent {
    /// Which of the sequences: those of the first prompt come first.
    pub(crate) index: usize,
    pub(crate) event: Event,
}

/// The events of a request. An error is the last item.
pub(crate) type EventStream = ReceiverStream<Result<SequenceEvent, ServiceError>>;
pub(crate) type EventSender = mpsc::Sender<Result<SequenceEvent, ServiceError>>;

/// A sequence before it begins, with what it holds until it ends.
pub(crate) struct Planned {
    pub(crate) request: Arc<GenerateRequest>,
    pub(crate) open: OpenSession,
    pub(crate) quota: QuotaReservation,
    pub(crate) permit: Permit,
}

/// Logs each request that fails, with its trace; as a warning unless the client caused it.
pub(crate) fn log(error: &ServiceError) {
    if error.is_client_error() {
        tracing::info!(%error, trace_id = trace_id(), "generation refused");
    } else {
        tracing::warn!(%error, trace_id = trace_id(), "generation failed");
    }
}

/// Where the events of one sequence go.
pub(crate) struct Events {
    pub(crate) index: usize,
    pub(crate) sender: EventSender,
}

impl Events {
    async fn send(&self, event: Event) -> Result<(), GenerateError> {
        let event = Ok(SequenceEvent { index: self.index, event });
        // A client that does not read must not hold its permit for ever.
        match tokio::time::timeout(SLOW_CLIENT_TIMEOUT, self.sender.send(event)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(GenerateError::Cancelled),
        }
    }
}

/// One sequence of a request, while it is generated.
pub(crate) struct Sequence {
    pub(crate) pair: Arc<Pair>,
    pub(crate) arrival: Arrival,
    pub(crate) admitted: Instant,
    pub(crate) events: Events,
    pub(crate) observer: RequestObserver,
}

impl Sequence {
    /// Generates the sequence and sends its events; a failure is the last of them.
    pub(crate) async fn run(self, planned: Planned) {
        let Planned { request, open, mut quota, permit } = planned;
        let ended = self.run_until_deadline(&request, open, &mut quota).await;
        drop(permit);
        drop(quota);
        if let Err(error) = ended {
            let error = ServiceError::from(error);
            log(&error);
            self.observer.failed(error.kind());
            // A client that has stopped reading does not learn of the error.
            let _ = tokio::time::timeout(SLOW_CLIENT_TIMEOUT, self.events.sender.send(Err(error))).await;
        }
    }

    async fn run_until_deadline(
        &self,
        request: &GenerateRequest,
        open: OpenSession,
        quota: &mut QuotaReservation,
    ) -> Result<(), GenerateError> {
        tokio::select! {
            // In this order, so that a sequence whose end and deadline coincide always ends in the same way.
            biased;
            result = self.stream(request, open, quota) => result,
            () = self.events.sender.closed() => Err(GenerateError::Cancelled),
            () = tokio::time::sleep_until(self.arrival.deadline) => Err(GenerateError::DeadlineExceeded),
        }
    }

    async fn stream(
        &self,
        request: &GenerateRequest,
        open: OpenSession,
        quota: &mut QuotaReservation,
    ) -> Result<(), GenerateError> {
        let pair = &self.pair;
        self.events
            .send(Event::Started(SequenceStart {
                prompt_tokens: open.prompt.len(),
                seed: open.seed,
                method: request.decoding.method(),
                target_model: pair.target.model_id.clone(),
                draft_model: pair.draft().model_id,
            }))
            .await?;
        let generation = Generation {
            open,
            decoding: request.decoding.clone(),
            log_probs: request.log_probs,
            top_log_probs: request.top_log_probs,
            trace: request.trace,
            eos: if request.ignore_eos { &[] } else { &pair.eos },
            stop: &request.stop,
            tokenizer: &pair.tokenizer,
            arrived: self.arrival.at,
            admitted: self.admitted,
            deadline: self.arrival.deadline,
            observer: &self.observer,
        };
        let (sender, mut chunks) = mpsc::channel::<Chunk>(1);
        let generating = async {
            // Moved in, so that the channel closes when the generation ends.
            let sender = sender;
            generate(&pair.drafter, &pair.scorer, &generation, &sender).await
        };
        let forwarding = async {
            while let Some(chunk) = chunks.recv().await {
                quota.spend(chunk.tokens.len());
                self.events.send(Event::Chunk(chunk)).await?;
            }
            Ok::<(), GenerateError>(())
        };
        let (finish, ()) = tokio::try_join!(generating, forwarding)?;
        self.events.send(Event::Finished(Box::new(finish))).await
    }
}
