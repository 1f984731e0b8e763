//! `tandem bench`: puts load on an orchestrator and measures what its clients observe.
//!
//! The levels run one after the other, and at each level the methods do. The server is warmed up before each
//! of them. Every level sends the same requests in the same order. Like in other load generators, the
//! throughput of a level counts from the start of its first request to the end of its last: requests that are
//! still running after the duration are waited for.

mod args;
mod figures;
mod lengths;
mod level_bar;
mod load;
mod output;
mod report;
mod request;
mod server_load;
mod summary;
mod workload;

use std::path::Path;
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail};
use tandem_decoding::DecodingParams;
use tandem_proto::{decoding_to_wire, v1};
use tandem_serving::init_logging;
use tokio::time::Instant;

pub use self::args::Args;
use self::args::{Limit, Load};
use self::figures::Level;
use self::level_bar::LevelBar;
use self::load::{STREAMS, Sender, closed, open};
use self::report::Report;
use self::server_load::LoadMonitor;
pub use self::summary::Summary;
use self::workload::Workload;
use crate::client::Client;
use crate::local::{Local, LocalConfig};
use crate::output::DIM;

/// Exit code of an interrupted run: what a shell reports for Ctrl-C.
const INTERRUPTED: u8 = 130;
/// First number of the requests that warm up, so that they differ from the measured ones.
const FIRST_WARM_UP: u64 = 1 << 62;
/// Concurrency of the warm-up before a level of an open loop.
const WARM_UP_CONCURRENCY: usize = 4;

/// Runs all levels, then shows and writes the results.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    init_logging(&args.log.clone().into(), "warn")?;
    // Check flags and files before models are loaded.
    let methods = args.methods()?;
    args.sampling()?;
    let prompts = args.load_prompts()?;
    if let Some(path) = &args.json {
        check_writable(path)?;
    }
    let local = match &args.endpoint {
        Some(_) => None,
        None => Some(Local::start(LocalConfig::new(&args.pair)?, !args.quiet()).await?),
    };
    let url = args.endpoint.clone().or_else(|| local.as_ref().map(Local::endpoint)).unwrap_or_default();
    let mut status = args.access.connect(&url).await?;
    let models = server_load::status(&mut status).await?;
    let workload = Arc::new(Workload::new(&args, prompts, &models)?);
    let mut report = Report::new(&args, models)?;
    let clients = clients(&url, &args).await?;
    let mut bench = Bench { args: &args, status, clients, workload };
    report.complete = bench.sweep(&methods, &mut report.levels).await?;
    if !args.quiet() {
        output::show(&report);
    }
    if let Some(path) = &args.json {
        report.write(path)?;
    }
    if let Some(local) = local {
        local.stop().await?;
    }
    exit_code(&report)
}

fn exit_code(report: &Report) -> anyhow::Result<ExitCode> {
    if !report.complete {
        anstream::eprintln!("{DIM}interrupted: some levels are missing{}", DIM.render_reset());
        return Ok(ExitCode::from(INTERRUPTED));
    }
    if report.levels.iter().all(|level| level.requests.completed == 0) {
        bail!("no request was completed: see the errors in the report");
    }
    Ok(ExitCode::SUCCESS)
}

/// Checks that the report can be written, before an hour of load rather than after it. The contents of the
/// file are only replaced at the end.
fn check_writable(path: &Path) -> anyhow::Result<()> {
    if path.as_os_str() != "-" {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
        file.with_context(|| format!("cannot write {}: choose another --json", path.display()))?;
    }
    Ok(())
}

/// As many connections as the level with the most concurrent requests requires.
async fn clients(url: &str, args: &Args) -> anyhow::Result<Arc<[Client]>> {
    let in_flight = args.loads().into_iter().map(|load| match load {
        Load::Concurrency(requests) => requests,
        Load::Rate(_) => args.max_in_flight,
    });
    let mut clients = Vec::new();
    for _ in 0..in_flight.max().unwrap_or(1).div_ceil(STREAMS) {
        clients.push(args.access.connect(url).await?);
    }
    Ok(clients.into())
}

struct Bench<'a> {
    args: &'a Args,
    /// A separate connection, so that status polls do not queue after requests.
    status: Client,
    clients: Arc<[Client]>,
    workload: Arc<Workload>,
}

impl Bench<'_> {
    /// Runs all levels and adds them to `levels`; false if the user interrupted.
    async fn sweep(&mut self, methods: &[DecodingParams], levels: &mut Vec<Level>) -> anyhow::Result<bool> {
        let mut interrupted = pin!(tokio::signal::ctrl_c());
        for load in self.args.loads() {
            for method in methods {
                tokio::select! {
                    level = self.level(load, method) => levels.push(level?),
                    _ = &mut interrupted => return Ok(false),
                }
            }
        }
        Ok(true)
    }

    async fn level(&mut self, load: Load, method: &DecodingParams) -> anyhow::Result<Level> {
        let decoding = decoding_to_wire(method);
        self.warm_up(load, self.sender(&decoding, LevelBar::hidden())).await?;
        let name = method.method.to_string();
        let limit = self.args.limit();
        let bar = if self.args.quiet() {
            LevelBar::hidden()
        } else {
            LevelBar::new(&format!("{name}, {load}"), limit)
        };
        let sender = self.sender(&decoding, bar.clone());
        let mut monitor = LoadMonitor::default();
        let start = Instant::now();
        let running = async {
            match load {
                Load::Concurrency(requests) => closed(&sender, requests, limit, 0).await,
                Load::Rate(rate) => {
                    open(&sender, self.workload.arrivals(rate), limit, self.args.max_in_flight).await
                }
            }
        };
        let outcomes = tokio::select! {
            outcomes = running => outcomes?,
            never = monitor.run(&mut self.status) => match never {},
        };
        let wall = start.elapsed();
        bar.clear();
        Ok(Level::new(name, load, &outcomes, wall, monitor.load()))
    }

    /// Sends requests that are not measured. Their failures are ignored: the level will have them too.
    async fn warm_up(&self, load: Load, sender: Sender) -> anyhow::Result<()> {
        let concurrency = match load {
            Load::Concurrency(requests) => requests,
            Load::Rate(_) => WARM_UP_CONCURRENCY,
        };
        let concurrency = concurrency.min(usize::try_from(self.args.warmup).unwrap_or(usize::MAX));
        closed(&sender, concurrency, Limit::Requests(self.args.warmup), FIRST_WARM_UP).await?;
        Ok(())
    }

    fn sender(&self, decoding: &v1::DecodingParams, bar: LevelBar) -> Sender {
        Sender {
            clients: self.clients.clone(),
            workload: self.workload.clone(),
            decoding: decoding.clone(),
            timeout: self.args.timeout,
            bar,
        }
    }
}
