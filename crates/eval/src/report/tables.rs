//! The tables of the report, before they become Markdown or HTML.

use super::format::{count, estimate, factor, number, optional, percent, perplexity, points, share};
use super::schema::{Cell, Estimate, Report};

/// Maximum number of bad items that are listed; all of them are counted.
const MAX_BAD_ITEMS: usize = 10;

pub(super) struct Table {
    pub(super) title: &'static str,
    /// The meaning of the columns.
    pub(super) about: String,
    pub(super) header: Vec<String>,
    pub(super) rows: Vec<Vec<Field>>,
}

/// A field of a table. Words are aligned to the left, numbers to the right.
pub(super) enum Field {
    Word(String),
    /// The text, and the value to sort by.
    Number(String, Option<f64>),
}

impl Field {
    pub(super) fn text(&self) -> &str {
        match self {
            Self::Word(text) | Self::Number(text, _) => text,
        }
    }
}

fn number_field(text: String, key: Option<f64>) -> Field {
    Field::Number(text, key.filter(|k| k.is_finite()))
}

fn word(text: &str) -> Field {
    Field::Word(text.into())
}

fn estimated(format: fn(Option<&Estimate>) -> String, e: Option<Estimate>) -> Field {
    number_field(format(e.as_ref()), e.map(|e| e.value))
}

fn header(names: &[&str]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

/// The tables with at least one row, in reading order.
pub(super) fn all(report: &Report) -> Vec<Table> {
    [results, comparisons, depths, times, failures, bad_items]
        .into_iter()
        .map(|table| table(report))
        .filter(|t| !t.rows.is_empty())
        .collect()
}

fn results(report: &Report) -> Table {
    Table {
        title: "Results",
        about: about_results(report.dataset.metric.as_deref().unwrap_or("score")),
        header: header(&[
            "Method",
            "Lossless",
            "Score",
            "Perplexity",
            "ms/token (p90)",
            "Tokens/s",
            "Block efficiency",
            "Acceptance",
            "Speedup",
            "J/token",
        ]),
        rows: report.cells.iter().map(results_row).collect(),
    }
}

fn results_row(c: &Cell) -> Vec<Field> {
    let time = format!("{} ({})", number(c.ms_per_token), number(c.ms_per_token_p90));
    vec![
        word(&c.label),
        word(if c.setting.lossless { "yes" } else { "no" }),
        estimated(percent, c.score),
        estimated(perplexity, c.perplexity),
        number_field(time, Some(c.ms_per_token)),
        number_field(number(c.tokens_per_second), Some(c.tokens_per_second)),
        estimated(estimate, Some(c.block_efficiency)),
        estimated(percent, c.acceptance_rate),
        estimated(factor, c.vs_autoregressive.as_ref().map(|r| r.speedup)),
        number_field(optional(c.joules_per_token), c.joules_per_token),
    ]
}

fn about_results(metric: &str) -> String {
    [
        "Values in brackets are 95 % confidence intervals (bootstrap over prompts).",
        "Lossless: the output has the same distribution as plain sampling from the target.",
        &format!("Score: the share of right answers ({metric})."),
        "Perplexity: of the emitted text under the unwarped target; lower is better.",
        "ms/token: decode time per emitted token, median over the samples (90th percentile).",
        "Tokens/s: emitted tokens per second of decode time.",
        "Block efficiency: 1 + accepted / iterations, the mean number of tokens per forward pass of the target.",
        "Acceptance: accepted tokens per draft token of requested depth.",
        "Speedup: time per token of autoregressive decoding divided by that of the method, under the same sampling \
         parameters.",
        "J/token: energy per emitted token.",
    ]
    .join("\n")
}

fn comparisons(report: &Report) -> Table {
    let mut rows = Vec::new();
    for c in &report.cells {
        for (base, name) in [(&c.vs_autoregressive, "autoregressive"), (&c.vs_speculative, "speculative")] {
            let Some(r) = base.as_ref().filter(|_| c.setting.method != name) else { continue };
            rows.push(vec![
                word(&c.label),
                word(&r.to),
                estimated(factor, Some(r.speedup)),
                estimated(points, r.score_difference),
                estimated(perplexity, r.perplexity_ratio),
                number_field(optional(r.energy_ratio), r.energy_ratio),
            ]);
        }
    }
    Table {
        title: "Comparisons",
        about: "Comparisons are under the same sampling parameters, over the same prompts and with the same resamples \
                (paired). Speedup: above 1 is faster. Score: difference in percentage points, above 0 is better. \
                Perplexity and energy ratios: below 1 is better."
            .into(),
        header: header(&["Method", "Against", "Speedup", "Score, points", "Perplexity ratio", "Energy ratio"]),
        rows,
    }
}

fn depths(report: &Report) -> Table {
    let deepest = report.cells.iter().map(|c| c.acceptance_by_depth.len()).max().unwrap_or(0);
    let mut names = vec!["Method".to_owned()];
    names.extend((1..=deepest).map(|d| d.to_string()));
    let row = |c: &Cell| {
        let mut row = vec![word(&c.label)];
        row.extend((0..deepest).map(|d| match c.acceptance_by_depth.get(d) {
            Some(&x) => number_field(share(x), Some(x)),
            None => number_field(String::new(), None),
        }));
        row
    };
    Table {
        title: "Acceptance by depth",
        about: "Share of iterations that accepted at least this many draft tokens.".into(),
        header: names,
        rows: report.cells.iter().filter(|c| !c.acceptance_by_depth.is_empty()).map(row).collect(),
    }
}

fn times(report: &Report) -> Table {
    let row = |c: &Cell| {
        let t = c.time;
        let mut row = vec![word(&c.label)];
        row.extend([t.prefill, t.draft, t.target, t.orchestration].map(|x| number_field(number(x), Some(x))));
        row
    };
    Table {
        title: "Where the time went",
        about: "Milliseconds per emitted token. Prefill is the time to open the sessions, prompt included; it is not \
                part of ms/token."
            .into(),
        header: header(&["Method", "Prefill", "Draft", "Target", "Orchestration"]),
        rows: report.cells.iter().map(row).collect(),
    }
}

fn failures(report: &Report) -> Table {
    let rows = report.cells.iter().flat_map(|c| {
        c.failures.iter().map(|(name, &n)| {
            let of_samples = format!("{n} of {}", c.samples);
            vec![word(&c.label), word(name), number_field(of_samples, Some(n as f64))]
        })
    });
    Table {
        title: "Failures",
        about: "Answers and generations that failed or could not be judged, by name of the failure.".into(),
        header: header(&["Method", "Failure", "Samples"]),
        rows: rows.collect(),
    }
}

fn bad_items(report: &Report) -> Table {
    let bad = &report.dataset.bad;
    let shown = if bad.len() > MAX_BAD_ITEMS {
        format!(" The first {MAX_BAD_ITEMS} are listed.")
    } else {
        String::new()
    };
    Table {
        title: "Unusable dataset items",
        about: format!("{} of the dataset could not be used.{shown}", count(bad.len(), "part")),
        header: header(&["Item", "Reason"]),
        rows: bad.iter().take(MAX_BAD_ITEMS).map(|b| vec![word(&b.item), word(&b.reason)]).collect(),
    }
}
