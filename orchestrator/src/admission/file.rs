//! The file of keys.
//!
//! ```text
//! # name  key                              limits
//! alice   a-key-of-16-or-more-characters   concurrent=8 tokens_per_minute=60000
//! bob     sha256:<64 hexadecimal digits>
//! ```

use sha2::{Digest, Sha256};
use subtle::{ConditionallySelectable, ConstantTimeEq};
use tandem_serving::{FileError, SourceFile};

use super::account::{Account, Limits};

/// What a plain key has at least: shorter ones are guessed.
const SHORTEST_KEY: usize = 16;
/// And at most.
const LONGEST_KEY: usize = 512;
/// Marks a key of which the file has the hash alone.
const HASHED: &str = "sha256:";

type Hash = [u8; 32];

/// What the file says.
pub(super) struct Table {
    /// Hashes of the keys.
    entries: Vec<(Hash, Account)>,
}

impl Table {
    /// Reads a file. Who had a key before by the same name keeps the account.
    pub(super) fn read(file: &SourceFile, before: Option<&Self>) -> Result<Self, FileError> {
        let text = std::str::from_utf8(&file.bytes).map_err(|_| file.bad("is not UTF-8"))?;
        let mut entries: Vec<(Hash, Account)> = Vec::new();
        for (number, line) in (1..).zip(text.lines().map(str::trim)) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            // Not what is in the line: it may be a key.
            let bad = |why: &str| file.bad(format!("line {number}: {why}"));
            let (name, hash, limits) = entry(line).map_err(bad)?;
            if entries.iter().any(|(_, account)| account.name() == name) {
                return Err(bad("the name is that of a line before"));
            }
            if entries.iter().any(|(other, _)| *other == hash) {
                return Err(bad("the key is that of a line before"));
            }
            entries.push((hash, before.and_then(|t| t.named(name)).unwrap_or_default().with(name, limits)));
        }
        // Else an empty file would either let in all or nobody.
        if entries.is_empty() { Err(file.bad("has no key")) } else { Ok(Self { entries }) }
    }

    fn named(&self, name: &str) -> Option<Account> {
        self.entries.iter().find(|(_, account)| account.name() == name).map(|(_, account)| account.clone())
    }

    /// Whose the key is.
    pub(super) fn find(&self, key: &[u8]) -> Option<Account> {
        let hash: Hash = Sha256::digest(key).into();
        let found = position(self.entries.iter().map(|(hash, _)| hash), &hash);
        self.entries.get(found).map(|(_, account)| account.clone())
    }
}

/// Where `wanted` is, beyond the end if it is nowhere. Takes as long wherever it is, and however much of it is right.
pub(super) fn position<'a>(hashes: impl Iterator<Item = &'a Hash>, wanted: &Hash) -> usize {
    let mut found = u64::MAX;
    for (index, hash) in (0u64..).zip(hashes) {
        found.conditional_assign(&index, hash.ct_eq(wanted));
    }
    usize::try_from(found).unwrap_or(usize::MAX)
}

/// Whether a client's key can be one at all.
pub(super) fn may_be_key(key: &[u8]) -> bool {
    (SHORTEST_KEY..=LONGEST_KEY).contains(&key.len()) && key.iter().all(u8::is_ascii_graphic)
}

fn entry(line: &str) -> Result<(&str, Hash, Limits), &'static str> {
    let mut words = line.split_whitespace();
    let name = words.next().unwrap_or_default();
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    if name.len() > 64 || !name.bytes().all(plain) {
        return Err(
            "the name, its first word, must be of up to 64 letters, digits, dots, dashes and underscores",
        );
    }
    let key = words.next().ok_or("no key behind the name")?;
    let hash = match key.strip_prefix(HASHED) {
        Some(hex) => unhex(hex).ok_or("behind sha256: there must be 64 hexadecimal digits")?,
        None if may_be_key(key.as_bytes()) => Sha256::digest(key).into(),
        None => return Err("a key must have 16 to 512 visible ASCII characters"),
    };
    let mut limits = Limits::default();
    for word in words {
        let limit = word.split_once('=').and_then(|(name, n)| Some((name, n.parse::<u32>().ok()?)));
        match limit {
            Some(("concurrent", n)) if n > 0 => limits.concurrent = Some(n as usize),
            Some(("tokens_per_minute", n)) if n > 0 => limits.tokens_per_minute = Some(n),
            _ => return Err("behind the key there may be concurrent=N and tokens_per_minute=N, N from 1"),
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
