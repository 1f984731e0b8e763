//! What Python's Jinja has and minijinja lacks or sees differently.

use minijinja::value::{Tuple, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State, Value};
use minijinja_contrib::pycompat::unknown_method_callback;

/// Methods of Python's values.
pub(super) fn method(
    state: &mut State<'_, '_>,
    value: &Value,
    name: &str,
    args: &[Value],
) -> Result<Value, Error> {
    let Some(text) = value.as_str() else { return unknown_method_callback(state, value, name, args) };
    match name {
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            Ok(text.strip_prefix(prefix).unwrap_or(text).into())
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            Ok(text.strip_suffix(suffix).unwrap_or(text).into())
        }
        "partition" => {
            let parts = text.split_once(separator(args)?);
            Ok(partitioned(args, parts, [text, "", ""]))
        }
        "rpartition" => {
            let parts = text.rsplit_once(separator(args)?);
            Ok(partitioned(args, parts, ["", "", text]))
        }
        "rsplit" => rsplit(text, args),
        _ => unknown_method_callback(state, value, name, args),
    }
}

fn separator(args: &[Value]) -> Result<&str, Error> {
    let (separator,): (&str,) = from_args(args)?;
    match separator {
        "" => Err(Error::new(ErrorKind::InvalidOperation, "empty separator")),
        separator => Ok(separator),
    }
}

fn partitioned(args: &[Value], parts: Option<(&str, &str)>, otherwise: [&str; 3]) -> Value {
    let parts = match (parts, args) {
        (Some((before, after)), [separator]) => [before.into(), separator.clone(), after.into()],
        _ => otherwise.map(Value::from),
    };
    Value::from(Tuple::from(parts))
}

fn rsplit(text: &str, args: &[Value]) -> Result<Value, Error> {
    let (separator, limit): (Option<&str>, Option<i64>) = from_args(args)?;
    let limit = limit.and_then(|limit| usize::try_from(limit).ok()).map_or(usize::MAX, |limit| limit + 1);
    let mut parts: Vec<&str> = match separator {
        Some("") => return Err(Error::new(ErrorKind::InvalidOperation, "empty separator")),
        Some(separator) => text.rsplitn(limit, separator).collect(),
        None => words_from_end(text, limit),
    };
    parts.reverse();
    Ok(parts.into_iter().map(Value::from).collect())
}

/// Words from the last one on; the last of `limit` has all that is left.
fn words_from_end(text: &str, limit: usize) -> Vec<&str> {
    let mut words = Vec::new();
    let mut rest = text.trim_end();
    while !rest.is_empty() {
        let begin = match rest.char_indices().rev().find(|(_, c)| c.is_whitespace()) {
            Some((at, space)) if words.len() + 1 < limit => at + space.len_utf8(),
            _ => 0,
        };
        words.push(&rest[begin..]);
        rest = rest[..begin].trim_end();
    }
    words
}

/// The test `iterable`: `None` is not, and what is undefined is.
pub(super) fn is_iterable(value: &Value) -> bool {
    !value.is_none() && value.try_iter().is_ok()
}

/// The test `sequence`: what has a length and elements by index or key.
pub(super) fn is_sequence(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Undefined | ValueKind::Seq | ValueKind::String | ValueKind::Map)
}

/// The filters `length` and `count`: what is undefined has no elements.
pub(super) fn length(value: &Value) -> Result<usize, Error> {
    if value.is_undefined() { Ok(0) } else { minijinja::filters::length(value) }
}
