//! Reading of the golden files.

use serde::Deserialize;
use serde::de::DeserializeOwned;

#[derive(Deserialize)]
struct File<C> {
    cases: Vec<C>,
}

/// The cases of a golden file, whose path `name` is relative to `crates/testkit/golden`.
pub(crate) fn cases<C: DeserializeOwned>(name: &str) -> Vec<C> {
    let path = format!("{}/../testkit/golden/{name}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).expect(&path);
    serde_json::from_str::<File<C>>(&text).expect(&path).cases
}

/// A number as the golden files write it: `null` is -inf, and NaN and +inf are the strings "nan" and "inf".
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(from = "Option<Written>")]
pub(crate) struct Num(pub(crate) f64);

/// The JSON value of a [`Num`], unless it is `null`.
#[derive(Deserialize)]
#[serde(untagged)]
pub(crate) enum Written {
    Number(f64),
    Name(String),
}

impl From<Option<Written>> for Num {
    fn from(written: Option<Written>) -> Self {
        Self(match written {
            None => f64::NEG_INFINITY,
            Some(Written::Number(x)) => x,
            Some(Written::Name(name)) => name.parse().expect("nan or inf"),
        })
    }
}

/// The values of `nums`.
pub(crate) fn floats(nums: &[Num]) -> Vec<f64> {
    nums.iter().map(|n| n.0).collect()
}
