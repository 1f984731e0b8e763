//! What does a pass cost?

use std::time::{Duration, Instant};

use comfy_table::Table;
use indicatif::ProgressBar;
use serde::Serialize;
use tandem_decoding::{AncestorMask, TokenId, TokenTree, TreeLimits};
use tandem_engine::{Backend, Decoder, Keep, Pass, Segment};

use super::Patient;
use crate::output::table;

/// One row; roots with a chain; roots with trees of 4 × 2, 4 × 4 and 8 × 4.
const ROWS: [usize; 6] = [1, 2, 5, 9, 17, 33];

/// The timing table of one model.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Timing {
    model: String,
    role: &'static str,
    dtype: String,
    device: String,
    weight_bytes: u64,
    rows: Vec<Row>,
}

#[derive(Clone, Debug, Serialize)]
struct Row {
    rows: usize,
    median_ms: f64,
    /// Of a pass over one row.
    ratio: f64,
    /// Weight bytes over the time: what the memory would have to deliver.
    gigabytes_per_second: f64,
    /// candle's own kernels, if asked for.
    stock_ms: Option<f64>,
}

/// A model and a cache behind which its passes are timed.
struct Bench<'a> {
    model: &'a Decoder,
    cache: <Decoder as Backend>::Cache,
    prefix: usize,
}

/// Times passes over different numbers of rows, in turn, so that a machine that drifts drifts for all of them.
pub(super) fn time(
    patient: &Patient,
    prefix: usize,
    repeats: usize,
    stock: bool,
    progress: bool,
) -> anyhow::Result<Timing> {
    let spec = patient.model.spec();
    let prefix = prefix.min(spec.context_length.saturating_sub(ROWS[ROWS.len() - 1] + 1));
    let stock_model = if stock { Some(patient.reference()?) } else { None };
    let mut benches = vec![Bench::new(&patient.model, prefix)?];
    if let Some(model) = &stock_model {
        benches.push(Bench::new(model, prefix)?);
    }
    let bar = if progress { ProgressBar::new(repeats as u64) } else { ProgressBar::hidden() };
    let mut samples = vec![vec![Vec::with_capacity(repeats); ROWS.len()]; benches.len()];
    for repeat in 0..=repeats {
        for (bench, samples) in benches.iter_mut().zip(&mut samples) {
            for (&rows, samples) in ROWS.iter().zip(samples) {
                let time = bench.pass(rows)?;
                // The first round warms up.
                if repeat > 0 {
                    samples.push(time);
                }
            }
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    let medians: Vec<Vec<f64>> =
        samples.iter_mut().map(|s| s.iter_mut().map(|s| median_ms(s)).collect()).collect();
    let rows = ROWS.iter().enumerate().map(|(i, &rows)| Row {
        rows,
        median_ms: medians[0][i],
        ratio: medians[0][i] / medians[0][0],
        gigabytes_per_second: spec.weight_bytes as f64 / medians[0][i] / 1e6,
        stock_ms: medians.get(1).map(|m| m[i]),
    });
    Ok(Timing {
        model: patient.name.clone(),
        role: patient.role,
        dtype: spec.dtype.clone(),
        device: patient.device.to_string(),
        weight_bytes: spec.weight_bytes,
        rows: rows.collect(),
    })
}

impl<'a> Bench<'a> {
    fn new(model: &'a Decoder, prefix: usize) -> anyhow::Result<Self> {
        let mut bench = Self { model, cache: model.new_cache(usize::MAX), prefix };
        let vocab = model.spec().vocab_size;
        let prompt: Vec<TokenId> = (0..prefix).map(|i| TokenId((i % vocab) as u32)).collect();
        for chunk in prompt.chunks(256) {
            let pass = Pass::causal(model.cached(&bench.cache), chunk.to_vec());
            model.forward(&mut [Segment { cache: &mut bench.cache, pass: &pass }])?;
        }
        Ok(bench)
    }

    /// A root and `rows - 1` nodes in beams of up to eight.
    fn pass(&mut self, rows: usize) -> anyhow::Result<Duration> {
        let width = if rows > 17 { 8 } else { 4 };
        let tokens = (0..rows - 1).map(|i| TokenId((i % self.model.spec().vocab_size) as u32)).collect();
        let parents = (0..rows - 1).map(|i: usize| i.checked_sub(width)).collect();
        let tree = TokenTree::new(tokens, parents, TreeLimits::default())?;
        let positions =
            std::iter::once(self.prefix).chain((0..tree.len()).map(|n| self.prefix + tree.depth(n)));
        let pass = Pass {
            prefix: self.prefix,
            tokens: std::iter::once(TokenId(0)).chain(tree.tokens().iter().copied()).collect(),
            positions: positions.collect(),
            mask: AncestorMask::chain_then_tree(1, &tree),
            logits: (0..rows).collect(),
        };
        let begun = Instant::now();
        let logits = self.model.forward(&mut [Segment { cache: &mut self.cache, pass: &pass }])?;
        let time = begun.elapsed();
        drop(logits);
        self.model.keep(&mut self.cache, &Keep { prefix: self.prefix, rows: Vec::new() })?;
        Ok(time)
    }
}

fn median_ms(samples: &mut [Duration]) -> f64 {
    samples.sort_unstable();
    samples.get(samples.len() / 2).map_or(0.0, |d| d.as_secs_f64() * 1e3)
}

impl Timing {
    /// For people.
    pub(super) fn table(&self) -> Table {
        let title = format!(
            "{} ({}, {:.1} MB {})",
            self.role,
            self.device,
            self.weight_bytes as f64 / 1e6,
            self.dtype
        );
        let stock = self.rows.iter().any(|r| r.stock_ms.is_some());
        let mut header = vec![title.as_str(), "ms per pass", "× 1 row", "GB/s of weights"];
        if stock {
            header.extend(["candle's kernels, ms", "× ours"]);
        }
        let mut table = table(&header);
        for row in &self.rows {
            let mut cells = vec![
                format!("{} row{}", row.rows, if row.rows == 1 { "" } else { "s" }),
                format!("{:.3}", row.median_ms),
                format!("{:.2}", row.ratio),
                format!("{:.1}", row.gigabytes_per_second),
            ];
            if let Some(ms) = row.stock_ms {
                cells.extend([format!("{ms:.3}"), format!("{:.1}", ms / row.median_ms)]);
            }
            table.add_row(cells);
        }
        table
    }
}
