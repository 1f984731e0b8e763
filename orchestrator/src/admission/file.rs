//! The file of API keys.
//!
//! ```text
//! # name  key                              limits
//! alice   a-key-of-16-or-more-characters   concurrent=8 tokens_per_minute=60000
//! bob     sha256:<64 hexadecimal digits>
//! ```

use sha2::{Digest, Sha256};
use subtle::{ConditionallySelectable, ConstantTimeEq};
use tandem_serving::{FileError, SourceFile};

use super::usage::{KeyUsage, Limits};

/// Length of the shortest plain key: shorter ones can be guessed.
const SHORTEST_KEY: usize = 16;
/// Length of the longest plain key.
const LONGEST_KEY: usize = 512;
/// The prefix of a key of which the file has only the hash.
const HASHED: &str = "sha256:";

type Hash = [u8; 32];

/// The contents of the file.
pub(super) struct Table {
    /// The hash of each key, and its usage.
    entries: Vec<(Hash, KeyUsage)>,
}

impl Table {
    /// Reads a file. A name that had a key before keeps its usage.
    pub(super) fn read(file: &SourceFile, before: Option<&Self>) -> Result<Self, FileError> {
        let text = std::str::from_utf8(&file.bytes).map_err(|_| file.bad("is not UTF-8"))?;
        let mut entries: Vec<(Hash, KeyUsage)> = Vec::new();
        for (number, line) in (1..).zip(text.lines().map(str::trim)) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            // The error does not quote the line, which may hold a key.
            let bad = |why: &str| file.bad(format!("line {number}: {why}"));
            let (name, hash, limits) = entry(line).map_err(bad)?;
            if entries.iter().any(|(_, usage)| usage.name() == name) {
                return Err(bad("the name is already used by an earlier line"));
            }
            if entries.iter().any(|(other, _)| *other == hash) {
                return Err(bad("the key is already used by an earlier line"));
            }
            entries.push((hash, before.and_then(|t| t.named(name)).unwrap_or_default().with(name, limits)));
        }
        // An empty file could mean that every client is admitted, or none.
        if entries.is_empty() { Err(file.bad("has no key")) } else { Ok(Self { entries }) }
    }

    fn named(&self, name: &str) -> Option<KeyUsage> {
        self.entries.iter().find(|(_, usage)| usage.name() == name).map(|(_, usage)| usage.clone())
    }

    /// The usage of a key, if the file has it.
    pub(super) fn find(&self, key: &[u8]) -> Option<KeyUsage> {
        let hash: Hash = Sha256::digest(key).into();
        let found = position(self.entries.iter().map(|(hash, _)| hash), &hash);
        self.entries.get(found).map(|(_, usage)| usage.clone())
    }
}

/// The index of `wanted`, or one beyond the end. The time does not depend on where it is, or on how many of its bytes are right.
pub(super) fn position<'a>(hashes: impl Iterator<Item = &'a Hash>, wanted: &Hash) -> usize {
    let mut found = u64::MAX;
    for (index, hash) in (0u64..).zip(hashes) {
        found.conditional_assign(&index, hash.ct_eq(wanted));
    }
    usize::try_from(found).unwrap_or(usize::MAX)
}

/// Whether a client's key has the form of a key.
pub(super) fn may_be_key(key: &[u8]) -> bool {
    (SHORTEST_KEY..=LONGEST_KEY).contains(&key.len()) && key.iter().all(u8::is_ascii_graphic)
}

fn entry(line: &str) -> Result<(&str, Hash, Limits), &'static str> {
    let mut words = line.split_whitespace();
    let name = words.next().unwrap_or_default();
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    if name.len() > 64 || !name.bytes().all(plain) {
        return Err(
            "the name, its first word, must have at most 64 letters, digits, dots, dashes and underscores",
        );
    }
    let key = words.next().ok_or("no key after the name")?;
    let hash = match key.strip_prefix(HASHED) {
        Some(hex) => unhex(hex).ok_or("sha256: must be followed by 64 hexadecimal digits")?,
        None if may_be_key(key.as_bytes()) => Sha256::digest(key).into(),
        None => return Err("a key must have 16 to 512 visible ASCII characters"),
    };
    let mut limits = Limits::default();
    for word in words {
        let limit = word.split_once('=').and_then(|(name, n)| Some((name, n.parse::<u32>().ok()?)));
        match limit {
            Some(("concurrent", n)) if n > 0 => limits.concurrent = Some(n as usize),
            Some(("tokens_per_minute", n)) if n > 0 => limits.tokens_per_minute = Some(n),
            _ => return Err("only concurrent=N and tokens_per_minute=N, with N from 1, may follow the key"),
        }
    }
    Ok((name, hash, limits))
}

fn unhex(text: &str) -> Option<Hash> {
    let mut hash = Hash::default();
    let digits = text.as_bytes();
    if digits.len() != 2 * hash.len() {
        return None;
    }
    for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |d: u8| char::from(d).to_digit(16);
        *byte = u8::try_from(digit(pair[0])? << 4 | digit(pair[1])?).ok()?;
    }
    Some(hash)
}
