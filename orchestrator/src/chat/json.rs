//! The filter `tojson`.

use minijinja::value::Kwargs;
use minijinja::{Error, ErrorKind, Value};

/// JSON as `transformers` writes it: with the spaces of Python's `json.dumps`, and nothing escaped for HTML.
pub(super) fn to_json(value: Value, options: Kwargs) -> Result<String, Error> {
    let indent: Option<usize> = options.get("indent")?;
    let ascii: Option<bool> = options.get("ensure_ascii")?;
    options.assert_all_used()?;
    let broken = |e: serde_json::Error| Error::new(ErrorKind::BadSerialization, e.to_string());
    let mut out = Vec::new();
    let spaces = " ".repeat(indent.unwrap_or(0));
    match indent {
        Some(_) => {
            let pretty = serde_json::ser::PrettyFormatter::with_indent(spaces.as_bytes());
            let mut to = serde_json::Serializer::with_formatter(&mut out, pretty);
            serde::Serialize::serialize(&value, &mut to).map_err(broken)?;
        }
        None => {
            let mut to = serde_json::Serializer::with_formatter(&mut out, PythonSpaces);
            serde::Serialize::serialize(&value, &mut to).map_err(broken)?;
        }
    }
    let json = String::from_utf8(out).map_err(|e| Error::new(ErrorKind::BadSerialization, e.to_string()))?;
    if ascii != Some(true) {
        return Ok(json);
    }
    let escape = |c: char| match c {
        '\0'..='\x7f' => c.to_string(),
        c => c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")).collect(),
    };
    Ok(json.chars().map(escape).collect())
}

/// `{"a": 1, "b": [1, 2]}`
struct PythonSpaces;

impl serde_json::ser::Formatter for PythonSpaces {
    fn begin_array_value<W: ?Sized + std::io::Write>(
        &mut self,
        out: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(
        &mut self,
        out: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, out: &mut W) -> std::io::Result<()> {
        out.write_all(b": ")
    }
}
