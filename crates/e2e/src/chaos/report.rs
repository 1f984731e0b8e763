//! What a run showed.

use std::collections::BTreeMap;
use std::process::ExitStatus;
use std::time::Duration;

use comfy_table::Table;
use tandem_cli::output::table;

use super::faults::FaultKind;
use super::services::Worker;
use super::streams::Tally;

/// How much the orchestrator may grow after the first third of the faults: room for caches and fragmentation, but not for
/// something that each fault or each stream leaks.
const GROWTH_LIMIT: u64 = 16 << 20;
/// Violations of a kind that are listed; the rest is counted.
const LISTED: usize = 5;

/// Everything about a run.
pub(crate) struct Report {
    pub(crate) tally: Tally,
    pub(crate) faults: BTreeMap<FaultKind, u64>,
    pub(crate) memory: Memory,
    /// In their last incarnation.
    pub(crate) workers: Vec<Worker>,
    /// What was wrong after the last stream had ended.
    pub(crate) settled: Result<(), Vec<String>>,
    pub(crate) orchestrator_ended: Option<ExitStatus>,
    pub(crate) took: Duration,
}

/// Resident bytes of the orchestrator, which runs through all faults.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    pub(crate) undisturbed: Option<u64>,
    pub(crate) third: Option<u64>,
    pub(crate) end: Option<u64>,
}

impl Memory {
    fn growth(self) -> Option<u64> {
        Some(self.end?.saturating_sub(self.third?))
    }
}

impl Report {
    /// The figures.
    pub(crate) fn table(&self) -> Table {
        let mut table = table(&["chaos", ""]);
        for (what, figure) in self.figures() {
            table.add_row([what, figure]);
        }
        table
    }

    fn figures(&self) -> Vec<(String, String)> {
        let tally = &self.tally;
        let memory = self.memory;
        let mut rows = vec![
            ("streams finished".to_owned(), tally.finished.to_string()),
            ("streams lost".to_owned(), tally.lost.len().to_string()),
            ("streams compared: same".to_owned(), tally.same.to_string()),
            ("streams compared: differing".to_owned(), tally.differing.len().to_string()),
            ("streams undrafted, not compared".to_owned(), tally.not_compared.to_string()),
            ("tokens compared".to_owned(), tally.tokens_compared.to_string()),
            ("failovers".to_owned(), tally.failovers.to_string()),
            (
                "undrafted iterations".to_owned(),
                format!("{} of {}", tally.undrafted_iterations, tally.iterations),
            ),
        ];
        rows.extend(self.faults.iter().map(|(kind, count)| (format!("faults: {kind}"), count.to_string())));
        rows.extend([
            ("orchestrator, MiB, undisturbed".to_owned(), mebibytes(memory.undisturbed)),
            ("orchestrator, MiB, at a third of the faults".to_owned(), mebibytes(memory.third)),
            ("orchestrator, MiB, at the end".to_owned(), mebibytes(memory.end)),
        ]);
        rows.extend(self.workers.iter().map(|worker| {
            let memory =
                format!("{} → {}", mebibytes(worker.loaded_bytes), mebibytes(worker.resident_bytes()));
            (format!("{worker}, MiB, last incarnation"), memory)
        }));
        rows.push(("duration, s".to_owned(), format!("{:.1}", self.took.as_secs_f64())));
        rows
    }

    /// A sentence for each thing that must not happen and did.
    pub(crate) fn violations(&self) -> Vec<String> {
        let mut violations = listed(&self.tally.lost, "streams were lost");
        violations.extend(listed(&self.tally.differing, "streams differ"));
        violations.extend(self.workers.iter().flat_map(|worker| worker.complaints.clone()));
        if let Err(wrong) = &self.settled {
            violations.extend(wrong.clone());
        }
        if let Some(status) = self.orchestrator_ended {
            violations.push(format!("the orchestrator ended by itself with {status}"));
        }
        if let Some(growth) = self.memory.growth().filter(|&growth| growth >= GROWTH_LIMIT) {
            violations.push(format!(
                "the orchestrator grew by {} MiB between a third of the faults and their end",
                mebibytes(Some(growth))
            ));
        }
        if self.tally.same == 0 {
            violations.push("no stream was compared, so that nothing was shown".to_owned());
        }
        violations
    }
}

/// The first violations, and the number of the others.
fn listed(violations: &[String], what: &str) -> Vec<String> {
    let more = violations.len().saturating_sub(LISTED);
    let rest = (more > 0).then(|| format!("{more} more {what}"));
    violations.iter().take(LISTED).cloned().chain(rest).collect()
}

fn mebibytes(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| "–".to_owned(), |bytes| format!("{:.1}", bytes as f64 / f64::from(1 << 20)))
}
