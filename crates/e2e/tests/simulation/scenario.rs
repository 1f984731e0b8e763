//! What happens in a run, drawn from a seed.

use std::time::Duration;

use rand::seq::IndexedRandom;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tandem_decoding::Method;
use tandem_proto::{method_to_wire, v1};

use super::fault::{Fault, Kind};
use super::names::{ORCHESTRATOR, worker};

/// Faults begin before this.
const LAST_FAULT_SECONDS: f64 = 2.5;
/// Deadline of most requests: long enough for every fault to pass.
const DEADLINE_SECONDS: f64 = 15.0;

/// What happens in a run.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    pub(crate) seed: u64,
    pub(crate) drafts: usize,
    pub(crate) targets: usize,
    /// The longest that a message takes.
    pub(crate) latency: Duration,
    /// KV-cache tokens of a worker.
    pub(crate) kv_tokens: usize,
    pub(crate) requests: Vec<Request>,
    /// Sorted by time.
    pub(crate) faults: Vec<Fault>,
    /// Whether a client sends steps to a worker out of order.
    pub(crate) rude: bool,
}

/// What a client sends, and when it cancels.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) after: Duration,
    pub(crate) request: v1::GenerateRequest,
    pub(crate) deadline: Duration,
    /// Chunks after which the client cancels.
    pub(crate) cancels_after: Option<usize>,
}

impl Scenario {
    /// The scenario of `seed`.
    pub(crate) fn draw(seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let drafts = rng.random_range(1..=2);
        let targets = rng.random_range(1..=2);
        let latency = Duration::from_millis(*[1, 5, 20].choose(&mut rng).unwrap_or(&1));
        let requests = (0..rng.random_range(1..=4)).map(|_| Request::draw(&mut rng)).collect();
        // Runs without faults are checked more strictly.
        let count = *[0, 1, 2, 3, 5, 8].choose(&mut rng).unwrap_or(&0);
        let mut faults: Vec<Fault> = (0..count).flat_map(|_| draw_fault(&mut rng, drafts, targets)).collect();
        faults.sort_by_key(|fault| fault.at);
        // Some workers are too small for all requests at once; in runs without faults no request may be refused.
        let kv_tokens = if faults.is_empty() || rng.random() { 1024 } else { 250 };
        Self { seed, drafts, targets, latency, kv_tokens, requests, faults, rude: rng.random_bool(0.3) }
    }

    /// Whether it has no faults.
    pub(crate) fn is_calm(&self) -> bool {
        self.faults.is_empty()
    }
}

impl Request {
    fn draw(rng: &mut impl Rng) -> Self {
        let method = method_to_wire(*Method::ALL.choose(rng).unwrap_or(&Method::Mmtad));
        let ids = (0..rng.random_range(1..=30)).map(|_| rng.random_range(0..8)).collect();
        let decoding = v1::DecodingParams {
            method: method.into(),
            beam_width: Some(rng.random_range(1..=3)),
            draft_tokens: Some(rng.random_range(1..=4)),
            branching: if method == v1::Method::Specinfer { vec![2, 2] } else { Vec::new() },
            ..v1::DecodingParams::default()
        };
        let request = v1::GenerateRequest {
            input: Some(v1::generate_request::Input::Tokens(v1::TokenIds { ids })),
            max_new_tokens: Some(rng.random_range(1..=60)),
            temperature: Some(*[0.0, 1.0].choose(rng).unwrap_or(&1.0)),
            top_k: Some(5),
            seed: Some(rng.random()),
            stop: if rng.random_bool(0.2) { vec!["aa".into(), "bcd".into()] } else { Vec::new() },
            decoding: Some(decoding),
            trace: true,
            ..v1::GenerateRequest::default()
        };
        Self {
            // After the orchestrator listens, even over the slowest network.
            after: Duration::from_secs_f64(rng.random_range(0.5..1.5)),
            request,
            deadline: Duration::from_secs_f64(draw_deadline(rng)),
            cancels_after: rng.random_bool(0.15).then(|| rng.random_range(0..10)),
        }
    }
}

fn draw_deadline(rng: &mut impl Rng) -> f64 {
    if rng.random_bool(0.1) { rng.random_range(0.01..1.0) } else { DEADLINE_SECONDS }
}

/// A fault and, for most kinds, the recovery from it.
fn draw_fault(rng: &mut impl Rng, drafts: usize, targets: usize) -> Vec<Fault> {
    let at = Duration::from_secs_f64(rng.random_range(0.05..LAST_FAULT_SECONDS));
    let end = at + Duration::from_secs_f64(rng.random_range(0.02..1.5));
    let (role, count) = if rng.random_bool(0.6) { ("target", targets) } else { ("draft", drafts) };
    let host = worker(role, rng.random_range(0..count));
    let pair = (ORCHESTRATOR.to_owned(), host.clone());
    let both = |begins: Kind, ends: Kind| vec![Fault { at, kind: begins }, Fault { at: end, kind: ends }];
    match rng.random_range(0..100) {
        0..30 => both(Kind::Crash(host.clone()), Kind::Restart(host)),
        // At once: the new incarnation starts before the end of the old one is noticed.
        30..40 => vec![Fault { at, kind: Kind::Restart(host) }],
        40..55 => both(Kind::Partition(pair.clone()), Kind::Repair(pair)),
        // A pause, maybe longer than the lease.
        55..70 => {
            let end = at + Duration::from_secs_f64(rng.random_range(0.1..4.0));
            let kind = Kind::Hold(pair.clone());
            vec![Fault { at, kind }, Fault { at: end, kind: Kind::Release(pair) }]
        }
        70..80 => both(
            Kind::Latency(pair.clone(), Duration::from_millis(rng.random_range(50..300))),
            Kind::Latency(pair, Duration::from_millis(1)),
        ),
        80..90 => both(Kind::Drain(host.clone()), Kind::Restart(host)),
        90..96 => both(Kind::RemoveFromName(role.into(), host.clone()), Kind::AddToName(role.into(), host)),
        _ => both(Kind::Crash(ORCHESTRATOR.into()), Kind::Restart(ORCHESTRATOR.into())),
    }
}
