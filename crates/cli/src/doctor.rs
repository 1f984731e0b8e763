//! `tandem doctor`: is this machine and this pair fit, and what does a pass cost?

mod checks;
mod timing;

use anyhow::{Context, bail};
use serde::Serialize;
use tandem_engine::{Decoder, DeviceChoice, Kernels, LoadOptions, ModelSource, WeightDtype, instruction_set};

use crate::output::{BAD, DIM, GOOD};
use crate::pair::PairArgs;
use checks::Check;
use timing::Timing;

/// Flags of `tandem doctor`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pair: PairArgs,

    /// Tokens in the cache while passes are timed
    #[arg(long, default_value_t = 200, value_name = "TOKENS")]
    prefix: usize,

    /// Timed passes of each kind, of which the median is shown
    #[arg(long, default_value_t = 30, value_name = "N")]
    repeats: usize,

    /// Processors that a pass may use [default: all]
    #[arg(long, env = "TANDEM_MODEL_THREADS", value_name = "N")]
    threads: Option<usize>,

    /// Time candle's own CPU kernels too
    #[arg(long)]
    stock: bool,

    /// One JSON object instead of tables
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

/// One model under examination.
struct Patient {
    role: &'static str,
    name: String,
    source: ModelSource,
    device: DeviceChoice,
    dtype: WeightDtype,
    model: Decoder,
}

/// Checks and times; an error if a check failed.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let available = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = args.threads.unwrap_or(available);
    Decoder::use_threads(threads);
    if !args.json {
        anstream::println!(
            "{threads} of {available} processors, {}, {}",
            instruction_set(),
            if cfg!(feature = "cuda") { "built with CUDA" } else { "built without CUDA" }
        );
    }
    let patients = [("target", args.pair.target_model()?), ("draft", args.pair.draft_model()?)];
    let patients = patients
        .into_iter()
        .map(|(role, model)| Patient::load(role, &model).with_context(|| format!("loading the {role}")))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let mut report = Report {
        threads,
        instruction_set: instruction_set(),
        built_with_cuda: cfg!(feature = "cuda"),
        checks: Vec::new(),
        timings: Vec::new(),
    };
    report.checks.extend(checks::tokenizers_agree(&patients[0].model, &patients[1].model));
    for patient in &patients {
        report.checks.extend(checks::examine(patient)?);
    }
    for check in report.checks.iter().filter(|_| !args.json) {
        let (mark, style) = if check.passed { ("ok  ", GOOD) } else { ("FAIL", BAD) };
        anstream::println!("{style}{mark}{} {}: {}", style.render_reset(), check.name, check.finding);
    }
    for patient in &patients {
        let timing = timing::time(patient, args.prefix, args.repeats, args.stock, !args.json)?;
        if !args.json {
            anstream::println!("\n{}", timing.table());
        }
        report.timings.push(timing);
    }
    if args.json {
        anstream::println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        anstream::println!(
            "\n{DIM}medians of {} passes behind {} cached tokens{}",
            args.repeats,
            args.prefix,
            DIM.render_reset()
        );
    }
    match report.checks.iter().filter(|c| !c.passed).count() {
        0 => Ok(()),
        failed => bail!("{failed} checks failed: do not serve with this pair on this device"),
    }
}

impl Patient {
    fn load(role: &'static str, args: &tandem_engine::ModelArgs) -> anyhow::Result<Self> {
        let source = ModelSource::parse(&args.model_id, args.revision.as_deref())?;
        let (device, dtype) = (args.device, args.dtype);
        let options = LoadOptions { device, dtype, ..LoadOptions::default() };
        let model = Decoder::load(&source, &options)?;
        Ok(Self { role, name: args.model_id.clone(), source, device, dtype, model })
    }

    /// The same weights on the CPU with candle's kernels: slow, and nobody else's bugs are ours.
    fn reference(&self) -> anyhow::Result<Decoder> {
        let options = LoadOptions {
            device: DeviceChoice::Cpu,
            dtype: self.dtype,
            kernels: Kernels::Candle,
            progress: None,
        };
        Ok(Decoder::load(&self.source, &options)?)
    }

    fn has_real_weights(&self) -> bool {
        !matches!(self.source, ModelSource::RandomWeights(_))
    }
}
