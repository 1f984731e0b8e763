//! Files with one JSON object per line.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use serde::de::DeserializeOwned;

use super::items::Items;
use super::types::{DatasetError, Item};

/// Maximum size of a line. A longer line is skipped without being read into memory.
const MAX_LINE_BYTES: u64 = 16 << 20;

/// Turns each line into an item; `make` receives the line's number, from 1, and its value.
///
/// An invalid line becomes a bad item and does not affect the others.
pub(super) fn items<T: DeserializeOwned>(
    path: &Path,
    mut make: impl FnMut(usize, T) -> Result<Item, String>,
) -> Result<Items, DatasetError> {
    let unreadable = |source| DatasetError::Unreadable { path: path.to_owned(), source };
    let mut file = BufReader::new(File::open(path).map_err(unreadable)?);
    let mut items = Items::default();
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        let length = (&mut file).take(MAX_LINE_BYTES + 1).read_until(b'\n', &mut line).map_err(unreadable)?;
        if length == 0 {
            break;
        }
        let item = if line.len() as u64 > MAX_LINE_BYTES && line.last() != Some(&b'\n') {
            skip_line(&mut file).map_err(unreadable)?;
            Err(format!("it is longer than {MAX_LINE_BYTES} bytes"))
        } else if line.trim_ascii().is_empty() {
            continue;
        } else {
            serde_json::from_slice(&line).map_err(|e| e.to_string()).and_then(|read| make(number, read))
        };
        items.add(format!("line {number}"), item);
    }
    Ok(items)
}

fn skip_line(file: &mut impl BufRead) -> io::Result<()> {
    loop {
        let buffered = file.fill_buf()?;
        let (length, end) = match buffered.iter().position(|&b| b == b'\n') {
            Some(at) => (at + 1, true),
            None => (buffered.len(), buffered.is_empty()),
        };
        file.consume(length);
        if end {
            return Ok(());
        }
    }
}
