//! The answer to a Generate request, collected from its stream.

use tonic::{Status, Streaming};

use crate::v1;
use crate::v1::generate_response::Event;

/// Everything that a generation returned.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// The first event.
    pub started: v1::Started,
    /// Text of all chunks.
    pub text: String,
    /// Tokens of all chunks.
    pub token_ids: Vec<u32>,
    /// Log-probabilities of all chunks, in nats, if requested.
    pub log_probs: Vec<f64>,
    /// Iterations of all chunks, if requested.
    pub iterations: Vec<v1::Iteration>,
    /// The last event.
    pub finished: v1::Finished,
}

impl Answer {
    /// Collects `events`, those of one sequence, to their end. `on_text` receives the text as it arrives.
    ///
    /// # Errors
    ///
    /// The status that ends the stream; UNAVAILABLE if it ends without one before the generation is finished.
    pub async fn collect(
        mut events: Streaming<v1::GenerateResponse>,
        mut on_text: impl FnMut(&str),
    ) -> Result<Self, Status> {
        let mut answer = Self::default();
        while let Some(response) = events.message().await? {
            match response.event {
                Some(Event::Started(started)) => answer.started = started,
                Some(Event::Chunk(chunk)) => {
                    on_text(&chunk.text);
                    answer.text += &chunk.text;
                    answer.token_ids.extend(chunk.token_ids);
                    answer.log_probs.extend(chunk.log_probs);
                    answer.iterations.extend(chunk.iteration);
                }
                Some(Event::Finished(finished)) => {
                    answer.finished = finished;
                    return Ok(answer);
                }
                None => {}
            }
        }
        Err(Status::unavailable("the orchestrator ended the stream before the generation was finished"))
    }
}
