//! Distributions of lengths in tokens, as given on the command line.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context, bail, ensure};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

/// A distribution of the lengths of prompts or answers, in tokens. A length is at least 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Lengths {
    /// Always the same length.
    Fixed(u32),
    /// Every length from `low` to `high` is equally likely, both included.
    Uniform { low: u32, high: u32 },
    /// Normally distributed, rounded, and limited to possible lengths.
    Normal { mean: f64, deviation: f64 },
}

/// Where prompts come from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum PromptTokens {
    /// The prompts of a file.
    Dataset,
    /// Random tokens of the vocabulary.
    Random(Lengths),
}

impl Lengths {
    /// The room that a length requires: the maximum, or the mean of a normal distribution, which has no maximum.
    pub(super) fn needed(self) -> u32 {
        match self {
            Self::Fixed(tokens) => tokens,
            Self::Uniform { high, .. } => high,
            Self::Normal { mean, .. } => mean.ceil() as u32,
        }
    }

    /// Draws a length from 1 to `max`.
    pub(super) fn draw(self, rng: &mut ChaCha8Rng, max: u32) -> u32 {
        let tokens = match self {
            Self::Fixed(tokens) => tokens,
            Self::Uniform { low, high } => rng.random_range(low..=high),
            Self::Normal { mean, deviation } => {
                let z: f64 = StandardNormal.sample(rng);
                // The conversion saturates at both ends.
                (mean + deviation * z).round() as u32
            }
        };
        tokens.clamp(1, max.max(1))
    }
}

impl FromStr for Lengths {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        if let Some(range) = text.strip_prefix("uniform:") {
            let (low, high) = range.split_once("..").context("write uniform:LO..HI, e.g. uniform:16..128")?;
            let low = tokens(low)?;
            let high = tokens(high)?;
            ensure!(
                low <= high,
                "{low} is above {high}: write the smaller number first, uniform:{high}..{low}"
            );
            return Ok(Self::Uniform { low, high });
        }
        if let Some(normal) = text.strip_prefix("normal:") {
            let (mean, deviation) =
                normal.split_once(',').context("write normal:MEAN,SD, e.g. normal:128,32")?;
            return Self::normal(number(mean)?, number(deviation)?);
        }
        tokens(text).map(Self::Fixed)
    }
}

impl Lengths {
    fn normal(mean: f64, deviation: f64) -> anyhow::Result<Self> {
        ensure!((1.0..=1e6).contains(&mean), "the mean is {mean}: it must be at least 1 token");
        ensure!(
            (0.0..=1e6).contains(&deviation),
            "the standard deviation is {deviation}: it must be at least 0"
        );
        Ok(Self::Normal { mean, deviation })
    }
}

fn tokens(text: &str) -> anyhow::Result<u32> {
    match text.trim().parse() {
        Ok(0) => bail!("the length is 0 tokens: it must be at least 1"),
        Ok(tokens) => Ok(tokens),
        Err(_) => bail!("{text:?} is not a number of tokens: write N, uniform:LO..HI or normal:MEAN,SD"),
    }
}

fn number(text: &str) -> anyhow::Result<f64> {
    text.trim().parse().with_context(|| format!("{text:?} is not a valid number: write normal:MEAN,SD"))
}

impl fmt::Display for Lengths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(tokens) => write!(f, "{tokens}"),
            Self::Uniform { low, high } => write!(f, "uniform:{low}..{high}"),
            Self::Normal { mean, deviation } => write!(f, "normal:{mean},{deviation}"),
        }
    }
}

impl FromStr for PromptTokens {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        if text == "dataset" { Ok(Self::Dataset) } else { text.parse().map(Self::Random) }
    }
}

impl fmt::Display for PromptTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dataset => f.write_str("dataset"),
            Self::Random(lengths) => lengths.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn lengths(text: &str) -> Lengths {
        text.parse().unwrap()
    }

    #[test]
    fn distributions_are_parsed_and_displayed() {
        assert_eq!(lengths("64"), Lengths::Fixed(64));
        assert_eq!(lengths("uniform:8..32"), Lengths::Uniform { low: 8, high: 32 });
        assert_eq!(lengths("normal:100,12.5"), Lengths::Normal { mean: 100.0, deviation: 12.5 });
        for text in ["64", "uniform:8..32", "normal:100,12.5"] {
            assert_eq!(lengths(text).to_string(), text);
        }
        assert_eq!("dataset".parse::<PromptTokens>().unwrap(), PromptTokens::Dataset);
        assert_eq!("7".parse::<PromptTokens>().unwrap(), PromptTokens::Random(Lengths::Fixed(7)));
    }

    #[test]
    fn invalid_distributions_are_rejected_with_the_correct_syntax() {
        for (text, said) in [
            ("0", "at least 1"),
            ("-3", "not a number of tokens"),
            ("many", "uniform:LO..HI"),
            ("uniform:8", "uniform:LO..HI"),
            ("uniform:0..8", "at least 1"),
            ("uniform:9..8", "uniform:8..9"),
            ("normal:5", "normal:MEAN,SD"),
            ("normal:0,1", "the mean is 0"),
            ("normal:5,-1", "the standard deviation is -1"),
            ("normal:NaN,1", "the mean is NaN"),
            ("normal:5,inf", "the standard deviation is inf"),
        ] {
            let error = text.parse::<Lengths>().unwrap_err().to_string();
            assert!(error.contains(said), "{text}: {error}");
        }
    }

    #[test]
    fn draws_follow_the_distribution_within_the_possible_lengths() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut draw = |text: &str, max: u32| -> Vec<u32> {
            (0..4000).map(|_| lengths(text).draw(&mut rng, max)).collect()
        };
        let mean = |drawn: &[u32]| drawn.iter().sum::<u32>() as f64 / drawn.len() as f64;

        let uniform = draw("uniform:3..5", 100);
        assert!((3..=5).all(|n| uniform.contains(&n)) && uniform.iter().all(|n| (3..=5).contains(n)));
        assert!((mean(&uniform) - 4.0).abs() < 0.1);

        let normal = draw("normal:50,10", 100);
        assert!((mean(&normal) - 50.0).abs() < 1.0);
        let within = normal.iter().filter(|n| (40..=60).contains(*n)).count();
        assert!((2600..3000).contains(&within), "{within} of 4000 within one standard deviation");

        // Half of a normal distribution is below its mean.
        assert!(draw("normal:1,50", 9).iter().all(|n| (1..=9).contains(n)));
        assert!(draw("64", 9).iter().all(|&n| n == 9));
    }
}
