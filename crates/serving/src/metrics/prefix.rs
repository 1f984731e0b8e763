//! A prefix of metric names.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// A prefix of metric names, such as `vllm:`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetricsPrefix(String);

/// Why a text is not a [`MetricsPrefix`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "{0:?} is not a valid prefix of metric names: use letters, digits, _ and :, and no digit first, as in vllm:"
)]
pub struct InvalidMetricsPrefix(String);

impl FromStr for MetricsPrefix {
    type Err = InvalidMetricsPrefix;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let may_be_first = |c: char| c.is_ascii_alphabetic() || c == '_' || c == ':';
        let may_follow = |c: char| may_be_first(c) || c.is_ascii_digit();
        if text.starts_with(may_be_first) && text.chars().all(may_follow) {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidMetricsPrefix(text.to_owned()))
        }
    }
}

impl fmt::Display for MetricsPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_beginnings_of_names() {
        assert_eq!("vllm:".parse::<MetricsPrefix>().unwrap().to_string(), "vllm:");
        for invalid in ["", "1a", "a b", "ä", "a-"] {
            assert!(invalid.parse::<MetricsPrefix>().is_err(), "{invalid}");
        }
    }
}
