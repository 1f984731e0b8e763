//! Clients that disconnect at any moment, and what they leave behind.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use indicatif::ProgressBar;
use rand::RngExt;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use tandem_cli::client::Client;
use tandem_cli::output::table;
use tandem_decoding::Method;
use tandem_proto::v1;
use tandem_proto::v1::generate_response::Event;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tonic::{Code, Request, Status};

use super::args::{CyclesArgs, Setup};
use super::client::{numbers, request};
use super::cluster::{Cluster, Flags, Memory, Models, Settled};
use super::figures::{grown, memory_table};
use crate::progress::bar;

/// Percentages of all cycles after which everything must be free and memory is measured.
const MEASURED_AT: [u64; 3] = [10, 50, 100];
/// The longest answer.
const MOST_NEW_TOKENS: u32 = 64;
/// What is freed later than this was not freed by cancelling, but by a lease that expired.
const AT_ONCE: Duration = Duration::from_secs(2);
/// Added to the lease.
const SLACK: Duration = Duration::from_secs(15);

/// What was found.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Cycles {
    cycles: u64,
    seconds: f64,
    /// How many cycles ended in which way.
    endings: BTreeMap<String, u64>,
    measured: Vec<Measured>,
}

/// The processes after some of the cycles, with no request running.
#[derive(Clone, Debug, Serialize)]
struct Measured {
    cycles: u64,
    settled: Settled,
    memory: Memory,
}

/// When a client disconnects.
#[derive(Clone, Copy, Debug)]
enum Leaves {
    /// After some time, wherever the request is by then: in transit, in a queue, in a prefill.
    After(Duration),
    /// Once it is admitted, when most prompts are in their prefill.
    Started,
    /// In the middle of the stream.
    Chunks(u32),
    /// Never, but the request has a deadline.
    Deadline(Duration),
    /// Never.
    Finished,
}

/// All cycles.
pub(crate) async fn run(
    setup: &Setup,
    args: &CyclesArgs,
    violations: &mut Vec<String>,
) -> anyhow::Result<Cycles> {
    let flags = Flags {
        workers: vec!["--session-lease-seconds".into(), args.lease.to_string()],
        orchestrator: Vec::new(),
    };
    let mut cluster = Cluster::start(setup, &Models::pair(&setup.programs.models), flags).await?;
    let clients = cluster.connect(args.clients).await?;
    let bar = bar("cycles", args.cycles);
    let begun = Instant::now();
    let mut found =
        Cycles { cycles: args.cycles, seconds: 0.0, endings: BTreeMap::new(), measured: Vec::new() };
    let next = Arc::new(AtomicU64::new(0));
    for percent in MEASURED_AT {
        let until = args.cycles * percent / 100;
        next.store(found.measured.last().map_or(0, |w| w.cycles), Ordering::SeqCst);
        let mut running = JoinSet::new();
        for client in &clients {
            let maker = Maker { seed: setup.seed, vocab: cluster.vocab, context: cluster.context };
            running.spawn(cycles(maker, client.clone(), next.clone(), until, bar.clone()));
        }
        while let Some(endings) = running.join_next().await {
            for (ending, count) in endings? {
                *found.endings.entry(ending).or_default() += count;
            }
        }
        let settled = cluster.settle(Duration::from_secs(args.lease) + SLACK).await?;
        found.measured.push(Measured { cycles: until, settled, memory: cluster.memory() });
    }
    bar.finish_and_clear();
    found.seconds = begun.elapsed().as_secs_f64();
    violations.extend(found.violations());
    Ok(found)
}

/// Makes requests for these models.
struct Maker {
    seed: u64,
    vocab: u32,
    context: u32,
}

/// One client, which takes cycles until none is left. Returns how many ended in which way.
async fn cycles(
    maker: Maker,
    mut client: Client,
    next: Arc<AtomicU64>,
    until: u64,
    bar: ProgressBar,
) -> BTreeMap<String, u64> {
    let mut endings = BTreeMap::new();
    loop {
        let number = next.fetch_add(1, Ordering::SeqCst);
        if number >= until {
            return endings;
        }
        let mut rng = numbers(maker.seed, number);
        let leaves = Leaves::draw(&mut rng);
        let request = maker.request(&mut rng);
        *endings.entry(cycle(&mut client, request, leaves).await).or_default() += 1;
        bar.inc(1);
    }
}

impl Maker {
    /// A request whose prompt length is log-uniform, so that there are short prompts and some that fill the context.
    fn request(&self, rng: &mut ChaCha8Rng) -> v1::GenerateRequest {
        let longest = f64::from(self.context.saturating_sub(2).max(1));
        let prompt_tokens = longest.powf(rng.random_range(0.0..=1.0)) as u32;
        let method = *Method::ALL.choose(rng).unwrap_or(&Method::Mmtad);
        let new_tokens = rng.random_range(1..=MOST_NEW_TOKENS);
        request(rng, self.vocab, prompt_tokens, new_tokens, method)
    }
}

impl Leaves {
    fn draw(rng: &mut ChaCha8Rng) -> Self {
        match rng.random_range(0..8) {
            0 => Self::After(Duration::from_micros(rng.random_range(0..2_000))),
            1 | 2 => Self::After(Duration::from_micros(rng.random_range(0..100_000))),
            3 => Self::Started,
            4 => Self::Chunks(rng.random_range(1..=3)),
            5 => Self::Chunks(rng.random_range(4..=24)),
            6 => Self::Deadline(Duration::from_millis(rng.random_range(1..=20))),
            _ => Self::Finished,
        }
    }
}

/// Sends a request, disconnects as planned, and returns how it ended.
async fn cycle(client: &mut Client, request: v1::GenerateRequest, leaves: Leaves) -> String {
    let mut request = Request::new(request);
    let mut leave_after = Duration::MAX;
    match leaves {
        Leaves::After(limit) => leave_after = limit,
        Leaves::Deadline(limit) => request.set_timeout(limit),
        _ => {}
    }
    let ended = match timeout(leave_after, read(client, request, leaves)).await {
        Ok(ended) => ended,
        Err(_) => return "left".into(),
    };
    match (ended, leaves) {
        (Ok(true), _) => "finished".into(),
        (Ok(false), _) => "left".into(),
        // The first code is from the server's clock, the second from that of the transport.
        (Err(status), Leaves::Deadline(_))
            if matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled) =>
        {
            "deadline passed".into()
        }
        (Err(status), _) if status.code() == Code::ResourceExhausted => "refused".into(),
        (Err(status), _) => format!("{:?}: {}", status.code(), status.message()),
    }
}

/// Reads the stream, and returns whether it was read to its end.
async fn read(
    client: &mut Client,
    request: Request<v1::GenerateRequest>,
    leaves: Leaves,
) -> Result<bool, Status> {
    let mut events = client.generate(request).await?.into_inner();
    let mut chunks = 0;
    while let Some(response) = events.message().await? {
        match (response.event, leaves) {
            (Some(Event::Finished(_)), _) => return Ok(true),
            (Some(Event::Started(_)), Leaves::Started) => return Ok(false),
            (Some(Event::Chunk(_)), Leaves::Chunks(most)) => {
                chunks += 1;
                if chunks >= most {
                    return Ok(false);
                }
            }
            _ => {}
        }
    }
    Err(Status::unavailable("the stream ended before it was finished"))
}

impl Cycles {
    fn violations(&self) -> Vec<String> {
        let mut violations = Vec::new();
        let known = ["finished", "left", "deadline passed", "refused"];
        for (ending, count) in self.endings.iter().filter(|(ending, _)| !known.contains(&ending.as_str())) {
            violations.push(format!("{count} cycles did not end as planned, but with {ending}"));
        }
        for Measured { cycles, settled, .. } in &self.measured {
            let after = settled.after_seconds;
            if let Some(left) = &settled.left {
                violations.push(format!("{after:.1} s after {cycles} cycles {left}"));
            } else if after > AT_ONCE.as_secs_f64() {
                violations.push(format!(
                    "after {cycles} cycles it took {after:.1} s until everything was free: it was not freed by \
                     cancelling, but by a lease that expired"
                ));
            }
        }
        if let [first, .., last] = self.measured.as_slice() {
            let when = format!("between {} and {} cycles", first.cycles, last.cycles);
            violations.extend(grown(&first.memory, &last.memory, &when));
        }
        violations
    }

    /// As tables.
    pub(crate) fn show(&self) -> String {
        let mut endings = table(&["ending", "cycles"]);
        for (ending, count) in &self.endings {
            endings.add_row([ending.clone(), count.to_string()]);
        }
        let mut settled = table(&["after cycles", "all free after ms", "left"]);
        for w in &self.measured {
            let left = w.settled.left.clone().unwrap_or_else(|| "nothing".into());
            settled.add_row([w.cycles.to_string(), format!("{:.0}", w.settled.after_seconds * 1e3), left]);
        }
        let counts: Vec<String> = self.measured.iter().map(|w| format!("{} cycles", w.cycles)).collect();
        let moments: Vec<(&str, Memory)> =
            counts.iter().zip(&self.measured).map(|(count, w)| (count.as_str(), w.memory)).collect();
        format!(
            "cycles: {} in {:.0} s\n\n{endings}\n\n{settled}\n\n{}",
            self.cycles,
            self.seconds,
            memory_table(&moments)
        )
    }
}
