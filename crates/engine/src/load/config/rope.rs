//! The rotary settings of `config.json`.
//!
//! Older checkpoints have `rope_theta` and `rope_scaling`; newer ones have both in `rope_parameters`. A file may
//! have both forms if they say the same: programs differ in which of the two they read.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::model_config::{Positions, RopeScaling};

/// Base of the frequencies if no field states it.
const DEFAULT_THETA: f32 = 10_000.0;

/// The rotary fields of `config.json`.
pub(super) struct RopeFields<'a> {
    pub(super) theta: Option<f32>,
    pub(super) scaling: Option<&'a Value>,
    pub(super) parameters: Option<&'a Value>,
    pub(super) partial_factor: Option<f64>,
}

/// The content of `rope_scaling` or `rope_parameters`.
#[derive(Deserialize)]
struct Parameters {
    rope_type: Option<String>,
    /// The older name of `rope_type`.
    #[serde(rename = "type")]
    old_type: Option<String>,
    rope_theta: Option<f32>,
    partial_rotary_factor: Option<f64>,
    #[serde(flatten)]
    others: BTreeMap<String, Value>,
}

/// The numbers of `rope_type` llama3.
#[derive(Deserialize)]
struct Llama3 {
    factor: f32,
    low_freq_factor: f32,
    high_freq_factor: f32,
    original_max_position_embeddings: usize,
}

/// What one of the fields says.
struct Stated {
    theta: Option<f32>,
    scaling: Option<RopeScaling>,
}

impl RopeFields<'_> {
    /// How positions enter the computation. The error says which field requires arithmetic that the decoder
    /// does not implement, or which fields contradict each other.
    pub(super) fn positions(&self) -> Result<Positions, String> {
        check_partial("partial_rotary_factor", self.partial_factor)?;
        let old = stated("rope_scaling", self.scaling)?;
        let new = stated("rope_parameters", self.parameters)?;
        let theta = one_theta([
            ("rope_theta", self.theta),
            ("rope_theta in rope_scaling", old.as_ref().and_then(|stated| stated.theta)),
            ("rope_theta in rope_parameters", new.as_ref().and_then(|stated| stated.theta)),
        ])?;
        let scaling = match (old, new) {
            (Some(old), Some(new)) if old.scaling != new.scaling => {
                return Err(
                    "rope_scaling and rope_parameters contradict each other: remove the field that is \
                            not that of the model"
                        .into(),
                );
            }
            (old, new) => new.or(old).and_then(|stated| stated.scaling),
        };
        Ok(Positions::Rotary { theta, scaling })
    }
}

/// The one value that all fields state.
fn one_theta(fields: [(&str, Option<f32>); 3]) -> Result<f32, String> {
    let mut stated = fields.into_iter().filter_map(|(name, theta)| Some((name, theta?)));
    let Some((name, theta)) = stated.next() else { return Ok(DEFAULT_THETA) };
    if !theta.is_finite() || theta <= 0.0 {
        return Err(format!("{name} is {theta}: it must be a positive number"));
    }
    match stated.find(|(_, other)| *other != theta) {
        Some((other_name, other)) => Err(format!(
            "{name} is {theta}, but {other_name} is {other}: remove the one that is not that of the model"
        )),
        None => Ok(theta),
    }
}

/// What the field `name` says; `None` if it is absent or null.
fn stated(name: &str, value: Option<&Value>) -> Result<Option<Stated>, String> {
    let Some(value) = value.filter(|value| !value.is_null()) else { return Ok(None) };
    let parameters =
        Parameters::deserialize(value).map_err(|error| format!("{name} {value} is not valid: {error}"))?;
    check_partial(&format!("partial_rotary_factor in {name}"), parameters.partial_rotary_factor)?;
    let scaling = match parameters.rope_type.as_deref().or(parameters.old_type.as_deref()) {
        Some("default") => None,
        Some("llama3") => Some(llama3(name, value)?),
        Some(_) => {
            return Err(format!("{name} {value} is not supported: only default and llama3 are"));
        }
        None => {
            parameters.check_default(name)?;
            None
        }
    };
    Ok(Some(Stated { theta: parameters.rope_theta, scaling }))
}

impl Parameters {
    /// Parameters without a type are those of the type default, which has no others. The original context is
    /// stated with some types, but does not change a frequency by itself.
    fn check_default(&self, name: &str) -> Result<(), String> {
        let mut others = self.others.iter().filter(|(other, _)| *other != "original_max_position_embeddings");
        match others.find(|(_, value)| !value.is_null()) {
            Some((other, _)) => Err(format!(
                "{name} has {other} but no rope_type: add the rope_type that the model was trained with, of \
                 which default and llama3 are supported"
            )),
            None => Ok(()),
        }
    }
}

fn llama3(name: &str, value: &Value) -> Result<RopeScaling, String> {
    let llama3 =
        Llama3::deserialize(value).map_err(|error| format!("{name} {value} is not valid: {error}"))?;
    let factors = [llama3.factor, llama3.low_freq_factor, llama3.high_freq_factor];
    let positive = factors.iter().all(|factor| factor.is_finite() && *factor > 0.0);
    if !positive || llama3.low_freq_factor >= llama3.high_freq_factor {
        return Err(format!(
            "{name} {value} is not valid: factors must be positive, and low_freq_factor below high_freq_factor"
        ));
    }
    if llama3.original_max_position_embeddings == 0 {
        return Err(format!("{name} {value} is not valid: original_max_position_embeddings is 0"));
    }
    Ok(RopeScaling::Llama3 {
        factor: llama3.factor,
        low_freq_factor: llama3.low_freq_factor,
        high_freq_factor: llama3.high_freq_factor,
        original_context: llama3.original_max_position_embeddings,
    })
}

fn check_partial(name: &str, factor: Option<f64>) -> Result<(), String> {
    match factor.filter(|&factor| factor != 1.0) {
        Some(factor) => {
            Err(format!("{name} {factor} is not supported: only 1 is, with which whole heads are rotated"))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn positions(theta: Option<f32>, scaling: &Value, parameters: &Value) -> Result<Positions, String> {
        let fields =
            RopeFields { theta, scaling: Some(scaling), parameters: Some(parameters), partial_factor: None };
        fields.positions()
    }

    /// A scaling that is supported, as the object of either form, without `rope_theta`.
    fn supported() -> impl Strategy<Value = Value> {
        let llama3 =
            (1u32..64, 1u32..8, 1u32..8, 1usize..100_000).prop_map(|(factor, low, more, original)| {
                json!({
                    "rope_type": "llama3", "factor": factor, "low_freq_factor": low,
                    "high_freq_factor": low + more, "original_max_position_embeddings": original
                })
            });
        prop_oneof![Just(Value::Null), Just(json!({ "rope_type": "default" })), Just(json!({})), llama3]
    }

    fn with_theta(scaling: &Value, theta: Option<f32>) -> Value {
        let mut parameters = scaling.as_object().cloned().unwrap_or_default();
        parameters.extend(theta.map(|theta| ("rope_theta".to_owned(), theta.into())));
        parameters.into()
    }

    proptest! {
        #[test]
        fn both_forms_say_the_same(scaling in supported(), theta in prop::option::of(1f32..1e9)) {
            let old = positions(theta, &scaling, &Value::Null);
            prop_assert!(old.is_ok());
            let parameters = with_theta(&scaling, theta);
            prop_assert_eq!(&positions(None, &Value::Null, &parameters), &old);
            // Both at once, as some checkpoints have them for old and new programs.
            let scaling = if scaling.is_null() { json!({}) } else { scaling };
            prop_assert_eq!(&positions(theta, &scaling, &parameters), &old);
        }

        #[test]
        fn another_theta_is_refused(theta in 1f32..1e9, other in 1f32..1e9) {
            prop_assume!(theta != other);
            let error = positions(Some(theta), &Value::Null, &json!({ "rope_theta": other })).unwrap_err();
            let expected = format!("rope_theta is {theta}, but rope_theta in rope_parameters is {other}");
            prop_assert!(error.starts_with(&expected), "{}", error);
        }
    }

    #[test]
    fn parameters_without_a_type_are_default() {
        let theta = Positions::Rotary { theta: 5e5, scaling: None };
        assert_eq!(positions(None, &Value::Null, &json!({ "rope_theta": 5e5 })), Ok(theta.clone()));
        let whole =
            json!({ "rope_theta": 5e5, "partial_rotary_factor": 1.0, "rope_type": null, "factor": null });
        assert_eq!(positions(None, &Value::Null, &whole), Ok(theta.clone()));
        // A checkpoint that states the older name of the type beside the newer one.
        let both = json!({ "rope_theta": 5e5, "rope_type": "default", "type": "linear" });
        assert_eq!(positions(None, &Value::Null, &both), Ok(theta));
    }

    #[test]
    fn what_is_not_supported_is_named() {
        let llama3 = json!({
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192
        });
        let cases = [
            (json!({ "rope_type": "yarn", "factor": 2.0 }), "only default and llama3 are"),
            (json!({ "type": "linear", "factor": 2.0 }), "only default and llama3 are"),
            (json!({ "rope_theta": 1e4, "factor": 2.0 }), "rope_parameters has factor but no rope_type"),
            (json!({ "full_attention": { "rope_theta": 1e6 } }), "has full_attention but no rope_type"),
            (
                json!({ "rope_theta": 1e4, "partial_rotary_factor": 0.5 }),
                "partial_rotary_factor in rope_parameters 0.5 is not supported: only 1 is",
            ),
            (json!({ "rope_type": "llama3", "factor": 8.0 }), "missing field `low_freq_factor`"),
            (llama3, "low_freq_factor below high_freq_factor"),
            (json!("default"), "is not valid: invalid type"),
            (json!({ "rope_theta": 0 }), "rope_theta in rope_parameters is 0: it must be a positive number"),
        ];
        for (parameters, expected) in cases {
            let error = positions(None, &Value::Null, &parameters).unwrap_err();
            assert!(error.contains(expected), "{parameters}: {expected:?} is not in {error:?}");
        }
        let other = positions(
            None,
            &json!({ "rope_type": "default" }),
            &json!({
                "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192
            }),
        );
        assert!(other.unwrap_err().starts_with("rope_scaling and rope_parameters contradict each other"));
    }
}
