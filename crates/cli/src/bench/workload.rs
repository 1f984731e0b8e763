//! The requests and their arrival times.
//!
//! Everything is a function of the seed: request `n` is the same at every level and for every method.

use std::time::Duration;

use anyhow::ensure;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Exp1};
use tandem_proto::v1;
use tandem_proto::v1::generate_request::Input;

use super::args::Args;
use super::lengths::{Lengths, PromptTokens};

/// Creates requests.
#[derive(Clone, Debug)]
pub(super) struct Workload {
    prompts: Prompts,
    output_tokens: Lengths,
    sampling: v1::Sampling,
    seed: u64,
    context_length: u32,
}

#[derive(Clone, Debug)]
enum Prompts {
    /// Used in turn.
    Given(Vec<String>),
    Random {
        lengths: Lengths,
        vocab_size: u32,
    },
}

/// The random stream of the arrivals. Request `n` uses stream `n`, and no request has a number this high.
const ARRIVAL_STREAM: u64 = u64::MAX;

impl Workload {
    /// A workload that fits into the context of `models`.
    pub(super) fn new(
        args: &Args,
        prompts: Vec<String>,
        models: &v1::GetStatusResponse,
    ) -> anyhow::Result<Self> {
        let context = models.context_length;
        let output = args.output_tokens.needed();
        let prompts = match args.prompt_tokens {
            PromptTokens::Dataset => {
                ensure!(
                    output < context,
                    "--output-tokens {} leaves no room for a prompt: the models have a context of {context} tokens",
                    args.output_tokens
                );
                Prompts::Given(prompts)
            }
            PromptTokens::Random(lengths) => {
                let needed = lengths.needed().saturating_add(output);
                ensure!(
                    needed <= context,
                    "--prompt-tokens {lengths} and --output-tokens {} need {needed} tokens, but the models have a \
                     context of {context}: request fewer",
                    args.output_tokens
                );
                ensure!(
                    models.vocab_size > 0,
                    "the orchestrator does not report a vocabulary to draw prompts from"
                );
                Prompts::Random { lengths, vocab_size: models.vocab_size }
            }
        };
        let sampling = args.sampling()?.into();
        Ok(Self {
            prompts,
            output_tokens: args.output_tokens,
            sampling,
            seed: args.seed,
            context_length: context,
        })
    }

    /// Request `number`. Given prompts are used in turn; everything else is drawn.
    pub(super) fn request(&self, number: u64, decoding: &v1::DecodingParams) -> v1::GenerateRequest {
        let mut rng = stream(self.seed, number);
        let max = self.context_length.saturating_sub(1);
        let (input, room) = match &self.prompts {
            // Their numbers of tokens are not known here: the orchestrator shortens an answer without enough room.
            Prompts::Given(prompts) => {
                let turn = (number % prompts.len() as u64) as usize;
                (Input::Prompt(prompts[turn].clone()), max)
            }
            Prompts::Random { lengths, vocab_size } => {
                let tokens = lengths.draw(&mut rng, max);
                let ids = (0..tokens).map(|_| rng.random_range(0..*vocab_size)).collect();
                (Input::Tokens(v1::TokenIds { ids }), self.context_length - tokens)
            }
        };
        v1::GenerateRequest {
            input: Some(input),
            max_new_tokens: Some(self.output_tokens.draw(&mut rng, room)),
            temperature: Some(self.sampling.temperature),
            top_k: Some(self.sampling.top_k),
            top_p: Some(self.sampling.top_p),
            seed: Some(rng.next_u64()),
            ignore_eos: true,
            decoding: Some(decoding.clone()),
            ..v1::GenerateRequest::default()
        }
    }

    /// Arrival times of the requests of an open loop.
    pub(super) fn arrivals(&self, rate_per_s: f64) -> Arrivals {
        Arrivals { rng: stream(self.seed, ARRIVAL_STREAM), rate_per_s, at_s: 0.0 }
    }
}

fn stream(seed: u64, number: u64) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(number);
    rng
}

/// The arrival times of a Poisson process, since the start: gaps are independent and exponentially distributed.
#[derive(Clone, Debug)]
pub(super) struct Arrivals {
    rng: ChaCha8Rng,
    rate_per_s: f64,
    at_s: f64,
}

impl Iterator for Arrivals {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let gap: f64 = Exp1.sample(&mut self.rng);
        self.at_s += gap / self.rate_per_s;
        Duration::try_from_secs_f64(self.at_s).ok()
    }
}

#[cfg(test)]
mod tests {
    use tandem_decoding::Sampling;

    use super::*;

    fn workload(prompts: Prompts, seed: u64) -> Workload {
        let output_tokens = Lengths::Uniform { low: 4, high: 9 };
        Workload { prompts, output_tokens, sampling: Sampling::UNWARPED.into(), seed, context_length: 100 }
    }

    fn request(workload: &Workload, number: u64) -> v1::GenerateRequest {
        workload.request(number, &v1::DecodingParams::default())
    }

    #[test]
    fn gaps_between_arrivals_are_exponentially_distributed() {
        let arrivals = workload(Prompts::Given(vec![]), 3).arrivals(50.0);
        let times: Vec<f64> = arrivals.take(20_000).map(|at| at.as_secs_f64()).collect();
        let gaps: Vec<f64> =
            std::iter::once(&0.0).chain(&times).zip(&times).map(|(before, at)| at - before).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        assert!((mean * 50.0 - 1.0).abs() < 0.03, "mean gap {mean} s");
        assert!((variance.sqrt() / mean - 1.0).abs() < 0.03, "deviation {} s", variance.sqrt());
        assert!(gaps.iter().all(|&gap| gap >= 0.0));
    }

    #[test]
    fn a_request_is_a_function_of_seed_and_number() {
        let random =
            Prompts::Random { lengths: Lengths::Normal { mean: 20.0, deviation: 8.0 }, vocab_size: 7 };
        let (first, again, other) =
            (workload(random.clone(), 1), workload(random.clone(), 1), workload(random, 2));
        for number in 0..200 {
            let made = request(&first, number);
            assert_eq!(made, request(&again, number));
            assert_ne!(made, request(&other, number));
            assert_ne!(made.seed, request(&first, number + 1).seed);
            let Some(Input::Tokens(tokens)) = made.input else { panic!("no tokens") };
            assert!(tokens.ids.iter().all(|&id| id < 7) && !tokens.ids.is_empty());
            assert!((4..=9).contains(&made.max_new_tokens.unwrap()));
        }
        assert!(first.arrivals(1.0).take(5).eq(again.arrivals(1.0).take(5)));
        assert!(first.arrivals(1.0).take(5).ne(other.arrivals(1.0).take(5)));
    }

    #[test]
    fn given_prompts_are_used_in_turn_and_long_ones_leave_room_for_a_token() {
        let given = workload(Prompts::Given(vec!["a".into(), "b".into()]), 0);
        let inputs = [0, 1, 2].map(|n| request(&given, n).input.unwrap());
        assert_eq!(inputs, ["a", "b", "a"].map(|prompt| Input::Prompt(prompt.into())));
        let long =
            Prompts::Random { lengths: Lengths::Normal { mean: 90.0, deviation: 50.0 }, vocab_size: 7 };
        let long = workload(long, 0);
        for number in 0..200 {
            let made = request(&long, number);
            let Some(Input::Tokens(tokens)) = made.input else { panic!("no tokens") };
            assert!(tokens.ids.len() as u32 + made.max_new_tokens.unwrap() <= 100);
        }
    }
}
