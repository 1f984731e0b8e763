//! The header of a GGUF file: its metadata and the places of its tensors.
//!
//! The layout is that of `docs/gguf.md` in ggml, versions 2 and 3. Every length in it is checked before memory
//! is allocated for it.

use std::collections::HashMap;
use std::io::{self, Read};

use super::tensor_type::TensorType;

const MAGIC: [u8; 4] = *b"GGUF";
/// Where tensors start, unless `general.alignment` says otherwise.
const ALIGNMENT: u64 = 32;
/// Arrays within arrays, at most. No known file has any.
const MAX_DEPTH: usize = 4;
/// Dimensions of a tensor, at most, as in ggml.
const MAX_DIMENSIONS: u32 = 4;

/// A value of the metadata.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    /// An integer of any width and sign.
    Integer(i128),
    /// f32 or f64.
    Float(f64),
    Bool(bool),
    String(String),
    Array(Vec<Value>),
}

impl Value {
    pub(crate) fn as_integer(&self) -> Option<i128> {
        match self {
            Self::Integer(value) => Some(*value),
            _ => None,
        }
    }

    pub(crate) fn as_float(&self) -> Option<f64> {
        match self {
            Self::Float(value) => Some(*value),
            _ => None,
        }
    }

    pub(crate) fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(value) => Some(value),
            _ => None,
        }
    }
}

/// A tensor in a file.
#[derive(Clone, Debug)]
pub(crate) struct TensorInfo {
    /// `[rows, columns]` for a matrix. The file has the dimensions in the opposite order.
    pub(crate) shape: Vec<usize>,
    pub(crate) kind: TensorType,
    /// From the start of the file.
    pub(crate) offset: u64,
    pub(crate) bytes: usize,
}

/// The header of a file.
#[derive(Debug)]
pub(crate) struct Header {
    pub(crate) metadata: HashMap<String, Value>,
    pub(crate) tensors: HashMap<String, TensorInfo>,
}

/// Why a header could not be read.
#[derive(Debug)]
pub(crate) enum HeaderError {
    Io(io::Error),
    /// It is not a header.
    Invalid(String),
    /// It may be one, but uses something that is not supported.
    Unsupported(String),
}

impl From<io::Error> for HeaderError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

type Result<T> = std::result::Result<T, HeaderError>;

impl Header {
    /// Reads the header of a file of `len` bytes.
    pub(crate) fn read(file: impl Read, len: u64) -> Result<Self> {
        let mut reader = Reader { file, at: 0, len };
        if reader.bytes::<4>()? != MAGIC {
            return Err(HeaderError::Invalid("it does not start with GGUF".into()));
        }
        let version = reader.u32()?;
        if !(2..=3).contains(&version) {
            return Err(HeaderError::Unsupported(format!(
                "GGUF version {version}: only 2 and 3 are supported"
            )));
        }
        let tensor_count = reader.count()?;
        let value_count = reader.count()?;
        let mut metadata = HashMap::new();
        for _ in 0..value_count {
            let key = reader.string()?;
            let kind = reader.u32()?;
            metadata.insert(key, reader.value(kind, 0)?);
        }
        let mut tensors = HashMap::new();
        for _ in 0..tensor_count {
            let (name, tensor) = reader.tensor()?;
            if tensors.insert(name.clone(), tensor).is_some() {
                return Err(HeaderError::Invalid(format!("it has tensor {name} twice")));
            }
        }
        let alignment = match metadata.get("general.alignment").and_then(Value::as_integer) {
            None => ALIGNMENT,
            Some(alignment) => {
                u64::try_from(alignment).ok().filter(|n| n.is_power_of_two()).ok_or_else(|| {
                    HeaderError::Invalid(format!("an alignment of {alignment} is not a power of two"))
                })?
            }
        };
        let start = reader.at.next_multiple_of(alignment);
        for (name, tensor) in &mut tensors {
            tensor.offset = start.saturating_add(tensor.offset);
            if tensor.offset.saturating_add(tensor.bytes as u64) > len {
                return Err(HeaderError::Invalid(format!("tensor {name} ends after the file does")));
            }
        }
        Ok(Self { metadata, tensors })
    }
}

/// Reads a file from its start, and refuses lengths that the rest of it cannot hold.
struct Reader<R> {
    file: R,
    at: u64,
    len: u64,
}

impl<R: Read> Reader<R> {
    fn bytes<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.file.read_exact(&mut bytes)?;
        self.at += N as u64;
        Ok(bytes)
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.bytes()?))
    }

    fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.bytes()?))
    }

    /// A number of things, each of at least one byte.
    fn count(&mut self) -> Result<usize> {
        let count = self.u64()?;
        let left = self.len.saturating_sub(self.at);
        usize::try_from(count)
            .ok()
            .filter(|_| count <= left)
            .ok_or_else(|| HeaderError::Invalid(format!("a length of {count}, but only {left} bytes follow")))
    }

    fn string(&mut self) -> Result<String> {
        let len = self.count()?;
        let mut bytes = vec![0; len];
        self.file.read_exact(&mut bytes)?;
        self.at += len as u64;
        // A vocabulary may have tokens that are not UTF-8.
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn value(&mut self, kind: u32, depth: usize) -> Result<Value> {
        Ok(match kind {
            0 => Value::Integer(self.bytes::<1>()?[0].into()),
            1 => Value::Integer(i8::from_le_bytes(self.bytes()?).into()),
            2 => Value::Integer(u16::from_le_bytes(self.bytes()?).into()),
            3 => Value::Integer(i16::from_le_bytes(self.bytes()?).into()),
            4 => Value::Integer(self.u32()?.into()),
            5 => Value::Integer(i32::from_le_bytes(self.bytes()?).into()),
            6 => Value::Float(f32::from_le_bytes(self.bytes()?).into()),
            7 => Value::Bool(self.bytes::<1>()?[0] != 0),
            8 => Value::String(self.string()?),
            9 if depth < MAX_DEPTH => {
                let kind = self.u32()?;
                let len = self.count()?;
                // Not allocated at once: a value takes more memory than its one byte in the file.
                let mut values = Vec::new();
                for _ in 0..len {
                    values.push(self.value(kind, depth + 1)?);
                }
                Value::Array(values)
            }
            10 => Value::Integer(self.u64()?.into()),
            11 => Value::Integer(i64::from_le_bytes(self.bytes()?).into()),
            12 => Value::Float(f64::from_le_bytes(self.bytes()?)),
            other => return Err(HeaderError::Invalid(format!("a value of type {other}"))),
        })
    }

    fn tensor(&mut self) -> Result<(String, TensorInfo)> {
        let name = self.string()?;
        let dimensions = self.u32()?;
        if dimensions > MAX_DIMENSIONS {
            return Err(HeaderError::Invalid(format!("tensor {name} has {dimensions} dimensions")));
        }
        let mut shape = Vec::new();
        for _ in 0..dimensions {
            let size = self.u64()?;
            shape.push(
                usize::try_from(size)
                    .map_err(|_| HeaderError::Invalid(format!("tensor {name} has a dimension of {size}")))?,
            );
        }
        let columns = shape.first().copied().unwrap_or(1);
        shape.reverse();
        let id = self.u32()?;
        let offset = self.u64()?;
        let kind = TensorType::from_id(id)
            .map_err(|what| HeaderError::Unsupported(format!("tensor {name} has {what}")))?;
        let values = shape.iter().try_fold(1usize, |values, &size| values.checked_mul(size));
        let bytes = values.and_then(|values| kind.bytes(values, columns)).ok_or_else(|| {
            HeaderError::Invalid(format!("tensor {name} of shape {shape:?} cannot have the type {kind:?}"))
        })?;
        Ok((name, TensorInfo { shape, kind, offset, bytes }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header with `general.alignment` and one tensor.
    fn header(tensor_type: u32, rows: u64) -> Vec<u8> {
        let mut bytes = Vec::from(MAGIC);
        bytes.extend(3u32.to_le_bytes());
        bytes.extend([1u64, 1].map(u64::to_le_bytes).concat());
        let string = |text: &str| [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat();
        bytes.extend(string("general.alignment"));
        bytes.extend([4u32, 64].map(u32::to_le_bytes).concat());
        bytes.extend(string("w"));
        bytes.extend(2u32.to_le_bytes());
        bytes.extend([32, rows].map(u64::to_le_bytes).concat());
        bytes.extend(tensor_type.to_le_bytes());
        bytes.extend(0u64.to_le_bytes());
        bytes
    }

    fn read(bytes: &[u8], len: usize) -> Result<Header> {
        Header::read(bytes, len as u64)
    }

    #[test]
    fn a_tensor_has_a_place_and_a_size() {
        let bytes = header(8, 3);
        let start = bytes.len().next_multiple_of(64);
        let tensor = read(&bytes, start + 102).unwrap().tensors["w"].clone();
        assert_eq!((tensor.shape, tensor.offset, tensor.bytes), (vec![3, 32], start as u64, 102));
        assert!(matches!(read(&bytes, start + 101), Err(HeaderError::Invalid(_))));
    }

    #[test]
    fn lengths_are_checked_before_memory_is_allocated() {
        for at in [8, 16, 24] {
            let mut bytes = header(8, 3);
            bytes[at..at + 8].copy_from_slice(&(u64::MAX / 2).to_le_bytes());
            assert!(matches!(read(&bytes, bytes.len()), Err(HeaderError::Invalid(_))), "at {at}");
        }
        assert!(matches!(read(&header(8, u64::MAX), 1 << 20), Err(HeaderError::Invalid(_))));
    }

    #[test]
    fn every_shorter_file_is_refused() {
        let bytes = header(8, 3);
        for len in 0..bytes.len() {
            assert!(read(&bytes[..len], len).is_err(), "{len} bytes");
        }
    }

    #[test]
    fn an_unknown_type_is_named() {
        let Err(HeaderError::Unsupported(what)) = read(&header(16, 1), 1 << 20) else {
            panic!("it was read")
        };
        assert!(what.starts_with("tensor w has type IQ2_XXS, which is not supported: use a file"), "{what}");
    }
}
