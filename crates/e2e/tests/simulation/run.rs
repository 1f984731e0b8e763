//! Runs a scenario on simulated time.

use std::time::Duration;

use turmoil::Sim;

use super::fault::Fault;
use super::hosts::{LEASE, build};
use super::judge::judge;
use super::report::Report;
use super::scenario::Scenario;
use super::world::World;

/// Runs the scenario of `seed`.
pub(crate) fn run(seed: u64) -> Report {
    let scenario = Scenario::draw(seed);
    let world = World::default();
    let mut sim = build(&scenario, &world);
    let mut report = Report::default();
    if let Err(error) = step_to_the_end(&scenario, &world, &mut sim) {
        report.violations.push(format!("a host failed: {error}"));
    }
    report.elapsed = sim.elapsed();
    check_budgets(&world, &mut report);
    drop(sim);
    world.with(|shared| {
        report.violations.append(&mut shared.violations);
        for (index, request) in scenario.requests.iter().enumerate() {
            match shared.outcomes.remove(&index) {
                Some(outcome) => judge(outcome, request, scenario.is_calm(), &mut report),
                None => report.violations.push("a stream never ended".into()),
            }
        }
    });
    report
}

/// Runs until all clients are done, all faults are over and all leases have expired.
fn step_to_the_end(scenario: &Scenario, world: &World, sim: &mut Sim<'_>) -> turmoil::Result {
    let mut faults = scenario.faults.iter().peekable();
    // Since when all clients are done and no fault is left.
    let mut quiet_since: Option<Duration> = None;
    loop {
        while let Some(fault) = faults.next_if(|fault| fault.at <= sim.elapsed()) {
            Fault::apply(fault, sim, world);
        }
        let clients_done = sim.step()?;
        if clients_done && faults.peek().is_none() {
            let since = *quiet_since.get_or_insert(sim.elapsed());
            if sim.elapsed() > since + settling_time(scenario) {
                return Ok(());
            }
        }
    }
}

/// How long sessions may stay open after the last client is done. Without faults and without a rude client every session
/// is closed, so that no lease has to expire.
fn settling_time(scenario: &Scenario) -> Duration {
    if scenario.is_calm() && !scenario.rude { LEASE / 2 } else { 2 * LEASE }
}

/// Checked while the hosts still run: a budget that is dropped with its host leaks nothing.
fn check_budgets(world: &World, report: &mut Report) {
    world.with(|shared| {
        for (host, worker) in &shared.workers {
            let used = worker.budget.used();
            if used > 0 {
                report.violations.push(format!("{host} still holds {used} tokens of KV cache"));
            }
        }
    });
}
