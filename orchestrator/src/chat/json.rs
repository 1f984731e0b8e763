//! The filter `tojson`.

use std::io::{Result as IoResult, Write};

use minijinja::value::Kwargs;
use minijinja::{Error, ErrorKind, Value};
use serde::Serialize;
use serde_json::Serializer;
use serde_json::ser::Formatter;

/// The widest indentation, in spaces.
const MAX_INDENT: usize = 32;

/// JSON as `transformers` writes it: with the spaces of Python's `json.dumps`, and nothing escaped for HTML.
pub(super) fn to_json(value: Value, options: Kwargs) -> Result<String, Error> {
    let indent: Option<usize> = options.get("indent")?;
    let ascii: Option<bool> = options.get("ensure_ascii")?;
    let sort_keys: Option<bool> = options.get("sort_keys")?;
    let separators: Option<Vec<String>> = options.get("separators")?;
    options.assert_all_used()?;
    if let Some(indent) = indent.filter(|indent| *indent > MAX_INDENT) {
        let message = format!("tojson: indent is {indent}: it must be at most {MAX_INDENT}");
        return Err(Error::new(ErrorKind::InvalidOperation, message));
    }
    let separators = match separators.as_deref() {
        None if indent.is_some() => (",", ": "),
        None => (", ", ": "),
        Some([items, keys]) => (items.as_str(), keys.as_str()),
        Some(_) => {
            let message = "tojson: separators must be two strings, for items and for keys";
            return Err(Error::new(ErrorKind::InvalidOperation, message));
        }
    };
    let formatter = PythonFormatter { indent, separators, depth: 0, is_empty: true };
    let json = written(&value, formatter, sort_keys == Some(true))
        .map_err(|error| Error::new(ErrorKind::BadSerialization, error.to_string()))?;
    Ok(if ascii == Some(true) { json.chars().map(escaped).collect() } else { json })
}

fn written(value: &Value, formatter: PythonFormatter<'_>, sort_keys: bool) -> serde_json::Result<String> {
    let mut out = Vec::new();
    let mut serializer = Serializer::with_formatter(&mut out, formatter);
    if sort_keys {
        let mut value = serde_json::to_value(value)?;
        value.sort_all_objects();
        value.serialize(&mut serializer)?;
    } else {
        value.serialize(&mut serializer)?;
    }
    String::from_utf8(out).map_err(serde::ser::Error::custom)
}

fn escaped(c: char) -> String {
    match c {
        '\0'..='\x7f' => c.to_string(),
        c => c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")).collect(),
    }
}

/// Writes spaces and line breaks as Python does: `{"a": 1, "b": [1, 2]}`.
struct PythonFormatter<'a> {
    /// Spaces per level; `None` writes everything on one line.
    indent: Option<usize>,
    /// What is between items, and between a key and its value.
    separators: (&'a str, &'a str),
    depth: usize,
    /// Whether the innermost list or object has no value yet.
    is_empty: bool,
}

impl PythonFormatter<'_> {
    fn begin<W: ?Sized + Write>(&mut self, out: &mut W, bracket: &str) -> IoResult<()> {
        self.depth += 1;
        self.is_empty = true;
        out.write_all(bracket.as_bytes())
    }

    fn end<W: ?Sized + Write>(&mut self, out: &mut W, bracket: &str) -> IoResult<()> {
        self.depth -= 1;
        if !self.is_empty {
            self.break_line(out)?;
        }
        self.is_empty = false;
        out.write_all(bracket.as_bytes())
    }

    fn separate<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> IoResult<()> {
        if !first {
            out.write_all(self.separators.0.as_bytes())?;
        }
        self.is_empty = false;
        self.break_line(out)
    }

    fn break_line<W: ?Sized + Write>(&self, out: &mut W) -> IoResult<()> {
        let Some(indent) = self.indent else { return Ok(()) };
        out.write_all(b"\n")?;
        (0..self.depth * indent).try_for_each(|_| out.write_all(b" "))
    }
}

impl Formatter for PythonFormatter<'_> {
    fn begin_array<W: ?Sized + Write>(&mut self, out: &mut W) -> IoResult<()> {
        self.begin(out, "[")
    }

    fn end_array<W: ?Sized + Write>(&mut self, out: &mut W) -> IoResult<()> {
        self.end(out, "]")
    }

    fn begin_array_value<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> IoResult<()> {
        self.separate(out, first)
    }

    fn begin_object<W: ?Sized + Write>(&mut self, out: &mut W) -> IoResult<()> {
        self.begin(out, "{")
    }

    fn end_object<W: ?Sized + Write>(&mut self, out: &mut W) -> IoResult<()> {
        self.end(out, "}")
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> IoResult<()> {
        self.separate(out, first)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, out: &mut W) -> IoResult<()> {
        out.write_all(self.separators.1.as_bytes())
    }
}
