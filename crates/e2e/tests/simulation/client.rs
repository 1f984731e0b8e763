//! A client: asks, reads, maybe goes away; and what must be true of what it saw.

use std::time::Duration;

use tandem_proto::v1;
use tandem_proto::v1::generate_response::Event;
use tandem_proto::v1::generation_client::GenerationClient;
use tokio::time::Instant;
use tonic::transport::Endpoint;
use tonic::{Code, Request as GrpcRequest, Status};

use super::hosts::ORCHESTRATOR;
use super::network::{PORT, channel};
use super::scenario::Request;
use super::{Report, World, reference};

/// What a stream may take beyond its deadline: the news of it, over a slow network, or a connection given up.
const SLACK: Duration = Duration::from_secs(3);

/// What a client saw.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) text: String,
    pub(crate) tokens: Vec<u32>,
    /// Of each iteration seen: whether it had a draft.
    pub(crate) drafted: Vec<bool>,
    pub(crate) end: End,
}

#[derive(Clone, Debug, Default)]
pub(crate) enum End {
    /// Still open when it should have ended.
    #[default]
    Never,
    Finished(Box<v1::Finished>),
    Failed(Code, String),
    Left,
}

/// The life of a client.
pub(crate) async fn run(index: usize, request: Request, world: World) -> turmoil::Result {
    tokio::time::sleep_until(Instant::now() + request.after).await;
    let mut outcome = Outcome::default();
    let asked = ask(&request, &mut outcome);
    match tokio::time::timeout(request.deadline + SLACK, asked).await {
        Ok(Ok(end)) => outcome.end = end,
        Ok(Err(status)) => outcome.end = End::Failed(status.code(), status.message().into()),
        Err(_) => {}
    }
    world.with(|w| w.outcomes.insert(index, outcome));
    Ok(())
}

async fn ask(request: &Request, outcome: &mut Outcome) -> Result<End, Status> {
    let address = turmoil::lookup(ORCHESTRATOR);
    let endpoint = Endpoint::from_shared(format!("http://{address}:{PORT}"));
    let endpoint = endpoint.map_err(|e| Status::internal(e.to_string()))?;
    let endpoint = endpoint
        .connect_timeout(Duration::from_secs(1))
        .http2_keep_alive_interval(Duration::from_millis(500))
        .keep_alive_timeout(Duration::from_millis(500));
    let mut client = GenerationClient::new(channel(&endpoint));
    let mut message = GrpcRequest::new(request.request.clone());
    message.set_timeout(request.deadline);
    let mut events = client.generate(message).await?.into_inner();
    let mut chunks = 0;
    while request.leaves_after != Some(chunks) {
        match events.message().await?.and_then(|response| response.event) {
            Some(Event::Started(_)) => {}
            Some(Event::Chunk(chunk)) => {
                chunks += 1;
                outcome.text += &chunk.text;
                outcome.tokens.extend(chunk.token_ids);
                let tree = chunk.iteration.map(|i| i.tree.unwrap_or_default());
                outcome.drafted.extend(tree.map(|tree| !tree.tokens.is_empty()));
            }
            Some(Event::Finished(finished)) => return Ok(End::Finished(Box::new(finished))),
            None => return Err(Status::unavailable("the stream ended without a word")),
        }
    }
    Ok(End::Left)
}

impl Outcome {
    /// Adds what this stream shows to the report.
    pub(crate) fn judge(self, request: &Request, calm: bool, report: &mut Report) {
        let undisturbed = calm && request.deadline > Duration::from_secs(5);
        let mut violation =
            |what: String| report.violations.push(format!("{what}\n  {request:?}\n  {self:?}"));
        let expected = reference::generate(&request.request, &self.drafted);
        match &self.end {
            End::Never => violation(format!("no end within {:?}", request.deadline + SLACK)),
            End::Finished(finished) => {
                if (&self.tokens, &self.text) != (&expected.tokens, &expected.text) {
                    violation(format!("a text unlike the undisturbed one: {expected:?}"));
                }
                let s = finished.statistics.clone().unwrap_or_default();
                if (finished.reason(), &finished.stop) != (expected.reason, &expected.stop) {
                    violation(format!("another end than {expected:?}"));
                }
                if s.undrafted_iterations as usize != expected.undrafted {
                    violation(format!(
                        "{} undrafted iterations, not {}",
                        expected.undrafted, s.undrafted_iterations
                    ));
                }
                if undisturbed && (s.failovers, s.undrafted_iterations) != (0, 0) {
                    violation(format!("failovers where nothing failed: {s:?}"));
                }
                report.finished += 1;
                report.failovers += s.failovers as usize;
                report.undrafted += s.undrafted_iterations as usize;
            }
            End::Failed(code, why) => {
                // Errors that say something; the last two come from a connection that broke.
                let typed = [
                    Code::DeadlineExceeded,
                    Code::Unavailable,
                    Code::ResourceExhausted,
                    Code::Cancelled,
                    Code::Unknown,
                ];
                if undisturbed || !typed.contains(code) {
                    violation(format!("an error that no fault explains: {code:?} {why}"));
                }
                report.failed += 1;
            }
            End::Left => report.cancelled += 1,
        }
        // What was emitted is a beginning of the undisturbed text: nothing lost, changed or repeated.
        if !expected.tokens.starts_with(&self.tokens) || !expected.text.starts_with(&self.text) {
            report.violations.push(format!("not a beginning of {expected:?}\n  {request:?}\n  {self:?}"));
        }
        let end = match &self.end {
            End::Finished(finished) => format!("{:?}", finished.reason()),
            End::Failed(code, _) => format!("{code:?}"),
            other => format!("{other:?}"),
        };
        report.log += &format!("{end} {} {:?}\n", self.text, self.drafted);
    }
}
