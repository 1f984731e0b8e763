//! A report beside an earlier one: what got worse.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;
use thiserror::Error;

use crate::report::{Cell, Report, SCHEMA_VERSION};

/// How much worse a measure may be. Ratios and shares, never absolute times: the machine of the baseline may have been another one.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Tolerances {
    /// Points of task score (0.02: two per cent of the answers).
    pub score: f64,
    /// Share of perplexity.
    pub perplexity: f64,
    /// Share of block efficiency.
    pub block_efficiency: f64,
    /// Points of acceptance rate.
    pub acceptance_rate: f64,
    /// Share of the speedup over autoregressive decoding in the same run.
    pub speedup: f64,
    /// Share of the energy relative to autoregressive decoding in the same run.
    pub energy: f64,
    /// Points of the share of failed samples.
    pub failures: f64,
}

impl Default for Tolerances {
    fn default() -> Self {
        Self {
            score: 0.02,
            perplexity: 0.03,
            block_efficiency: 0.03,
            acceptance_rate: 0.03,
            speedup: 0.15,
            energy: 0.15,
            failures: 0.01,
        }
    }
}

/// Why tolerances could not be read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "{0:?} is no tolerance: write e.g. speedup=0.2,score=0.01; the names are score, perplexity, block_efficiency, acceptance_rate, \
     speedup, energy, failures, the values at least 0"
)]
pub struct InvalidTolerance(pub String);

impl FromStr for Tolerances {
    type Err = InvalidTolerance;

    fn from_str(text: &str) -> Result<Self, InvalidTolerance> {
        let mut all = Self::default();
        for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
            let invalid = || InvalidTolerance(part.to_owned());
            let (name, value) = part.split_once('=').ok_or_else(invalid)?;
            let value: f64 = value.trim().parse().map_err(|_| invalid())?;
            if !(value >= 0.0 && value.is_finite()) {
                return Err(invalid());
            }
            *match name.trim() {
                "score" => &mut all.score,
                "perplexity" => &mut all.perplexity,
                "block_efficiency" => &mut all.block_efficiency,
                "acceptance_rate" => &mut all.acceptance_rate,
                "speedup" => &mut all.speedup,
                "energy" => &mut all.energy,
                "failures" => &mut all.failures,
                _ => return Err(invalid()),
            } = value;
        }
        Ok(all)
    }
}

/// Why two reports cannot be compared.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum NotComparable {
    #[error("the baseline is no report: {0}")]
    Unreadable(#[from] serde_json::Error),
    #[error(
        "the baseline has schema version {0}, this program reads {SCHEMA_VERSION}: make the baseline anew"
    )]
    Schema(u32),
    #[error("the baseline was interrupted, {done} of {planned} samples: take one that is whole")]
    Incomplete { done: usize, planned: usize },
    #[error("the baseline's {what} is {baseline}, this run's {now}: only like can be compared with like")]
    Different { what: &'static str, baseline: String, now: String },
}

/// One measure of one cell, beside the baseline.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    /// The cell's label.
    pub cell: String,
    /// The measure.
    pub measure: &'static str,
    /// Then.
    pub baseline: f64,
    /// Now; NaN if it was not measured.
    pub now: f64,
    /// The worst value that would pass.
    pub limit: f64,
    /// Whether it is worse than that.
    pub regressed: bool,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cell, measure, baseline, now, limit, .. } = self;
        write!(f, "{cell}: {measure} {now:.4}, baseline {baseline:.4}, limit {limit:.4}")
    }
}

/// A baseline from its JSON.
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

/// Whether the two can be compared: to be asked before anything is run, with a report that has no cells yet.
pub fn check(now: &Report, baseline: &Report) -> Result<(), NotComparable> {
    if baseline.samples_done < baseline.samples_planned {
        return Err(NotComparable::Incomplete {
            done: baseline.samples_done,
            planned: baseline.samples_planned,
        });
    }
    let same = |what, baseline: &dyn fmt::Display, now: &dyn fmt::Display| {
        let (baseline, now) = (baseline.to_string(), now.to_string());
        if baseline == now { Ok(()) } else { Err(NotComparable::Different { what, baseline, now }) }
    };
    same("dataset", &baseline.dataset.name, &now.dataset.name)?;
    same("number of items", &baseline.dataset.items, &now.dataset.items)?;
    same("limit of new tokens", &baseline.dataset.max_new_tokens, &now.dataset.max_new_tokens)?;
    let stop =
        |r: &Report| if r.dataset.run_on { "none".to_owned() } else { format!("{:?}", r.dataset.stop) };
    same("list of stops", &stop(baseline), &stop(now))?;
    same("target", &baseline.target_model, &now.target_model)?;
    same("draft", &baseline.draft_model, &now.draft_model)
}

/// Every measure of every cell of the baseline. A cell or a measure that is gone is a regression.
pub fn compare(
    now: &Report,
    baseline: &Report,
    tolerances: &Tolerances,
) -> Result<Vec<Finding>, NotComparable> {
    check(now, baseline)?;
    let mut findings = Vec::new();
    for then in &baseline.cells {
        match now.cells.iter().find(|c| c.id == then.id) {
            Some(cell) => findings.extend(compare_cell(cell, then, tolerances)),
            None => findings.push(Finding {
                cell: then.label.clone(),
                measure: "samples",
                baseline: then.samples as f64,
                now: 0.0,
                limit: then.samples as f64,
                regressed: true,
            }),
        }
    }
    Ok(findings)
}

fn compare_cell(now: &Cell, then: &Cell, t: &Tolerances) -> Vec<Finding> {
    let failed = |c: &Cell| Some(c.failures.values().sum::<usize>() as f64 / c.samples.max(1) as f64);
    let speedup = |c: &Cell| c.vs_autoregressive.as_ref().map(|r| r.speedup.value);
    let energy = |c: &Cell| c.vs_autoregressive.as_ref().and_then(|r| r.energy_ratio);
    let score = |c: &Cell| c.score.map(|e| e.value);
    let perplexity = |c: &Cell| c.perplexity.map(|e| e.value);
    let block_efficiency = |c: &Cell| Some(c.block_efficiency.value);
    let acceptance_rate = |c: &Cell| c.acceptance_rate.map(|e| e.value);
    // The baseline's machine may measure energy where this one does not: then there is nothing to compare.
    let energy_then = energy(then).filter(|_| energy(now).is_some());
    let measures = [
        ("task score", score(then), score(now), Limit::Least(&|v| v - t.score)),
        ("perplexity", perplexity(then), perplexity(now), Limit::Most(&|v| v * (1.0 + t.perplexity))),
        (
            "block efficiency",
            block_efficiency(then),
            block_efficiency(now),
            Limit::Least(&|v| v * (1.0 - t.block_efficiency)),
        ),
        (
            "acceptance rate",
            acceptance_rate(then),
            acceptance_rate(now),
            Limit::Least(&|v| v - t.acceptance_rate),
        ),
        (
            "speedup over autoregressive",
            speedup(then),
            speedup(now),
            Limit::Least(&|v| v * (1.0 - t.speedup)),
        ),
        (
            "energy relative to autoregressive",
            energy_then,
            energy(now),
            Limit::Most(&|v| v * (1.0 + t.energy)),
        ),
        ("share of failures", failed(then), failed(now), Limit::Most(&|v| v + t.failures)),
    ];
    // What the baseline did not measure is not compared.
    let measures =
        measures.into_iter().filter_map(|(name, then, now, limit)| Some((name, then?, now, limit)));
    measures
        .map(|(measure, baseline, value, limit)| {
            let value = value.unwrap_or(f64::NAN);
            let (limit, fine) = match limit {
                Limit::Least(of) => (of(baseline), value >= of(baseline)),
                Limit::Most(of) => (of(baseline), value <= of(baseline)),
            };
            Finding { cell: now.label.clone(), measure, baseline, now: value, limit, regressed: !fine }
        })
        .collect()
}

/// What a measure must be, by what it was.
enum Limit<'a> {
    Least(&'a dyn Fn(f64) -> f64),
    Most(&'a dyn Fn(f64) -> f64),
}
