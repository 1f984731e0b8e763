//! `tandem eval`

mod args;
mod identity;
mod output;
mod run;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use tandem_energy::EnergyMeter;
use tandem_engine::DeviceChoice;
use tandem_eval::report::{DatasetReport, Machine, Report, SCHEMA_VERSION};
use tandem_eval::{CellSpec, Dataset, Journal, gate, metrics};
use tandem_serving::init_logging;

pub use self::args::Args;
use self::run::{Plan, Runner};
use crate::local::{Local, LocalConfig};
use crate::output::DIM;
use crate::pair::bundled;

/// When a run was interrupted: what the shell reports for Ctrl-C.
const INTERRUPTED: u8 = 130;
/// When something got worse than the baseline.
const REGRESSED: u8 = 3;

/// Runs an evaluation, or goes on with one, and writes its report.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    init_logging(&args.log.clone().into(), "warn")?;
    // What is wrong with the flags or the files is said before models are loaded.
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
    let mut runner = Runner::new(args.access.connect(&url).await?, meter(&args), &args, &dataset).await?;
    let mut report = empty_report(&args, &dataset, &cells, &runner);
    if let Some(baseline) = &baseline {
        gate::check(&report, baseline)?;
    }
    let header = identity::header(&args, &data, &dataset, &report.machine, &runner)?;
    let (mut journal, done) = Journal::open(&args.out.join("samples.jsonl"), &header)?;
    let plan = Plan { dataset: &dataset, cells: &cells, seeds: args.seeds };
    let (samples, complete) = runner.run(&plan, &mut journal, done).await?;
    if samples.is_empty() {
        bail!("interrupted before the first sample was done: nothing to report");
    }
    report.samples_done = samples.len();
    report.cells = metrics::cells(&cells, &samples);
    // Replays take a while: until then there is a report without them.
    output::write(&args.out, &report, &dataset, &samples)?;
    if complete && args.replays > 0 {
        report.replays = runner.replays(&plan, &samples, args.replays).await;
        output::write(&args.out, &report, &dataset, &samples)?;
    }
    output::show(&args.out, &report);
    if let Some(local) = local {
        local.stop().await?;
    }
    if !complete {
        anstream::eprintln!("{DIM}interrupted: the same command goes on from here{}", DIM.render_reset());
        return Ok(ExitCode::from(INTERRUPTED));
    }
    match baseline {
        Some(baseline) => {
            let findings = gate::compare(&report, &baseline, &args.tolerance)?;
            let regressed = output::show_findings(&findings);
            Ok(if regressed { ExitCode::from(REGRESSED) } else { ExitCode::SUCCESS })
        }
        None => Ok(ExitCode::SUCCESS),
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
            "{DIM}{} parts of the dataset cannot be used; the first is {}: {}{}",
            dataset.bad.len(),
            first.item,
            first.reason,
            DIM.render_reset()
        );
    }
    Ok(dataset)
}

/// Of the devices that the models run on. Behind an endpoint they are not this machine's.
fn meter(args: &Args) -> Option<EnergyMeter> {
    match (&args.endpoint, args.pair.device) {
        (Some(_), _) => None,
        (None, DeviceChoice::Cpu) => EnergyMeter::processors(),
        (None, _) => EnergyMeter::gpus(),
    }
}

/// The dataset's file or directory; the text-to-SQL set is bundled.
fn data_path(args: &Args) -> anyhow::Result<PathBuf> {
    use tandem_eval::DatasetKind::TextToSql;
    match &args.data {
        Some(path) => Ok(path.clone()),
        None if args.dataset == TextToSql => Ok(bundled("data")?.join("sql_eval.jsonl")),
        None => bail!("{} is not bundled: give its file or directory with --data", args.dataset),
    }
}

fn machine(args: &Args, meter: Option<&EnergyMeter>) -> Machine {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    let device = match (&args.endpoint, args.pair.device, args.pair.draft_device) {
        (Some(_), ..) => "remote".to_owned(),
        (None, target, Some(draft)) if draft != target => format!("{target}, draft on {draft}"),
        (None, target, _) => target.to_string(),
    };
    Machine {
        cpu: model.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.trim().to_owned()),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        os: std::env::consts::OS.to_owned(),
        device,
        energy: meter.map_or("not available", EnergyMeter::name).to_owned(),
    }
}

/// All but what samples are needed for.
fn empty_report(args: &Args, dataset: &Dataset, cells: &[CellSpec], runner: &Runner) -> Report {
    Report {
        schema_version: SCHEMA_VERSION,
        tandem_version: env!("CARGO_PKG_VERSION").to_owned(),
        created: humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string(),
        command: command_line(),
        machine: machine(args, runner.meter.as_ref()),
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

/// Without the directory of the program.
fn command_line() -> String {
    let quote = |arg: String| if arg.contains(' ') || arg.is_empty() { format!("'{arg}'") } else { arg };
    std::iter::once("tandem".to_owned())
        .chain(std::env::args().skip(1).map(quote))
        .collect::<Vec<_>>()
        .join(" ")
}
