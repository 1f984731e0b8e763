//! The requests, and what their answers must be.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use tandem_cli::client::{Client, generate};
use tandem_eval::{Dataset, DatasetKind};
use tandem_proto::v1;
use tandem_proto::v1::Method;
use tonic::{Request, Status};

use super::args::Args;
use crate::progress::bar;

/// The methods whose greedy sequences are the same every time.
const METHODS: [Method; 6] = [
    Method::Autoregressive,
    Method::ExactMatch,
    Method::Speculative,
    Method::Mtad,
    Method::Mmtad,
    Method::Mtjd,
];
/// A stream that takes longer hangs.
const DEADLINE: Duration = Duration::from_secs(120);
/// By this long after the deadline the orchestrator must have ended the stream.
const SLACK: Duration = Duration::from_secs(5);
/// Attempts to get an undisturbed answer: on a busy machine a worker may be taken for lost.
const ATTEMPTS: usize = 5;

/// A request and its undisturbed answer.
pub(crate) struct Case {
    pub(crate) request: v1::GenerateRequest,
    pub(crate) expected: Answer,
    name: String,
}

/// What a stream delivered.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answer {
    pub(crate) text: String,
    pub(crate) tokens: Vec<u32>,
    pub(crate) statistics: v1::Statistics,
}

/// How an answer compares with the undisturbed one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Comparison {
    Same,
    /// Generated in part without drafts by a method whose result depends on them, so that it cannot be compared.
    Undrafted,
    /// In what it differs.
    Differs(String),
}

/// The cases, with answers from runs without load and without faults.
pub(crate) async fn undisturbed(client: &mut Client, args: &Args) -> anyhow::Result<Vec<Case>> {
    let prompts = prompts(&args.programs.models.join("data/sql_eval.jsonl"), args.prompts as usize)?;
    let bar = bar("undisturbed answers", (prompts.len() * METHODS.len()) as u64);
    let mut cases: Vec<Case> = Vec::new();
    for (number, prompt) in prompts.iter().enumerate() {
        let first = cases.len();
        for method in METHODS {
            let mut case = Case::new(number, prompt, method, args.max_new_tokens);
            case.expected = undisturbed_answer(client, &case).await?;
            cases.push(case);
            bar.inc(1);
        }
        let [plain, exact, speculative, ..] = &cases[first..] else { continue };
        for lossless in [exact, speculative] {
            anyhow::ensure!(
                plain.expected.tokens == lossless.expected.tokens,
                "even undisturbed, {lossless} differs from {plain}"
            );
        }
    }
    bar.finish_and_clear();
    Ok(cases)
}

async fn undisturbed_answer(client: &mut Client, case: &Case) -> anyhow::Result<Answer> {
    for _ in 0..ATTEMPTS {
        let answer = ask(client, &case.request)
            .await
            .with_context(|| format!("{case} failed although nothing was disturbed"))?;
        if answer.statistics.undrafted_iterations == 0 {
            return Ok(answer);
        }
    }
    anyhow::bail!("drafts were missing although nothing was disturbed: is this machine too busy?")
}

/// Held-out questions.
fn prompts(path: &Path, count: usize) -> anyhow::Result<Vec<String>> {
    let items = Dataset::load(DatasetKind::TextToSql, path)?.items;
    Ok(items.into_iter().filter_map(|item| item.turns.into_iter().next()).take(count).collect())
}

impl Case {
    fn new(number: usize, prompt: &str, method: Method, max_new_tokens: u32) -> Self {
        let decoding = v1::DecodingParams { method: method.into(), ..v1::DecodingParams::default() };
        let request = v1::GenerateRequest {
            input: Some(v1::generate_request::Input::Prompt(prompt.to_owned())),
            max_new_tokens: Some(max_new_tokens),
            temperature: Some(0.0),
            seed: Some(0),
            ignore_eos: true,
            decoding: Some(decoding),
            ..v1::GenerateRequest::default()
        };
        let name = format!("{} of prompt {}", method.as_str_name(), number + 1);
        Self { request, expected: Answer::default(), name }
    }

    /// Whether the result depends on drafts. At temperature 0, rejection sampling and exact match give what the target alone
    /// would; MTJD has no draft.
    fn needs_drafts(&self) -> bool {
        matches!(self.expected.statistics.method(), Method::Mtad | Method::Mmtad)
    }

    /// Compares `answer` with the undisturbed one.
    pub(crate) fn compare(&self, answer: &Answer) -> Comparison {
        let expected = &self.expected;
        if answer.tokens.len() != expected.tokens.len() {
            let ours = answer.tokens.len();
            let theirs = expected.tokens.len();
            return Comparison::Differs(format!("{self} has {ours} tokens instead of {theirs}"));
        }
        if self.needs_drafts() && answer.statistics.undrafted_iterations > 0 {
            return Comparison::Undrafted;
        }
        let differing = answer.tokens.iter().zip(&expected.tokens).position(|(ours, theirs)| ours != theirs);
        if let Some(at) = differing {
            let ours = answer.tokens[at];
            let theirs = expected.tokens[at];
            let statistics = &answer.statistics;
            return Comparison::Differs(format!(
                "{self} differs from token {at} on ({ours} instead of {theirs}), after {} failovers and {} undrafted \
                 iterations",
                statistics.failovers, statistics.undrafted_iterations
            ));
        }
        if answer.text != expected.text {
            return Comparison::Differs(format!("{self} has the same tokens, but another text"));
        }
        Comparison::Same
    }
}

impl std::fmt::Display for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name)
    }
}

/// Runs a request to its end.
pub(crate) async fn ask(client: &mut Client, request: &v1::GenerateRequest) -> Result<Answer, Status> {
    let mut message = Request::new(request.clone());
    message.set_timeout(DEADLINE);
    let answer = async {
        let answer = generate(client, message, |_| ()).await?;
        let statistics = answer.finished.statistics.unwrap_or_default();
        Ok(Answer { text: answer.text, tokens: answer.token_ids, statistics })
    };
    let hangs = |_| Status::deadline_exceeded("the stream hangs: it is still open after its deadline");
    tokio::time::timeout(DEADLINE + SLACK, answer).await.map_err(hangs)?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(method: Method) -> Case {
        let mut case = Case::new(0, "", method, 3);
        case.expected = answer(&[1, 2, 3], method, 0);
        case
    }

    fn answer(tokens: &[u32], method: Method, undrafted: u32) -> Answer {
        let statistics = v1::Statistics {
            method: method.into(),
            undrafted_iterations: undrafted,
            ..v1::Statistics::default()
        };
        Answer { text: String::new(), tokens: tokens.to_vec(), statistics }
    }

    #[test]
    fn only_methods_that_depend_on_drafts_may_differ_without_them() {
        for method in METHODS {
            let case = case(method);
            assert_eq!(case.compare(&answer(&[1, 2, 3], method, 0)), Comparison::Same);
            assert!(matches!(case.compare(&answer(&[1, 9, 3], method, 0)), Comparison::Differs(_)));
            let undrafted = case.compare(&answer(&[1, 9, 3], method, 1));
            let may = matches!(method, Method::Mtad | Method::Mmtad);
            assert_eq!(undrafted == Comparison::Undrafted, may, "{method:?}");
            let short = case.compare(&answer(&[1, 2], method, 1));
            assert!(matches!(short, Comparison::Differs(_)), "nothing may be missing: {method:?}");
        }
    }
}
