//! Faults at random.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use anyhow::Context;
use indicatif::ProgressBar;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::args::{Args, Span};
use crate::services::Worker;

/// How often a fault takes a worker whose role has nobody else. More often, and hardly a stream would run that faults could hit.
const LAST_ONE: f64 = 0.2;
/// The longest absence then; how long a model takes to load comes on top.
const LAST_ONE_AWAY: Duration = Duration::from_secs(1);

/// What happens to a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum FaultKind {
    /// kill -9, and another life.
    Kill,
    /// SIGSTOP, and SIGCONT.
    Stop,
    /// SIGTERM, and another life once it has ended.
    Drain,
}

/// A fault, and how long the worker is away.
#[derive(Clone, Copy, Debug)]
struct Fault {
    kind: FaultKind,
    away: Duration,
}

/// Workers, those that are well and those in trouble.
pub(crate) struct Storm {
    rng: ChaCha8Rng,
    pause: Span,
    verbose: bool,
    bar: ProgressBar,
    begun: Instant,
    well: Vec<Worker>,
    troubled: JoinSet<anyhow::Result<Worker>>,
    counts: BTreeMap<FaultKind, u64>,
}

impl Storm {
    /// Over `workers`, as `seed` chooses.
    pub(crate) fn new(workers: Vec<Worker>, seed: u64, args: &Args, bar: ProgressBar) -> Self {
        Self {
            rng: ChaCha8Rng::seed_from_u64(seed),
            pause: args.pause_ms.clone(),
            verbose: args.verbose,
            bar,
            begun: Instant::now(),
            well: workers,
            troubled: JoinSet::new(),
            counts: BTreeMap::new(),
        }
    }

    /// So many faults, each behind a pause. They last while others begin.
    pub(crate) async fn strike(&mut self, faults: u64) -> anyhow::Result<()> {
        for _ in 0..faults {
            let pause = Duration::from_millis(self.rng.random_range(self.pause.0.clone()));
            // Faults come when they come, not when anything is ready for them.
            #[allow(clippy::disallowed_methods)]
            tokio::time::sleep(pause).await;
            while let Some(recovered) = self.troubled.try_join_next() {
                self.well.push(recovered??);
            }
            let victim = self.choose().await?;
            self.strike_one(victim)?;
            self.bar.inc(1);
        }
        Ok(())
    }

    /// Waits for all to recover: the workers, and what happened to them.
    pub(crate) async fn calm(mut self) -> anyhow::Result<(Vec<Worker>, BTreeMap<FaultKind, u64>)> {
        while !self.troubled.is_empty() {
            self.wait_for_one().await?;
        }
        for worker in &mut self.well {
            worker.check_alive()?;
        }
        self.well.sort_by_key(ToString::to_string);
        Ok((self.well, self.counts))
    }

    async fn wait_for_one(&mut self) -> anyhow::Result<()> {
        let recovered = self.troubled.join_next().await.context("there is no worker at all")?;
        self.well.push(recovered??);
        Ok(())
    }

    /// One that is well, now or soon: its place in the list.
    async fn choose(&mut self) -> anyhow::Result<usize> {
        loop {
            if !self.well.is_empty() {
                let chosen = self.rng.random_range(0..self.well.len());
                if !self.is_last(chosen) || self.troubled.is_empty() || self.rng.random_bool(LAST_ONE) {
                    return Ok(chosen);
                }
            }
            self.wait_for_one().await?;
        }
    }

    /// Whether nobody else of its role is well.
    fn is_last(&self, index: usize) -> bool {
        let role = self.well[index].role;
        self.well.iter().filter(|worker| worker.role == role).count() == 1
    }

    fn strike_one(&mut self, victim: usize) -> anyhow::Result<()> {
        let mut fault = Fault::draw(&mut self.rng);
        if self.is_last(victim) {
            fault.away = fault.away.min(LAST_ONE_AWAY);
        }
        let mut worker = self.well.swap_remove(victim);
        worker.check_alive()?;
        *self.counts.entry(fault.kind).or_default() += 1;
        if self.verbose {
            let at = self.begun.elapsed().as_secs_f64();
            let away = fault.away.as_millis();
            self.bar.suspend(|| eprintln!("{at:7.2} s: {} {worker}, away for {away} ms", fault.kind));
        }
        self.troubled.spawn(fault.befall(worker));
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
        Self { kind, away: Duration::from_millis(rng.random_range(longest)) }
    }

    async fn befall(self, worker: Worker) -> anyhow::Result<Worker> {
        let worker = match self.kind {
            FaultKind::Kill => worker.kill().await?,
            FaultKind::Stop => worker.signal("STOP").await?,
            FaultKind::Drain => worker.drain().await?,
        };
        // That is how long it is away.
        #[allow(clippy::disallowed_methods)]
        tokio::time::sleep(self.away).await;
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
