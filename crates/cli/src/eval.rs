//! `tandem eval`: measures decoding methods on a dataset.

mod args;
mod identity;
mod machine;
mod output;
mod plan;
mod replay;
mod runner;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use tandem_eval::gate::Finding;
use tandem_eval::report::{DatasetReport, Report, SCHEMA_VERSION};
use tandem_eval::{CellSpec, Dataset, DatasetKind, Header, Journal, gate, metrics};
use tandem_serving::init_logging;

pub use self::args::Args;
use self::plan::Plan;
use self::runner::Runner;
use crate::local::{Local, LocalConfig};
use crate::output::DIM;
use crate::pair::bundled;

/// Exit code of an interrupted run: what a shell reports for Ctrl-C.
const INTERRUPTED: u8 = 130;
/// Exit code if a measure is worse than in the baseline.
const REGRESSED: u8 = 3;

/// Starts or resumes an evaluation, and writes its report.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    init_logging(&args.log.clone().into(), "warn")?;
    // Check flags and files before models are loaded.
    let cells = args.grid.grid().cells()?;
    let baseline = args.against.as_ref().map(|path| read_baseline(path, &args.out)).transpose()?;
    let data = data_path(&args)?;
    let mut dataset = load(&args, &data)?;
    dataset.items.truncate(args.prompts);
    std::fs::create_dir_all(&args.out).with_context(|| format!("cannot create {}", args.out.display()))?;

    let local = match &args.endpoint {
        Some(_) => None,
        None => Some(Local::start(LocalConfig::new(&args.pair)?, true).await?),
    };
    let url = args.endpoint.clone().or_else(|| local.as_ref().map(Local::endpoint)).unwrap_or_default();
    let client = args.access.connect(&url).await?;
    let mut runner = Runner::new(client, machine::energy_meter(&args), &args, &dataset).await?;
    let mut report = empty_report(&args, &dataset, &cells, &runner);
    if let Some(baseline) = &baseline {
        gate::check(&report, baseline)?;
    }
    let header = identity::header(&args, &data, &dataset, &report.machine, &runner)?;
    let plan = Plan { dataset: &dataset, cells: &cells, seeds: args.seeds };
    let complete = evaluate(&args, &plan, &mut runner, &header, &mut report).await?;
    output::show(&args.out, &report);
    if let Some(local) = local {
        local.stop().await?;
    }
    if !complete {
        anstream::eprintln!("{DIM}interrupted: run the same command again to continue{}", DIM.render_reset());
        return Ok(ExitCode::from(INTERRUPTED));
    }
    match baseline {
        Some(baseline) => Ok(exit_code(&gate::compare(&report, &baseline, &args.tolerance)?)),
        None => Ok(ExitCode::SUCCESS),
    }
}

/// Runs the plan, fills in the report and writes it. Returns false if the user interrupted.
async fn evaluate(
    args: &Args,
    plan: &Plan<'_>,
    runner: &mut Runner,
    header: &Header,
    report: &mut Report,
) -> anyhow::Result<bool> {
    let (mut journal, done) = Journal::open(&args.out.join("samples.jsonl"), header)?;
    let (samples, complete) = runner.run(plan, &mut journal, done).await?;
    if samples.is_empty() {
        bail!("interrupted before the first sample was completed: there is nothing to report");
    }
    report.samples_done = samples.len();
    report.cells = metrics::cells(plan.cells, &samples);
    // Replays take a while. Until they are done, there is a report without them.
    output::write(&args.out, report, plan.dataset, &samples)?;
    if complete && args.replays > 0 {
        report.replays = replay::replays(runner, plan, &samples, args.replays).await;
        output::write(&args.out, report, plan.dataset, &samples)?;
    }
    Ok(complete)
}

fn exit_code(findings: &[Finding]) -> ExitCode {
    output::show_findings(findings);
    if findings.iter().any(|finding| finding.regressed) {
        ExitCode::from(REGRESSED)
    } else {
        ExitCode::SUCCESS
    }
}

fn read_baseline(path: &Path, out: &Path) -> anyhow::Result<Report> {
    let name = || format!("the baseline {}", path.display());
    let report = out.join("report.json").canonicalize();
    if report.is_ok_and(|report| path.canonicalize().is_ok_and(|path| path == report)) {
        bail!("{} would be overwritten by this run: copy it, or choose another directory with --out", name());
    }
    gate::baseline(&std::fs::read_to_string(path).with_context(name)?).with_context(name)
}

fn load(args: &Args, data: &Path) -> anyhow::Result<Dataset> {
    let dataset = Dataset::load(args.dataset, data)?;
    if let Some(first) = dataset.bad.first() {
        anstream::eprintln!(
            "{DIM}unusable parts of the dataset: {}; the first is {}: {}{}",
            dataset.bad.len(),
            first.item,
            first.reason,
            DIM.render_reset()
        );
    }
    Ok(dataset)
}

/// The file or directory of the dataset. Only the text-to-SQL dataset is bundled.
fn data_path(args: &Args) -> anyhow::Result<PathBuf> {
    match &args.data {
        Some(path) => Ok(path.clone()),
        None if args.dataset == DatasetKind::TextToSql => Ok(bundled("data")?.join("sql_eval.jsonl")),
        None => bail!("{} is not bundled: give its file or directory with --data", args.dataset),
    }
}

/// A report without anything that depends on samples.
fn empty_report(args: &Args, dataset: &Dataset, cells: &[CellSpec], runner: &Runner) -> Report {
    Report {
        schema_version: SCHEMA_VERSION,
        tandem_version: env!("CARGO_PKG_VERSION").to_owned(),
        created: humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string(),
        command: command_line(),
        machine: machine::machine(args, runner.meter.as_ref()),
        target_model: runner.models.target.clone(),
        draft_model: runner.models.draft.clone(),
        dataset: DatasetReport {
            name: dataset.name.clone(),
            items: dataset.items.len(),
            metric: dataset.metric.map(str::to_owned),
            max_new_tokens: runner.max_new_tokens,
            stop: dataset.stop.clone(),
            run_on: runner.run_on,
            bad: dataset.bad.clone(),
        },
        seeds: (0..args.seeds).collect(),
        samples_planned: dataset.items.len() * cells.len() * args.seeds as usize,
        samples_done: 0,
        cells: Vec::new(),
        replays: Vec::new(),
    }
}

/// The command line, without the directory of the program.
fn command_line() -> String {
    let mut line = "tandem".to_owned();
    for arg in std::env::args().skip(1) {
        line += " ";
        line += &if arg.contains(' ') || arg.is_empty() { format!("'{arg}'") } else { arg };
    }
    line
}
