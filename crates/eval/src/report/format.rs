//! Numbers as people read them. What is not finite reads "n/a": a measurement that failed must not look like one that did not.

use crate::report::{Estimate, Report};

const MISSING: &str = "n/a";

/// About three significant digits.
pub(super) fn number(x: f64) -> String {
    if x.is_finite() { like(x)(x) } else { MISSING.into() }
}

/// Shows numbers with the decimals that suit `x`.
fn like(x: f64) -> impl Fn(f64) -> String {
    let decimals = match x.abs() {
        a if a >= 99.95 => Some(0),
        a if a >= 9.995 => Some(1),
        a if a >= 0.9995 || a == 0.0 => Some(2),
        a if a >= 0.0005 => Some(3),
        _ => None,
    };
    move |x| decimals.map_or_else(|| format!("{x:.1e}"), |d| format!("{x:.d$}"))
}

/// "3.21 [3.10, 3.33]".
pub(super) fn estimate(e: Option<&Estimate>) -> String {
    interval(e, like(e.map_or(0.0, |e| e.value)))
}

/// "1.226 [1.217, 1.236]": a perplexity, or a ratio of two, which near 1 differ in their third decimal.
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

/// "+1.2 [-0.5, +2.9]": a difference of shares, in points.
pub(super) fn points(e: Option<&Estimate>) -> String {
    // Adding 0 turns −0 into 0.
    interval(e, |x| format!("{:+.1}", (1000.0 * x).round() / 10.0 + 0.0))
}

/// "81.0 %".
pub(super) fn share(x: f64) -> String {
    if x.is_finite() { format!("{:.1} %", 100.0 * x) } else { MISSING.into() }
}

/// [`number`], where there is one.
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

/// Warns of an unfinished evaluation.
pub(super) fn incomplete(report: &Report) -> Option<String> {
    let (done, planned) = (report.samples_done, report.samples_planned);
    (done < planned).then(|| {
        format!("Incomplete: {done} of {planned} samples were made. All figures are of those, and cells may cover different items.")
    })
}

/// What was run, where: a name and its value.
pub(super) fn facts(report: &Report) -> Vec<(&'static str, String)> {
    let (data, machine) = (&report.dataset, &report.machine);
    let seeds = report.seeds.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
    let judged =
        data.metric.as_ref().map_or_else(|| "answers are not judged".into(), |m| format!("judged by {m}"));
    let ends = match &data.stop[..] {
        _ if data.run_on => "running on behind their end".into(),
        [] => "without stop strings".into(),
        stop => format!("ended by {stop:?}"),
    };
    vec![
        ("Dataset", format!("{}, {}, {judged}", data.name, count(data.items, "item"))),
        ("Target model", report.target_model.clone()),
        ("Draft model", report.draft_model.clone()),
        ("Samples", format!("{} of {}, seeds {seeds}", report.samples_done, report.samples_planned)),
        ("Answers", format!("at most {} tokens, {ends}", data.max_new_tokens)),
        (
            "Machine",
            format!(
                "{}, {}, {}, models on {}",
                machine.cpu,
                count(machine.cores, "core"),
                machine.os,
                machine.device
            ),
        ),
        ("Energy", machine.energy.clone()),
        ("Tandem", format!("{}, {}", report.tandem_version, report.created)),
        ("Command", report.command.clone()),
    ]
}

/// "1 item", "2 items".
pub(super) fn count(n: usize, of: &str) -> String {
    format!("{n} {of}{}", if n == 1 { "" } else { "s" })
}
