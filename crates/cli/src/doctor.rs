//! `tandem doctor`: checks whether this machine and this pair of models work, and what a forward pass costs.

mod args;
mod checks;
mod subject;
mod timing;

use anyhow::{Context, bail};
use serde::Serialize;
use tandem_engine::{Decoder, DeviceChoice, InstructionSet, KernelUse, Peaks, measure_peaks};

pub use self::args::Args;
use self::checks::Check;
use self::subject::Subject;
use self::timing::Timing;
use crate::output::{BAD, DIM, GOOD};

#[derive(Serialize)]
struct Report {
    threads: usize,
    instruction_set: String,
    built_with_cuda: bool,
    peaks: Option<PeakReport>,
    checks: Vec<Check>,
    timings: Vec<Timing>,
}

/// Checks and times both models; an error if a check failed.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let available = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = args.threads.unwrap_or(available);
    Decoder::use_threads(threads);
    if let Some(isa) = args.pair.isa {
        Decoder::use_instruction_set(isa);
    }
    let show = !args.json;
    if show {
        anstream::println!(
            "{threads} of {available} CPUs, {} (this machine has {}), {}",
            InstructionSet::current(),
            InstructionSet::available().map(|set| set.to_string()).collect::<Vec<_>>().join(", "),
            if cfg!(feature = "cuda") { "built with CUDA" } else { "built without CUDA" }
        );
    }
    let target = Subject::load("target", &args.pair.target_model()?).context("loading the target")?;
    let draft = Subject::load("draft", &args.pair.draft_model()?).context("loading the draft")?;
    let checks = check(&target, &draft)?;
    if show {
        checks.iter().for_each(show_check);
    }
    let on_cpu = [&target, &draft].iter().any(|subject| subject.device == DeviceChoice::Cpu);
    let peaks = on_cpu.then(measure_peaks);
    if let Some(peaks) = peaks.filter(|_| show) {
        show_peaks(peaks);
    }
    let mut timings = Vec::new();
    for subject in [&target, &draft] {
        if show {
            anstream::println!();
            show_kernels(subject);
        }
        let timing = timing::time(subject, args, peaks, show)?;
        if show {
            anstream::println!("{}", timing.table());
            if let Some(line) = timing.prefill_line() {
                anstream::println!("{line}");
            }
        }
        timings.push(timing);
    }
    let failed = checks.iter().filter(|check| !check.passed).count();
    if show {
        anstream::println!(
            "\n{DIM}medians of {} passes after {} cached tokens; shares above 100 %: weights in the processor's caches{}",
            args.repeats,
            args.prefix,
            DIM.render_reset()
        );
    } else {
        let built_with_cuda = cfg!(feature = "cuda");
        let instruction_set = InstructionSet::current().to_string();
        let peaks = peaks.map(PeakReport::from);
        let report = Report { threads, instruction_set, built_with_cuda, peaks, checks, timings };
        anstream::println!("{}", serde_json::to_string_pretty(&report)?);
    }
    match failed {
        0 => Ok(()),
        failed => bail!("{failed} checks failed: do not serve this pair on this device"),
    }
}

fn check(target: &Subject, draft: &Subject) -> anyhow::Result<Vec<Check>> {
    let mut checks = Vec::new();
    checks.extend(checks::tokenizers_agree(&target.model, &draft.model));
    checks.extend(checks::check_model(target)?);
    checks.extend(checks::check_model(draft)?);
    Ok(checks)
}

/// [`Peaks`] in the units of the tables.
#[derive(Serialize)]
struct PeakReport {
    gigabytes_per_second: f64,
    f32_giga_multiply_adds_per_second: f64,
    int8_giga_multiply_adds_per_second: f64,
}

impl From<Peaks> for PeakReport {
    fn from(peaks: Peaks) -> Self {
        Self {
            gigabytes_per_second: peaks.bytes_per_second / 1e9,
            f32_giga_multiply_adds_per_second: peaks.f32_per_second / 1e9,
            int8_giga_multiply_adds_per_second: peaks.int8_per_second / 1e9,
        }
    }
}

fn show_peaks(peaks: Peaks) {
    let peaks = PeakReport::from(peaks);
    anstream::println!(
        "\nmeasured limits: {:.1} GB/s from memory; {:.0} G multiply-adds/s in f32, {:.0} in 8-bit integers",
        peaks.gigabytes_per_second,
        peaks.f32_giga_multiply_adds_per_second,
        peaks.int8_giga_multiply_adds_per_second
    );
}

fn show_kernels(subject: &Subject) {
    for KernelUse { dtype, kernel, bytes, .. } in &subject.model.spec().kernels {
        anstream::println!("{} {dtype}, {:.1} MB: {kernel}", subject.role, *bytes as f64 / 1e6);
    }
}

fn show_check(check: &Check) {
    let (mark, style) = if check.passed { ("ok  ", GOOD) } else { ("FAIL", BAD) };
    anstream::println!("{style}{mark}{} {}: {}", style.render_reset(), check.name, check.finding);
}
