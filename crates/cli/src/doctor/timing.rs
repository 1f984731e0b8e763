//! Measures what a forward pass costs.

use std::time::Instant;

use comfy_table::Table;
use indicatif::ProgressBar;
use serde::Serialize;
use tandem_decoding::{AncestorMask, TokenId, TokenTree, TreeLimits};
use tandem_engine::{Backend, Decoder, Keep, Pass, Segment};
use tandem_eval::quantile;

use super::subject::Subject;
use crate::output::table;
use crate::progress;

/// Rows per pass: a root alone; with a chain of 1 and 4 nodes; with trees of 4 × 2, 4 × 4 and 8 × 4 nodes.
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
    /// Time relative to a pass over one row.
    ratio: f64,
    /// Weight bytes divided by the time: the memory bandwidth that the pass requires.
    gigabytes_per_second: f64,
    /// Time with candle's own kernels, if requested.
    stock_ms: Option<f64>,
}

/// A model with a filled cache on which its passes are timed.
struct Bench<'a> {
    model: &'a Decoder,
    cache: <Decoder as Backend>::Cache,
    prefix: usize,
}

/// Times passes over different numbers of rows.
///
/// The numbers alternate, so that a change of the machine's speed affects all of them alike.
pub(super) fn time(
    subject: &Subject,
    prefix: usize,
    repeats: usize,
    stock: bool,
    show_progress: bool,
) -> anyhow::Result<Timing> {
    let spec = subject.model.spec();
    let prefix = prefix.min(spec.context_length.saturating_sub(ROWS[ROWS.len() - 1] + 1));
    let stock_model = if stock { Some(subject.reference()?) } else { None };
    let mut benches = vec![Bench::new(&subject.model, prefix)?];
    if let Some(model) = &stock_model {
        benches.push(Bench::new(model, prefix)?);
    }
    let medians = medians_ms(&mut benches, repeats, show_progress)?;
    let ours = medians[0];
    let stock = medians.get(1);
    let row = |i: usize| Row {
        rows: ROWS[i],
        median_ms: ours[i],
        ratio: ours[i] / ours[0],
        gigabytes_per_second: spec.weight_bytes as f64 / ours[i] / 1e6,
        stock_ms: stock.map(|stock| stock[i]),
    };
    Ok(Timing {
        model: subject.name.clone(),
        role: subject.role,
        dtype: spec.dtype.clone(),
        device: subject.device.to_string(),
        weight_bytes: spec.weight_bytes,
        rows: (0..ROWS.len()).map(row).collect(),
    })
}

/// `[bench, ROWS]`: median time of a pass, in milliseconds.
fn medians_ms(
    benches: &mut [Bench<'_>],
    repeats: usize,
    show_progress: bool,
) -> anyhow::Result<Vec<[f64; ROWS.len()]>> {
    let bar = if show_progress {
        progress::bar(repeats as u64, "{wide_bar} {pos}/{len}")
    } else {
        ProgressBar::hidden()
    };
    let mut samples = vec![[const { Vec::new() }; ROWS.len()]; benches.len()];
    // The first round warms up.
    for repeat in 0..=repeats {
        for (bench, samples) in benches.iter_mut().zip(&mut samples) {
            for (&rows, samples) in ROWS.iter().zip(samples) {
                let ms = bench.pass_ms(rows)?;
                if repeat > 0 {
                    samples.push(ms);
                }
            }
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    let medians = |samples: [Vec<f64>; ROWS.len()]| {
        samples.map(|mut samples| quantile(&mut samples, 0.5).unwrap_or(0.0))
    };
    Ok(samples.into_iter().map(medians).collect())
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

    /// Time of a pass over a root and `rows - 1` nodes in beams of up to eight, in milliseconds.
    fn pass_ms(&mut self, rows: usize) -> anyhow::Result<f64> {
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
        let start = Instant::now();
        let logits = self.model.forward(&mut [Segment { cache: &mut self.cache, pass: &pass }])?;
        let ms = start.elapsed().as_secs_f64() * 1e3;
        drop(logits);
        self.model.keep(&mut self.cache, &Keep { prefix: self.prefix, rows: Vec::new() })?;
        Ok(ms)
    }
}

impl Timing {
    /// The table for the terminal.
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
