//! Flags.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;

/// Where the models of this repository are.
const MODELS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/demo");

/// Kill, stop and drain the workers of a running system at random, and check that nobody notices
#[derive(Clone, Debug, Parser)]
pub(crate) struct Args {
    /// Directory of tandem-draft, tandem-target and tandem-orchestrator [default: the one of this program]
    #[arg(long, value_name = "DIR")]
    pub(crate) bin_dir: Option<PathBuf>,

    /// Directory with a model in draft/, one in target/, and prompts in data/sql_eval.jsonl
    #[arg(long, default_value = MODELS, hide_default_value = true, value_name = "DIR")]
    pub(crate) models: PathBuf,

    /// Draft workers
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=16))]
    pub(crate) drafts: u32,

    /// Target workers
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=16))]
    pub(crate) targets: u32,

    /// Streams at a time, each of which asks again when it has finished
    #[arg(long, default_value_t = 32, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) streams: u32,

    /// Different prompts, each of which is asked for by every method
    #[arg(long, default_value_t = 8, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=600))]
    pub(crate) prompts: u32,

    /// Tokens of each text
    #[arg(long, default_value_t = 48, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256))]
    pub(crate) max_new_tokens: u32,

    /// Faults in all
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub(crate) faults: u64,

    /// Milliseconds from one fault to the next at least, drawn between these
    #[arg(long, default_value = "100..600", value_name = "LO..HI")]
    pub(crate) pause_ms: Span,

    /// Chooses faults and requests, but not what they meet: that is timing [default: drawn and told]
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,

    /// Say every fault when it begins
    #[arg(long)]
    pub(crate) verbose: bool,
}

/// `LO..HI`, both included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Span(pub(crate) RangeInclusive<u64>);

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let no_span = || format!("{text:?} is no span: write it like 100..600, the smaller number first");
        let (low, high) = text.split_once("..").ok_or_else(no_span)?;
        let number = |text: &str| text.parse().map_err(|_| no_span());
        let (low, high) = (number(low)?, number(high)?);
        if low <= high { Ok(Self(low..=high)) } else { Err(no_span()) }
    }
}

impl Args {
    /// How long a session that nobody names stays on a worker.
    pub(crate) fn lease(&self) -> Duration {
        Duration::from_secs(5)
    }

    /// One of the services.
    pub(crate) fn binary(&self, name: &str) -> anyhow::Result<PathBuf> {
        let own = || {
            let own = std::env::current_exe().context("this program does not know where it is")?;
            Ok::<_, anyhow::Error>(own.parent().map(PathBuf::from).unwrap_or_default())
        };
        let dir = self.bin_dir.clone().map_or_else(own, Ok)?;
        let path = dir.join(name);
        anyhow::ensure!(
            path.is_file(),
            "{} is not there: build it with `cargo build --workspace --bins`, or name its directory with --bin-dir",
            path.display()
        );
        Ok(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_two_numbers_in_order() {
        assert_eq!("100..600".parse(), Ok(Span(100..=600)));
        assert_eq!("5..5".parse(), Ok(Span(5..=5)));
        for nonsense in ["", "5", "6..5", "-1..5", "1..x", "1...5", "1..=5"] {
            assert!(nonsense.parse::<Span>().is_err(), "{nonsense}");
        }
    }
}
