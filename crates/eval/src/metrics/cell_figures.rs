//! The figures of one cell.

use std::collections::BTreeMap;

use super::bootstrap::Spread;
use super::sums::Sums;
use crate::grid::CellSpec;
use crate::judge::Verdict;
use crate::quantile::quantile;
use crate::report::{Cell, Estimate, Setting, TimeSplit};
use crate::sample::Sample;

/// A cell of the report, and the resampled statistics that comparisons with other cells need.
pub(super) struct CellFigures {
    pub(super) cell: Cell,
    pub(super) score: Spread,
    pub(super) perplexity: Spread,
    /// Median decode time, in milliseconds per token.
    pub(super) time: Spread,
}

impl CellFigures {
    pub(super) fn new(
        spec: &CellSpec,
        samples: &[&Sample],
        items: &BTreeMap<&str, usize>,
        resamples: &[Vec<usize>],
    ) -> Self {
        let totals = Totals::new(samples, items, resamples);
        let score = totals.spread(Sums::score);
        let perplexity = totals.spread(Sums::perplexity);
        let zero = Estimate { value: 0.0, low: 0.0, high: 0.0 };
        let decode_ms: f64 = samples.iter().map(|s| s.decode_ms()).sum();
        let mut times: Vec<f64> = samples.iter().filter_map(|s| ms_per_token(s)).collect();
        let setting = Setting::from(spec);
        // MTJD commits whole beams: there is nothing to accept.
        let drafts = spec.decoding.method.drafts();
        let depth = setting.draft_tokens.filter(|_| drafts).unwrap_or(0);
        let cell = Cell {
            id: spec.id.clone(),
            label: spec.label.clone(),
            setting,
            samples: samples.len(),
            tokens: totals.all.tokens as u64,
            score: score.estimate(),
            perplexity: perplexity.estimate(),
            ms_per_token: quantile(&mut times, 0.5).unwrap_or(0.0),
            ms_per_token_p90: quantile(&mut times, 0.9).unwrap_or(0.0),
            tokens_per_second: ratio(totals.all.tokens, decode_ms / 1e3),
            block_efficiency: totals.spread(Sums::block_efficiency).estimate().unwrap_or(zero),
            acceptance_rate: totals.spread(Sums::acceptance_rate).estimate().filter(|_| drafts),
            acceptance_by_depth: acceptance_by_depth(samples, depth, totals.all.iterations),
            time: time_split(samples, totals.all.tokens),
            joules_per_token: joules_per_token(samples),
            failures: failures(samples),
            vs_autoregressive: None,
            vs_speculative: None,
        };
        Self { cell, score, perplexity, time: median_time(samples, items, resamples) }
    }
}

/// Sums over all samples of a cell, and over each resample of its items.
struct Totals {
    all: Sums,
    resampled: Vec<Sums>,
}

impl Totals {
    fn new(samples: &[&Sample], items: &BTreeMap<&str, usize>, resamples: &[Vec<usize>]) -> Self {
        let mut by_item = vec![Sums::default(); items.len()];
        for sample in samples {
            by_item[items[sample.item.as_str()]].add(&Sums::of(sample));
        }
        let total = |resample: &Vec<usize>| Sums::total(resample.iter().map(|&item| &by_item[item]));
        Self { all: Sums::total(&by_item), resampled: resamples.iter().map(total).collect() }
    }

    fn spread(&self, statistic: fn(&Sums) -> f64) -> Spread {
        Spread { value: statistic(&self.all), resampled: self.resampled.iter().map(statistic).collect() }
    }
}

/// The median decode time per token of all samples and of each resample; NaN without samples.
fn median_time(samples: &[&Sample], items: &BTreeMap<&str, usize>, resamples: &[Vec<usize>]) -> Spread {
    let mut by_item = vec![Vec::new(); items.len()];
    for sample in samples {
        by_item[items[sample.item.as_str()]].extend(ms_per_token(sample));
    }
    let median = |resample: &mut dyn Iterator<Item = usize>| {
        let mut times: Vec<f64> = resample.flat_map(|item| &by_item[item]).copied().collect();
        quantile(&mut times, 0.5).unwrap_or(f64::NAN)
    };
    Spread {
        value: median(&mut (0..items.len())),
        resampled: resamples.iter().map(|resample| median(&mut resample.iter().copied())).collect(),
    }
}

/// Decode time per token; `None` if there are no tokens.
fn ms_per_token(sample: &Sample) -> Option<f64> {
    (sample.tokens > 0).then(|| sample.decode_ms() / sample.tokens as f64)
}

fn time_split(samples: &[&Sample], tokens: f64) -> TimeSplit {
    let per_token = |part: fn(&Sample) -> f64| ratio(samples.iter().map(|s| part(s)).sum(), tokens);
    TimeSplit {
        prefill: per_token(|s| s.prefill_ms),
        draft: per_token(|s| s.draft_ms),
        target: per_token(|s| s.target_ms),
        orchestration: per_token(|s| s.orchestration_ms),
    }
}

fn acceptance_by_depth(samples: &[&Sample], depth: usize, iterations: f64) -> Vec<f64> {
    let accepted = |d: usize| -> u64 { samples.iter().filter_map(|s| s.accepted_by_depth.get(d)).sum() };
    (0..depth).map(|d| ratio(accepted(d) as f64, iterations)).collect()
}

/// Over the samples whose energy was measured; `None` if there are none.
fn joules_per_token(samples: &[&Sample]) -> Option<f64> {
    let mut joules = 0.0;
    let mut tokens = 0.0;
    for sample in samples {
        if let Some(measured) = sample.joules {
            joules += measured;
            tokens += sample.tokens as f64;
        }
    }
    (tokens > 0.0).then(|| joules / tokens)
}

fn failures(samples: &[&Sample]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for sample in samples {
        if let Verdict::Failed { name, .. } | Verdict::NotJudged { name, .. } = &sample.verdict {
            *counts.entry(name.clone()).or_default() += 1;
        }
    }
    counts
}

/// `a / b`; 0 if `b` is 0.
fn ratio(a: f64, b: f64) -> f64 {
    if b == 0.0 { 0.0 } else { a / b }
}
