//! What an API key has used, and what it may use.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::error::KeyError;

/// The limits of a key; `None` sets no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Limits {
    /// Generations at once, queued ones included.
    pub(super) concurrent: Option<usize>,
    /// Tokens of prompts and generated tokens together.
    pub(super) tokens_per_minute: Option<u32>,
}

/// The usage of a key, by its name. Clones share it, also with other limits.
#[derive(Clone, Default)]
pub(super) struct KeyUsage {
    name: Arc<str>,
    limits: Limits,
    used: Arc<Mutex<Used>>,
}

#[derive(Default)]
struct Used {
    /// Generations.
    running: usize,
    bucket: Option<Bucket>,
}

/// A token bucket: it fills up steadily, to at most the tokens of one minute.
struct Bucket {
    /// Negative if more was generated than was reserved.
    tokens: f64,
    filled: Instant,
}

/// What a request, or one of its sequences, has reserved of a key's quota. Dropping it gives back what was reserved and not used.
///
/// What a generation may need at most is reserved before it begins, so that several at once cannot spend the same tokens. It is never
/// more than the tokens of one minute, so that a long generation can begin at all; tokens beyond that are taken as they come.
pub(crate) struct QuotaReservation {
    usage: Option<KeyUsage>,
    /// Generations that it counts for.
    sequences: usize,
    reserved: u32,
    used: u32,
}

impl KeyUsage {
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The same usage with the name and limits that the file has now.
    pub(super) fn with(self, name: &str, limits: Limits) -> Self {
        Self { name: name.into(), limits, used: self.used }
    }

    fn used(&self) -> MutexGuard<'_, Used> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Used {
    /// The bucket, filled up to now.
    fn bucket(&mut self, limit: u32) -> &mut Bucket {
        let now = Instant::now();
        let most = f64::from(limit);
        let bucket = self.bucket.get_or_insert(Bucket { tokens: most, filled: now });
        let minutes = now.duration_since(bucket.filled).as_secs_f64() / 60.0;
        bucket.tokens = (bucket.tokens + minutes * most).min(most);
        bucket.filled = now;
        bucket
    }
}

impl QuotaReservation {
    pub(super) fn take(usage: Option<KeyUsage>, sequences: usize) -> Result<Self, KeyError> {
        if let Some(usage) = &usage {
            let mut used = usage.used();
            let name = usage.name.clone();
            match usage.limits.concurrent {
                Some(limit) if sequences > limit => {
                    return Err(KeyError::TooMany { name, limit, requested: sequences });
                }
                Some(limit) if used.running + sequences > limit => {
                    return Err(KeyError::Busy { name, limit });
                }
                _ => used.running += sequences,
            }
        }
        Ok(Self { usage, sequences, reserved: 0, used: 0 })
    }

    /// Reserves the tokens of the prompts, and of the longest sequences that may follow. Called once per request, before it begins.
    pub(crate) fn reserve(&mut self, prompt_tokens: usize, max_new_tokens: usize) -> Result<(), KeyError> {
        let Some((usage, limit)) = self.limited() else { return Ok(()) };
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let needed = count(prompt_tokens.saturating_add(max_new_tokens)).min(limit);
        let mut used = usage.used();
        let bucket = used.bucket(limit);
        let missing = f64::from(needed) - bucket.tokens;
        if missing > 0.0 {
            // Rounded up, so that a retry is not too early.
            let retry_after = Duration::from_secs_f64(missing / f64::from(limit) * 60.0 + 1e-3);
            return Err(KeyError::Spent { name: usage.name.clone(), limit, needed, retry_after });
        }
        bucket.tokens -= f64::from(needed);
        drop(used);
        self.reserved += needed;
        self.spend(prompt_tokens);
        Ok(())
    }

    /// A reservation for each sequence, by the tokens of its prompt and those that may follow, out of what was reserved for all.
    pub(crate) fn split(mut self, sequences: &[(usize, usize)]) -> Vec<Self> {
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let mut left = self.reserved - self.used;
        let reservations: Vec<Self> = sequences
            .iter()
            .map(|&(prompt, new)| {
                let used = count(prompt).min(self.used);
                let more = count(new).min(left);
                self.used -= used;
                left -= more;
                Self { usage: self.usage.clone(), sequences: 1, reserved: used + more, used }
            })
            .collect();
        // The rest is given back here.
        self.sequences -= reservations.len();
        self.reserved = self.used + left;
        reservations
    }

    /// Counts tokens that were generated or prefilled.
    pub(crate) fn spend(&mut self, tokens: usize) {
        self.used = self.used.saturating_add(u32::try_from(tokens).unwrap_or(u32::MAX));
        if self.used <= self.reserved {
            return;
        }
        let beyond = self.used - self.reserved;
        if let Some((usage, limit)) = self.limited() {
            usage.used().bucket(limit).tokens -= f64::from(beyond);
        }
        self.reserved = self.used;
    }

    fn limited(&self) -> Option<(KeyUsage, u32)> {
        let usage = self.usage.as_ref()?;
        Some((usage.clone(), usage.limits.tokens_per_minute?))
    }
}

impl Drop for QuotaReservation {
    fn drop(&mut self) {
        if let Some((usage, limit)) = self.limited() {
            usage.used().bucket(limit).tokens += f64::from(self.reserved - self.used);
        }
        if let Some(usage) = &self.usage {
            usage.used().running -= self.sequences;
        }
    }
}
