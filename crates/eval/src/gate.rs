//! The regression gate: compares a report with an earlier one.

mod tolerances;

use std::fmt;

use serde::Serialize;
use thiserror::Error;

pub use self::tolerances::{InvalidTolerance, Tolerances};
use crate::report::{Cell, Report, SCHEMA_VERSION};

/// Why two reports cannot be compared.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "the messages describe the variants")]
pub enum NotComparable {
    #[error("the baseline is not a valid report: {0}")]
    Unreadable(#[from] serde_json::Error),
    #[error(
        "the baseline has schema version {0}, this program reads version {SCHEMA_VERSION}: create the baseline again"
    )]
    Schema(u32),
    #[error("the baseline is incomplete, {done} of {planned} samples: use a report of a complete run")]
    Incomplete { done: usize, planned: usize },
    #[error("the {what} of the baseline is {baseline}, of this run {now}: both must be the same")]
    Different { what: &'static str, baseline: String, now: String },
}

/// One measure of one cell, compared with the baseline.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    /// Label of the cell.
    pub cell: String,
    /// Name of the measure.
    pub measure: &'static str,
    /// Value in the baseline.
    pub baseline: f64,
    /// Value in this run; NaN if it was not measured.
    pub now: f64,
    /// The worst value that passes.
    pub limit: f64,
    /// Whether the value is worse than the limit.
    pub regressed: bool,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cell, measure, baseline, now, limit, .. } = self;
        write!(f, "{cell}: {measure} {now:.4}, baseline {baseline:.4}, limit {limit:.4}")
    }
}

/// Reads a baseline from the JSON of a report.
pub fn baseline(json: &str) -> Result<Report, NotComparable> {
    #[derive(serde::Deserialize)]
    struct Version {
        schema_version: u32,
    }
    let Version { schema_version } = serde_json::from_str(json)?;
    if schema_version != SCHEMA_VERSION {
        return Err(NotComparable::Schema(schema_version));
    }
    Ok(serde_json::from_str(json)?)
}

/// Checks that two reports can be compared.
///
/// `now` needs no cells yet, so that a run can fail before it generates anything.
pub fn check(now: &Report, baseline: &Report) -> Result<(), NotComparable> {
    if baseline.samples_done < baseline.samples_planned {
        return Err(NotComparable::Incomplete {
            done: baseline.samples_done,
            planned: baseline.samples_planned,
        });
    }
    for ((what, now), (_, baseline)) in conditions(now).into_iter().zip(conditions(baseline)) {
        if now != baseline {
            return Err(NotComparable::Different { what, baseline, now });
        }
    }
    Ok(())
}

/// What two comparable reports have in common.
fn conditions(report: &Report) -> [(&'static str, String); 6] {
    let dataset = &report.dataset;
    let stop = if dataset.run_on { "none".to_owned() } else { format!("{:?}", dataset.stop) };
    [
        ("dataset", dataset.name.clone()),
        ("number of items", dataset.items.to_string()),
        ("maximum number of new tokens", dataset.max_new_tokens.to_string()),
        ("list of stop strings", stop),
        ("target model", report.target_model.clone()),
        ("draft model", report.draft_model.clone()),
    ]
}

/// Compares every measure of every cell of the baseline. A missing cell or measure is a regression.
pub fn compare(
    now: &Report,
    baseline: &Report,
    tolerances: &Tolerances,
) -> Result<Vec<Finding>, NotComparable> {
    check(now, baseline)?;
    let mut findings = Vec::new();
    for expected in &baseline.cells {
        match now.cells.iter().find(|cell| cell.id == expected.id) {
            Some(cell) => findings.extend(compare_cell(cell, expected, tolerances)),
            None => findings.push(Finding {
                cell: expected.label.clone(),
                measure: "samples",
                baseline: expected.samples as f64,
                now: 0.0,
                limit: expected.samples as f64,
                regressed: true,
            }),
        }
    }
    Ok(findings)
}

fn compare_cell(now: &Cell, baseline: &Cell, t: &Tolerances) -> Vec<Finding> {
    let mut comparison = Comparison { now, baseline, findings: Vec::new() };
    comparison.at_least("task score", |c| Some(c.score?.value), |v| v - t.score);
    comparison.at_most("perplexity", |c| Some(c.perplexity?.value), |v| v * (1.0 + t.perplexity));
    comparison.at_least(
        "block efficiency",
        |c| Some(c.block_efficiency.value),
        |v| v * (1.0 - t.block_efficiency),
    );
    comparison.at_least("acceptance rate", |c| Some(c.acceptance_rate?.value), |v| v - t.acceptance_rate);
    comparison.at_least("speedup over autoregressive", speedup, |v| v * (1.0 - t.speedup));
    // The baseline's machine may be able to measure energy where this one is not.
    if energy_ratio(now).is_some() {
        comparison.at_most("energy relative to autoregressive", energy_ratio, |v| v * (1.0 + t.energy));
    }
    comparison.at_most("share of failures", failure_share, |v| v + t.failures);
    comparison.findings
}

fn speedup(cell: &Cell) -> Option<f64> {
    Some(cell.vs_autoregressive.as_ref()?.speedup.value)
}

fn energy_ratio(cell: &Cell) -> Option<f64> {
    cell.vs_autoregressive.as_ref()?.energy_ratio
}

fn failure_share(cell: &Cell) -> Option<f64> {
    Some(cell.failures.values().sum::<usize>() as f64 / cell.samples.max(1) as f64)
}

/// Compares measures of one cell. A measure that the baseline lacks is skipped.
struct Comparison<'a> {
    now: &'a Cell,
    baseline: &'a Cell,
    findings: Vec<Finding>,
}

impl Comparison<'_> {
    /// Compares a measure of which higher values are better.
    fn at_least(
        &mut self,
        measure: &'static str,
        value: fn(&Cell) -> Option<f64>,
        limit: impl Fn(f64) -> f64,
    ) {
        self.add(measure, value, limit, |now, limit| now >= limit);
    }

    /// Compares a measure of which lower values are better.
    fn at_most(
        &mut self,
        measure: &'static str,
        value: fn(&Cell) -> Option<f64>,
        limit: impl Fn(f64) -> f64,
    ) {
        self.add(measure, value, limit, |now, limit| now <= limit);
    }

    fn add(
        &mut self,
        measure: &'static str,
        value: fn(&Cell) -> Option<f64>,
        limit: impl Fn(f64) -> f64,
        passes: fn(f64, f64) -> bool,
    ) {
        let Some(baseline) = value(self.baseline) else { return };
        let now = value(self.now).unwrap_or(f64::NAN);
        let limit = limit(baseline);
        let regressed = !passes(now, limit);
        let cell = self.now.label.clone();
        self.findings.push(Finding { cell, measure, baseline, now, limit, regressed });
    }
}
