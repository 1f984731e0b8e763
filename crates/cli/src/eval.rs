//! `tandem eval`

mod args;
mod output;
mod run;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use tandem_energy::EnergyMeter;
use tandem_eval::report::{DatasetReport, Machine, Report, SCHEMA_VERSION};
use tandem_eval::{Dataset, Header, Journal, gate, metrics};
use tandem_serving::init_logging;

pub use self::args::Args;
use self::run::{Plan, Runner};
use crate::client::connect;
use crate::local::{Local, bundled};
use crate::output::DIM;

/// When a run was interrupted: what the shell reports for Ctrl-C.
const INTERRUPTED: u8 = 130;
/// When something got worse than the baseline.
const REGRESSED: u8 = 3;

/// Runs an evaluation, or goes on with one, and writes its report.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    init_logging(&args.log, "warn")?;
    // What is wrong with the flags or the files is said before models are loaded.
    let cells = args.grid.grid().cells()?;
    let baseline = args.against.as_ref().map(|path| read_baseline(path)).transpose()?;
    let mut dataset = load(&args)?;
    dataset.items.truncate(args.prompts);
    std::fs::create_dir_all(&args.out).with_context(|| format!("cannot create {}", args.out.display()))?;

    let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
    let local = match &args.endpoint {
        Some(_) => None,
        None => Some(Local::start(&args.pair, loopback, true).await?),
    };
    let url = args.endpoint.clone().or_else(|| local.as_ref().map(Local::endpoint)).unwrap_or_default();
    let mut runner = Runner {
        client: connect(&url).await?,
        meter: EnergyMeter::detect(),
        max_new_tokens: args.max_new_tokens.unwrap_or(dataset.max_new_tokens),
        stop: if args.run_on { Vec::new() } else { dataset.stop.clone() },
    };
    let models = runner.models().await?;
    let header = Header {
        dataset: format!("{} ({})", dataset.name, data_path(&args)?.display()),
        target_model: models.target.clone(),
        draft_model: models.draft.clone(),
        max_new_tokens: runner.max_new_tokens,
        stop: runner.stop.clone(),
        tandem_version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let (mut journal, done) = Journal::open(&args.out.join("samples.jsonl"), &header)?;
    let plan = Plan { dataset: &dataset, cells: &cells, seeds: args.seeds };
    let (samples, complete) = runner.run(&plan, &mut journal, done).await?;
    if samples.is_empty() {
        bail!("interrupted before the first sample was done: nothing to report");
    }
    let replays = if complete { runner.replays(&plan, &samples, args.replays).await? } else { Vec::new() };
    let report = Report {
        schema_version: SCHEMA_VERSION,
        tandem_version: header.tandem_version,
        created: humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string(),
        command: command_line(),
        machine: machine(&args, runner.meter.as_ref()),
        target_model: header.target_model,
        draft_model: header.draft_model,
        dataset: DatasetReport {
            name: dataset.name.clone(),
            items: dataset.items.len(),
            metric: dataset.metric.map(str::to_owned),
            max_new_tokens: header.max_new_tokens,
            stop: header.stop,
            bad: dataset.bad.clone(),
        },
        seeds: (0..args.seeds).collect(),
        samples_planned: dataset.items.len() * cells.len() * args.seeds as usize,
        samples_done: samples.len(),
        cells: metrics::cells(&cells, &samples),
        replays,
    };
    output::write(&args.out, &report, &dataset, &samples)?;
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

fn read_baseline(path: &PathBuf) -> anyhow::Result<Report> {
    let name = || format!("the baseline {}", path.display());
    Ok(gate::baseline(&std::fs::read_to_string(path).with_context(name)?).with_context(name)?)
}

fn load(args: &Args) -> anyhow::Result<Dataset> {
    let dataset = Dataset::load(args.dataset, &data_path(args)?)?;
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
    Machine {
        cpu: model.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.trim().to_owned()),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        os: std::env::consts::OS.to_owned(),
        device: args.endpoint.as_ref().map_or_else(|| args.pair.device.to_string(), |_| "remote".into()),
        energy: meter.map_or("not available", EnergyMeter::name).to_owned(),
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
