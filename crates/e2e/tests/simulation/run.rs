//! The three services as they are, with toy models, in a simulated network on simulated time.
//!
//! Everything that happens is drawn from a seed: how many workers there are, what is asked of them, and what goes wrong when. [`run`]
//! does it and says what was violated, if anything.

mod client;
mod fault;
mod hosts;
mod network;
mod reference;
mod rude;
mod scenario;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tandem_engine::KvBudget;
use tandem_serving::Shutdown;

pub use scenario::Scenario;

use client::Outcome;
pub(crate) use scenario::{DRAFT, TARGET};

/// A step of the simulation: short enough that faults fall between the messages of a generation.
const TICK: Duration = Duration::from_millis(4);
/// Leases end within this.
pub(crate) const LEASE: Duration = Duration::from_secs(2);
/// What all must have ended by, and then some.
const LONGEST: Duration = Duration::from_secs(60);

/// What hosts share with the one who watches them.
#[derive(Clone, Default)]
pub(crate) struct World {
    inner: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    /// Of the present life of each worker.
    workers: BTreeMap<String, (KvBudget, Shutdown)>,
    /// What the names of worker groups stand for.
    names: BTreeMap<String, Vec<String>>,
    outcomes: BTreeMap<usize, Outcome>,
    /// Lives begun.
    lives: u64,
    /// What a host saw that must not be.
    violations: Vec<String>,
}

impl World {
    fn with<R>(&self, f: impl FnOnce(&mut Shared) -> R) -> R {
        f(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A worker began a life: its incarnation.
    fn begin_life(&self) -> u64 {
        self.with(|w| {
            w.lives += 1;
            w.lives
        })
    }
}

/// What a run showed.
#[derive(Debug, Default)]
pub struct Report {
    /// What must not be.
    pub violations: Vec<String>,
    /// Streams that ended with a finish reason.
    pub finished: usize,
    /// Streams that ended with an error.
    pub failed: usize,
    /// Streams that their client broke off.
    pub cancelled: usize,
    /// Sessions opened again.
    pub failovers: usize,
    /// Iterations without a draft.
    pub undrafted: usize,
    /// Simulated time.
    pub elapsed: Duration,
    /// All that the clients saw, in a form that is equal if two runs are.
    pub log: String,
}

/// Runs the scenario of `seed`.
pub fn run(seed: u64) -> Report {
    let scenario = Scenario::draw(seed);
    let world = World::default();
    let mut sim = hosts::build(&scenario, &world);
    let mut report = Report::default();
    let mut faults = scenario.faults.iter().peekable();
    let mut quiet = None;
    loop {
        while let Some(fault) = faults.next_if(|fault| fault.at <= sim.elapsed()) {
            fault.apply(&mut sim, &world);
        }
        match sim.step() {
            Err(error) => {
                report.violations.push(format!("a host failed: {error}"));
                break;
            }
            // All streams have ended and nothing more goes wrong: leases end, too.
            Ok(true) if faults.peek().is_none() => {
                let since = *quiet.get_or_insert(sim.elapsed());
                // Who is neither disturbed nor rude leaves nothing for the leases to end.
                if scenario.is_calm() && !scenario.rude && sim.elapsed() > since + LEASE / 2 {
                    break;
                }
                if sim.elapsed() > since + 2 * LEASE {
                    break;
                }
            }
            Ok(_) => {}
        }
    }
    report.elapsed = sim.elapsed();
    world.with(|w| {
        // While the hosts live: what dies with them leaks nothing.
        for (host, (budget, _)) in &w.workers {
            if budget.used() > 0 {
                report.violations.push(format!("{host} still holds {} tokens of KV cache", budget.used()));
            }
        }
    });
    drop(sim);
    world.with(|w| {
        report.violations.append(&mut w.violations);
        for (request, outcome) in scenario.requests.iter().zip(0..).map(|(r, i)| (r, w.outcomes.remove(&i))) {
            match outcome {
                Some(outcome) => outcome.judge(request, scenario.is_calm(), &mut report),
                None => report.violations.push("a stream never ended".into()),
            }
        }
    });
    report
}
