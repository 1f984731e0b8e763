//! `tandem generate`: continues a prompt, or answers it if the model is one for chats.

mod outcome;

use std::io::{IsTerminal, Read, Write};

use anyhow::{Context, bail};
use tandem_decoding::Method;
use tandem_proto::v1::generate_request::Input;
use tandem_proto::{decoding_to_wire, v1};
use tandem_serving::args::LogArgs;
use tandem_serving::init_telemetry;
use tracing::{Instrument, trace_span};

use self::outcome::Outcome;
use crate::client::{self, AccessArgs, Client};
use crate::decoding::DecodingArgs;
use crate::local::{Local, LocalConfig};
use crate::output::{DIM, TEXT};
use crate::pair::PairArgs;

/// Flags of `tandem generate`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Text to continue, or, if the target has a chat template, a message to answer [default: read from standard
    /// input]
    prompt: Option<String>,

    /// Continue the prompt as it is, even if the target has a chat template
    #[arg(long)]
    raw: bool,

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

    /// Sample from the k most likely tokens only; 0 is off
    #[arg(long, default_value_t = 10)]
    top_k: u32,

    /// Sample from the most likely tokens up to this total probability only; 0 and 1 are off
    #[arg(long, default_value_t = 0.9)]
    top_p: f64,

    /// Seed of all random draws [default: random, and shown]
    #[arg(long)]
    seed: Option<u64>,

    /// Maximum number of tokens to generate
    #[arg(long, default_value_t = 128, value_name = "N")]
    max_new_tokens: u32,

    /// End the text before this string; can be repeated
    #[arg(long)]
    stop: Vec<String>,

    /// Continue past end-of-sequence tokens
    #[arg(long)]
    ignore_eos: bool,

    /// Also generate autoregressively, and compare both in one table
    #[arg(long)]
    compare: bool,

    /// Print JSON instead of text and a table
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    log: LogArgs,
}

/// A prompt, in the form in which the target takes it.
#[derive(Clone, Debug)]
enum Prompt {
    /// A text to continue.
    Text(String),
    /// The message of a user.
    Message(String),
}

/// Generates once, or twice to compare.
pub async fn run(args: Args) -> anyhow::Result<()> {
    // Services in this process log warnings only, so that they do not interfere with the text.
    let _telemetry = init_telemetry(&args.log.clone().into(), "warn", "tandem")?;
    let prompt = read_prompt(&args)?;
    let local = match &args.endpoint {
        Some(_) => None,
        None => Some(Local::start(LocalConfig::new(&args.pair)?, !args.json).await?),
    };
    let url = args.endpoint.clone().or_else(|| local.as_ref().map(Local::endpoint)).unwrap_or_default();
    let mut client = args.access.connect(&url).await?;
    let status = client.get_status(v1::GetStatusRequest {}).await.map_err(|status| error(&status, &args))?;
    let prompt = match status.into_inner().chat && !args.raw {
        true => Prompt::Message(prompt),
        false => Prompt::Text(prompt),
    };
    let mut outcomes = vec![generate(&mut client, &args, &prompt, !args.json).await?];
    if args.compare && args.decoding.method != Method::Autoregressive {
        let decoding = DecodingArgs { method: Method::Autoregressive, ..args.decoding.clone() };
        let again = Args { seed: Some(outcomes[0].seed()), decoding, ..args.clone() };
        outcomes.push(generate(&mut client, &again, &prompt, false).await?);
    }
    if args.json {
        anstream::println!("{}", serde_json::to_string_pretty(&outcomes)?);
    } else {
        outcome::show(&outcomes);
    }
    match local {
        Some(local) => local.stop().await,
        None => Ok(()),
    }
}

fn read_prompt(args: &Args) -> anyhow::Result<String> {
    if let Some(prompt) = &args.prompt {
        return Ok(prompt.clone());
    }
    if std::io::stdin().is_terminal() {
        bail!("there is no prompt: give it as an argument or on standard input");
    }
    let mut bytes = Vec::new();
    std::io::stdin().read_to_end(&mut bytes).context("cannot read the prompt from standard input")?;
    String::from_utf8(bytes).context("the prompt on standard input is not UTF-8")
}

impl Prompt {
    /// What is shown before the text that is generated.
    fn shown(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Message(message) => format!("{}\n\n", message.trim_end()),
        }
    }

    fn input(&self) -> Input {
        match self {
            Self::Text(text) => Input::Prompt(text.clone()),
            Self::Message(message) => {
                let message = v1::ChatMessage { role: "user".into(), content: message.clone() };
                Input::Chat(v1::Chat { messages: vec![message] })
            }
        }
    }
}

async fn generate(client: &mut Client, args: &Args, prompt: &Prompt, show: bool) -> anyhow::Result<Outcome> {
    let request = v1::GenerateRequest {
        input: Some(prompt.input()),
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
        anstream::print!("{DIM}{}{}", prompt.shown(), DIM.render_reset());
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
    .map_err(|status| error(&status, args))?;
    written?;
    if show {
        anstream::println!();
    }
    Outcome::new(answer)
}

/// The message of the service and its gRPC code.
fn error(status: &tonic::Status, args: &Args) -> anyhow::Error {
    let hint = args.access.tls.hint(args.endpoint.as_deref().unwrap_or_default(), status);
    anyhow::anyhow!("{} ({}){hint}", status.message(), status.code())
}
