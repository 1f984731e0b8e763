//! How many tokens: a distribution, as given on the command line.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context, bail, ensure};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng;
use rand_distr::{Distribution, StandardNormal};

/// Of prompts or answers, in tokens; at least 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Lengths {
    /// Always as many.
    Fixed(u32),
    /// Each of these is as likely, the ends included.
    Uniform { low: u32, high: u32 },
    /// Rounded, and cut off where a length is impossible.
    Normal { mean: f64, deviation: f64 },
}

/// What prompts consist of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum PromptTokens {
    /// The questions of the prompts' file.
    Dataset,
    /// As many tokens drawn from the vocabulary.
    Random(Lengths),
}

impl Lengths {
    /// What a text must have room for: the longest, or of the normal distribution, which has none, the mean.
    pub(super) fn needed(self) -> u32 {
        match self {
            Self::Fixed(tokens) => tokens,
            Self::Uniform { high, .. } => high,
            Self::Normal { mean, .. } => mean.ceil() as u32,
        }
    }

    /// A length of 1 to `most`.
    pub(super) fn draw(self, rng: &mut ChaCha8Rng, most: u32) -> u32 {
        let tokens = match self {
            Self::Fixed(tokens) => tokens,
            Self::Uniform { low, high } => {
                let lengths = u64::from(high - low) + 1;
                low + (rng.next_u64() % lengths) as u32
            }
            Self::Normal { mean, deviation } => {
                let z: f64 = StandardNormal.sample(rng);
                // Saturates at both ends.
                (mean + deviation * z).round() as u32
            }
        };
        tokens.clamp(1, most.max(1))
    }
}

impl FromStr for Lengths {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        if let Some(range) = text.strip_prefix("uniform:") {
            let (low, high) = range.split_once("..").context("write uniform:LO..HI, e.g. uniform:16..128")?;
            let (low, high) = (tokens(low)?, tokens(high)?);
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
        Ok(0) => bail!("0 tokens: it must be at least 1"),
        Ok(tokens) => Ok(tokens),
        Err(_) => bail!("{text:?} is no number of tokens: write N, uniform:LO..HI or normal:MEAN,SD"),
    }
}

fn number(text: &str) -> anyhow::Result<f64> {
    text.trim().parse().with_context(|| format!("{text:?} is no number: write normal:MEAN,SD"))
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
    use rand_chacha::rand_core::SeedableRng;

    use super::*;

    fn lengths(text: &str) -> Lengths {
        text.parse().unwrap()
    }

    #[test]
    fn distributions_are_read_as_written() {
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
    fn nonsense_is_refused_with_what_to_write() {
        for (text, said) in [
            ("0", "at least 1"),
            ("-3", "no number of tokens"),
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
    fn draws_are_of_the_distribution_and_within_what_is_possible() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut draw = |text: &str, most: u32| -> Vec<u32> {
            (0..4000).map(|_| lengths(text).draw(&mut rng, most)).collect()
        };
        let mean = |drawn: &[u32]| drawn.iter().sum::<u32>() as f64 / drawn.len() as f64;

        let uniform = draw("uniform:3..5", 100);
        assert!((3..=5).all(|n| uniform.contains(&n)) && uniform.iter().all(|n| (3..=5).contains(n)));
        assert!((mean(&uniform) - 4.0).abs() < 0.1);

        let normal = draw("normal:50,10", 100);
        assert!((mean(&normal) - 50.0).abs() < 1.0);
        let within = normal.iter().filter(|n| (40..=60).contains(*n)).count();
        assert!((2600..3000).contains(&within), "{within} of 4000 within one standard deviation");

        // Half of a normal distribution around 1 lies below it.
        assert!(draw("normal:1,50", 9).iter().all(|n| (1..=9).contains(n)));
        assert!(draw("64", 9).iter().all(|&n| n == 9));
    }
}
