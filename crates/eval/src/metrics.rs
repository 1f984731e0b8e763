//! Turns samples into the figures of a report, with confidence intervals.

mod bootstrap;
mod cell_figures;
mod sums;

use std::collections::{BTreeMap, HashMap};

use self::cell_figures::CellFigures;
use crate::grid::CellSpec;
use crate::report::{Cell, Relative, Setting};
use crate::sample::Sample;

/// The figures of every cell, in the order of `specs`.
///
/// Confidence intervals are 95 % percentile bootstrap intervals over items. The seeds of an item stay
/// together, because they are not independent. Every cell uses the same resamples, so comparisons between
/// cells are paired.
pub fn cells(specs: &[CellSpec], samples: &[Sample]) -> Vec<Cell> {
    let items = item_numbers(samples);
    let resamples = bootstrap::resamples(items.len());
    let mut by_cell: HashMap<&str, Vec<&Sample>> = HashMap::new();
    for sample in samples {
        by_cell.entry(&sample.cell).or_default().push(sample);
    }
    let mut all = Vec::new();
    for spec in specs {
        let samples = by_cell.remove(spec.id.as_str()).unwrap_or_default();
        all.push(CellFigures::new(spec, &samples, &items, &resamples));
    }
    let compared = |figures: &CellFigures| Cell {
        vs_autoregressive: compare(figures, &all, "autoregressive"),
        vs_speculative: compare(figures, &all, "speculative"),
        ..figures.cell.clone()
    };
    all.iter().map(compared).collect()
}

/// Consecutive numbers for the ids of the items.
fn item_numbers(samples: &[Sample]) -> BTreeMap<&str, usize> {
    let mut items: BTreeMap<&str, usize> = samples.iter().map(|s| (s.item.as_str(), 0)).collect();
    for (number, slot) in items.values_mut().enumerate() {
        *slot = number;
    }
    items
}

/// Compares a cell with the cell of `method` under the same sampling parameters.
///
/// If there are several, the one with the same draft depth is used, or else the first.
fn compare(figures: &CellFigures, all: &[CellFigures], method: &str) -> Option<Relative> {
    let this = &figures.cell;
    let candidates: Vec<&CellFigures> = all
        .iter()
        .filter(|c| c.cell.setting.method == method)
        .filter(|c| sampling(&c.cell.setting) == sampling(&this.setting))
        .collect();
    let same_depth = candidates.iter().find(|c| c.cell.setting.draft_tokens == this.setting.draft_tokens);
    let other = same_depth.or(candidates.first())?;
    let energy = this.joules_per_token.zip(other.cell.joules_per_token);
    Some(Relative {
        to: other.cell.label.clone(),
        speedup: figures.time.with(&other.time, |this, other| other / this)?,
        score_difference: figures.score.with(&other.score, |this, other| this - other),
        perplexity_ratio: figures.perplexity.with(&other.perplexity, |this, other| this / other),
        energy_ratio: energy.map(|(this, other)| this / other).filter(|r| r.is_finite()),
    })
}

fn sampling(setting: &Setting) -> (f64, usize, f64) {
    (setting.temperature, setting.top_k, setting.top_p)
}
