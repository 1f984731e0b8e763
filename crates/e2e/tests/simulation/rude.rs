//! A client of a worker that sends its steps twice, late, early and concurrently.

use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tandem_proto::v1::target_client::TargetClient;
use tandem_proto::{Reason, v1};
use tandem_testkit::{PORT, SimulatedNetwork};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use super::names::worker;
use super::world::World;

/// Attempts per session, each of one or two requests.
const ATTEMPTS: usize = 30;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
const SESSION_TIMEOUT: Duration = Duration::from_secs(5);

/// Runs the rude client. The same step must give the same reply, and any other step an error.
pub(crate) async fn run(seed: u64, world: World) -> turmoil::Result {
    let address = turmoil::lookup(worker("target", 0));
    let endpoint =
        Endpoint::from_shared(format!("http://{address}:{PORT}"))?.connect_timeout(CONNECT_TIMEOUT);
    let target = TargetClient::new(SimulatedNetwork::connect(&endpoint));
    let mut rude = Rude { target, rng: ChaCha8Rng::seed_from_u64(seed), world };
    // Errors are ignored: the worker may have crashed, which other checks cover.
    for _ in 0..2 {
        let _ = tokio::time::timeout(SESSION_TIMEOUT, rude.session()).await;
    }
    Ok(())
}

struct Rude {
    target: TargetClient<Channel>,
    rng: ChaCha8Rng,
    world: World,
}

impl Rude {
    /// A session whose steps are repeated, skipped and sent concurrently, and which is never closed.
    async fn session(&mut self) -> Result<(), Status> {
        let open = v1::OpenSessionRequest {
            prompt_tokens: vec![1, 2, 3],
            max_new_tokens: 60,
            max_tree_nodes: 2,
            sampling: Some(v1::Sampling { temperature: 1.0, top_k: 0, top_p: 0.0 }),
            seed: self.rng.random(),
            ..v1::OpenSessionRequest::default()
        };
        let handle = self.target.open_session(open).await?.into_inner().handle;
        let mut handle = handle.ok_or_else(|| Status::internal("no handle"))?;
        let mut step = score(handle, 1, None);
        let mut reply = self.target.score_tree(step.clone()).await?.into_inner();
        for _ in 0..ATTEMPTS {
            match self.rng.random_range(0..4) {
                0 => self.expect_same(&step, &reply).await?,
                1 => self.expect_refused(handle, step.step).await?,
                2 => {
                    // Concurrently: one of the two may be refused because the other still runs.
                    let mut first = self.target.clone();
                    let mut second = self.target.clone();
                    let both = tokio::join!(first.score_tree(step.clone()), second.score_tree(step.clone()));
                    self.expect(both.0, &reply)?;
                    self.expect(both.1, &reply)?;
                }
                _ => {
                    let bonus_token = reply.drawn_tokens.first().copied().unwrap_or_default();
                    handle.committed_tokens += 1;
                    let commit = v1::Commit { accepted_nodes: Vec::new(), bonus_token };
                    step = score(handle, step.step + 1, Some(commit));
                    reply = self.target.score_tree(step.clone()).await?.into_inner();
                }
            }
        }
        Ok(())
    }

    async fn expect_same(
        &mut self,
        step: &v1::ScoreTreeRequest,
        reply: &v1::ScoreTreeResponse,
    ) -> Result<(), Status> {
        let answer = self.target.score_tree(step.clone()).await;
        self.expect(answer, reply)
    }

    fn expect(
        &mut self,
        answer: Result<tonic::Response<v1::ScoreTreeResponse>, Status>,
        reply: &v1::ScoreTreeResponse,
    ) -> Result<(), Status> {
        match answer {
            Ok(again) if again.get_ref() == reply => Ok(()),
            Ok(again) => {
                self.world.violation(format!("the same step, another reply: {reply:?}, then {again:?}"));
                Ok(())
            }
            Err(status) if status.code() == Code::ResourceExhausted => Ok(()),
            Err(status) => Err(status),
        }
    }

    /// A step from the past or the future changes nothing.
    async fn expect_refused(&mut self, handle: v1::SessionHandle, step: u64) -> Result<(), Status> {
        let wrong = if step > 1 && self.rng.random() { step - 1 } else { step + 5 };
        match self.target.score_tree(score(handle, wrong, None)).await {
            Ok(_) => {
                self.world.violation(format!("step {wrong} was accepted after step {step}"));
                Ok(())
            }
            Err(status) if Reason::of(&status) == Some(Reason::StepOutOfOrder) => Ok(()),
            Err(status) if status.code() == Code::ResourceExhausted => Ok(()),
            Err(status) => Err(status),
        }
    }
}

fn score(handle: v1::SessionHandle, step: u64, commit: Option<v1::Commit>) -> v1::ScoreTreeRequest {
    let tree = Some(v1::TokenTree { tokens: vec![4, 5], parents: vec![-1, 0] });
    v1::ScoreTreeRequest { handle: Some(handle), step, commit, tree, ..v1::ScoreTreeRequest::default() }
}
