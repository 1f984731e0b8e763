//! The fields of a JSON body: each is read, or refused by name; none is ignored.

use axum::http::StatusCode;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::error::ApiError;

/// Fields not yet read.
pub(super) struct Fields {
    /// Of a field within another one: `decoding.`
    prefix: String,
    all: Map<String, Value>,
}

/// A field of OpenAI's that cannot be honoured, and the values that ask for nothing.
pub(super) struct Unsupported {
    pub(super) name: &'static str,
    /// As JSON.
    pub(super) neutral: &'static [&'static str],
}

impl Fields {
    /// Reads a body.
    pub(super) fn parse(body: &[u8]) -> Result<Self, ApiError> {
        let refuse = |message| ApiError::request(StatusCode::BAD_REQUEST, message);
        let value: Value =
            serde_json::from_slice(body).map_err(|e| refuse(format!("the body is no JSON: {e}")))?;
        match value {
            Value::Object(all) => Ok(Self { prefix: String::new(), all }),
            _ => Err(refuse("the body is no JSON object".to_owned())),
        }
    }

    /// The fields of an object.
    pub(super) fn of(prefix: impl Into<String>, all: Map<String, Value>) -> Self {
        Self { prefix: prefix.into(), all }
    }

    /// The full name of a field.
    pub(super) fn name(&self, field: &str) -> String {
        format!("{}{field}", self.prefix)
    }

    /// A field; `null` is as good as absent.
    pub(super) fn take<T: DeserializeOwned>(&mut self, field: &str) -> Result<Option<T>, ApiError> {
        match self.all.remove(field) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => {
                let read = serde_json::from_value(value);
                read.map(Some).map_err(|e| ApiError::invalid(self.name(field), e))
            }
        }
    }

    /// An object within.
    pub(super) fn take_object(&mut self, field: &str) -> Result<Option<Self>, ApiError> {
        let object = self.take::<Map<String, Value>>(field)?;
        Ok(object.map(|all| Self::of(self.name(field) + ".", all)))
    }

    /// Refuses what is left: what is `unsupported` unless it asks for nothing, and what is not known at all. `harmless` fields change
    /// nothing about the text.
    pub(super) fn finish(self, unsupported: &[Unsupported], harmless: &[&str]) -> Result<(), ApiError> {
        for (field, value) in &self.all {
            let name = self.name(field);
            if value.is_null() || harmless.contains(&field.as_str()) {
                continue;
            }
            match unsupported.iter().find(|u| u.name == field) {
                Some(u) if u.neutral.iter().any(|n| same(n, value)) => {}
                Some(u) if u.neutral.is_empty() => {
                    return Err(ApiError::unsupported(name, "is not supported: leave it out"));
                }
                Some(u) => {
                    let message = format!("{value} is not supported, only {}", u.neutral.join(" or "));
                    return Err(ApiError::unsupported(name, message));
                }
                None => return Err(ApiError::unsupported(name, "is not known here: leave it out")),
            }
        }
        Ok(())
    }
}

/// Whether `value` is what `json` says; 0 and 0.0 are the same.
fn same(json: &str, value: &Value) -> bool {
    let Ok(neutral) = serde_json::from_str::<Value>(json) else { return false };
    neutral == *value || neutral.as_f64().is_some_and(|n| value.as_f64() == Some(n))
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNSUPPORTED: [Unsupported; 2] =
        [Unsupported { name: "penalty", neutral: &["0"] }, Unsupported { name: "tools", neutral: &[] }];

    fn refused(json: &str) -> Option<String> {
        let fields = Fields::parse(json.as_bytes()).unwrap();
        let error = fields.finish(&UNSUPPORTED, &["user"]).err()?;
        Some(error.body()["error"]["message"].as_str().unwrap().to_owned())
    }

    #[test]
    fn what_is_left_is_refused_unless_it_asks_for_nothing() {
        assert_eq!(refused(r#"{"user": "me", "penalty": 0.0, "tools": null}"#), None);
        assert_eq!(refused(r#"{"penalty": 1}"#).unwrap(), "penalty: 1 is not supported, only 0");
        assert_eq!(refused(r#"{"tools": []}"#).unwrap(), "tools: is not supported: leave it out");
        assert_eq!(refused(r#"{"temprature": 1}"#).unwrap(), "temprature: is not known here: leave it out");
    }

    #[test]
    fn a_value_of_the_wrong_type_is_named() {
        let mut fields = Fields::parse(br#"{"a": "x", "b": {"c": 1.5}, "d": null}"#).unwrap();
        let message = |e: ApiError| e.body()["error"]["message"].as_str().unwrap().to_owned();
        assert_eq!(
            message(fields.take::<u32>("a").unwrap_err()),
            "a: invalid type: string \"x\", expected u32"
        );
        let mut within = fields.take_object("b").unwrap().unwrap();
        assert!(message(within.take::<u32>("c").unwrap_err()).starts_with("b.c: "));
        assert_eq!(fields.take::<u32>("d").unwrap(), None);
        assert!(
            Fields::parse(b"[1]").is_err() && Fields::parse(b"{").is_err() && Fields::parse(b"\xff").is_err()
        );
    }
}
