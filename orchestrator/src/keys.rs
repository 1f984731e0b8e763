//! Who may use the public API, and how much of it.
//!
//! An operator who gives a file of keys lets in nobody without one. Over gRPC and over HTTP a key comes in the `authorization` header.
//! Each key has limits of its own: generations at once, and tokens per minute.

mod account;
mod file;

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tandem_proto::{Fault, Input};
use tandem_serving::{FileError, Reloaded};
use thiserror::Error;
use tonic::Status;

use account::Account;
pub use account::Ticket;
use file::Table;

/// Of the log lines with prompts: telling them apart keeps them out of traces.
const PROMPTS: &str = "prompts";

/// Who may use the public API, and what is logged of it.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct AccessArgs {
    /// File of API keys, a line each: NAME KEY [concurrent=N] [tokens_per_minute=N]; read again when it changes [default: no keys, open
    /// to all]
    #[arg(long, env = "TANDEM_API_KEYS_FILE", value_name = "FILE", value_parser = Keys::parse)]
    pub api_keys_file: Option<Keys>,

    /// Log the prompts of all requests, with the names of their keys
    #[arg(long, env = "TANDEM_LOG_PROMPTS")]
    pub log_prompts: bool,
}

/// The keys, always those that are in the file now. Clones share them.
#[derive(Clone)]
pub struct Keys {
    path: PathBuf,
    table: Arc<Reloaded<Table>>,
}

/// Who asks.
#[derive(Clone)]
pub struct Caller {
    /// Nobody's, where no keys are asked for.
    account: Option<Account>,
    client: Option<IpAddr>,
}

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum KeyError {
    #[error("this API wants a key: send it in the header \"authorization: Bearer KEY\"")]
    Missing,
    #[error("the authorization header is not \"Bearer KEY\"")]
    Malformed,
    #[error("this API does not know the key")]
    Unknown,
    #[error(
        "key {name} has {limit} generations running or waiting, the most that it may have: end some first"
    )]
    Busy { name: Arc<str>, limit: usize },
    #[error(
        "key {name} may have {limit} generations at once, and {asked} were asked for: ask for fewer texts"
    )]
    TooMany { name: Arc<str>, limit: usize, asked: usize },
    #[error(
        "key {name} has used up its {limit} tokens per minute, and this request may need {needed}: try again in {} s, or ask for \
         fewer tokens",
        retry_after.as_secs_f64().ceil()
    )]
    Spent { name: Arc<str>, limit: u32, needed: u32, retry_after: Duration },
}

impl AccessArgs {
    /// Who asks, by the value of the `authorization` header and the address.
    pub fn caller(&self, header: Option<&[u8]>, client: Option<IpAddr>) -> Result<Caller, KeyError> {
        let account = self.api_keys_file.as_ref().map(|keys| keys.account(header)).transpose()?;
        Ok(Caller { account, client })
    }

    /// Logs the prompt, if that was asked for.
    pub fn log_prompt(&self, caller: &Caller, prompt: &Input) {
        if !self.log_prompts {
            return;
        }
        match prompt {
            Input::Text(text) => tracing::info!(target: PROMPTS, key = caller.name(), prompt = text, "asked"),
            Input::Tokens(tokens) => {
                tracing::info!(target: PROMPTS, key = caller.name(), prompt = ?tokens, "asked")
            }
            Input::Chat(messages) => {
                tracing::info!(target: PROMPTS, key = caller.name(), prompt = ?messages, "asked")
            }
        }
    }
}

impl Keys {
    /// Reads the file.
    pub fn load(path: PathBuf) -> Result<Self, FileError> {
        let table = Reloaded::start(vec![path.clone()], |files, before| Table::read(&files[0], before))?;
        Ok(Self { path, table })
    }

    /// Looks at the file now, not at the next of its own looks: whether it changed.
    pub fn refresh(&self) -> Result<bool, FileError> {
        self.table.refresh()
    }

    fn parse(path: &str) -> Result<Self, String> {
        Self::load(path.into()).map_err(|e| e.to_string())
    }

    fn account(&self, header: Option<&[u8]>) -> Result<Account, KeyError> {
        let key = bearer(header.ok_or(KeyError::Missing)?).ok_or(KeyError::Malformed)?;
        self.table.current().find(key).ok_or(KeyError::Unknown)
    }
}

/// The key in `Bearer KEY`.
fn bearer(header: &[u8]) -> Option<&[u8]> {
    let (scheme, key) = header.split_at_checked(b"bearer ".len())?;
    (scheme.eq_ignore_ascii_case(b"bearer ") && file::may_be_key(key)).then_some(key)
}

impl Caller {
    /// Of the key.
    pub fn name(&self) -> &str {
        self.account.as_ref().map_or("anonymous", Account::name)
    }

    /// Where it calls from.
    pub fn client(&self) -> Option<IpAddr> {
        self.client
    }

    /// Takes so many of the generations that it may have at once.
    pub fn admit(&self, texts: usize) -> Result<Ticket, KeyError> {
        Ticket::take(self.account.clone(), texts)
    }
}

impl KeyError {
    /// Whether it is the key that is wrong (401 over HTTP), not its use (429).
    pub fn is_unauthenticated(&self) -> bool {
        matches!(self, Self::Missing | Self::Malformed | Self::Unknown)
    }

    /// When to come back, if that helps.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Missing | Self::Malformed | Self::Unknown | Self::TooMany { .. } => None,
            // About the length of a short request.
            Self::Busy { .. } => Some(Duration::from_millis(500)),
            Self::Spent { retry_after, .. } => Some(*retry_after),
        }
    }
}

impl From<KeyError> for Status {
    fn from(error: KeyError) -> Self {
        let message = error.to_string();
        match error.retry_after() {
            Some(retry_after) => Fault::Exhausted { message, retry_after }.into(),
            None if error.is_unauthenticated() => Self::unauthenticated(message),
            None => Fault::invalid("n", message).into(),
        }
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("path", &self.path).finish_non_exhaustive()
    }
}

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caller").field("name", &self.name()).field("client", &self.client).finish()
    }
}

#[cfg(test)]
mod tests;
