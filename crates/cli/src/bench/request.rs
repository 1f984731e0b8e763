//! One request, and what its client saw of it.

use std::time::Duration;

use tandem_proto::v1;
use tandem_proto::v1::generate_response::Event;
use tokio::time::{Instant, timeout_at};
use tonic::{Code, Request, Status};

use crate::client::Client;

/// What became of a request.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    Completed(Completed),
    Failed(Failure),
}

/// A request that came to its end. Times are since it arrived.
#[derive(Clone, Debug, Default)]
pub(super) struct Completed {
    pub(super) prompt_tokens: u32,
    /// When tokens came, and how many.
    pub(super) chunks: Vec<(Duration, u32)>,
    pub(super) latency: Duration,
    pub(super) statistics: v1::Statistics,
}

/// A request that did not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    /// gRPC's name of the code, or [`NOT_SENT`].
    pub(super) code: String,
    pub(super) message: String,
}

/// In the place of a code: the request never left.
pub(super) const NOT_SENT: &str = "NOT_SENT";

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self { code: code_name(status.code()), message: status.message().to_owned() }
    }
}

/// As the documentation of gRPC writes it: `RESOURCE_EXHAUSTED`.
pub(super) fn code_name(code: Code) -> String {
    let mut name = String::new();
    for letter in format!("{code:?}").chars() {
        if letter.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}

/// Sends `request`, which arrived at `arrived`, and reads to its end.
pub(super) async fn send(
    mut client: Client,
    request: v1::GenerateRequest,
    arrived: Instant,
    timeout: Option<Duration>,
) -> Outcome {
    let mut request = Request::new(request);
    let received = match timeout {
        None => receive(&mut client, request, arrived).await,
        Some(timeout) => {
            request.set_timeout(timeout);
            let deadline = Instant::now() + timeout;
            let received = timeout_at(deadline, receive(&mut client, request, arrived)).await;
            match received.unwrap_or_else(|_| Err(expired())) {
                // The transport's own clock for the deadline, which says it with another code.
                Err(status) if status.code() == Code::Cancelled && Instant::now() >= deadline => {
                    Err(expired())
                }
                received => received,
            }
        }
    };
    received.map_or_else(|status| Outcome::Failed(status.into()), Outcome::Completed)
}

fn expired() -> Status {
    Status::deadline_exceeded("the deadline of --timeout passed before the text was finished")
}

async fn receive(
    client: &mut Client,
    request: Request<v1::GenerateRequest>,
    arrived: Instant,
) -> Result<Completed, Status> {
    let mut events = client.generate(request).await?.into_inner();
    let mut seen = Completed::default();
    while let Some(response) = events.message().await? {
        match response.event {
            Some(Event::Started(started)) => seen.prompt_tokens = started.prompt_tokens,
            Some(Event::Chunk(chunk)) if !chunk.token_ids.is_empty() => {
                seen.chunks.push((arrived.elapsed(), chunk.token_ids.len() as u32));
            }
            Some(Event::Chunk(_)) | None => {}
            Some(Event::Finished(finished)) => {
                seen.latency = arrived.elapsed();
                seen.statistics = finished.statistics.unwrap_or_default();
                return Ok(seen);
            }
        }
    }
    Err(Status::unavailable("the orchestrator ended the stream without finishing the text"))
}

impl Completed {
    pub(super) fn output_tokens(&self) -> u64 {
        self.chunks.iter().map(|&(_, tokens)| u64::from(tokens)).sum()
    }

    /// Time to first token.
    pub(super) fn ttft(&self) -> Option<Duration> {
        self.chunks.first().map(|&(at, _)| at)
    }

    /// Time per output token behind the first chunk; `None` if there is none.
    pub(super) fn tpot(&self) -> Option<Duration> {
        let (&(first, tokens), &(last, _)) = (self.chunks.first()?, self.chunks.last()?);
        let behind = self.output_tokens() - u64::from(tokens);
        (behind > 0).then(|| (last - first).div_f64(behind as f64))
    }

    /// Inter-token latency of each chunk behind the first one: the gap before it over its tokens.
    pub(super) fn itl(&self) -> impl Iterator<Item = Duration> {
        self.chunks.windows(2).map(|pair| (pair[1].0 - pair[0].0) / pair[1].1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn completed(chunks: &[(u64, u32)]) -> Completed {
        let chunks = chunks.iter().map(|&(ms, tokens)| (Duration::from_millis(ms), tokens)).collect();
        Completed { chunks, ..Completed::default() }
    }

    #[test]
    fn times_per_token_leave_the_first_chunk_out() {
        let ms = Duration::from_millis;
        let request = completed(&[(30, 3), (40, 2), (70, 1), (90, 2)]);
        assert_eq!((request.output_tokens(), request.ttft()), (8, Some(ms(30))));
        assert_eq!(request.tpot(), Some(ms(12)));
        assert_eq!(request.itl().collect::<Vec<_>>(), [ms(5), ms(30), ms(10)]);
        let single = completed(&[(30, 3)]);
        assert_eq!((single.ttft(), single.tpot(), single.itl().count()), (Some(ms(30)), None, 0));
        assert_eq!(completed(&[]).ttft(), None);
    }

    #[test]
    fn codes_have_their_names() {
        let names = [Code::ResourceExhausted, Code::Unavailable, Code::DeadlineExceeded].map(code_name);
        assert_eq!(names, ["RESOURCE_EXHAUSTED", "UNAVAILABLE", "DEADLINE_EXCEEDED"]);
    }
}
