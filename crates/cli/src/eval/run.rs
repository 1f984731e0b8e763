//! The runs of an evaluation: prompt by prompt the cells take turns, so that a machine that drifts drifts for all.

use std::collections::HashSet;
use std::pin::pin;
use std::time::Duration;

use anyhow::bail;
use indicatif::{ProgressBar, ProgressStyle};
use tandem_energy::EnergyMeter;
use tandem_eval::report::{Iteration, Node, Replay};
use tandem_eval::{CellSpec, Dataset, Item, Journal, Sample, Verdict, order};
use tandem_proto::v1::generate_request::Input;
use tandem_proto::{decoding_to_wire, v1};
use tonic::{Code, Status};

use super::Args;
use crate::client::{Answer, Client, generate};
use crate::output::DIM;

/// What is to be run.
pub(super) struct Plan<'a> {
    pub(super) dataset: &'a Dataset,
    pub(super) cells: &'a [CellSpec],
    pub(super) seeds: u64,
}

/// Names of the models that answer.
pub(super) struct Models {
    pub(super) target: String,
    pub(super) draft: String,
}

/// Asks, measures, has the answers judged.
pub(super) struct Runner {
    client: Client,
    stop: Vec<String>,
    pub(super) meter: Option<EnergyMeter>,
    pub(super) models: Models,
    pub(super) max_new_tokens: u32,
    /// Neither stop strings nor an end of sequence ends an answer.
    pub(super) run_on: bool,
}

impl Runner {
    /// Asks for a few tokens: who answers? That also warms up.
    pub(super) async fn new(
        mut client: Client,
        meter: Option<EnergyMeter>,
        args: &Args,
        dataset: &Dataset,
    ) -> anyhow::Result<Self> {
        let request = v1::GenerateRequest {
            input: Some(Input::Prompt("?".into())),
            max_new_tokens: Some(8),
            ignore_eos: true,
            ..v1::GenerateRequest::default()
        };
        let answer = generate(&mut client, request, |_| ()).await;
        let started = answer.map_err(|s| anyhow::anyhow!("{} ({})", s.message(), s.code()))?.started;
        Ok(Self {
            client,
            meter,
            models: Models { target: started.target_model, draft: started.draft_model },
            max_new_tokens: args.max_new_tokens.unwrap_or(dataset.max_new_tokens),
            stop: if args.run_on { Vec::new() } else { dataset.stop.clone() },
            run_on: args.run_on,
        })
    }

    /// Runs what `done` lacks, until all is done or the user interrupts: the samples of this plan, and whether they are all.
    pub(super) async fn run(
        &mut self,
        plan: &Plan<'_>,
        journal: &mut Journal,
        done: Vec<Sample>,
    ) -> anyhow::Result<(Vec<Sample>, bool)> {
        let key = |s: &Sample| (s.cell.clone(), s.item.clone(), s.seed);
        let wanted: HashSet<_> =
            plan.runs().map(|(cell, item, seed)| (cell.id.clone(), item.id.clone(), seed)).collect();
        let mut samples: Vec<Sample> = done.into_iter().filter(|s| wanted.contains(&key(s))).collect();
        let known: HashSet<_> = samples.iter().map(key).collect();
        if !known.is_empty() {
            let (known, wanted) = (known.len(), wanted.len());
            anstream::eprintln!(
                "{DIM}{known} of {wanted} samples are there from before{}",
                DIM.render_reset()
            );
        }
        let bar = progress_bar(wanted.len(), known.len());
        let mut interrupted = pin!(tokio::signal::ctrl_c());
        for (cell, item, seed) in plan.runs() {
            if known.contains(&(cell.id.clone(), item.id.clone(), seed)) {
                continue;
            }
            bar.set_message(cell.label.clone());
            let sample = tokio::select! {
                sample = self.sample(cell, item, seed) => sample?,
                _ = &mut interrupted => {
                    bar.abandon_with_message("interrupted");
                    return Ok((samples, false));
                }
            };
            journal.add(&sample)?;
            samples.push(sample);
            bar.inc(1);
        }
        bar.finish_and_clear();
        Ok((samples, true))
    }

    async fn sample(&mut self, cell: &CellSpec, item: &Item, seed: u64) -> anyhow::Result<Sample> {
        let before = self.joules();
        let mut sample = Sample {
            cell: cell.id.clone(),
            item: item.id.clone(),
            seed,
            answers: Vec::new(),
            verdict: Verdict::Unjudged,
            tokens: 0,
            log_prob: 0.0,
            iterations: 0,
            accepted: 0,
            asked: 0,
            accepted_by_depth: Vec::new(),
            prefill_ms: 0.0,
            draft_ms: 0.0,
            target_ms: 0.0,
            orchestration_ms: 0.0,
            joules: None,
        };
        let mut prompt = String::new();
        let mut unanswered = None;
        for turn in &item.turns {
            prompt += turn;
            let request = v1::GenerateRequest { log_probs: true, ..self.request(cell, &prompt, seed) };
            match self.patiently(request).await {
                Ok(answer) => {
                    prompt += &answer.text;
                    add(&mut sample, answer)?;
                }
                Err(status) => {
                    unanswered = Some(failure(item, &status)?);
                    break;
                }
            }
        }
        sample.joules = before.zip(self.joules()).map(|(before, after)| after - before);
        sample.joules = sample.joules.filter(|_| unanswered.is_none());
        sample.verdict = unanswered.unwrap_or_else(|| judge(item, sample.answers.last()));
        Ok(sample)
    }

    /// A busy orchestrator is asked again: refusals of the moment are no property of the method.
    async fn patiently(&mut self, request: v1::GenerateRequest) -> Result<Answer, Status> {
        for pause in [1, 2, 4, 8].map(Duration::from_secs) {
            match generate(&mut self.client, request.clone(), |_| ()).await {
                Err(status) if status.code() == Code::ResourceExhausted => {
                    tracing::warn!(message = status.message(), "busy");
                    // Nothing tells when it has room again.
                    #[allow(clippy::disallowed_methods)]
                    tokio::time::sleep(pause).await;
                }
                result => return result,
            }
        }
        generate(&mut self.client, request, |_| ()).await
    }

    fn joules(&mut self) -> Option<f64> {
        self.meter.as_mut()?.joules()
    }

    fn request(&self, cell: &CellSpec, prompt: &str, seed: u64) -> v1::GenerateRequest {
        let sampling = v1::Sampling::from(cell.sampling);
        v1::GenerateRequest {
            input: Some(Input::Prompt(prompt.to_owned())),
            max_new_tokens: Some(self.max_new_tokens),
            temperature: Some(sampling.temperature),
            top_k: Some(sampling.top_k),
            top_p: Some(sampling.top_p),
            seed: Some(seed),
            stop: self.stop.clone(),
            ignore_eos: self.run_on,
            decoding: Some(decoding_to_wire(&cell.decoding)),
            ..v1::GenerateRequest::default()
        }
    }

    /// The first items again under every cell, with their trees. Apart from what is measured, because a trace takes time; a seed
    /// writes the same text again.
    pub(super) async fn replays(&mut self, plan: &Plan<'_>, samples: &[Sample], items: usize) -> Vec<Replay> {
        let mut replays = Vec::new();
        let mut interrupted = pin!(tokio::signal::ctrl_c());
        for item in plan.dataset.items.iter().take(items) {
            for cell in plan.cells {
                let Some(prompt) = item.turns.first() else { continue };
                let request = v1::GenerateRequest { trace: true, ..self.request(cell, prompt, 0) };
                let answer = tokio::select! {
                    answer = generate(&mut self.client, request, |_| ()) => answer,
                    _ = &mut interrupted => return replays,
                };
                // A request that is refused is among the failures already.
                let Ok(answer) = answer else { continue };
                let sample = samples
                    .iter()
                    .find(|s| (s.cell.as_str(), s.item.as_str(), s.seed) == (&cell.id, &item.id, 0));
                replays.push(Replay {
                    item: item.id.clone(),
                    cell: cell.id.clone(),
                    label: cell.label.clone(),
                    seed: 0,
                    prompt: prompt.clone(),
                    text: answer.text,
                    verdict: sample.map_or(Verdict::Unjudged, |s| s.verdict.clone()),
                    iterations: answer.iterations.into_iter().map(iteration).collect(),
                });
            }
        }
        replays
    }
}

impl Plan<'_> {
    /// Item by item.
    fn runs(&self) -> impl Iterator<Item = (&CellSpec, &Item, u64)> {
        let rounds = self.dataset.items.iter().flat_map(|item| (0..self.seeds).map(move |seed| (item, seed)));
        (0..).zip(rounds).flat_map(move |(round, (item, seed))| {
            order(self.cells.len(), round).into_iter().map(move |cell| (&self.cells[cell], item, seed))
        })
    }
}

fn progress_bar(planned: usize, known: usize) -> ProgressBar {
    let bar = ProgressBar::new(planned as u64);
    let template = "{msg:20!} {wide_bar} {pos}/{len} samples, {eta} left";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.set_position(known as u64);
    // What was done before says nothing about the time that is left.
    bar.reset_eta();
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

fn add(sample: &mut Sample, answer: Answer) -> anyhow::Result<()> {
    let s = answer.finished.statistics.unwrap_or_default();
    if answer.log_probs.len() != s.new_tokens as usize {
        bail!("the orchestrator gives no log-probabilities with its tokens: it is older than this program");
    }
    sample.tokens += u64::from(s.new_tokens);
    sample.log_prob += answer.log_probs.iter().sum::<f64>();
    sample.iterations += u64::from(s.iterations);
    sample.accepted += u64::from(s.accepted_tokens);
    sample.asked += u64::from(s.asked_tokens);
    let depth = sample.accepted_by_depth.len().max(s.accepted_by_depth.len());
    sample.accepted_by_depth.resize(depth, 0);
    for (sum, &count) in sample.accepted_by_depth.iter_mut().zip(&s.accepted_by_depth) {
        *sum += u64::from(count);
    }
    sample.prefill_ms += s.prefill_ms;
    sample.draft_ms += s.draft_ms;
    sample.target_ms += s.target_ms;
    sample.orchestration_ms += s.orchestration_ms;
    sample.answers.push(answer.text);
    Ok(())
}

/// A refused request is a failure of its sample; a service that is gone ends the evaluation.
fn failure(item: &Item, status: &Status) -> anyhow::Result<Verdict> {
    if status.code() == Code::Unavailable {
        bail!("the orchestrator is gone: {}", status.message());
    }
    Ok(Verdict::unanswered(&item.judge, format!("{:?}", status.code()), status.message().to_owned()))
}

fn judge(item: &Item, answer: Option<&String>) -> Verdict {
    let Some(answer) = answer else { return Verdict::Unjudged };
    // It may take seconds; nothing else runs on this task meanwhile, and the services have threads of their own.
    tokio::task::block_in_place(|| item.judge.judge(answer))
}

fn iteration(wire: v1::Iteration) -> Iteration {
    let tree = wire.tree.unwrap_or_default();
    let number = |values: &[f64], i: usize| values.get(i).copied().filter(|x| x.is_finite());
    let nodes = wire.texts.into_iter().enumerate().map(|(i, text)| Node {
        text,
        parent: tree.parents.get(i).and_then(|&p| usize::try_from(p).ok()),
        draft: number(&wire.draft_joint_log_probs, i),
        target: number(&wire.target_joint_log_probs, i),
    });
    Iteration {
        nodes: nodes.collect(),
        accepted: wire.accepted_nodes.iter().map(|&n| n as usize).collect(),
        bonus: wire.bonus_token.map(|_| wire.bonus_text),
    }
}
