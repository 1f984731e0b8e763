//! What a key has used, and what it may.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::KeyError;

/// Of a key; none where it is absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Limits {
    /// Generations at once, those that wait included.
    pub(super) concurrent: Option<usize>,
    /// Of prompts and texts together.
    pub(super) tokens_per_minute: Option<u32>,
}

/// A key's, by its name: clones and other limits share what it has used.
#[derive(Clone, Default)]
pub(super) struct Account {
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

/// Fills up steadily; a minute's tokens at most.
struct Bucket {
    /// Less than none: more was written than was reserved.
    tokens: f64,
    filled: Instant,
}

/// A request's right to run, and that of each of its texts. Dropping it gives back what it has reserved and not used.
///
/// What a generation may need at worst is reserved before it begins, so that many at once cannot spend the same tokens; but never more than
/// a minute's, so that a long one can begin at all. What it writes beyond is taken as it comes.
pub struct Ticket {
    account: Option<Account>,
    /// Generations that it counts for.
    texts: usize,
    reserved: u32,
    used: u32,
}

impl Account {
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// As the file says it now.
    pub(super) fn with(self, name: &str, limits: Limits) -> Self {
        Self { name: name.into(), limits, used: self.used }
    }

    fn used(&self) -> MutexGuard<'_, Used> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Used {
    /// Filled up to now.
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

impl Ticket {
    pub(super) fn take(account: Option<Account>, texts: usize) -> Result<Self, KeyError> {
        if let Some(account) = &account {
            let mut used = account.used();
            let name = account.name.clone();
            match account.limits.concurrent {
                Some(limit) if texts > limit => return Err(KeyError::TooMany { name, limit, asked: texts }),
                Some(limit) if used.running + texts > limit => return Err(KeyError::Busy { name, limit }),
                _ => used.running += texts,
            }
        }
        Ok(Self { account, texts, reserved: 0, used: 0 })
    }

    /// Takes the tokens of the prompts, and those of the longest texts that may come. Once per request, before it begins.
    pub fn reserve(&mut self, prompt_tokens: usize, max_new_tokens: usize) -> Result<(), KeyError> {
        let Some((account, limit)) = self.limited() else { return Ok(()) };
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let needed = count(prompt_tokens.saturating_add(max_new_tokens)).min(limit);
        let mut used = account.used();
        let bucket = used.bucket(limit);
        let missing = f64::from(needed) - bucket.tokens;
        if missing > 0.0 {
            // Not a moment too early.
            let retry_after = Duration::from_secs_f64(missing / f64::from(limit) * 60.0 + 1e-3);
            return Err(KeyError::Spent { name: account.name.clone(), limit, needed, retry_after });
        }
        bucket.tokens -= f64::from(needed);
        drop(used);
        self.reserved += needed;
        self.spend(prompt_tokens);
        Ok(())
    }

    /// A ticket for each text, by its prompt's tokens and those that may come, out of what was reserved for all.
    pub fn split(mut self, texts: &[(usize, usize)]) -> Vec<Self> {
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let mut left = self.reserved - self.used;
        let tickets: Vec<Self> = texts
            .iter()
            .map(|&(prompt, new)| {
                let (used, more) = (count(prompt).min(self.used), count(new).min(left));
                self.used -= used;
                left -= more;
                Self { account: self.account.clone(), texts: 1, reserved: used + more, used }
            })
            .collect();
        // What is left is given back here.
        self.texts -= tickets.len();
        self.reserved = self.used + left;
        tickets
    }

    /// Counts tokens that were written, or read.
    pub fn spend(&mut self, tokens: usize) {
        self.used = self.used.saturating_add(u32::try_from(tokens).unwrap_or(u32::MAX));
        if self.used <= self.reserved {
            return;
        }
        let beyond = self.used - self.reserved;
        if let Some((account, limit)) = self.limited() {
            account.used().bucket(limit).tokens -= f64::from(beyond);
        }
        self.reserved = self.used;
    }

    fn limited(&self) -> Option<(Account, u32)> {
        let account = self.account.as_ref()?;
        Some((account.clone(), account.limits.tokens_per_minute?))
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some((account, limit)) = self.limited() {
            account.used().bucket(limit).tokens += f64::from(self.reserved - self.used);
        }
        if let Some(account) = &self.account {
            account.used().running -= self.texts;
        }
    }
}
