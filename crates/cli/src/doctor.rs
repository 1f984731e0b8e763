//! `tandem doctor`: checks whether this machine and this pair of models work, and what a forward pass costs.

mod checks;
mod subject;
mod timing;

use anyhow::{Context, bail};
use serde::Serialize;
use tandem_engine::{Decoder, instruction_set};

use self::checks::Check;
use self::subject::Subject;
use self::timing::Timing;
use crate::output::{BAD, DIM, GOOD};
use crate::pair::PairArgs;

/// Flags of `tandem doctor`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pair: PairArgs,

    /// Tokens in the KV cache while passes are timed
    #[arg(long, default_value_t = 200, value_name = "TOKENS")]
    prefix: usize,

    /// Number of timed passes of each size, of which the median is shown
    #[arg(long, default_value_t = 30, value_name = "N")]
    repeats: usize,

    /// CPU threads that a pass may use [default: one per available CPU]
    #[arg(long, env = "TANDEM_MODEL_THREADS", value_name = "N")]
    threads: Option<usize>,

    /// Also time candle's own CPU kernels
    #[arg(long)]
    stock: bool,

    /// Print one JSON object instead of tables
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    threads: usize,
    instruction_set: &'static str,
    built_with_cuda: bool,
    checks: Vec<Check>,
    timings: Vec<Timing>,
}

/// Checks and times both models; an error if a check failed.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let available = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = args.threads.unwrap_or(available);
    Decoder::use_threads(threads);
    let show = !args.json;
    if show {
        anstream::println!(
            "{threads} of {available} CPUs, {}, {}",
            instruction_set(),
            if cfg!(feature = "cuda") { "built with CUDA" } else { "built without CUDA" }
        );
    }
    let target = Subject::load("target", &args.pair.target_model()?).context("loading the target")?;
    let draft = Subject::load("draft", &args.pair.draft_model()?).context("loading the draft")?;
    let checks = check(&target, &draft)?;
    if show {
        checks.iter().for_each(show_check);
    }
    let mut timings = Vec::new();
    for subject in [&target, &draft] {
        let timing = timing::time(subject, args.prefix, args.repeats, args.stock, show)?;
        if show {
            anstream::println!("\n{}", timing.table());
        }
        timings.push(timing);
    }
    let failed = checks.iter().filter(|check| !check.passed).count();
    if show {
        anstream::println!(
            "\n{DIM}medians of {} passes after {} cached tokens{}",
            args.repeats,
            args.prefix,
            DIM.render_reset()
        );
    } else {
        let built_with_cuda = cfg!(feature = "cuda");
        let report = Report { threads, instruction_set: instruction_set(), built_with_cuda, checks, timings };
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

fn show_check(check: &Check) {
    let (mark, style) = if check.passed { ("ok  ", GOOD) } else { ("FAIL", BAD) };
    anstream::println!("{style}{mark}{} {}: {}", style.render_reset(), check.name, check.finding);
}
