//! A client: sends a request, reads the stream, and maybe cancels it.

use std::time::Duration;

use tandem_proto::v1::generate_response::Event;
use tandem_proto::v1::generation_client::GenerationClient;
use tandem_testkit::{PORT, SimulatedNetwork};
use tokio::time::{sleep, timeout};
use tonic::transport::Endpoint;
use tonic::{Request as GrpcRequest, Status};

use super::names::ORCHESTRATOR;
use super::outcome::{End, Outcome};
use super::scenario::Request;
use super::world::World;

/// What a stream may take beyond its deadline: the error has to cross a slow network, or a connection has to be given up.
pub(crate) const SLACK: Duration = Duration::from_secs(3);

/// Runs one client, and records what it saw.
pub(crate) async fn run(index: usize, request: Request, world: World) -> turmoil::Result {
    #[allow(clippy::disallowed_methods, reason = "simulated time: the scenario says when the client begins")]
    sleep(request.after).await;
    let mut outcome = Outcome::default();
    let stream = read_stream(&request, &mut outcome);
    match timeout(request.deadline + SLACK, stream).await {
        Ok(Ok(end)) => outcome.end = end,
        Ok(Err(status)) => outcome.end = End::Failed(status.code(), status.message().into()),
        Err(_) => {}
    }
    world.with(|shared| shared.outcomes.insert(index, outcome));
    Ok(())
}

async fn read_stream(request: &Request, outcome: &mut Outcome) -> Result<End, Status> {
    let address = turmoil::lookup(ORCHESTRATOR);
    let endpoint = Endpoint::from_shared(format!("http://{address}:{PORT}"))
        .map_err(|error| Status::internal(error.to_string()))?
        .connect_timeout(Duration::from_secs(1))
        .http2_keep_alive_interval(Duration::from_millis(500))
        .keep_alive_timeout(Duration::from_millis(500));
    let mut client = GenerationClient::new(SimulatedNetwork::connect(&endpoint));
    let mut message = GrpcRequest::new(request.request.clone());
    message.set_timeout(request.deadline);
    let mut events = client.generate(message).await?.into_inner();
    let mut chunks = 0;
    while request.cancels_after != Some(chunks) {
        match events.message().await?.and_then(|response| response.event) {
            Some(Event::Started(_)) => {}
            Some(Event::Chunk(chunk)) => {
                chunks += 1;
                outcome.text += &chunk.text;
                outcome.tokens.extend(chunk.token_ids);
                let tree = chunk.iteration.map(|iteration| iteration.tree.unwrap_or_default());
                outcome.drafted.extend(tree.map(|tree| !tree.tokens.is_empty()));
            }
            Some(Event::Finished(finished)) => return Ok(End::Finished(Box::new(finished))),
            None => return Err(Status::unavailable("the stream ended before it was finished")),
        }
    }
    Ok(End::Cancelled)
}
