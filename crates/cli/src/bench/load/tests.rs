//! Both loops against a server whose prompts determine its response.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::AtomicUsize;

use clap::Parser;
use tandem_proto::v1::generate_request::Input;
use tandem_proto::v1::generate_response::Event;
use tandem_proto::v1::generation_server::{Generation, GenerationServer};
use tokio::net::TcpListener;
use tokio::sync::Barrier;
use tokio_stream::Stream;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

use super::super::args::Args;
use super::*;
use crate::client::connect;

/// Answers the prompt "answered"; refuses, breaks off or never answers the others.
struct Fake {
    running: Arc<AtomicUsize>,
    /// Maximum number of concurrent requests.
    peak: Arc<AtomicUsize>,
    /// Requests to answer wait for one another.
    barrier: Option<Barrier>,
}

type Events = Pin<Box<dyn Stream<Item = Result<v1::GenerateResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Generation for Fake {
    type GenerateStream = Events;

    async fn generate(&self, request: Request<v1::GenerateRequest>) -> Result<Response<Events>, Status> {
        let now = self.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.peak.fetch_max(now, Ordering::SeqCst);
        let prompt = match request.into_inner().input {
            Some(Input::Prompt(prompt)) => prompt,
            _ => String::new(),
        };
        if let (Some(barrier), "answered") = (&self.barrier, prompt.as_str()) {
            barrier.wait().await;
        }
        if prompt == "unanswered" {
            std::future::pending::<()>().await;
        }
        self.running.fetch_sub(1, Ordering::SeqCst);
        let chunk = v1::Chunk { token_ids: vec![1, 2], ..v1::Chunk::default() };
        let answer = [
            Event::Started(v1::Started::default()),
            Event::Chunk(chunk.clone()),
            Event::Chunk(chunk),
            Event::Finished(v1::Finished::default()),
        ];
        let length = match prompt.as_str() {
            "refused" => return Err(Status::resource_exhausted("full")),
            "broken off" => 2,
            _ => answer.len(),
        };
        let events = answer.into_iter().take(length);
        let events = events.map(|event| Ok(v1::GenerateResponse { event: Some(event), index: 0 }));
        Ok(Response::new(Box::pin(tokio_stream::iter(events))))
    }

    async fn get_status(
        &self,
        _: Request<v1::GetStatusRequest>,
    ) -> Result<Response<v1::GetStatusResponse>, Status> {
        Ok(Response::new(v1::GetStatusResponse::default()))
    }
}

#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    args: Args,
}

/// A sender that uses `prompts` in turn, and the maximum number of requests that the server saw at once.
/// Requests are answered `batch` at a time.
async fn sender_to_fake(prompts: &[&str], batch: Option<usize>) -> (Sender, Arc<AtomicUsize>) {
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let peak = Arc::new(AtomicUsize::new(0));
    let fake = Fake { running: Arc::default(), peak: peak.clone(), barrier: batch.map(Barrier::new) };
    let server = tonic::transport::Server::builder().add_service(GenerationServer::new(fake));
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));

    let Flags { args } = Flags::parse_from(["bench"]);
    let models = v1::GetStatusResponse { context_length: 512, ..v1::GetStatusResponse::default() };
    let prompts = prompts.iter().map(ToString::to_string).collect();
    let sender = Sender {
        clients: vec![connect(&url).await.unwrap()].into(),
        workload: Arc::new(Workload::new(&args, prompts, &models).unwrap()),
        decoding: v1::DecodingParams::default(),
        timeout: None,
        bar: LevelBar::hidden(),
    };
    (sender, peak)
}

/// The codes of the failures and "COMPLETED" for the other requests, sorted.
fn results(outcomes: &[Outcome]) -> Vec<&str> {
    let mut results: Vec<&str> = outcomes
        .iter()
        .map(|outcome| match outcome {
            Outcome::Completed(_) => "COMPLETED",
            Outcome::Failed(failure) => &failure.code,
        })
        .collect();
    results.sort_unstable();
    results
}

#[tokio::test]
async fn a_closed_loop_keeps_exactly_the_given_number_of_requests_running() {
    // No request is answered before three are running.
    let (sender, peak) = sender_to_fake(&["answered"], Some(3)).await;
    let outcomes = closed(&sender, 3, Limit::Requests(9), 0).await.unwrap();
    assert_eq!(results(&outcomes), ["COMPLETED"; 9]);
    assert_eq!(peak.load(Ordering::SeqCst), 3);
    let Outcome::Completed(first) = &outcomes[0] else { panic!("counted above") };
    assert_eq!((first.output_tokens(), first.chunks.len()), (4, 2));
}

#[tokio::test]
async fn a_closed_loop_continues_after_failures_and_counts_each() {
    let (sender, _) = sender_to_fake(&["answered", "refused", "broken off"], None).await;
    let outcomes = closed(&sender, 2, Limit::Requests(6), 0).await.unwrap();
    let expected =
        ["COMPLETED", "COMPLETED", "RESOURCE_EXHAUSTED", "RESOURCE_EXHAUSTED", "UNAVAILABLE", "UNAVAILABLE"];
    assert_eq!(results(&outcomes), expected);
}

#[tokio::test]
async fn an_open_loop_does_not_wait_for_answers_but_has_a_limit() {
    let (sender, peak) = sender_to_fake(&["unanswered"], None).await;
    let sender = Sender { timeout: Some(Duration::from_secs(1)), ..sender };
    // All of them arrive long before the first timeout.
    let arrivals = sender.workload.arrivals(10_000.0);
    let outcomes = open(&sender, arrivals, Limit::Requests(8), 3).await.unwrap();
    let expected = [["DEADLINE_EXCEEDED"; 3].as_slice(), &[NOT_SENT; 5]].concat();
    assert_eq!(results(&outcomes), expected);
    assert_eq!(peak.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn an_open_loop_sends_every_request_that_arrives_within_the_duration() {
    let (sender, _) = sender_to_fake(&["answered"], None).await;
    let arrivals = || sender.workload.arrivals(500.0);
    let due = arrivals().take_while(|at| *at < Duration::from_millis(100)).count();
    let outcomes =
        open(&sender, arrivals(), Limit::Duration(Duration::from_millis(100)), 1000).await.unwrap();
    assert!(due > 20);
    assert_eq!(results(&outcomes), vec!["COMPLETED"; due]);
}
