//! `tandem generate`

use std::io::{IsTerminal, Read, Write};

use anyhow::{Context, bail};
use serde::Serialize;
use tandem_decoding::Method;
use tandem_proto::{decoding_to_wire, method_from_wire, v1};
use tandem_serving::args::LogArgs;
use tandem_serving::init_telemetry;
use tracing::{Instrument, trace_span};

use crate::client::{self, AccessArgs, Answer, Client};
use crate::decoding::DecodingArgs;
use crate::local::{Local, LocalConfig};
use crate::output::{DIM, TEXT, table};
use crate::pair::PairArgs;

/// Flags of `tandem generate`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Text to continue; read from standard input if it is not given
    prompt: Option<String>,

    /// URL of a running orchestrator; without it all services run in this process
    #[arg(long, env = "TANDEM_ENDPOINT", value_name = "URL", conflicts_with = "PairArgs")]
    endpoint: Option<String>,

    #[command(flatten)]
    access: AccessArgs,

    #[command(flatten)]
    pair: PairArgs,

    #[command(flatten)]
    decoding: DecodingArgs,

    /// Temperature; 0 is greedy
    #[arg(long, default_value_t = 1.0)]
    temperature: f64,

    /// Keep the k most likely tokens; 0 is off
    #[arg(long, default_value_t = 10)]
    top_k: u32,

    /// Keep the most likely tokens up to this mass; 0 and 1 are off
    #[arg(long, default_value_t = 0.9)]
    top_p: f64,

    /// Seed of all draws [default: drawn, and shown]
    #[arg(long)]
    seed: Option<u64>,

    /// Most tokens to generate
    #[arg(long, default_value_t = 128, value_name = "N")]
    max_new_tokens: u32,

    /// End the text before this string; may be given several times
    #[arg(long)]
    stop: Vec<String>,

    /// Go on behind an end-of-sequence token
    #[arg(long)]
    ignore_eos: bool,

    /// Run the prompt autoregressively too, and show both in one table
    #[arg(long)]
    compare: bool,

    /// One JSON object instead of text and table
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    log: LogArgs,
}

/// A finished generation.
#[derive(Debug, Serialize)]
pub struct Outcome {
    method: String,
    lossless: bool,
    text: String,
    token_ids: Vec<u32>,
    finish_reason: &'static str,
    seed: u64,
    prompt_tokens: u32,
    target_model: String,
    draft_model: String,
    statistics: Figures,
}

#[derive(Debug, Serialize)]
struct Figures {
    new_tokens: u32,
    iterations: u32,
    drafted_tokens: u32,
    accepted_tokens: u32,
    accepted_by_depth: Vec<u32>,
    block_efficiency: f64,
    acceptance_rate: f64,
    ms_per_token: f64,
    tokens_per_second: f64,
    time_to_first_token_ms: f64,
    prefill_ms: f64,
    draft_ms: f64,
    target_ms: f64,
    orchestration_ms: f64,
    total_ms: f64,
}

/// Generates once, or twice to compare.
pub async fn run(args: Args) -> anyhow::Result<()> {
    // Nobody asked for the services' stories: their warnings are enough.
    let _telemetry = init_telemetry(&args.log.clone().into(), "warn", "tandem")?;
    let prompt = prompt(&args)?;
    let local = match &args.endpoint {
        Some(_) => None,
        None => Some(Local::start(LocalConfig::new(&args.pair)?, !args.json).await?),
    };
    let url = args.endpoint.clone().or_else(|| local.as_ref().map(Local::endpoint)).unwrap_or_default();
    let mut client = args.access.connect(&url).await?;
    let mut outcomes = vec![generate(&mut client, &args, &prompt, !args.json).await?];
    if args.compare && args.decoding.method != Method::Autoregressive {
        let decoding = DecodingArgs { method: Method::Autoregressive, ..args.decoding.clone() };
        let again = Args { seed: Some(outcomes[0].seed), decoding, ..args.clone() };
        outcomes.push(generate(&mut client, &again, &prompt, false).await?);
    }
    if args.json {
        anstream::println!("{}", serde_json::to_string_pretty(&outcomes)?);
    } else {
        report(&outcomes);
    }
    match local {
        Some(local) => local.stop().await,
        None => Ok(()),
    }
}

fn prompt(args: &Args) -> anyhow::Result<String> {
    if let Some(prompt) = &args.prompt {
        return Ok(prompt.clone());
    }
    if std::io::stdin().is_terminal() {
        bail!("no prompt: give it as an argument, or on standard input");
    }
    let mut bytes = Vec::new();
    std::io::stdin().read_to_end(&mut bytes).context("cannot read the prompt from standard input")?;
    String::from_utf8(bytes).context("the prompt on standard input is not UTF-8")
}

async fn generate(client: &mut Client, args: &Args, prompt: &str, show: bool) -> anyhow::Result<Outcome> {
    let request = v1::GenerateRequest {
        input: Some(v1::generate_request::Input::Prompt(prompt.to_owned())),
        max_new_tokens: Some(args.max_new_tokens),
        temperature: Some(args.temperature),
        top_k: Some(args.top_k),
        top_p: Some(args.top_p),
        seed: args.seed,
        stop: args.stop.clone(),
        ignore_eos: args.ignore_eos,
        decoding: Some(decoding_to_wire(&args.decoding.params())),
        ..v1::GenerateRequest::default()
    };
    if show {
        anstream::print!("{DIM}{prompt}{}", DIM.render_reset());
    }
    let mut written = Ok(());
    let answer = client::generate(client, request, |text| {
        if show && written.is_ok() {
            anstream::print!("{TEXT}{text}{}", TEXT.render_reset());
            written = anstream::stdout().flush();
        }
    })
    .instrument(trace_span!("tandem generate", otel.kind = "client"))
    .await
    .map_err(|status| refused(&status, args))?;
    written?;
    if show {
        anstream::println!();
    }
    outcome(answer)
}

/// What the service said, and its code for those who look it up.
fn refused(status: &tonic::Status, args: &Args) -> anyhow::Error {
    let hint = args.access.tls.hint(args.endpoint.as_deref().unwrap_or_default(), status);
    anyhow::anyhow!("{} ({}){hint}", status.message(), status.code())
}

fn outcome(answer: Answer) -> anyhow::Result<Outcome> {
    let Answer { started, text, token_ids, finished, .. } = answer;
    let s = finished.statistics.clone().unwrap_or_default();
    let method = method_from_wire(s.method).map(|m| m.to_string())?;
    let tokens = f64::from(s.new_tokens.max(1));
    let decode_ms = s.total_ms - s.prefill_ms;
    Ok(Outcome {
        method,
        lossless: s.lossless,
        text,
        token_ids,
        finish_reason: match finished.reason() {
            v1::FinishReason::Eos => "eos",
            v1::FinishReason::Stop => "stop",
            v1::FinishReason::Length => "length",
            v1::FinishReason::Unspecified => "unknown",
        },
        seed: started.seed,
        prompt_tokens: started.prompt_tokens,
        target_model: started.target_model,
        draft_model: started.draft_model,
        statistics: Figures {
            new_tokens: s.new_tokens,
            iterations: s.iterations,
            drafted_tokens: s.drafted_tokens,
            accepted_tokens: s.accepted_tokens,
            accepted_by_depth: s.accepted_by_depth,
            block_efficiency: s.block_efficiency,
            acceptance_rate: s.acceptance_rate,
            ms_per_token: decode_ms / tokens,
            tokens_per_second: tokens / decode_ms * 1e3,
            time_to_first_token_ms: s.time_to_first_token_ms,
            prefill_ms: s.prefill_ms,
            draft_ms: s.draft_ms,
            target_ms: s.target_ms,
            orchestration_ms: s.orchestration_ms,
            total_ms: s.total_ms,
        },
    })
}

/// The statistics, one column per generation.
fn report(outcomes: &[Outcome]) {
    let mut header = vec![""];
    header.extend(outcomes.iter().map(|o| o.method.as_str()));
    let mut rows = table(&header);
    let mut row = |name: &str, cell: &dyn Fn(&Outcome) -> String| {
        let cells: Vec<String> = std::iter::once(name.to_owned()).chain(outcomes.iter().map(cell)).collect();
        rows.add_row(cells);
    };
    let ms = |value: f64| format!("{value:.1} ms");
    row("lossless", &|o| if o.lossless { "yes" } else { "no" }.into());
    row("finished by", &|o| o.finish_reason.into());
    row("tokens", &|o| o.statistics.new_tokens.to_string());
    row("iterations", &|o| o.statistics.iterations.to_string());
    row("drafted / accepted", &|o| {
        format!("{} / {}", o.statistics.drafted_tokens, o.statistics.accepted_tokens)
    });
    row("accepted by depth", &|o| {
        let depths: Vec<String> = o.statistics.accepted_by_depth.iter().map(u32::to_string).collect();
        if depths.is_empty() { "–".into() } else { depths.join(" ") }
    });
    row("block efficiency", &|o| format!("{:.2}", o.statistics.block_efficiency));
    row("acceptance rate", &|o| format!("{:.0} %", o.statistics.acceptance_rate * 100.0));
    row("time to first token", &|o| ms(o.statistics.time_to_first_token_ms));
    row("time per token", &|o| format!("{:.2} ms", o.statistics.ms_per_token));
    row("tokens per second", &|o| format!("{:.0}", o.statistics.tokens_per_second));
    row("prefill", &|o| ms(o.statistics.prefill_ms));
    row("draft", &|o| ms(o.statistics.draft_ms));
    row("target", &|o| ms(o.statistics.target_ms));
    row("orchestration", &|o| ms(o.statistics.orchestration_ms));
    anstream::println!("\n{rows}");
    if let [first, second] = outcomes {
        let ratio = second.statistics.ms_per_token / first.statistics.ms_per_token;
        let same = if first.token_ids == second.token_ids { "the same" } else { "another" };
        anstream::println!(
            "\n{} is {ratio:.2}× as fast as {}, and wrote {same} text",
            first.method,
            second.method
        );
    }
    let o = &outcomes[0];
    anstream::println!(
        "\n{DIM}target {}, draft {}, prompt of {} tokens, seed {}{}",
        o.target_model,
        o.draft_model,
        o.prompt_tokens,
        o.seed,
        DIM.render_reset()
    );
}
