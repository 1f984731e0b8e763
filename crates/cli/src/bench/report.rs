//! The report that `--json` writes.

use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use serde::Serialize;
use tandem_proto::v1;

use super::args::{Args, Limit};
use super::figures::Level;

/// Version of the format, incremented when a field changes its meaning.
const SCHEMA_VERSION: u32 = 1;

/// Everything about a run.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    schema_version: u32,
    tandem_version: &'static str,
    created: String,
    /// URL of the orchestrator; absent if the services ran in the same process.
    endpoint: Option<String>,
    pub(super) target_model: String,
    pub(super) draft_model: String,
    vocab_size: u32,
    context_length: u32,
    configuration: Configuration,
    /// False if the run was interrupted, in which case levels are missing.
    pub(super) complete: bool,
    pub(super) levels: Vec<Level>,
}

/// The flags that the figures depend on.
#[derive(Debug, Serialize)]
struct Configuration {
    prompts: String,
    prompt_tokens: String,
    output_tokens: String,
    requests_per_level: Option<u64>,
    duration_s_per_level: Option<f64>,
    warmup: u64,
    max_in_flight: usize,
    timeout_s: Option<f64>,
    seed: u64,
    temperature: f64,
    top_k: usize,
    top_p: f64,
    beam_width: usize,
    draft_tokens: usize,
    threshold: f64,
    beams: String,
    reference: String,
    branching: Vec<usize>,
}

impl Report {
    /// A report without levels.
    pub(super) fn new(args: &Args, models: v1::GetStatusResponse) -> anyhow::Result<Self> {
        Ok(Self {
            schema_version: SCHEMA_VERSION,
            tandem_version: env!("CARGO_PKG_VERSION"),
            created: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            endpoint: args.endpoint.clone(),
            target_model: models.target_model,
            draft_model: models.draft_model,
            vocab_size: models.vocab_size,
            context_length: models.context_length,
            configuration: Configuration::new(args)?,
            complete: false,
            levels: Vec::new(),
        })
    }

    /// Writes to `path`, or to standard output if `path` is "-".
    pub(super) fn write(&self, path: &Path) -> anyhow::Result<()> {
        let json = serde_json::to_string_pretty(self)?;
        if path.as_os_str() == "-" {
            anstream::println!("{json}");
            return Ok(());
        }
        std::fs::write(path, json + "\n").with_context(|| format!("cannot write {}", path.display()))
    }
}

impl Configuration {
    fn new(args: &Args) -> anyhow::Result<Self> {
        let sampling = args.sampling()?;
        let decoding = &args.decoding;
        let (requests, duration) = match args.limit() {
            Limit::Requests(requests) => (Some(requests), None),
            Limit::Duration(duration) => (None, Some(duration)),
        };
        Ok(Self {
            prompts: args.prompts.display().to_string(),
            prompt_tokens: args.prompt_tokens.to_string(),
            output_tokens: args.output_tokens.to_string(),
            requests_per_level: requests,
            duration_s_per_level: duration.as_ref().map(Duration::as_secs_f64),
            warmup: args.warmup,
            max_in_flight: args.max_in_flight,
            timeout_s: args.timeout.as_ref().map(Duration::as_secs_f64),
            seed: args.seed,
            temperature: sampling.temperature(),
            top_k: sampling.top_k(),
            top_p: sampling.top_p(),
            beam_width: decoding.beam_width,
            draft_tokens: decoding.draft_tokens,
            threshold: decoding.threshold,
            beams: decoding.beams.to_string(),
            reference: decoding.reference.to_string(),
            branching: decoding.branching.clone(),
        })
    }
}
