//! Reads the golden files.

use serde::Deserialize;
use serde::de::DeserializeOwned;

#[derive(Deserialize)]
struct File<C> {
    cases: Vec<C>,
}

pub(crate) fn cases<C: DeserializeOwned>(name: &str) -> Vec<C> {
    let path = format!("{}/../testkit/golden/{name}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).expect(&path);
    serde_json::from_str::<File<C>>(&text).expect(&path).cases
}

/// Numbers as the golden files write them: `null` is -inf; "nan" and "inf" are strings.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(from = "Option<Written>")]
pub(crate) struct Num(pub(crate) f64);

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

pub(crate) fn floats(nums: &[Num]) -> Vec<f64> {
    nums.iter().map(|n| n.0).collect()
}
