//! What `transformers` adds to Jinja.

use std::time::SystemTime;

use minijinja::{Error, ErrorKind};

/// Removes `{% generation %}` blocks: they mark what a model is trained on, which makes no difference to a prompt.
pub(super) fn without_generation_blocks(template: &str) -> String {
    let mut out = String::with_capacity(template.len());
    let mut rest = template;
    while let Some((before, tag)) = rest.split_once("{%")
        && let Some((inner, after)) = tag.split_once("%}")
    {
        let kept = match inner.trim_matches(['-', '+', ' ', '\t', '\n']) {
            "generation" => inner.replace("generation", "if true"),
            "endgeneration" => inner.replace("endgeneration", "endif"),
            _ => inner.to_owned(),
        };
        out.extend([before, "{%", &kept, "%}"]);
        rest = after;
    }
    out + rest
}

pub(super) fn raise_exception(message: String) -> Result<String, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

/// The date, in UTC, for templates that tell it to the model.
pub(super) fn strftime_now(format: String) -> Result<String, Error> {
    let now = jiff::Timestamp::try_from(SystemTime::now()).map(|t| t.to_zoned(jiff::tz::TimeZone::UTC));
    let text = now.and_then(|now| jiff::fmt::strtime::format(&format, &now));
    text.map_err(|e| Error::new(ErrorKind::InvalidOperation, e.to_string()))
}
