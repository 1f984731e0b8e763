//! Models in several GGUF files, as `gguf-split` of llama.cpp writes them.
//!
//! The parts of a model are named `name-00001-of-00003.gguf` and so on. Each says in its metadata which of how
//! many it is (`split.no`, from 0, and `split.count`) and how many tensors all of them have
//! (`split.tensors.count`); all other metadata are in the first.

use std::path::{Path, PathBuf};

use super::part::Part;
use crate::load::error::LoadError;

/// Opens the other parts of the model that `first` begins. There are none if it is a whole model.
pub(super) fn open_others(first: &Part) -> Result<Vec<Part>, LoadError> {
    let count = first.number("split.count").unwrap_or(1);
    if count <= 1 {
        return Ok(Vec::new());
    }
    let part = first.number("split.no").map_or(1, |index| index.saturating_add(1));
    let names = PartNames::of(&first.path, part, count)?;
    if part != 1 {
        return Err(LoadError::NotFirstPart { path: first.path.clone(), part, count, first: names.path(1) });
    }
    // Files are opened one by one, so a count that is not true is noticed at the first missing one.
    let mut others: Vec<Part> = Vec::new();
    for part in 2..=count {
        let path = names.path(part);
        if !path.is_file() {
            return Err(LoadError::MissingPart { path, part, count, first: first.path.clone() });
        }
        let next = Part::open(&path)?;
        check(first, &others, &next, part, count)?;
        others.push(next);
    }
    check_total(first, &others)?;
    Ok(others)
}

/// The names of all parts of a model.
struct PartNames<'a> {
    path: &'a Path,
    prefix: &'a str,
    count: usize,
}

impl<'a> PartNames<'a> {
    /// As follows from the `path` of one of them.
    fn of(path: &'a Path, part: usize, count: usize) -> Result<Self, LoadError> {
        let ending = ending(part, count);
        let name = path.file_name().and_then(|name| name.to_str());
        match name.and_then(|name| name.strip_suffix(&ending)) {
            Some(prefix) => Ok(Self { path, prefix, count }),
            None => Err(LoadError::PartName { path: path.to_owned(), part, count, ending }),
        }
    }

    fn path(&self, part: usize) -> PathBuf {
        self.path.with_file_name(format!("{}{}", self.prefix, ending(part, self.count)))
    }
}

fn ending(part: usize, count: usize) -> String {
    format!("-{part:05}-of-{count:05}.gguf")
}

/// Checks that `next` is the part that its name says, and of the same model as those before it.
fn check(first: &Part, others: &[Part], next: &Part, part: usize, count: usize) -> Result<(), LoadError> {
    let index = next.number("split.no");
    let reason = match (index, next.number("split.count")) {
        (Some(index), Some(said)) if index.saturating_add(1) == part && said == count => {
            match repeated(std::iter::once(first).chain(others), next) {
                Some((name, before)) => {
                    format!("it has tensor {name}, which {} has too", before.path.display())
                }
                None => return Ok(()),
            }
        }
        (Some(index), Some(said)) => {
            format!("its metadata say that it is part {} of {said}", index.saturating_add(1))
        }
        _ => "its metadata do not say that it is a part of a model (split.no and split.count)".to_owned(),
    };
    let path = next.path.clone();
    Err(LoadError::ForeignPart { path, part, count, first: first.path.clone(), reason })
}

/// The first tensor by name that `next` and one of the parts before it have.
fn repeated<'a>(before: impl Iterator<Item = &'a Part>, next: &'a Part) -> Option<(&'a str, &'a Part)> {
    before
        .flat_map(|part| part.header.tensors.keys().map(move |name| (name.as_str(), part)))
        .filter(|(name, _)| next.header.tensors.contains_key(*name))
        .min_by_key(|(name, _)| *name)
}

fn check_total(first: &Part, others: &[Part]) -> Result<(), LoadError> {
    let found = std::iter::once(first).chain(others).map(|part| part.header.tensors.len()).sum();
    match first.number("split.tensors.count") {
        Some(stated) if stated != found => {
            Err(LoadError::PartsIncomplete { first: first.path.clone(), stated, found })
        }
        _ => Ok(()),
    }
}
