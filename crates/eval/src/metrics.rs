//! Samples into figures, with confidence intervals.

use std::collections::{BTreeMap, HashMap};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::report::{Cell, Estimate, Relative, Setting, TimeSplit};
use crate::{CellSpec, Sample, Verdict};

/// Resamples of the bootstrap.
const RESAMPLES: usize = 1000;

/// The figures of every cell, in their order.
///
/// Confidence intervals are 95 %, percentile bootstrap over items: the seeds of an item stay together, because they are not
/// independent. Every cell is resampled alike, so that comparisons are of pairs.
pub fn cells(specs: &[CellSpec], samples: &[Sample]) -> Vec<Cell> {
    let items = item_numbers(samples);
    let resamples = resamples(items.len());
    let mut by_cell: HashMap<&str, Vec<&Sample>> = HashMap::new();
    for sample in samples {
        by_cell.entry(&sample.cell).or_default().push(sample);
    }
    let all: Vec<Figures> = specs
        .iter()
        .map(|spec| {
            let samples = by_cell.remove(spec.id.as_str()).unwrap_or_default();
            Figures::new(spec, &samples, &items, &resamples)
        })
        .collect();
    all.iter()
        .map(|figures| {
            let mut cell = figures.cell.clone();
            cell.vs_autoregressive = against(figures, &all, "autoregressive");
            cell.vs_speculative = against(figures, &all, "speculative");
            cell
        })
        .collect()
}

fn item_numbers(samples: &[Sample]) -> BTreeMap<&str, usize> {
    let mut items: BTreeMap<&str, usize> = samples.iter().map(|s| (s.item.as_str(), 0)).collect();
    for (number, slot) in items.values_mut().enumerate() {
        *slot = number;
    }
    items
}

/// Item numbers drawn with replacement. The seed is fixed: the same samples give the same intervals.
fn resamples(items: usize) -> Vec<Vec<usize>> {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let draw = |_| (0..items).map(|_| (rng.next_u64() % items as u64) as usize).collect();
    if items == 0 { Vec::new() } else { (0..RESAMPLES).map(draw).collect() }
}

/// What is added up over samples, per item or over a resample.
#[derive(Clone, Copy, Default)]
struct Sums {
    tokens: f64,
    log_prob: f64,
    iterations: f64,
    accepted: f64,
    asked: f64,
    score: f64,
    judged: f64,
}

impl Sums {
    fn of(sample: &Sample) -> Self {
        let score = sample.verdict.score();
        Self {
            tokens: sample.tokens as f64,
            log_prob: sample.log_prob,
            iterations: sample.iterations as f64,
            accepted: sample.accepted as f64,
            asked: sample.asked as f64,
            score: score.unwrap_or(0.0),
            judged: f64::from(u8::from(score.is_some())),
        }
    }

    fn add(&mut self, other: &Self) {
        self.tokens += other.tokens;
        self.log_prob += other.log_prob;
        self.iterations += other.iterations;
        self.accepted += other.accepted;
        self.asked += other.asked;
        self.score += other.score;
        self.judged += other.judged;
    }

    fn score(&self) -> f64 {
        self.score / self.judged
    }

    fn perplexity(&self) -> f64 {
        (-self.log_prob / self.tokens).exp()
    }

    fn block_efficiency(&self) -> f64 {
        1.0 + self.accepted / self.iterations
    }

    fn acceptance_rate(&self) -> f64 {
        self.accepted / self.asked
    }
}

/// A value and what the resamples make of it.
struct Spread {
    value: f64,
    resampled: Vec<f64>,
}

impl Spread {
    /// `None` where it is undefined, as a score without judged answers is.
    fn estimate(&self) -> Option<Estimate> {
        if !self.value.is_finite() {
            return None;
        }
        let mut sorted: Vec<f64> = self.resampled.iter().copied().filter(|x| x.is_finite()).collect();
        sorted.sort_by(f64::total_cmp);
        let at = |q| quantile(&sorted, q).unwrap_or(self.value);
        Some(Estimate { value: self.value, low: at(0.025), high: at(0.975) })
    }

    fn with(&self, other: &Self, f: impl Fn(f64, f64) -> f64) -> Option<Estimate> {
        let resampled = self.resampled.iter().zip(&other.resampled).map(|(&a, &b)| f(a, b)).collect();
        Self { value: f(self.value, other.value), resampled }.estimate()
    }
}

struct Figures {
    cell: Cell,
    score: Spread,
    perplexity: Spread,
    /// Median milliseconds per token.
    time: Spread,
}

impl Figures {
    fn new(
        spec: &CellSpec,
        samples: &[&Sample],
        items: &BTreeMap<&str, usize>,
        resamples: &[Vec<usize>],
    ) -> Self {
        let mut by_item = vec![Sums::default(); items.len()];
        let mut times_by_item = vec![Vec::new(); items.len()];
        let mut times = Vec::new();
        for sample in samples {
            let item = items[sample.item.as_str()];
            by_item[item].add(&Sums::of(sample));
            if sample.tokens > 0 {
                times.push(sample.decode_ms() / sample.tokens as f64);
                times_by_item[item].extend(times.last());
            }
        }
        let total = sum(&by_item);
        let resampled: Vec<Sums> =
            resamples.iter().map(|r| sum(r.iter().map(|&item| &by_item[item]))).collect();
        let spread = |f: &dyn Fn(&Sums) -> f64| Spread {
            value: f(&total),
            resampled: resampled.iter().map(f).collect(),
        };
        times.sort_by(f64::total_cmp);
        let time = Spread {
            value: quantile(&times, 0.5).unwrap_or(f64::NAN),
            resampled: resamples.iter().map(|r| median(r, &times_by_item)).collect(),
        };
        let (score, perplexity) = (spread(&Sums::score), spread(&Sums::perplexity));
        let zero = Estimate { value: 0.0, low: 0.0, high: 0.0 };
        let decode_ms: f64 = samples.iter().map(|s| s.decode_ms()).sum();
        let per_token =
            |part: &dyn Fn(&Sample) -> f64| ratio(samples.iter().map(|s| part(s)).sum::<f64>(), total.tokens);
        let setting = Setting::from(spec);
        // MTJD commits whole beams: there is nothing to accept.
        let drafts = spec.decoding.method.drafts();
        let depth = setting.draft_tokens.filter(|_| drafts).unwrap_or(0);
        let at_depth =
            |d: usize| samples.iter().filter_map(|s| s.accepted_by_depth.get(d)).sum::<u64>() as f64;
        let metered = samples.iter().filter_map(|s| Some((s.joules?, s.tokens as f64)));
        let (joules, metered_tokens) =
            metered.fold((0.0, 0.0), |(j, t), (joules, tokens)| (j + joules, t + tokens));
        let cell = Cell {
            id: spec.id.clone(),
            label: spec.label.clone(),
            setting,
            samples: samples.len(),
            tokens: total.tokens as u64,
            score: score.estimate(),
            perplexity: perplexity.estimate(),
            ms_per_token: quantile(&times, 0.5).unwrap_or(0.0),
            ms_per_token_p90: quantile(&times, 0.9).unwrap_or(0.0),
            tokens_per_second: ratio(total.tokens, decode_ms / 1e3),
            block_efficiency: spread(&Sums::block_efficiency).estimate().unwrap_or(zero),
            acceptance_rate: spread(&Sums::acceptance_rate).estimate().filter(|_| drafts),
            acceptance_by_depth: (0..depth).map(|d| ratio(at_depth(d), total.iterations)).collect(),
            time: TimeSplit {
                prefill: per_token(&|s| s.prefill_ms),
                draft: per_token(&|s| s.draft_ms),
                target: per_token(&|s| s.target_ms),
                orchestration: per_token(&|s| s.orchestration_ms),
            },
            joules_per_token: (metered_tokens > 0.0).then(|| joules / metered_tokens),
            failures: failures(samples),
            vs_autoregressive: None,
            vs_speculative: None,
        };
        Self { cell, score, perplexity, time }
    }
}

fn sum<'a>(sums: impl IntoIterator<Item = &'a Sums>) -> Sums {
    sums.into_iter().fold(Sums::default(), |mut total, s| {
        total.add(s);
        total
    })
}

fn ratio(a: f64, b: f64) -> f64 {
    if b == 0.0 { 0.0 } else { a / b }
}

fn median(items: &[usize], times_by_item: &[Vec<f64>]) -> f64 {
    let mut times: Vec<f64> = items.iter().flat_map(|&i| &times_by_item[i]).copied().collect();
    let middle = times.len() / 2;
    if times.is_empty() {
        return f64::NAN;
    }
    *times.select_nth_unstable_by(middle, f64::total_cmp).1
}

/// Of sorted values, the nearest rank.
fn quantile(sorted: &[f64], q: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    sorted.get((q * last as f64).round() as usize).copied()
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

/// Beside the cell of `method` under the same sampling; of several, the one that drafts as deep, else the first.
fn against(figures: &Figures, all: &[Figures], method: &str) -> Option<Relative> {
    let sampling = |s: &Setting| (s.temperature, s.top_k, s.top_p);
    let this = &figures.cell;
    let is_other = |o: &&Figures| {
        o.cell.setting.method == method && sampling(&o.cell.setting) == sampling(&this.setting)
    };
    let others = || all.iter().filter(is_other);
    let as_deep = others().find(|o| o.cell.setting.draft_tokens == this.setting.draft_tokens);
    let other = as_deep.or_else(|| others().next())?;
    let energy = this.joules_per_token.zip(other.cell.joules_per_token);
    Some(Relative {
        to: other.cell.label.clone(),
        speedup: figures.time.with(&other.time, |this, other| other / this)?,
        score_difference: figures.score.with(&other.score, |this, other| this - other),
        perplexity_ratio: figures.perplexity.with(&other.perplexity, |this, other| this / other),
        energy_ratio: energy.map(|(this, other)| this / other).filter(|r| r.is_finite()),
    })
}
