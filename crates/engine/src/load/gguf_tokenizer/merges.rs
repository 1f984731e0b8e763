//! The merges of a vocabulary, as a file lists them.

use std::collections::HashSet;

use super::metadata::Metadata;
use super::tokens::Tokens;
use crate::load::error::LoadError;

/// The merges, the first to apply first. If a pair is in the list twice, its first place counts.
pub(super) fn listed_merges<'a>(
    metadata: &Metadata<'a>,
    tokens: &Tokens<'_>,
) -> Result<Vec<(&'a str, &'a str)>, LoadError> {
    let lines = metadata.texts("ggml.merges")?.ok_or_else(|| metadata.missing("ggml.merges"))?;
    let mut seen = HashSet::with_capacity(lines.len());
    let mut merges = Vec::with_capacity(lines.len());
    for (index, line) in lines.into_iter().enumerate() {
        let refuse =
            |what: &str| metadata.refuse(format!("tokenizer.ggml.merges[{index}], {line:?}, {what}"));
        let pair = split(line).ok_or_else(|| refuse("is not two tokens with a space between them"))?;
        let (left, right) = pair;
        let merged = [left, right].concat();
        let unknown = [left, right, &merged].into_iter().find(|text| !tokens.has(text));
        if let Some(unknown) = unknown {
            return Err(refuse(&format!("needs {unknown:?}, which is not a token")));
        }
        if seen.insert(pair) {
            merges.push(pair);
        }
    }
    Ok(merges)
}

/// The two sides of the first space that is not the first character.
fn split(line: &str) -> Option<(&str, &str)> {
    let first = line.chars().next()?.len_utf8();
    let space = first + line.get(first..)?.find(' ')?;
    Some((line.get(..space)?, line.get(space + 1..)?))
}
