//! Formats numbers and facts for human readers.
//!
//! A number that is not finite becomes "n/a", so that a failed measurement cannot be mistaken for a real one.

use super::schema::{DatasetReport, Estimate, Machine, Report};

const MISSING: &str = "n/a";

/// About three significant digits.
pub(super) fn number(x: f64) -> String {
    if x.is_finite() { with_decimals(x, suitable_decimals(x)) } else { MISSING.into() }
}

/// The decimals that show about three significant digits of `x`; `None` if that requires an exponent.
fn suitable_decimals(x: f64) -> Option<usize> {
    match x.abs() {
        a if a >= 99.95 => Some(0),
        a if a >= 9.995 => Some(1),
        a if a >= 0.9995 || a == 0.0 => Some(2),
        a if a >= 0.0005 => Some(3),
        _ => None,
    }
}

fn with_decimals(x: f64, decimals: Option<usize>) -> String {
    match decimals {
        Some(decimals) => format!("{x:.decimals$}"),
        None => format!("{x:.1e}"),
    }
}

/// "3.21 [3.10, 3.33]".
pub(super) fn estimate(e: Option<&Estimate>) -> String {
    // All three numbers get the decimals of the value.
    let decimals = suitable_decimals(e.map_or(0.0, |e| e.value));
    interval(e, |x| with_decimals(x, decimals))
}

/// "1.226 [1.217, 1.236]": a perplexity or a ratio of two. Near 1 they differ only in the third decimal.
pub(super) fn perplexity(e: Option<&Estimate>) -> String {
    if e.is_some_and(|e| e.value.abs() < 2.0) { interval(e, near_one) } else { estimate(e) }
}

/// "1.226".
pub(super) fn near_one(x: f64) -> String {
    if x.abs() < 2.0 { format!("{x:.3}") } else { number(x) }
}

/// "1.52× [1.40, 1.63]".
pub(super) fn factor(e: Option<&Estimate>) -> String {
    estimate(e).replacen(" [", "× [", 1)
}

/// "84.2 % [81.0, 87.1]".
pub(super) fn percent(e: Option<&Estimate>) -> String {
    interval(e, |x| format!("{:.1}", 100.0 * x)).replacen(" [", " % [", 1)
}

/// "+1.2 [-0.5, +2.9]": a difference of shares, in percentage points.
pub(super) fn points(e: Option<&Estimate>) -> String {
    // Adding 0 turns −0 into 0.
    interval(e, |x| format!("{:+.1}", (1000.0 * x).round() / 10.0 + 0.0))
}

/// "81.0 %".
pub(super) fn share(x: f64) -> String {
    if x.is_finite() { format!("{:.1} %", 100.0 * x) } else { MISSING.into() }
}

/// [`number`] of a value that may be missing.
pub(super) fn optional(x: Option<f64>) -> String {
    x.map_or_else(|| MISSING.into(), number)
}

fn interval(e: Option<&Estimate>, each: impl Fn(f64) -> String) -> String {
    match e {
        Some(e) if [e.value, e.low, e.high].into_iter().all(f64::is_finite) => {
            format!("{} [{}, {}]", each(e.value), each(e.low), each(e.high))
        }
        Some(e) if e.value.is_finite() => format!("{} [{MISSING}]", each(e.value)),
        _ => MISSING.into(),
    }
}

/// The warning of a report on an unfinished evaluation.
pub(super) fn incomplete(report: &Report) -> Option<String> {
    let done = report.samples_done;
    let planned = report.samples_planned;
    (done < planned).then(|| {
        format!(
            "Incomplete: {done} of {planned} samples were completed. All figures are based on these samples, \
             and cells may cover different items."
        )
    })
}

/// Names and values of what was run, and where.
pub(super) fn facts(report: &Report) -> Vec<(&'static str, String)> {
    let seeds: Vec<String> = report.seeds.iter().map(u64::to_string).collect();
    vec![
        ("Dataset", dataset(&report.dataset)),
        ("Target model", report.target_model.clone()),
        ("Draft model", report.draft_model.clone()),
        (
            "Samples",
            format!("{} of {}, seeds {}", report.samples_done, report.samples_planned, seeds.join(", ")),
        ),
        ("Answers", answers(&report.dataset)),
        ("Machine", machine(&report.machine)),
        ("Energy", report.machine.energy.clone()),
        ("Tandem", format!("{}, {}", report.tandem_version, report.created)),
        ("Command", report.command.clone()),
    ]
}

fn dataset(dataset: &DatasetReport) -> String {
    let judged = match &dataset.metric {
        Some(metric) => format!("judged by {metric}"),
        None => "answers are not judged".to_owned(),
    };
    format!("{}, {}, {judged}", dataset.name, count(dataset.items, "item"))
}

fn answers(dataset: &DatasetReport) -> String {
    let end = match &dataset.stop[..] {
        _ if dataset.run_on => "not ended by stop strings or end-of-sequence tokens".to_owned(),
        [] => "without stop strings".to_owned(),
        stop => format!("ended by {stop:?}"),
    };
    format!("at most {} tokens, {end}", dataset.max_new_tokens)
}

fn machine(machine: &Machine) -> String {
    let cores = count(machine.cores, "core");
    format!("{}, {cores}, {}, models on {}", machine.cpu, machine.os, machine.device)
}

/// "1 item", "2 items".
pub(super) fn count(n: usize, of: &str) -> String {
    format!("{n} {of}{}", if n == 1 { "" } else { "s" })
}
