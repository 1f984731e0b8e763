//! The result of a generation, as JSON and as a table.

use comfy_table::Table;
use serde::Serialize;
use tandem_proto::{Answer, method_from_wire, v1};

use crate::output::{DIM, table};

/// A finished generation, as `--json` prints it.
#[derive(Debug, Serialize)]
pub(super) struct Outcome {
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

impl Outcome {
    pub(super) fn new(answer: Answer) -> anyhow::Result<Self> {
        let Answer { started, text, token_ids, finished, .. } = answer;
        let finish_reason = match finished.reason() {
            v1::FinishReason::Eos => "eos",
            v1::FinishReason::Stop => "stop",
            v1::FinishReason::Length => "length",
            v1::FinishReason::Unspecified => "unknown",
        };
        let statistics = finished.statistics.unwrap_or_default();
        Ok(Self {
            method: method_from_wire(statistics.method)?.to_string(),
            lossless: statistics.lossless,
            text,
            token_ids,
            finish_reason,
            seed: started.seed,
            prompt_tokens: started.prompt_tokens,
            target_model: started.target_model,
            draft_model: started.draft_model,
            statistics: statistics.into(),
        })
    }

    /// The seed, drawn by the orchestrator if the request had none.
    pub(super) fn seed(&self) -> u64 {
        self.seed
    }
}

impl From<v1::Statistics> for Figures {
    fn from(s: v1::Statistics) -> Self {
        let tokens = f64::from(s.new_tokens.max(1));
        let decode_ms = s.total_ms - s.prefill_ms;
        Self {
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
        }
    }
}

/// Shows the statistics, one column per generation, and compares two generations.
pub(super) fn show(outcomes: &[Outcome]) {
    anstream::println!("\n{}", statistics_table(outcomes));
    if let [first, second] = outcomes {
        let ratio = second.statistics.ms_per_token / first.statistics.ms_per_token;
        let text = if first.token_ids == second.token_ids { "the same text" } else { "a different text" };
        anstream::println!(
            "\n{} is {ratio:.2}× as fast as {}, and wrote {text}",
            first.method,
            second.method
        );
    }
    let first = &outcomes[0];
    anstream::println!(
        "\n{DIM}target {}, draft {}, prompt of {} tokens, seed {}{}",
        first.target_model,
        first.draft_model,
        first.prompt_tokens,
        first.seed,
        DIM.render_reset()
    );
}

fn statistics_table(outcomes: &[Outcome]) -> Table {
    let mut header = vec![""];
    header.extend(outcomes.iter().map(|o| o.method.as_str()));
    let mut rows = table(&header);
    let mut row = |name: &str, cell: fn(&Outcome) -> String| {
        let mut cells = vec![name.to_owned()];
        cells.extend(outcomes.iter().map(cell));
        rows.add_row(cells);
    };
    row("lossless", |o| if o.lossless { "yes" } else { "no" }.into());
    row("finished by", |o| o.finish_reason.into());
    row("tokens", |o| o.statistics.new_tokens.to_string());
    row("iterations", |o| o.statistics.iterations.to_string());
    row("drafted / accepted", |o| {
        format!("{} / {}", o.statistics.drafted_tokens, o.statistics.accepted_tokens)
    });
    row("accepted by depth", |o| {
        let depths: Vec<String> = o.statistics.accepted_by_depth.iter().map(u32::to_string).collect();
        if depths.is_empty() { "–".into() } else { depths.join(" ") }
    });
    row("block efficiency", |o| format!("{:.2}", o.statistics.block_efficiency));
    row("acceptance rate", |o| format!("{:.0} %", o.statistics.acceptance_rate * 100.0));
    row("time to first token", |o| ms(o.statistics.time_to_first_token_ms));
    row("time per token", |o| format!("{:.2} ms", o.statistics.ms_per_token));
    row("tokens per second", |o| format!("{:.0}", o.statistics.tokens_per_second));
    row("prefill", |o| ms(o.statistics.prefill_ms));
    row("draft", |o| ms(o.statistics.draft_ms));
    row("target", |o| ms(o.statistics.target_ms));
    row("orchestration", |o| ms(o.statistics.orchestration_ms));
    rows
}

fn ms(value: f64) -> String {
    format!("{value:.1} ms")
}
