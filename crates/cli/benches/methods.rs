//! Every method on the held-out prompts of the bundled pair, all services in this process with real gRPC between them.
//!
//! Prompt by prompt the methods take turns, so that a machine that drifts drifts for all. As the authors' figures in
//! `models/demo/README.md`: the first question of the first 20 documents, 100 new tokens, temperature 1, top-k 10,
//! top-p 0.9.
//!
//! `cargo bench -p tandem-cli --bench methods -- --prompts 20 --seeds 2`

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    missing_docs,
    reason = "a benchmark prints, and ends at the first error"
)]

use std::net::SocketAddr;

use anyhow::Context;
use clap::Parser;
use comfy_table::Table;
use comfy_table::presets::ASCII_MARKDOWN;
use indicatif::ProgressBar;
use tandem_cli::local::{Local, PairArgs};
use tandem_proto::v1;
use tandem_proto::v1::generate_response::Event;
use tandem_proto::v1::generation_client::GenerationClient;
use tonic::transport::{Channel, Endpoint};

#[derive(Parser)]
struct Args {
    #[command(flatten)]
    pair: PairArgs,
    /// Held-out prompts, at most 600
    #[arg(long, default_value_t = 20)]
    prompts: usize,
    /// Seeds per prompt
    #[arg(long, default_value_t = 2)]
    seeds: u64,
    /// Tokens per generation
    #[arg(long, default_value_t = 100)]
    new_tokens: u32,
    /// Given by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

/// A method and its settings.
struct Setting {
    name: &'static str,
    decoding: v1::DecodingParams,
    runs: Vec<v1::Statistics>,
}

fn settings() -> Vec<Setting> {
    use v1::Method::{Autoregressive, ExactMatch, Mmtad, Mtad};
    let setting = |name, method: v1::Method, with_replacement| Setting {
        name,
        decoding: v1::DecodingParams {
            method: method.into(),
            beam_width: Some(4),
            draft_tokens: Some(4),
            acceptance_threshold: Some(0.5),
            with_replacement,
        },
        runs: Vec::new(),
    };
    vec![
        setting("autoregressive", Autoregressive, false),
        setting("MTAD γ4 B4 τ.5", Mtad, false),
        setting("MTAD γ4 B4 τ.5, with replacement", Mtad, true),
        setting("MMTAD γ4 B4 τ.5", Mmtad, false),
        setting("MMTAD γ4 B4 τ.5, with replacement", Mmtad, true),
        setting("exact match γ4 B4", ExactMatch, false),
    ]
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let local = Local::start(&args.pair, SocketAddr::from(([127, 0, 0, 1], 0)), true).await?;
    let mut client = GenerationClient::new(Endpoint::from_shared(local.endpoint())?.connect().await?);
    let prompts = held_out_prompts(args.prompts)?;
    let mut settings = settings();
    let bar = ProgressBar::new(prompts.len() as u64 * args.seeds);
    for seed in 0..args.seeds {
        for prompt in &prompts {
            for setting in &mut settings {
                let run = generate(&mut client, prompt, setting.decoding, seed, args.new_tokens).await?;
                setting.runs.push(run);
            }
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    println!("{}", report(&settings));
    println!(
        "\n{} prompts × {} seeds, {} new tokens; medians of time per token",
        prompts.len(),
        args.seeds,
        args.new_tokens
    );
    local.stop().await
}

/// The first question of the first `count` held-out documents.
fn held_out_prompts(count: usize) -> anyhow::Result<Vec<String>> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/demo/data/sql_eval.jsonl");
    let lines = std::fs::read_to_string(path).context(path)?;
    lines
        .lines()
        .take(count)
        .map(|line| {
            let document: serde_json::Value = serde_json::from_str(line)?;
            let schema = document["schema"].as_str().context("a document without a schema")?;
            let question = document["pairs"][0][0].as_str().context("a document without a question")?;
            Ok(format!("{schema}Question: {question}\nSQL:"))
        })
        .collect()
}

async fn generate(
    client: &mut GenerationClient<Channel>,
    prompt: &str,
    decoding: v1::DecodingParams,
    seed: u64,
    new_tokens: u32,
) -> anyhow::Result<v1::Statistics> {
    let request = v1::GenerateRequest {
        input: Some(v1::generate_request::Input::Prompt(prompt.to_owned())),
        max_new_tokens: Some(new_tokens),
        seed: Some(seed),
        ignore_eos: true,
        decoding: Some(decoding),
        ..v1::GenerateRequest::default()
    };
    let mut events = client.generate(request).await?.into_inner();
    while let Some(response) = events.message().await? {
        if let Some(Event::Finished(finished)) = response.event {
            return finished.statistics.context("no statistics");
        }
    }
    anyhow::bail!("the stream ended early")
}

fn ms_per_token(s: &v1::Statistics) -> f64 {
    (s.total_ms - s.prefill_ms) / f64::from(s.new_tokens.max(1))
}

fn report(settings: &[Setting]) -> Table {
    let median = |setting: &Setting, of: &dyn Fn(&v1::Statistics) -> f64| {
        let mut values: Vec<f64> = setting.runs.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or_default()
    };
    let baseline = median(&settings[0], &ms_per_token);
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN).set_header([
        "method",
        "ms per token",
        "× autoregressive",
        "block efficiency",
        "acceptance rate",
        "nodes per iteration",
        "draft ms / iteration",
        "target ms / iteration",
        "else ms / iteration",
    ]);
    for setting in settings {
        let sum = |of: fn(&v1::Statistics) -> u32| setting.runs.iter().map(|s| f64::from(of(s))).sum::<f64>();
        let iterations = sum(|s| s.iterations).max(1.0);
        let rate =
            setting.runs.iter().map(|s| s.acceptance_rate).sum::<f64>() / setting.runs.len().max(1) as f64;
        let time = median(setting, &ms_per_token);
        let per_iteration =
            |of: fn(&v1::Statistics) -> f64| median(setting, &|s| of(s) / f64::from(s.iterations.max(1)));
        table.add_row([
            setting.name.to_owned(),
            format!("{time:.3}"),
            format!("{:.2}", baseline / time),
            format!("{:.2}", 1.0 + sum(|s| s.accepted_tokens) / iterations),
            format!("{rate:.3}"),
            format!("{:.1}", sum(|s| s.drafted_tokens) / iterations),
            format!("{:.2}", per_iteration(|s| s.draft_ms)),
            format!("{:.2}", per_iteration(|s| s.target_ms)),
            format!("{:.2}", per_iteration(|s| s.orchestration_ms)),
        ]);
    }
    table
}
