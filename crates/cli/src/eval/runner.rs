//! Runs the generations of an evaluation, measures them, and has the answers judged.

use std::collections::HashSet;
use std::pin::pin;
use std::time::Duration;

use anyhow::bail;
use indicatif::ProgressBar;
use tandem_energy::EnergyMeter;
use tandem_eval::{CellSpec, Dataset, Item, Journal, Sample, Verdict};
use tandem_proto::v1::generate_request::Input;
use tandem_proto::{Answer, decoding_to_wire, v1};
use tonic::{Code, Status};

use super::args::Args;
use super::plan::Plan;
use crate::client::{Client, generate};
use crate::output::DIM;
use crate::progress;

/// Names of the models, as the orchestrator reports them.
pub(super) struct Models {
    pub(super) target: String,
    pub(super) draft: String,
}

/// A client with the settings of the evaluation.
pub(super) struct Runner {
    pub(super) client: Client,
    stop: Vec<String>,
    pub(super) meter: Option<EnergyMeter>,
    pub(super) models: Models,
    pub(super) max_new_tokens: u32,
    /// Whether answers continue past stop strings and end-of-sequence tokens.
    pub(super) run_on: bool,
}

impl Runner {
    /// Generates a few tokens to learn the names of the models and to warm up.
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

    /// Runs the generations of `plan` that are not in `done`, until all are done or the user interrupts.
    ///
    /// Returns the samples of this plan, and whether they are complete.
    pub(super) async fn run(
        &mut self,
        plan: &Plan<'_>,
        journal: &mut Journal,
        done: Vec<Sample>,
    ) -> anyhow::Result<(Vec<Sample>, bool)> {
        let planned: HashSet<Key> =
            plan.runs().map(|(cell, item, seed)| key(&cell.id, &item.id, seed)).collect();
        let mut samples: Vec<Sample> =
            done.into_iter().filter(|s| planned.contains(&sample_key(s))).collect();
        let known: HashSet<Key> = samples.iter().map(sample_key).collect();
        if !known.is_empty() {
            anstream::eprintln!(
                "{DIM}{} of {} samples exist from an earlier run{}",
                known.len(),
                planned.len(),
                DIM.render_reset()
            );
        }
        let bar = progress_bar(planned.len(), known.len());
        let mut interrupted = pin!(tokio::signal::ctrl_c());
        for (cell, item, seed) in plan.runs() {
            if known.contains(&key(&cell.id, &item.id, seed)) {
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
        let joules_before = self.joules();
        let mut sample = Sample::new(cell.id.clone(), item.id.clone(), seed);
        let mut prompt = String::new();
        for turn in &item.turns {
            prompt += turn;
            let request = v1::GenerateRequest { log_probs: true, ..self.request(cell, &prompt, seed) };
            match self.generate_with_retries(request).await {
                Ok(answer) => {
                    prompt += &answer.text;
                    add_answer(&mut sample, answer)?;
                }
                Err(status) => {
                    sample.verdict = unanswered(item, &status)?;
                    return Ok(sample);
                }
            }
        }
        sample.joules = joules_before.zip(self.joules()).map(|(before, after)| after - before);
        sample.verdict = judge(item, sample.answers.last());
        Ok(sample)
    }

    /// Retries while the orchestrator is busy: a temporary refusal says nothing about the method.
    async fn generate_with_retries(&mut self, request: v1::GenerateRequest) -> Result<Answer, Status> {
        for pause in [1, 2, 4, 8].map(Duration::from_secs) {
            match generate(&mut self.client, request.clone(), |_| ()).await {
                Err(status) if status.code() == Code::ResourceExhausted => {
                    tracing::warn!(message = status.message(), "the orchestrator is busy");
                    #[allow(clippy::disallowed_methods, reason = "backoff: no event reports free capacity")]
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

    /// The request for a prompt under a cell.
    pub(super) fn request(&self, cell: &CellSpec, prompt: &str, seed: u64) -> v1::GenerateRequest {
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
}

/// Cell, item and seed.
type Key = (String, String, u64);

fn key(cell: &str, item: &str, seed: u64) -> Key {
    (cell.to_owned(), item.to_owned(), seed)
}

fn sample_key(sample: &Sample) -> Key {
    key(&sample.cell, &sample.item, sample.seed)
}

fn progress_bar(planned: usize, known: usize) -> ProgressBar {
    let template = "{msg:20!} {wide_bar} {pos}/{len} samples, {eta} left";
    let bar = progress::ticking_bar(planned as u64, template).with_position(known as u64);
    // Samples of an earlier run took no time now, so the estimate must not count them.
    bar.reset_eta();
    bar
}

/// Adds the measurements of one turn.
fn add_answer(sample: &mut Sample, answer: Answer) -> anyhow::Result<()> {
    let statistics = answer.finished.statistics.unwrap_or_default();
    if answer.log_probs.len() != statistics.new_tokens as usize {
        bail!("the orchestrator returned no log-probabilities: it is older than this program");
    }
    sample.tokens += u64::from(statistics.new_tokens);
    sample.log_prob += answer.log_probs.iter().sum::<f64>();
    sample.iterations += u64::from(statistics.iterations);
    sample.accepted += u64::from(statistics.accepted_tokens);
    sample.asked += u64::from(statistics.asked_tokens);
    let depth = sample.accepted_by_depth.len().max(statistics.accepted_by_depth.len());
    sample.accepted_by_depth.resize(depth, 0);
    for (sum, &count) in sample.accepted_by_depth.iter_mut().zip(&statistics.accepted_by_depth) {
        *sum += u64::from(count);
    }
    sample.prefill_ms += statistics.prefill_ms;
    sample.draft_ms += statistics.draft_ms;
    sample.target_ms += statistics.target_ms;
    sample.orchestration_ms += statistics.orchestration_ms;
    sample.answers.push(answer.text);
    Ok(())
}

/// The verdict on a refused request. An unavailable orchestrator ends the evaluation instead.
fn unanswered(item: &Item, status: &Status) -> anyhow::Result<Verdict> {
    if status.code() == Code::Unavailable {
        bail!("the orchestrator is unavailable: {}", status.message());
    }
    Ok(item.judge.unanswered(format!("{:?}", status.code()), status.message().to_owned()))
}

fn judge(item: &Item, answer: Option<&String>) -> Verdict {
    let Some(answer) = answer else { return Verdict::Unjudged };
    // Judging may take seconds. Nothing else runs on this task meanwhile, and the services have their own threads.
    tokio::task::block_in_place(|| item.judge.judge(answer))
}
