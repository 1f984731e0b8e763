//! Flags.

use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use crate::programs::Programs;

/// Kill, stop and drain the workers of a running system at random, and check that no client notices
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) programs: Programs,

    /// Draft workers
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=16))]
    pub(crate) drafts: u32,

    /// Target workers
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=16))]
    pub(crate) targets: u32,

    /// Streams at a time; when one has finished, the next one starts
    #[arg(long, default_value_t = 32, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) streams: u32,

    /// Different prompts, each of which runs with every method
    #[arg(long, default_value_t = 8, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=600))]
    pub(crate) prompts: u32,

    /// Tokens of each sequence
    #[arg(long, default_value_t = 48, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256))]
    pub(crate) max_new_tokens: u32,

    /// Faults in all
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub(crate) faults: u64,

    /// Milliseconds from one fault to the next, drawn from this range
    #[arg(long, default_value = "100..600", value_name = "LO..HI")]
    pub(crate) pause_ms: PauseRange,

    /// Chooses faults and requests, but not which requests a fault hits: that depends on timing [default: drawn and printed]
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,

    /// Print every fault when it begins
    #[arg(long)]
    pub(crate) verbose: bool,
}

/// `LO..HI`, both included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PauseRange(pub(crate) RangeInclusive<u64>);

impl FromStr for PauseRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let range = text.split_once("..").and_then(|(low, high)| {
            let low: u64 = low.parse().ok()?;
            let high: u64 = high.parse().ok()?;
            (low <= high).then_some(low..=high)
        });
        let invalid =
            || format!("{text:?} is not a valid range: write it like 100..600, the smaller number first");
        range.map(Self).ok_or_else(invalid)
    }
}

impl Args {
    /// How long a session without steps stays open on a worker.
    pub(crate) fn lease(&self) -> Duration {
        Duration::from_secs(5)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_two_numbers_in_order() {
        assert_eq!("100..600".parse(), Ok(PauseRange(100..=600)));
        assert_eq!("5..5".parse(), Ok(PauseRange(5..=5)));
        for nonsense in ["", "5", "6..5", "-1..5", "1..x", "1...5", "1..=5"] {
            assert!(nonsense.parse::<PauseRange>().is_err(), "{nonsense}");
        }
    }
}
