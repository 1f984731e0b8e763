//! The report's tables, before they become Markdown or HTML.

use super::format::{count, estimate, factor, number, optional, percent, perplexity, points, share};
use crate::report::{Cell, Estimate, Report};

/// Bad items are listed up to here, then only counted.
const BAD_ITEMS: usize = 10;

pub(super) struct Table {
    pub(super) title: &'static str,
    /// What its columns mean.
    pub(super) about: String,
    pub(super) header: Vec<String>,
    pub(super) rows: Vec<Vec<Field>>,
}

/// Words stand to the left, numbers to the right.
pub(super) enum Field {
    Word(String),
    /// As shown, and what it is sorted by.
    Number(String, Option<f64>),
}

impl Field {
    pub(super) fn text(&self) -> &str {
        match self {
            Self::Word(text) | Self::Number(text, _) => text,
        }
    }
}

fn field(text: String, key: Option<f64>) -> Field {
    Field::Number(text, key.filter(|k| k.is_finite()))
}

fn word(text: &str) -> Field {
    Field::Word(text.into())
}

fn of(show: fn(Option<&Estimate>) -> String, e: Option<Estimate>) -> Field {
    field(show(e.as_ref()), e.map(|e| e.value))
}

fn header(names: &[&str]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

/// Those with at least one row, in the order of reading.
pub(super) fn all(report: &Report) -> Vec<Table> {
    [results, comparisons, depths, times, failures, bad_items]
        .into_iter()
        .map(|table| table(report))
        .filter(|t| !t.rows.is_empty())
        .collect()
}

fn results(report: &Report) -> Table {
    let metric = report.dataset.metric.as_deref().unwrap_or("score");
    let row = |c: &Cell| {
        let time = format!("{} ({})", number(c.ms_per_token), number(c.ms_per_token_p90));
        vec![
            word(&c.label),
            word(if c.setting.lossless { "yes" } else { "no" }),
            of(percent, c.score),
            of(perplexity, c.perplexity),
            field(time, Some(c.ms_per_token)),
            field(number(c.tokens_per_second), Some(c.tokens_per_second)),
            of(estimate, Some(c.block_efficiency)),
            of(percent, c.acceptance_rate),
            of(factor, c.vs_autoregressive.as_ref().map(|r| r.speedup)),
            field(optional(c.joules_per_token), c.joules_per_token),
        ]
    };
    Table {
        title: "Results",
        about: [
            "Values in brackets are 95 % confidence intervals (bootstrap over prompts).",
            "Lossless: the output is distributed as plain sampling from the target.",
            &format!("Score: the share of right answers ({metric})."),
            "Perplexity: of the emitted text under the unwarped target; lower is likelier.",
            "ms/token: decode time per emitted token, median over the samples (90 % quantile).",
            "Tokens/s: emitted tokens per second of decode time.",
            "Block efficiency: 1 + accepted / iterations, the tokens that one pass of the target yields.",
            "Acceptance: accepted tokens per draft token of depth asked for.",
            "Speedup: autoregressive time per token divided by this one's, under the same sampling.",
            "J/token: energy per emitted token.",
        ]
        .join("\n"),
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
        rows: report.cells.iter().map(row).collect(),
    }
}

fn comparisons(report: &Report) -> Table {
    let mut rows = Vec::new();
    for c in &report.cells {
        for (base, name) in [(&c.vs_autoregressive, "autoregressive"), (&c.vs_speculative, "speculative")] {
            let Some(r) = base.as_ref().filter(|_| c.setting.method != name) else { continue };
            rows.push(vec![
                word(&c.label),
                word(&r.to),
                of(factor, Some(r.speedup)),
                of(points, r.score_difference),
                of(perplexity, r.perplexity_ratio),
                field(optional(r.energy_ratio), r.energy_ratio),
            ]);
        }
    }
    Table {
        title: "Comparisons",
        about: "Under the same sampling; of medians and means over the same prompts, resampled alike. Speedup above 1 is faster; score in percentage points, \
                above 0 is better; perplexity and energy ratios below 1 are better."
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
            Some(&x) => field(share(x), Some(x)),
            None => field(String::new(), None),
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
        row.extend([t.prefill, t.draft, t.target, t.orchestration].map(|x| field(number(x), Some(x))));
        row
    };
    Table {
        title: "Where the time went",
        about: "Milliseconds per emitted token. Prefill opens the sessions, prompt included; it is not part of ms/token.".into(),
        header: header(&["Method", "Prefill", "Draft", "Target", "Orchestration"]),
        rows: report.cells.iter().map(row).collect(),
    }
}

fn failures(report: &Report) -> Table {
    let rows = report.cells.iter().flat_map(|c| {
        c.failures.iter().map(|(name, &n)| {
            let of_samples = format!("{n} of {}", c.samples);
            vec![word(&c.label), word(name), field(of_samples, Some(n as f64))]
        })
    });
    Table {
        title: "Failures",
        about: "Answers and generations that failed, or could not be judged, by name.".into(),
        header: header(&["Method", "Failure", "Samples"]),
        rows: rows.collect(),
    }
}

fn bad_items(report: &Report) -> Table {
    let bad = &report.dataset.bad;
    let shown =
        if bad.len() > BAD_ITEMS { format!(" The first {BAD_ITEMS} are listed.") } else { String::new() };
    Table {
        title: "Unusable dataset items",
        about: format!("{} of the dataset could not be used.{shown}", count(bad.len(), "part")),
        header: header(&["Item", "Reason"]),
        rows: bad.iter().take(BAD_ITEMS).map(|b| vec![word(&b.item), word(&b.reason)]).collect(),
    }
}
