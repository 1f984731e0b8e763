//! Faults at random.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use anyhow::Context;
use indicatif::ProgressBar;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::args::{Args, PauseRange};
use super::services::Worker;

/// How often a fault may hit the last healthy worker of a role. If it did so more often, hardly a stream would be running for
/// faults to hit.
const LAST_WORKER_PROBABILITY: f64 = 0.2;
/// The longest outage of a last worker, not counting how long its model takes to load.
const LAST_WORKER_OUTAGE: Duration = Duration::from_secs(1);

/// What happens to a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum FaultKind {
    /// kill -9, then a restart.
    Kill,
    /// SIGSTOP, then SIGCONT.
    Stop,
    /// SIGTERM, then a restart once it has ended.
    Drain,
}

/// A fault, and how long the outage lasts.
#[derive(Clone, Copy, Debug)]
struct Fault {
    kind: FaultKind,
    outage: Duration,
}

/// The workers, healthy or in the middle of a fault.
pub(crate) struct Storm {
    rng: ChaCha8Rng,
    pause: PauseRange,
    verbose: bool,
    bar: ProgressBar,
    begun: Instant,
    healthy: Vec<Worker>,
    faulty: JoinSet<anyhow::Result<Worker>>,
    counts: BTreeMap<FaultKind, u64>,
}

impl Storm {
    /// Faults of `workers`, chosen by `seed`.
    pub(crate) fn new(workers: Vec<Worker>, seed: u64, args: &Args, bar: ProgressBar) -> Self {
        Self {
            rng: ChaCha8Rng::seed_from_u64(seed),
            pause: args.pause_ms.clone(),
            verbose: args.verbose,
            bar,
            begun: Instant::now(),
            healthy: workers,
            faulty: JoinSet::new(),
            counts: BTreeMap::new(),
        }
    }

    /// Begins so many faults, with a pause before each. They may overlap.
    pub(crate) async fn strike(&mut self, faults: u64) -> anyhow::Result<()> {
        for _ in 0..faults {
            let pause = Duration::from_millis(self.rng.random_range(self.pause.0.clone()));
            #[allow(clippy::disallowed_methods, reason = "faults come at random times, not after an event")]
            sleep(pause).await;
            while let Some(recovered) = self.faulty.try_join_next() {
                self.healthy.push(recovered??);
            }
            let victim = self.choose().await?;
            self.strike_one(victim)?;
            self.bar.inc(1);
        }
        Ok(())
    }

    /// Waits until all workers have recovered, and returns them with the number of faults by kind.
    pub(crate) async fn calm(mut self) -> anyhow::Result<(Vec<Worker>, BTreeMap<FaultKind, u64>)> {
        while !self.faulty.is_empty() {
            self.wait_for_one().await?;
        }
        for worker in &mut self.healthy {
            worker.check_alive()?;
        }
        self.healthy.sort_by_key(ToString::to_string);
        Ok((self.healthy, self.counts))
    }

    async fn wait_for_one(&mut self) -> anyhow::Result<()> {
        let recovered = self.faulty.join_next().await.context("there is no worker")?;
        self.healthy.push(recovered??);
        Ok(())
    }

    /// Chooses a healthy worker, and waits for one if there is none. Returns its index.
    async fn choose(&mut self) -> anyhow::Result<usize> {
        loop {
            if !self.healthy.is_empty() {
                let chosen = self.rng.random_range(0..self.healthy.len());
                if !self.is_last(chosen)
                    || self.faulty.is_empty()
                    || self.rng.random_bool(LAST_WORKER_PROBABILITY)
                {
                    return Ok(chosen);
                }
            }
            self.wait_for_one().await?;
        }
    }

    /// Whether it is the last healthy worker of its role.
    fn is_last(&self, index: usize) -> bool {
        let role = self.healthy[index].role;
        self.healthy.iter().filter(|worker| worker.role == role).count() == 1
    }

    fn strike_one(&mut self, victim: usize) -> anyhow::Result<()> {
        let mut fault = Fault::draw(&mut self.rng);
        if self.is_last(victim) {
            fault.outage = fault.outage.min(LAST_WORKER_OUTAGE);
        }
        let mut worker = self.healthy.swap_remove(victim);
        worker.check_alive()?;
        *self.counts.entry(fault.kind).or_default() += 1;
        if self.verbose {
            let at = self.begun.elapsed().as_secs_f64();
            let outage = fault.outage.as_millis();
            self.bar.suspend(|| eprintln!("{at:7.2} s: {} {worker}, for {outage} ms", fault.kind));
        }
        self.faulty.spawn(fault.apply(worker));
        Ok(())
    }
}

impl Fault {
    fn draw(rng: &mut impl Rng) -> Self {
        let (kind, longest) = match rng.random_range(0..100) {
            0..45 => (FaultKind::Kill, 50..=1500),
            45..90 => (FaultKind::Stop, 100..=3000),
            _ => (FaultKind::Drain, 50..=1500),
        };
        Self { kind, outage: Duration::from_millis(rng.random_range(longest)) }
    }

    /// Begins the fault, and ends it after the outage.
    async fn apply(self, worker: Worker) -> anyhow::Result<Worker> {
        let worker = match self.kind {
            FaultKind::Kill => worker.kill().await?,
            FaultKind::Stop => worker.signal("STOP").await?,
            FaultKind::Drain => worker.drain().await?,
        };
        #[allow(clippy::disallowed_methods, reason = "the outage has a drawn length")]
        sleep(self.outage).await;
        match self.kind {
            FaultKind::Stop => worker.signal("CONT").await,
            FaultKind::Kill | FaultKind::Drain => worker.restart().await,
        }
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kill => "kill -9",
            Self::Stop => "SIGSTOP",
            Self::Drain => "SIGTERM",
        })
    }
}
