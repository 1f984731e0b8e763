//! The results on the terminal.

use super::args::Load;
use super::figures::Level;
use super::report::Report;
use super::summary::Summary;
use crate::output::{BAD, DIM, table};

/// Shows all levels: the main figures, how they compare, how the time divides, and the errors.
pub(super) fn show(report: &Report) {
    let levels = &report.levels;
    if levels.is_empty() {
        return;
    }
    anstream::println!("{}", main_figures(levels));
    let comparisons = [scaling(levels), compare_with_first_method(levels)].concat();
    if !comparisons.is_empty() {
        anstream::println!("\n{}", comparisons.join("\n"));
    }
    anstream::println!("\nwhere the time goes, ms per token\n\n{}", time(levels));
    for level in levels {
        for (code, errors) in &level.errors {
            anstream::println!(
                "\n{BAD}{} × {code}{} ({}, {}): {}",
                errors.count,
                BAD.render_reset(),
                level.method,
                level.load,
                errors.first_message
            );
        }
    }
    anstream::println!(
        "\n{DIM}target {}, draft {}; latencies in ms, p50 / p99{}",
        report.target_model,
        report.draft_model,
        DIM.render_reset()
    );
}

fn main_figures(levels: &[Level]) -> comfy_table::Table {
    let load = match levels[0].load {
        Load::Concurrency(_) => "concurrency",
        Load::Rate(_) => "rate",
    };
    let mut rows = table(&[
        "method",
        load,
        "ok",
        "failed",
        "req/s",
        "tok/s",
        "TTFT",
        "TPOT",
        "e2e",
        "block eff.",
        "KV peak",
    ]);
    for level in levels {
        rows.add_row([
            level.method.clone(),
            number(level.load),
            level.requests.completed.to_string(),
            level.requests.failed.to_string(),
            format!("{:.2}", level.request_throughput_per_s),
            format!("{:.1}", level.output_token_throughput_per_s),
            percentiles(level.ttft_ms.as_ref()),
            percentiles(level.tpot_ms.as_ref()),
            percentiles(level.e2e_latency_ms.as_ref()),
            level.block_efficiency.map_or_else(none, |b| format!("{b:.2}")),
            level.server.kv_peak().map_or_else(none, |share| format!("{:.1} %", share * 100.0)),
        ]);
    }
    rows
}

fn time(levels: &[Level]) -> comfy_table::Table {
    let mut rows = table(&[
        "method",
        "load",
        "waiting",
        "prefill",
        "draft",
        "target",
        "orchestration",
        "acceptance",
        "undrafted",
        "failovers",
    ]);
    for level in levels {
        let split = level.ms_per_token;
        let parts = [split.waiting, split.prefill, split.draft, split.target, split.orchestration];
        let mut cells = vec![level.method.clone(), level.load.to_string()];
        cells.extend(parts.map(|ms| format!("{ms:.2}")));
        cells.push(level.acceptance_rate.map_or_else(none, |rate| format!("{:.0} %", rate * 100.0)));
        cells.push(level.undrafted_iterations.to_string());
        cells.push(level.failovers.to_string());
        rows.add_row(cells);
    }
    rows
}

/// Per method, the tokens per second of each level relative to the first level.
fn scaling(levels: &[Level]) -> Vec<String> {
    let mut lines = Vec::new();
    for first in levels.iter().filter(|level| level.load == levels[0].load) {
        let others = levels.iter().filter(|level| level.method == first.method && level.load != first.load);
        let others: Vec<String> = others.map(|level| speedup(level, first)).collect();
        if !others.is_empty() {
            lines.push(format!(
                "tok/s of {} relative to {}: {}",
                first.method,
                first.load,
                others.join(", ")
            ));
        }
    }
    lines
}

/// Per method except the first, the tokens per second of each level relative to the first method at that level.
fn compare_with_first_method(levels: &[Level]) -> Vec<String> {
    let mut lines = Vec::new();
    let is_first = |level: &&Level| level.method == levels[0].method;
    for method in levels.iter().filter(|level| level.load == levels[0].load).skip(1).map(|l| &l.method) {
        let pairs = levels.iter().filter(|level| level.method == *method).filter_map(|level| {
            let first = levels.iter().filter(is_first).find(|first| first.load == level.load)?;
            Some(speedup(level, first))
        });
        let pairs: Vec<String> = pairs.collect();
        lines.push(format!("tok/s of {method} relative to {}: {}", levels[0].method, pairs.join(", ")));
    }
    lines
}

fn speedup(level: &Level, base: &Level) -> String {
    let base = base.output_token_throughput_per_s;
    let ratio =
        if base > 0.0 { format!("{:.2}×", level.output_token_throughput_per_s / base) } else { none() };
    format!("{ratio} at {}", level.load)
}

fn number(load: Load) -> String {
    match load {
        Load::Concurrency(requests) => requests.to_string(),
        Load::Rate(rate) => rate.to_string(),
    }
}

/// "p50 / p99" in milliseconds, with about three digits.
fn percentiles(summary: Option<&Summary>) -> String {
    let ms = |ms: f64| if ms < 100.0 { format!("{ms:.1}") } else { format!("{ms:.0}") };
    summary.map_or_else(none, |s| format!("{} / {}", ms(s.p50), ms(s.p99)))
}

fn none() -> String {
    "–".to_owned()
}
