//! Streams in a closed loop, each answer compared with the undisturbed one.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rand::SeedableRng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;
use tandem_cli::client::Client;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::args::Args;
use super::cases::{Case, Comparison, ask};
use super::services::System;

/// Streams that run until they are stopped.
pub(crate) struct Streams {
    tasks: JoinSet<()>,
    board: Arc<Board>,
}

/// What the streams share.
pub(crate) struct Board {
    cases: Vec<Case>,
    tally: Mutex<Tally>,
    stopped: AtomicBool,
    begun: Instant,
}

/// How the streams ended.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) finished: u64,
    /// Finished, and the same as undisturbed.
    pub(crate) same: u64,
    /// Finished, but in part without drafts, by a method whose result depends on them.
    pub(crate) not_compared: u64,
    /// Tokens of the streams that were compared.
    pub(crate) tokens_compared: u64,
    /// A sentence for each stream that differs.
    pub(crate) differing: Vec<String>,
    /// A sentence for each stream that ended with an error.
    pub(crate) lost: Vec<String>,
    pub(crate) failovers: u64,
    pub(crate) undrafted_iterations: u64,
    pub(crate) iterations: u64,
}

impl Streams {
    /// Starts the streams, each on a connection of its own.
    pub(crate) async fn start(
        system: &System,
        cases: Vec<Case>,
        args: &Args,
        seed: u64,
    ) -> anyhow::Result<Self> {
        let board =
            Board { cases, tally: Mutex::default(), stopped: AtomicBool::new(false), begun: Instant::now() };
        let board = Arc::new(board);
        let mut tasks = JoinSet::new();
        for number in 0..args.streams {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            // Stream 0 of the generator is that of the faults.
            rng.set_stream(u64::from(number) + 1);
            tasks.spawn(run(system.client().await?, board.clone(), rng));
        }
        Ok(Self { tasks, board })
    }

    /// The shared counts.
    pub(crate) fn board(&self) -> Arc<Board> {
        self.board.clone()
    }

    /// Stops each stream after its current request.
    pub(crate) async fn finish(mut self) -> anyhow::Result<Tally> {
        self.board.stopped.store(true, Ordering::Relaxed);
        while let Some(ended) = self.tasks.join_next().await {
            ended?;
        }
        Ok(self.board.tally().clone())
    }
}

impl Board {
    /// The counts so far.
    pub(crate) fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends one request after the other. It ends after a failure: later ones would only repeat the message.
async fn run(mut client: Client, board: Arc<Board>, mut rng: ChaCha8Rng) {
    while !board.stopped.load(Ordering::Relaxed) {
        let Some(case) = board.cases.choose(&mut rng) else { return };
        let begun = Instant::now();
        let answer = match ask(&mut client, &case.request).await {
            Ok(answer) => answer,
            Err(status) => {
                let after = begun.elapsed().as_secs_f64();
                let at = board.begun.elapsed().as_secs_f64();
                board.tally().lost.push(format!(
                    "{case} was lost after {after:.1} s, {at:.1} s into the faults: {:?}: {}",
                    status.code(),
                    status.message()
                ));
                return;
            }
        };
        let comparison = case.compare(&answer);
        let mut tally = board.tally();
        tally.finished += 1;
        tally.failovers += u64::from(answer.statistics.failovers);
        tally.undrafted_iterations += u64::from(answer.statistics.undrafted_iterations);
        tally.iterations += u64::from(answer.statistics.iterations);
        if comparison != Comparison::Undrafted {
            tally.tokens_compared += answer.tokens.len() as u64;
        }
        match comparison {
            Comparison::Same => tally.same += 1,
            Comparison::Undrafted => tally.not_compared += 1,
            Comparison::Differs(how) => tally.differing.push(how),
        }
    }
}
