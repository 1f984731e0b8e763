//! The pair of models behind the orchestrator.

use std::time::Duration;

use tandem_decoding::TokenId;
use tandem_proto::v1::draft_client::DraftClient;
use tandem_proto::v1::target_client::TargetClient;
use tandem_proto::{MAX_MESSAGE_BYTES, v1};
use tokenizers::Tokenizer;
use tokio::time::Instant;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use crate::{ConnectError, GrpcDrafter, GrpcScorer};

/// Largest tokenizer.json that is taken from a target.
const MAX_TOKENIZER_BYTES: usize = 64 << 20;
/// Between two tries to reach a worker that is starting.
const RETRY_PAUSE: Duration = Duration::from_millis(250);

/// A draft and a target that agree on their tokens.
pub struct Pair {
    /// The draft.
    pub drafter: GrpcDrafter,
    /// The target.
    pub scorer: GrpcScorer,
    /// What the draft is.
    pub draft: v1::ModelInfo,
    /// What the target is.
    pub target: v1::ModelInfo,
    /// The target's.
    pub tokenizer: Tokenizer,
    /// Tokens that end a text, by the target.
    pub eos: Vec<TokenId>,
}

impl Pair {
    /// Connects to both workers, for at most `patience` each, and checks that they belong together. `step_timeout` bounds every
    /// request to them from then on.
    pub async fn connect(
        draft_url: &str,
        target_url: &str,
        patience: Duration,
        step_timeout: Duration,
    ) -> Result<Self, ConnectError> {
        let (draft, target) =
            tokio::try_join!(channel("draft", draft_url, patience), channel("target", target_url, patience))?;
        let mut drafter = GrpcDrafter { client: DraftClient::new(draft), timeout: step_timeout };
        let mut scorer = GrpcScorer { client: TargetClient::new(target), timeout: step_timeout };
        scorer.client = scorer.client.max_decoding_message_size(MAX_MESSAGE_BYTES);
        let ask = v1::GetModelInfoRequest {};
        let draft = drafter.client.get_model_info(ask).await.map_err(refused("draft", draft_url))?;
        let target = scorer.client.get_model_info(ask).await.map_err(refused("target", target_url))?;
        let (draft, target) = (draft.into_inner(), target.into_inner());
        if draft.vocab_hash != target.vocab_hash {
            return Err(ConnectError::VocabularyMismatch { draft: draft.model_id, target: target.model_id });
        }
        let json = fetch_tokenizer(&mut scorer.client).await.map_err(refused("target", target_url))?;
        let tokenizer = Tokenizer::from_bytes(json).map_err(|e| ConnectError::Tokenizer {
            target: target.model_id.clone(),
            reason: e.to_string(),
        })?;
        let eos = target.eos_token_ids.iter().copied().map(TokenId).collect();
        Ok(Self { drafter, scorer, draft, target, tokenizer, eos })
    }

    /// Tokens that a text may have on both models.
    pub fn context(&self) -> usize {
        self.draft.context_length.min(self.target.context_length) as usize
    }
}

fn refused(worker: &'static str, url: &str) -> impl FnOnce(Status) -> ConnectError + use<> {
    let url = url.to_owned();
    move |status| ConnectError::Refused { worker, url, status }
}

/// A connection, once the worker listens: services of one system start in any order.
async fn channel(worker: &'static str, url: &str, patience: Duration) -> Result<Channel, ConnectError> {
    let unreachable = |source| ConnectError::Unreachable { worker, url: url.to_owned(), source };
    let endpoint = Endpoint::from_shared(url.to_owned())
        .map_err(unreachable)?
        .connect_timeout(Duration::from_secs(5))
        .http2_keep_alive_interval(Duration::from_secs(20))
        .tcp_nodelay(true);
    let deadline = Instant::now() + patience;
    loop {
        match endpoint.connect().await {
            Ok(channel) => return Ok(channel),
            Err(error) if Instant::now() + RETRY_PAUSE > deadline => return Err(unreachable(error)),
            Err(_) => tracing::info!(worker, url, "waiting for the service"),
        }
        // There is no event to await: nobody tells when another process begins to listen.
        #[allow(clippy::disallowed_methods)]
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

async fn fetch_tokenizer(client: &mut TargetClient<Channel>) -> Result<Vec<u8>, Status> {
    let mut chunks = client.get_tokenizer(v1::GetTokenizerRequest {}).await?.into_inner();
    let mut json = Vec::new();
    while let Some(part) = chunks.message().await? {
        json.extend(part.chunk);
        if json.len() > MAX_TOKENIZER_BYTES {
            return Err(Status::out_of_range("the tokenizer is larger than 64 MiB"));
        }
    }
    Ok(json)
}
