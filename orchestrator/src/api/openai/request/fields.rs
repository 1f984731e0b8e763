//! Reads the fields of a JSON object in groups, one struct each, and refuses those that no group has.

use axum::http::StatusCode;
use serde::de::{DeserializeOwned, Deserializer, Error as _, Visitor};
use serde_json::{Error, Map, Value};

use crate::api::openai::error::ApiError;

/// The fields of a body that no struct has taken yet.
pub(super) struct Fields(Map<String, Value>);

/// Fields that a struct does not know: `#[serde(flatten)]` collects them.
pub(super) type Unknown = Map<String, Value>;

impl Fields {
    /// Parses a body.
    pub(super) fn parse(body: &[u8]) -> Result<Self, ApiError> {
        let invalid = |message: String| ApiError::request(StatusCode::BAD_REQUEST, message);
        match serde_json::from_slice(body) {
            Ok(Value::Object(fields)) => Ok(Self(fields)),
            Ok(_) => Err(invalid("the body is not a JSON object".to_owned())),
            Err(error) => Err(invalid(format!("the body is not valid JSON: {error}"))),
        }
    }

    /// Takes the fields of the struct `T` out. A value of another type is reported with its path.
    ///
    /// With `#[serde(flatten)]` for the groups, serde would buffer the values and lose their paths.
    pub(super) fn take<T: DeserializeOwned>(&mut self) -> Result<T, ApiError> {
        serde_path_to_error::deserialize(Taker(&mut self.0)).map_err(|error| {
            ApiError::invalid(error.path().to_string(), format!("is not valid: {}", error.inner()))
        })
    }

    /// Refuses the fields that are left.
    pub(super) fn finish(self) -> Result<(), ApiError> {
        refuse_unknown("", &self.0)
    }
}

/// Refuses the fields of an object at `path`, unless they are null.
pub(super) fn refuse_unknown(path: &str, unknown: &Unknown) -> Result<(), ApiError> {
    match unknown.iter().find(|(_, value)| !value.is_null()) {
        Some((name, _)) => {
            let predicate = "is not a field of this endpoint: check its spelling, or omit it";
            Err(ApiError::unsupported(format!("{path}{name}"), predicate))
        }
        None => Ok(()),
    }
}

/// Deserializes a struct from the fields that have its names, and takes them out of the map.
struct Taker<'a>(&'a mut Map<String, Value>);

impl<'de> Deserializer<'de> for Taker<'_> {
    type Error = Error;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        names: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let taken: Map<String, Value> = names.iter().filter_map(|&name| self.0.remove_entry(name)).collect();
        taken.deserialize_struct(name, names, visitor)
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        Err(Error::custom("only structs have names of fields"))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    struct First {
        a: Option<u32>,
        b: Option<Inner>,
    }

    #[derive(Debug, Deserialize)]
    struct Second {
        c: Option<Vec<bool>>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(expecting = "an object")]
    struct Inner {
        d: Option<u32>,
        #[serde(flatten)]
        unknown: Unknown,
    }

    fn message(error: ApiError) -> String {
        let body = serde_json::to_value(error.body()).unwrap();
        body["error"]["message"].as_str().unwrap().to_owned()
    }

    fn read(json: &str) -> Result<(First, Second), String> {
        let mut fields = Fields::parse(json.as_bytes()).map_err(message)?;
        let first = fields.take().map_err(message)?;
        let second = fields.take().map_err(message)?;
        fields.finish().map_err(message)?;
        Ok((first, second))
    }

    #[test]
    fn every_group_takes_its_fields() {
        let (first, second) = read(r#"{"c": [true], "b": {"d": 2, "e": 3}, "a": null, "f": null}"#).unwrap();
        assert_eq!((first.a, second.c), (None, Some(vec![true])));
        let inner = first.b.unwrap();
        assert_eq!(inner.d, Some(2));
        let error = refuse_unknown("b.", &inner.unknown).unwrap_err();
        assert_eq!(message(error), "b.e is not a field of this endpoint: check its spelling, or omit it");
    }

    #[test]
    fn an_unknown_field_is_refused_by_name() {
        let error = read(r#"{"temprature": 1}"#).unwrap_err();
        assert_eq!(error, "temprature is not a field of this endpoint: check its spelling, or omit it");
    }

    #[test]
    fn a_value_of_the_wrong_type_has_its_path_in_the_message() {
        let error = |json| read(json).unwrap_err();
        assert_eq!(error(r#"{"a": "x"}"#), "a is not valid: invalid type: string \"x\", expected u32");
        assert!(error(r#"{"b": {"d": 1.5}}"#).starts_with("b.d is not valid: invalid type"));
        assert!(error(r#"{"b": 5}"#).ends_with("expected an object"));
        assert!(error(r#"{"c": [true, 1]}"#).starts_with("c[1] is not valid: "));
    }

    #[test]
    fn a_body_that_is_not_a_json_object_is_refused() {
        for body in ["", "{", "\"\\ud800\"", "{\"a\": 1} x"] {
            assert!(read(body).unwrap_err().starts_with("the body is not valid JSON: "), "{body}");
        }
        for body in ["[1]", "5", "null"] {
            assert_eq!(read(body).unwrap_err(), "the body is not a JSON object");
        }
        assert!(Fields::parse(b"\xff").is_err());
    }
}
