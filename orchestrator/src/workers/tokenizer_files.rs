//! The files of a worker's tokenizer, fetched from the worker.

use std::time::Duration;

use tandem_generation::Role;
use tandem_proto::v1;
use tandem_proto::v1::draft_client::DraftClient;
use tandem_proto::v1::target_client::TargetClient;
use tonic::Status;
use tonic::transport::Channel;

/// Largest file of a tokenizer that is accepted from a worker.
const MAX_FILE_BYTES: usize = 64 << 20;

/// The files of a tokenizer.
#[derive(Default)]
pub(crate) struct TokenizerFiles {
    /// tokenizer.json
    pub(crate) json: Vec<u8>,
    /// tokenizer_config.json; empty if there is none.
    pub(crate) config: Vec<u8>,
    /// chat_template.jinja; empty if there is none.
    pub(crate) chat_template: String,
}

impl TokenizerFiles {
    /// Requests them from a worker of this role.
    pub(crate) async fn fetch(role: Role, channel: Channel, timeout: Duration) -> Result<Self, Status> {
        let fetch = async {
            let request = v1::GetTokenizerRequest {};
            let response = match role {
                Role::Draft => DraftClient::new(channel).get_tokenizer(request).await,
                Role::Target => TargetClient::new(channel).get_tokenizer(request).await,
            };
            let mut parts = response?.into_inner();
            let mut all = Self::default();
            while let Some(part) = parts.message().await? {
                all.json.extend(part.chunk);
                all.config.extend(part.config);
                all.chat_template.push_str(&part.chat_template);
                if all.json.len().max(all.config.len()).max(all.chat_template.len()) > MAX_FILE_BYTES {
                    return Err(Status::invalid_argument("its tokenizer is larger than 64 MiB"));
                }
            }
            Ok(all)
        };
        let fetched = tokio::time::timeout(timeout, fetch).await;
        fetched.unwrap_or_else(|_| Err(Status::deadline_exceeded("its tokenizer did not come in time")))
    }
}
