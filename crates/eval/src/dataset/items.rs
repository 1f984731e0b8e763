//! Collects the items of a dataset while its file is read.

use std::collections::HashSet;
use std::path::Path;

use super::kind::DatasetKind;
use super::types::{BadItem, Dataset, DatasetError, Item};

/// Maximum length of a reason in the report. Messages of the JSON parser quote the input, however long it is.
const MAX_REASON_CHARS: usize = 300;

/// The usable and unusable items found so far.
#[derive(Default)]
pub(super) struct Items {
    good: Vec<Item>,
    bad: Vec<BadItem>,
    ids: HashSet<String>,
}

impl Items {
    /// Adds what was read at `location`. An item whose id is taken counts as bad.
    pub(super) fn add(&mut self, location: String, item: Result<Item, String>) {
        match item.and_then(|item| self.check_id(item)) {
            Ok(item) => self.good.push(item),
            Err(reason) => {
                let reason = reason.chars().take(MAX_REASON_CHARS).collect();
                self.bad.push(BadItem { item: location, reason });
            }
        }
    }

    fn check_id(&mut self, item: Item) -> Result<Item, String> {
        if self.ids.insert(item.id.clone()) {
            Ok(item)
        } else {
            Err(format!("its id {:?} is taken by an earlier item", item.id))
        }
    }

    /// The dataset; an error if no item is usable.
    pub(super) fn into_dataset(
        self,
        path: &Path,
        kind: DatasetKind,
        stop: &[&str],
        max_new_tokens: u32,
        metric: Option<&'static str>,
    ) -> Result<Dataset, DatasetError> {
        if self.good.is_empty() {
            return Err(DatasetError::Empty { path: path.to_owned(), bad: self.bad });
        }
        Ok(Dataset {
            name: kind.to_string(),
            items: self.good,
            bad: self.bad,
            stop: stop.iter().map(|&s| s.to_owned()).collect(),
            max_new_tokens,
            metric,
        })
    }
}
