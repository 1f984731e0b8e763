//! Measures what a forward pass costs.

use std::time::Instant;

use comfy_table::Table;
use indicatif::ProgressBar;
use serde::Serialize;
use tandem_decoding::{AncestorMask, RowQuery, Sampling, TokenId, TokenTree, TreeLimits};
use tandem_engine::{Backend, Decoder, DeviceChoice, Keep, KernelUse, Pass, Peaks, RowOutput};
use tandem_eval::quantile;

use super::args::Args;
use super::subject::Subject;
use crate::output::table;
use crate::progress;

/// Timed prompts, of which the median is shown.
const PREFILLS: usize = 3;
/// Tokens of a prompt in one pass.
const PREFILL_ROWS: usize = 512;

/// The timing table of one model.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Timing {
    model: String,
    role: &'static str,
    dtype: String,
    device: String,
    weight_bytes: u64,
    rows: Vec<Row>,
    prefill: Option<Prefill>,
}

#[derive(Clone, Debug, Serialize)]
struct Prefill {
    tokens: usize,
    tokens_per_second: f64,
    arithmetic_share: Option<f64>,
}

#[derive(Clone, Debug, Serialize)]
struct Row {
    rows: usize,
    median_ms: f64,
    /// Time relative to a pass over one row.
    ratio: f64,
    /// Weight bytes divided by the time: the memory bandwidth that the pass requires.
    gigabytes_per_second: f64,
    /// That bandwidth, as a share of what this machine reads from memory.
    bandwidth_share: Option<f64>,
    /// The arithmetic of the linear layers, as a share of what this machine computes in that time.
    arithmetic_share: Option<f64>,
    /// Time with candle's own kernels, if requested.
    stock_ms: Option<f64>,
}

/// A model with a filled cache on which its passes are timed.
struct Bench<'a> {
    model: &'a Decoder,
    cache: <Decoder as Backend>::Cache,
    prefix: usize,
}

/// Times passes over different numbers of rows, and a prompt. `peaks`: those of the CPU.
///
/// The numbers alternate, so that a change of the machine's speed affects all of them alike.
pub(super) fn time(
    subject: &Subject,
    args: &Args,
    peaks: Option<Peaks>,
    show_progress: bool,
) -> anyhow::Result<Timing> {
    let spec = subject.model.spec();
    let sizes: Vec<usize> = args.rows.iter().copied().map(usize::from).collect();
    let largest = sizes.iter().copied().max().unwrap_or(1);
    let prefix = args.prefix.min(spec.context_length.saturating_sub(largest + 1));
    let stock_model = if args.stock { Some(subject.reference()?) } else { None };
    let mut benches = vec![Bench::new(&subject.model, prefix)?];
    if let Some(model) = &stock_model {
        benches.push(Bench::new(model, prefix)?);
    }
    let medians = medians_ms(&mut benches, &sizes, args.repeats, show_progress)?;
    let ours = &medians[0];
    let stock = medians.get(1);
    let peaks = peaks.filter(|_| subject.device == DeviceChoice::Cpu);
    let row = |i: usize| {
        let bytes_per_second = spec.weight_bytes as f64 / ours[i] * 1e3;
        Row {
            rows: sizes[i],
            median_ms: ours[i],
            ratio: ours[i] / ours[0],
            gigabytes_per_second: bytes_per_second / 1e9,
            bandwidth_share: peaks.map(|peaks| bytes_per_second / peaks.bytes_per_second),
            arithmetic_share: peaks.map(|peaks| arithmetic_ms(&spec.kernels, peaks, sizes[i]) / ours[i]),
            stock_ms: stock.map(|stock| stock[i]),
        }
    };
    Ok(Timing {
        model: subject.name.clone(),
        role: subject.role,
        dtype: spec.dtype.clone(),
        device: subject.device.to_string(),
        weight_bytes: spec.weight_bytes,
        rows: (0..sizes.len()).map(row).collect(),
        prefill: prefill(&subject.model, args.prefill, peaks)?,
    })
}

/// The time that linear layers need for `rows` rows at the peak rate, in milliseconds.
fn arithmetic_ms(kernels: &[KernelUse], peaks: Peaks, rows: usize) -> f64 {
    let seconds = kernels.iter().map(|one| {
        let rate = if one.integer { peaks.int8_per_second } else { peaks.f32_per_second };
        (one.weights * rows as u64) as f64 / rate
    });
    seconds.sum::<f64>() * 1e3
}

/// Times a prompt of `tokens` tokens, or as many as fit, without its logits.
fn prefill(model: &Decoder, tokens: usize, peaks: Option<Peaks>) -> anyhow::Result<Option<Prefill>> {
    let tokens = tokens.min(model.spec().context_length.saturating_sub(1));
    if tokens == 0 {
        return Ok(None);
    }
    let mut times = Vec::with_capacity(PREFILLS);
    for _ in 0..PREFILLS {
        let start = Instant::now();
        Bench::new(model, tokens)?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    let ms = quantile(&mut times, 0.5).unwrap_or(0.0);
    // A prompt has no logits.
    let arithmetic = |peaks| {
        arithmetic_ms(&model.spec().kernels, peaks, tokens)
            - arithmetic_ms(&model.head_kernels(), peaks, tokens)
    };
    Ok(Some(Prefill {
        tokens,
        tokens_per_second: tokens as f64 / ms * 1e3,
        arithmetic_share: peaks.map(|peaks| arithmetic(peaks) / ms),
    }))
}

/// `[bench][size]`: median time of a pass, in milliseconds.
fn medians_ms(
    benches: &mut [Bench<'_>],
    sizes: &[usize],
    repeats: usize,
    show_progress: bool,
) -> anyhow::Result<Vec<Vec<f64>>> {
    let bar = if show_progress {
        progress::bar(repeats as u64, "{wide_bar} {pos}/{len}")
    } else {
        ProgressBar::hidden()
    };
    let mut samples = vec![vec![Vec::new(); sizes.len()]; benches.len()];
    // The first round warms up.
    for repeat in 0..=repeats {
        for (bench, samples) in benches.iter_mut().zip(&mut samples) {
            for (&rows, samples) in sizes.iter().zip(samples) {
                let ms = bench.pass_ms(rows)?;
                if repeat > 0 {
                    samples.push(ms);
                }
            }
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    let median = |mut samples: Vec<f64>| quantile(&mut samples, 0.5).unwrap_or(0.0);
    Ok(samples.into_iter().map(|samples| samples.into_iter().map(median).collect()).collect())
}

impl<'a> Bench<'a> {
    fn new(model: &'a Decoder, prefix: usize) -> anyhow::Result<Self> {
        let mut bench = Self { model, cache: model.new_cache(usize::MAX), prefix };
        let vocab = model.spec().vocab_size;
        let prompt: Vec<TokenId> = (0..prefix).map(|i| TokenId((i % vocab) as u32)).collect();
        for chunk in prompt.chunks(PREFILL_ROWS) {
            let pass = Pass::causal(model.cached(&bench.cache), chunk.to_vec());
            model.run(&mut bench.cache, &pass)?;
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
        // What a target computes of every row with the sampling of the paper.
        let query = RowQuery {
            sampling: Sampling::new(1.0, 10, 0.9)?,
            uniform: Some(0.5),
            tokens: vec![TokenId(0)],
            logits: false,
            ..RowQuery::LOGITS
        };
        let pass = Pass {
            prefix: self.prefix,
            tokens: std::iter::once(TokenId(0)).chain(tree.tokens().iter().copied()).collect(),
            positions: positions.collect(),
            mask: AncestorMask::chain_then_tree(1, &tree),
            outputs: (0..rows).map(|row| RowOutput { row, query: query.clone() }).collect(),
        };
        let start = Instant::now();
        self.model.run(&mut self.cache, &pass)?;
        let ms = start.elapsed().as_secs_f64() * 1e3;
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
        let mut header = vec![title.as_str(), "ms per pass", "× 1st", "GB/s of weights"];
        let shares = self.rows.iter().any(|r| r.bandwidth_share.is_some());
        if shares {
            header.extend(["% of bandwidth", "% of arithmetic"]);
        }
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
            for share in [row.bandwidth_share, row.arithmetic_share].into_iter().flatten() {
                cells.push(format!("{:.0}", share * 100.0));
            }
            if let Some(ms) = row.stock_ms {
                cells.extend([format!("{ms:.3}"), format!("{:.1}", ms / row.median_ms)]);
            }
            table.add_row(cells);
        }
        table
    }

    /// A line about the prompt.
    pub(super) fn prefill_line(&self) -> Option<String> {
        let prefill = self.prefill.as_ref()?;
        let share = prefill.arithmetic_share.map(|share| format!(", {:.0} % of arithmetic", share * 100.0));
        Some(format!(
            "prefill of {} tokens: {:.0} tokens/s{}",
            prefill.tokens,
            prefill.tokens_per_second,
            share.unwrap_or_default()
        ))
    }
}
