//! Tandem's own object `decoding`: how candidates are proposed and accepted.

use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use tandem_decoding::{DecodingParams, Expansion, Method, Reference};
use utoipa::ToSchema;
use utoipa::openapi::schema::{Object, ObjectBuilder, Type};

use super::fields::{Unknown, refuse_unknown};
use crate::api::openai::error::ApiError;

/// Tandem's own: how candidates are proposed and accepted.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(expecting = "an object")]
pub(super) struct DecodingOptions {
    #[serde(default, deserialize_with = "named")]
    #[schema(schema_with = methods)]
    method: Option<Method>,
    /// B: beams per depth.
    #[schema(default = 4, minimum = 1, maximum = 32)]
    beam_width: Option<u32>,
    /// γ: depth of the draft. SpecInfer reads `branching` instead.
    #[schema(default = 4, minimum = 1, maximum = 32)]
    draft_tokens: Option<u32>,
    /// τ, of MTAD and MMTAD.
    #[schema(default = 0.5, exclusive_minimum = 0, maximum = 1)]
    acceptance_threshold: Option<f64>,
    #[serde(default, deserialize_with = "named")]
    #[schema(schema_with = expansions)]
    beams: Option<Expansion>,
    #[serde(default, deserialize_with = "named")]
    #[schema(schema_with = references)]
    reference: Option<Reference>,
    /// For SpecInfer: children per node, by depth. The default is `[4, 2, 2]`.
    branching: Option<Vec<u32>>,
    /// Returns the origin of every token, and the token tree of every iteration.
    #[schema(default = false)]
    trace: Option<bool>,
    #[serde(flatten)]
    #[schema(ignore)]
    unknown: Unknown,
}

impl DecodingOptions {
    /// The parameters, without branching factors.
    pub(super) fn params(&self) -> Result<DecodingParams, ApiError> {
        refuse_unknown("decoding.", &self.unknown)?;
        let default = DecodingParams::default();
        Ok(DecodingParams {
            method: self.method.unwrap_or(default.method),
            beam_width: self.beam_width.map_or(default.beam_width, |width| width as usize),
            draft_tokens: self.draft_tokens.map_or(default.draft_tokens, |depth| depth as usize),
            acceptance_threshold: self.acceptance_threshold.unwrap_or(default.acceptance_threshold),
            expansion: self.beams.unwrap_or(default.expansion),
            reference: self.reference.unwrap_or(default.reference),
            branching: default.branching,
        })
    }

    /// The branching factors, if any are given. An empty list gives none.
    pub(super) fn branching(&self) -> Option<Vec<usize>> {
        let given = self.branching.as_ref().filter(|branching| !branching.is_empty())?;
        Some(given.iter().map(|&children| children as usize).collect())
    }

    /// Whether iterations are reported.
    pub(super) fn trace(&self) -> bool {
        self.trace.unwrap_or(false)
    }
}

/// A value that is given by its name; the error lists the names.
fn named<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: fmt::Display>,
{
    match Option::<String>::deserialize(deserializer)? {
        Some(name) => name.parse().map(Some).map_err(D::Error::custom),
        None => Ok(None),
    }
}

fn methods() -> Object {
    names(Method::ALL.map(Method::name), "mmtad", "The method.")
}

fn expansions() -> Object {
    let description = "How beams are chosen; for rejection sampling, how candidates are drawn. `sampled` is without replacement.";
    names(Expansion::ALL.map(Expansion::name), "sampled", description)
}

fn references() -> Object {
    let description =
        "For MMTAD: the Q that P is compared with, that of the best beam or the largest of the depth.";
    names(Reference::ALL.map(Reference::name), "best-beam", description)
}

/// The schema of a field that is one of several names.
fn names<const N: usize>(names: [&'static str; N], default: &'static str, description: &str) -> Object {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .enum_values(Some(names))
        .default(Some(default.into()))
        .description(Some(description))
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_has_the_defaults_of_the_domain() {
        let default = DecodingParams::default();
        assert_eq!(methods().default, Some(default.method.name().into()));
        assert_eq!(expansions().default, Some(default.expansion.name().into()));
        assert_eq!(references().default, Some(default.reference.name().into()));
    }
}
