//! Writes the files of a report, and shows its main figures.

use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use tandem_eval::dataset::mtbench;
use tandem_eval::gate::Finding;
use tandem_eval::report::{self, Cell, Estimate, Report};
use tandem_eval::{Dataset, Sample, Verdict};

use crate::output::{BAD, DIM, GOOD, table};

/// Writes report.json, report.md, report.html and plots/ into `out`; for MT-Bench also
/// the answers in the format of its judge.
pub(super) fn write(
    out: &Path,
    report: &Report,
    dataset: &Dataset,
    samples: &[Sample],
) -> anyhow::Result<()> {
    let file = |name: &str, content: &str| {
        let path = out.join(name);
        fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))
    };
    file("report.json", &(serde_json::to_string_pretty(report)? + "\n"))?;
    file("report.md", &report::markdown(report))?;
    file("report.html", &report::html(report)?)?;
    let plots = out.join("plots");
    fs::create_dir_all(&plots).with_context(|| format!("cannot create {}", plots.display()))?;
    for (name, svg) in report::plots(report)? {
        file(&format!("plots/{name}"), &svg)?;
    }
    if dataset.name == "mt-bench" {
        for cell in &report.cells {
            file(&format!("answers-{}.jsonl", slug(&cell.label)), &mt_bench_answers(cell, samples)?)?;
        }
    }
    Ok(())
}

/// The answers of a cell's first seed, in the format of MT-Bench's judge.
fn mt_bench_answers(cell: &Cell, samples: &[Sample]) -> anyhow::Result<String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64());
    let of_cell =
        samples.iter().filter(|s| s.cell == cell.id && s.seed == 0 && s.verdict == Verdict::Unjudged);
    let mut lines = String::new();
    for sample in of_cell {
        let Some(id) = mtbench::question_id(&sample.item) else { continue };
        let model = slug(&cell.label);
        let answer_id = format!("{model}-{id}");
        let line = mtbench::answer_line(id, &model, &sample.answers, now, &answer_id);
        lines += &(serde_json::to_string(&line)? + "\n");
    }
    Ok(lines)
}

/// A label as part of a file name.
fn slug(label: &str) -> String {
    let letters = label.replace('τ', "tau").replace('γ', "gamma");
    letters.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).collect()
}

/// Shows the main figures on the terminal; the files have all of them.
pub(super) fn show(out: &Path, report: &Report) {
    let mut rows = table(&[
        "method",
        "score",
        "perplexity",
        "ms/token",
        "speedup",
        "block efficiency",
        "acceptance",
        "failures",
    ]);
    let range = |e: Estimate, scale: f64, digits: usize| {
        format!("{:.digits$} [{:.digits$}, {:.digits$}]", e.value * scale, e.low * scale, e.high * scale)
    };
    let none = || "–".to_owned();
    for cell in &report.cells {
        rows.add_row([
            cell.label.clone(),
            cell.score.map_or_else(none, |e| range(e, 100.0, 1)),
            cell.perplexity.map_or_else(none, |e| range(e, 1.0, 3)),
            format!("{:.2}", cell.ms_per_token),
            cell.vs_autoregressive.as_ref().map_or_else(none, |r| range(r.speedup, 1.0, 2)),
            format!("{:.2}", cell.block_efficiency.value),
            cell.acceptance_rate.map_or_else(none, |e| format!("{:.1} %", e.value * 100.0)),
            cell.failures.values().sum::<usize>().to_string(),
        ]);
    }
    anstream::println!("{rows}");
    anstream::println!(
        "\n{DIM}{} of {} samples; {}; 95 % confidence intervals{}",
        report.samples_done,
        report.samples_planned,
        report
            .dataset
            .metric
            .as_deref()
            .map_or("answers are not judged".into(), |m| format!("score: {m}, %")),
        DIM.render_reset()
    );
    anstream::println!("{DIM}{}{}", out.join("report.html").display(), DIM.render_reset());
}

/// Shows every measure that got worse, or one line that none did.
pub(super) fn show_findings(findings: &[Finding]) {
    let worse: Vec<&Finding> = findings.iter().filter(|f| f.regressed).collect();
    for finding in &worse {
        anstream::println!("{BAD}worse{} {finding}", BAD.render_reset());
    }
    if worse.is_empty() {
        anstream::println!(
            "{GOOD}no worse than the baseline{} in {} measures",
            GOOD.render_reset(),
            findings.len()
        );
    }
}
