//! One generation through the public API.

use anyhow::Context;
use tandem_proto::v1::generate_response::Event;
use tandem_proto::v1::generation_client::GenerationClient;
use tandem_proto::{MAX_MESSAGE_BYTES, v1};
use tandem_serving::carry_on;
use tonic::transport::{Channel, Endpoint};
use tonic::{IntoRequest, Status};

/// A connection to an orchestrator.
pub type Client = GenerationClient<Channel>;

/// All that a generation said.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// First.
    pub started: v1::Started,
    /// Of all chunks.
    pub text: String,
    /// Of all chunks.
    pub token_ids: Vec<u32>,
    /// Of all chunks, if asked for.
    pub log_probs: Vec<f64>,
    /// Of all chunks, if asked for.
    pub iterations: Vec<v1::Iteration>,
    /// Last.
    pub finished: v1::Finished,
}

/// Connects to the orchestrator at `url`.
pub async fn connect(url: &str) -> anyhow::Result<Client> {
    let unreachable = || format!("cannot reach the orchestrator at {url}");
    let channel = Endpoint::from_shared(url.to_owned()).with_context(unreachable)?.connect().await;
    Ok(GenerationClient::new(channel.with_context(unreachable)?).max_decoding_message_size(MAX_MESSAGE_BYTES))
}

/// Runs `request` to its end, in the trace of the present span; `on_text` sees the text as it comes.
pub async fn generate(
    client: &mut Client,
    request: impl IntoRequest<v1::GenerateRequest>,
    mut on_text: impl FnMut(&str),
) -> Result<Answer, Status> {
    let mut request = request.into_request();
    carry_on(request.metadata_mut().as_mut());
    let mut events = client.generate(request).await?.into_inner();
    let mut answer = Answer::default();
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
    Err(Status::unavailable("the orchestrator ended the stream without finishing the text"))
}
