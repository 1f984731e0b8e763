//! `tandem bench`: loads an orchestrator, and says what its clients see.
//!
//! Levels follow each other, at each level the methods do, and before each the server is warmed up. Every level sends the same
//! requests in the same order. The throughput of a level counts from its first request to the end of its last one, as other load
//! generators do; what is still running when the duration is over is waited for.

mod args;
mod figures;
mod lengths;
mod load;
mod output;
mod progress;
mod report;
mod request;
mod summary;
mod watch;
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
use self::load::{STREAMS, Sender, closed, open};
use self::progress::LevelBar;
use self::report::Report;
pub use self::summary::Summary;
use self::watch::Watch;
use self::workload::Workload;
use crate::client::Client;
use crate::local::{Local, LocalConfig};
use crate::output::DIM;

/// When a run was interrupted: what the shell reports for Ctrl-C.
const INTERRUPTED: u8 = 130;
/// Numbers of the requests that warm up: others than those that count.
const WARM_UP: u64 = 1 << 62;
/// Of these, at once before a level of an open loop.
const WARM_UP_PLACES: usize = 4;

/// Runs all levels, and shows and writes what came of them.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    init_logging(&args.log.clone().into(), "warn")?;
    // What is wrong with the flags or the files is said before models are loaded.
    let methods = args.methods()?;
    args.sampling()?;
    let texts = args.texts()?;
    if let Some(path) = &args.json {
        check_writable(path)?;
    }
    let local = match &args.endpoint {
        Some(_) => None,
        None => Some(Local::start(LocalConfig::new(&args.pair)?, !args.quiet()).await?),
    };
    let url = args.endpoint.clone().or_else(|| local.as_ref().map(Local::endpoint)).unwrap_or_default();
    let mut status = args.access.connect(&url).await?;
    let models = watch::status(&mut status).await?;
    let workload = Arc::new(Workload::new(&args, texts, &models)?);
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
    if !report.complete {
        anstream::eprintln!("{DIM}interrupted: levels are missing{}", DIM.render_reset());
        return Ok(ExitCode::from(INTERRUPTED));
    }
    if report.levels.iter().all(|level| level.requests.completed == 0) {
        bail!("no request was completed: the errors of the report say why");
    }
    Ok(ExitCode::SUCCESS)
}

/// Before an hour of load, not behind it. What the file holds is replaced at the end alone.
fn check_writable(path: &Path) -> anyhow::Result<()> {
    if path.as_os_str() != "-" {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
        file.with_context(|| format!("cannot write {}: choose another --json", path.display()))?;
    }
    Ok(())
}

/// As many connections as the level with the most requests needs.
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
    /// A connection of its own: questions do not wait behind requests.
    status: Client,
    clients: Arc<[Client]>,
    workload: Arc<Workload>,
}

impl Bench<'_> {
    /// All levels, into `levels`; false if the user interrupted.
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
        let (name, limit) = (method.method.to_string(), self.args.limit());
        let bar = LevelBar::new(&format!("{name}, {load}"), limit, !self.args.quiet());
        let sender = self.sender(&decoding, bar.clone());
        let mut watch = Watch::default();
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
            never = watch.run(&mut self.status) => match never {},
        };
        let wall = start.elapsed();
        bar.clear();
        Ok(Level::new(name, load, &outcomes, wall, watch.fullness()))
    }

    /// What goes wrong here goes wrong in the level too, where it is counted.
    async fn warm_up(&self, load: Load, sender: Sender) -> anyhow::Result<()> {
        let places = match load {
            Load::Concurrency(requests) => requests,
            Load::Rate(_) => WARM_UP_PLACES,
        };
        let places = places.min(usize::try_from(self.args.warmup).unwrap_or(usize::MAX));
        closed(&sender, places, Limit::Requests(self.args.warmup), WARM_UP).await.map(|_| ())
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
