//! API keys: which clients may use the public API, and how much of it.
//!
//! With a file of keys, only clients that send one of them are admitted, over gRPC and over HTTP in the `authorization` header. Each key
//! has limits of its own: generations at once, and tokens per minute.

mod error;
mod file;
mod usage;

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use tandem_generation::Input;
use tandem_serving::{FileError, Reloaded};

use crate::config::AccessConfig;
pub(crate) use error::KeyError;
use file::Table;
use usage::KeyUsage;
pub(crate) use usage::QuotaReservation;

/// The target of log lines with prompts, by which they are kept out of traces.
const PROMPTS: &str = "prompts";

/// Who may use the public API, and what is logged of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Access {
    keys: Option<Keys>,
    log_prompts: bool,
}

/// The keys that are in the file now. Clones share them.
#[derive(Clone)]
struct Keys {
    path: PathBuf,
    table: Arc<Reloaded<Table>>,
}

/// The client that sent a request.
#[derive(Clone)]
pub(crate) struct ClientIdentity {
    /// The usage of its key; `None` where no keys are required.
    usage: Option<KeyUsage>,
    address: Option<IpAddr>,
}

impl Access {
    /// Reads the file of keys, if there is one.
    pub(crate) fn load(config: &AccessConfig) -> Result<Self, FileError> {
        let keys = config.api_keys_file.clone().map(Keys::load).transpose()?;
        Ok(Self { keys, log_prompts: config.log_prompts })
    }

    /// The client of a request, by the value of its `authorization` header and its address.
    pub(crate) fn identify(
        &self,
        header: Option<&[u8]>,
        address: Option<IpAddr>,
    ) -> Result<ClientIdentity, KeyError> {
        let usage = self.keys.as_ref().map(|keys| keys.usage(header)).transpose()?;
        Ok(ClientIdentity { usage, address })
    }

    /// Logs the prompt, if that is configured.
    pub(crate) fn log_prompt(&self, client: &ClientIdentity, prompt: &Input) {
        if !self.log_prompts {
            return;
        }
        let key = client.name();
        match prompt {
            Input::Text(text) => tracing::info!(target: PROMPTS, key, prompt = text, "requested"),
            Input::Tokens(tokens) => tracing::info!(target: PROMPTS, key, prompt = ?tokens, "requested"),
            Input::Chat(messages) => tracing::info!(target: PROMPTS, key, prompt = ?messages, "requested"),
        }
    }
}

impl Keys {
    fn load(path: PathBuf) -> Result<Self, FileError> {
        let table = Reloaded::start(vec![path.clone()], |files, before| Table::read(&files[0], before))?;
        Ok(Self { path, table })
    }

    fn usage(&self, header: Option<&[u8]>) -> Result<KeyUsage, KeyError> {
        let key = bearer(header.ok_or(KeyError::Missing)?).ok_or(KeyError::Malformed)?;
        self.table.current().find(key).ok_or(KeyError::Unknown)
    }
}

/// The key in `Bearer KEY`.
fn bearer(header: &[u8]) -> Option<&[u8]> {
    let (scheme, key) = header.split_at_checked(b"bearer ".len())?;
    (scheme.eq_ignore_ascii_case(b"bearer ") && file::may_be_key(key)).then_some(key)
}

impl ClientIdentity {
    /// The name of its key.
    pub(crate) fn name(&self) -> &str {
        self.usage.as_ref().map_or("anonymous", KeyUsage::name)
    }

    /// The address that it sends from.
    pub(crate) fn address(&self) -> Option<IpAddr> {
        self.address
    }

    /// Reserves this many of the generations that its key may have at once.
    pub(crate) fn reserve(&self, sequences: usize) -> Result<QuotaReservation, KeyError> {
        QuotaReservation::take(self.usage.clone(), sequences)
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("path", &self.path).finish_non_exhaustive()
    }
}

impl fmt::Debug for ClientIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientIdentity").field("name", &self.name()).field("address", &self.address).finish()
    }
}

#[cfg(test)]
mod tests;
