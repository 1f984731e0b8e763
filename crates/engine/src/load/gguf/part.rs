//! One GGUF file: a whole model, or a part of one.

use std::cell::RefCell;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::header::{Header, HeaderError, TensorInfo, Value};
use crate::load::error::LoadError;

/// An open file.
pub(super) struct Part {
    pub(super) path: PathBuf,
    pub(super) header: Header,
    file: RefCell<File>,
}

impl Part {
    /// Opens the file at `path` and reads its header.
    pub(super) fn open(path: &Path) -> Result<Self, LoadError> {
        let read = |source| LoadError::read(path, source);
        let file = File::open(path).map_err(read)?;
        let len = file.metadata().map_err(read)?.len();
        let header = Header::read(BufReader::new(&file), len).map_err(|error| match error {
            HeaderError::Io(error) => LoadError::corrupt(path, &error),
            HeaderError::Invalid(what) => LoadError::corrupt(path, &what),
            HeaderError::Unsupported(what) => LoadError::unsupported(path, what),
        })?;
        Ok(Self { path: path.to_owned(), header, file: RefCell::new(file) })
    }

    /// The whole number `key` of the metadata, if it is one that is not negative.
    pub(super) fn number(&self, key: &str) -> Option<usize> {
        usize::try_from(self.header.metadata.get(key).and_then(Value::as_integer)?).ok()
    }

    /// The bytes of a tensor of this file.
    pub(super) fn read(&self, info: &TensorInfo) -> Result<Vec<u8>, LoadError> {
        let mut file = self.file.borrow_mut();
        // `info.bytes` was checked against the length of the file.
        let mut bytes = vec![0; info.bytes];
        file.seek(SeekFrom::Start(info.offset))
            .and_then(|_| file.read_exact(&mut bytes))
            .map_err(|error| LoadError::corrupt(&self.path, &error))?;
        Ok(bytes)
    }
}
