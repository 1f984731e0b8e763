//! The loops at a server that answers as its prompts say.

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

use super::super::Args;
use super::*;
use crate::client::connect;

/// Answers a prompt "answered"; refuses, breaks off or forgets the others.
struct Fake {
    running: Arc<AtomicUsize>,
    /// Most that ran at once.
    peak: Arc<AtomicUsize>,
    /// Those that are answered are answered together.
    together: Option<Barrier>,
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
        if let (Some(together), "answered") = (&self.together, prompt.as_str()) {
            together.wait().await;
        }
        if prompt == "forgotten" {
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

/// A sender of `prompts` in turns, and the most requests that the server saw at once.
async fn at_fake(prompts: &[&str], together: Option<usize>) -> (Sender, Arc<AtomicUsize>) {
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let peak = Arc::new(AtomicUsize::new(0));
    let fake = Fake { running: Arc::default(), peak: peak.clone(), together: together.map(Barrier::new) };
    let server = tonic::transport::Server::builder().add_service(GenerationServer::new(fake));
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));

    let Flags { args } = Flags::parse_from(["bench"]);
    let models = v1::GetStatusResponse { context_length: 512, ..v1::GetStatusResponse::default() };
    let texts = prompts.iter().map(ToString::to_string).collect();
    let sender = Sender {
        clients: vec![connect(&url).await.unwrap()].into(),
        workload: Arc::new(Workload::new(&args, texts, &models).unwrap()),
        decoding: v1::DecodingParams::default(),
        timeout: None,
        bar: LevelBar::hidden(),
    };
    (sender, peak)
}

/// Sorted, with "COMPLETED" for those that were.
fn ends(outcomes: &[Outcome]) -> Vec<&str> {
    let mut ends: Vec<&str> = outcomes
        .iter()
        .map(|outcome| match outcome {
            Outcome::Completed(_) => "COMPLETED",
            Outcome::Failed(failure) => &failure.code,
        })
        .collect();
    ends.sort_unstable();
    ends
}

#[tokio::test]
async fn a_closed_loop_keeps_as_many_running_as_it_was_told_and_no_more() {
    // Nobody is answered before three run.
    let (sender, peak) = at_fake(&["answered"], Some(3)).await;
    let outcomes = closed(&sender, 3, Limit::Requests(9), 0).await.unwrap();
    assert_eq!(ends(&outcomes), ["COMPLETED"; 9]);
    assert_eq!(peak.load(Ordering::SeqCst), 3);
    let Outcome::Completed(first) = &outcomes[0] else { panic!("counted above") };
    assert_eq!((first.output_tokens(), first.chunks.len()), (4, 2));
}

#[tokio::test]
async fn a_closed_loop_goes_on_behind_failures_and_counts_each() {
    let (sender, _) = at_fake(&["answered", "refused", "broken off"], None).await;
    let outcomes = closed(&sender, 2, Limit::Requests(6), 0).await.unwrap();
    let expected =
        ["COMPLETED", "COMPLETED", "RESOURCE_EXHAUSTED", "RESOURCE_EXHAUSTED", "UNAVAILABLE", "UNAVAILABLE"];
    assert_eq!(ends(&outcomes), expected);
}

#[tokio::test]
async fn an_open_loop_does_not_wait_for_answers_but_has_a_bound() {
    let (sender, peak) = at_fake(&["forgotten"], None).await;
    let sender = Sender { timeout: Some(Duration::from_secs(1)), ..sender };
    // All of them arrive long before the first deadline.
    let arrivals = sender.workload.arrivals(10_000.0);
    let outcomes = open(&sender, arrivals, Limit::Requests(8), 3).await.unwrap();
    let expected = [["DEADLINE_EXCEEDED"; 3].as_slice(), &[NOT_SENT; 5]].concat();
    assert_eq!(ends(&outcomes), expected);
    assert_eq!(peak.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn an_open_loop_sends_all_that_is_due_within_the_duration() {
    let (sender, _) = at_fake(&["answered"], None).await;
    let arrivals = || sender.workload.arrivals(500.0);
    let due = arrivals().take_while(|at| *at < Duration::from_millis(100)).count();
    let outcomes =
        open(&sender, arrivals(), Limit::Duration(Duration::from_millis(100)), 1000).await.unwrap();
    assert!(due > 20);
    assert_eq!(ends(&outcomes), vec!["COMPLETED"; due]);
}
