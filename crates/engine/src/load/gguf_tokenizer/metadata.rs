//! Typed access to the keys `tokenizer.*` of a GGUF file.

use crate::load::error::LoadError;
use crate::load::gguf::{Gguf, Value};

/// The metadata of a file. Keys are those after `tokenizer.`.
pub(super) struct Metadata<'a> {
    file: &'a Gguf,
}

impl<'a> Metadata<'a> {
    pub(super) fn of(file: &'a Gguf) -> Self {
        Self { file }
    }

    /// The name of the model in lower case; empty if the file does not state it.
    pub(super) fn model_name(&self) -> String {
        let name = self.file.metadata("general.name").and_then(Value::as_str);
        name.unwrap_or_default().to_lowercase()
    }

    /// The error that says why the tokenizer cannot be used.
    pub(super) fn refuse(&self, what: impl Into<String>) -> LoadError {
        LoadError::GgufTokenizer { path: self.file.path().to_owned(), what: what.into() }
    }

    pub(super) fn missing(&self, key: &str) -> LoadError {
        self.refuse(format!("tokenizer.{key} is missing"))
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<&'a str>, LoadError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        self.expect(key, value, value.as_str(), "a string").map(Some)
    }

    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>, LoadError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        let flag = match value {
            Value::Bool(flag) => Some(*flag),
            _ => None,
        };
        self.expect(key, value, flag, "true or false").map(Some)
    }

    /// The id of one of `count` tokens.
    pub(super) fn id(&self, key: &str, count: usize) -> Result<Option<u32>, LoadError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        let id = self.expect(key, value, value.as_integer(), "a whole number")?;
        let valid = u32::try_from(id).ok().filter(|&id| (id as usize) < count);
        let id = valid
            .ok_or_else(|| self.refuse(format!("tokenizer.{key} is {id}, but there are {count} tokens")))?;
        Ok(Some(id))
    }

    pub(super) fn texts(&self, key: &str) -> Result<Option<Vec<&'a str>>, LoadError> {
        self.list(key, Value::as_str, "a string")
    }

    pub(super) fn integers(&self, key: &str) -> Result<Option<Vec<i128>>, LoadError> {
        self.list(key, Value::as_integer, "a whole number")
    }

    /// Numbers that can be compared.
    pub(super) fn scores(&self, key: &str) -> Result<Option<Vec<f32>>, LoadError> {
        let number = |value: &Value| {
            let float = value.as_float().or_else(|| value.as_integer().map(|integer| integer as f64));
            float.map(|float| float as f32).filter(|float| !float.is_nan())
        };
        self.list(key, number, "a number")
    }

    /// Refuses a list that does not have one entry for each of `count` tokens.
    pub(super) fn check_length(&self, key: &str, length: usize, count: usize) -> Result<(), LoadError> {
        if length == count {
            return Ok(());
        }
        Err(self.refuse(format!("tokenizer.{key} has {length} entries, but there are {count} tokens")))
    }

    fn list<T>(
        &self,
        key: &str,
        entry: impl Fn(&'a Value) -> Option<T>,
        expected: &str,
    ) -> Result<Option<Vec<T>>, LoadError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        let values = match value {
            Value::Array(values) => Some(values),
            _ => None,
        };
        let values = self.expect(key, value, values, "a list")?;
        let entries = values.iter().enumerate().map(|(index, value)| {
            let place = format_args!("{key}[{index}]");
            entry(value).ok_or_else(|| self.wrong(place, value, expected))
        });
        entries.collect::<Result<_, _>>().map(Some)
    }

    fn value(&self, key: &str) -> Option<&'a Value> {
        self.file.metadata(&format!("tokenizer.{key}"))
    }

    fn expect<T>(
        &self,
        key: &str,
        value: &Value,
        converted: Option<T>,
        expected: &str,
    ) -> Result<T, LoadError> {
        converted.ok_or_else(|| self.wrong(format_args!("{key}"), value, expected))
    }

    fn wrong(&self, place: std::fmt::Arguments<'_>, value: &Value, expected: &str) -> LoadError {
        let found = match value {
            Value::Integer(integer) => integer.to_string(),
            Value::Float(float) => float.to_string(),
            Value::Bool(flag) => flag.to_string(),
            // These may be as long as the file.
            Value::String(_) => "a string".to_owned(),
            Value::Array(_) => "a list".to_owned(),
        };
        self.refuse(format!("tokenizer.{place} is {found}, not {expected}"))
    }
}
