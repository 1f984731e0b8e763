//! The pair of models behind the orchestrator.

use std::time::Duration;

use tandem_decoding::TokenId;
use tandem_proto::v1::draft_client::DraftClient;
use tandem_proto::v1::target_client::TargetClient;
use tandem_proto::{MAX_MESSAGE_BYTES, v1};
use tokenizers::Tokenizer;
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Response, Status};

use crate::client::{DRAFT, KnownModel, TARGET};
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
        let ask = v1::GetModelInfoRequest {};
        let ((draft_channel, draft), (target_channel, target)) = tokio::try_join!(
            reach(DRAFT, draft_url, patience, async |c| DraftClient::new(c).get_model_info(ask).await),
            reach(TARGET, target_url, patience, async |c| TargetClient::new(c).get_model_info(ask).await)
        )?;
        let proposer = |worker, channel, model| GrpcDrafter {
            worker,
            client: DraftClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES),
            timeout: step_timeout,
            model,
        };
        let drafter = proposer(DRAFT, draft_channel, KnownModel::new(draft.clone()));
        let mut scorer = GrpcScorer {
            client: TargetClient::new(target_channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES),
            // Known by itself: its sessions are of another incarnation than those that score.
            own: proposer(TARGET, target_channel, KnownModel::new(target.clone())),
            timeout: step_timeout,
            model: KnownModel::new(target.clone()),
        };
        if draft.vocab_hash != target.vocab_hash {
            return Err(ConnectError::VocabularyMismatch { draft: draft.model_id, target: target.model_id });
        }
        let fetched = tokio::time::timeout(step_timeout, fetch_tokenizer(&mut scorer.client)).await;
        let fetched = fetched.unwrap_or_else(|_| Err(Status::deadline_exceeded("no tokenizer in time")));
        let json = fetched.map_err(|status| ConnectError::Refused {
            worker: TARGET,
            url: target_url.to_owned(),
            status,
        })?;
        let tokenizer = Tokenizer::from_bytes(json).map_err(|e| ConnectError::Tokenizer {
            target: target.model_id.clone(),
            reason: e.to_string(),
        })?;
        let eos = target.eos_token_ids.iter().copied().map(TokenId).collect();
        Ok(Self { drafter, scorer, draft, target, tokenizer, eos })
    }

    /// Tokens that both models have: their embeddings may be padded differently.
    pub fn vocab(&self) -> u32 {
        self.draft.vocab_size.min(self.target.vocab_size)
    }

    /// Tokens that a text may have on both models.
    pub fn context(&self) -> usize {
        self.draft.context_length.min(self.target.context_length) as usize
    }
}

/// Connects and asks for the model, for as long as `patience` lasts: services of one system start in any order, and one that
/// still loads its model listens already.
async fn reach(
    worker: &'static str,
    url: &str,
    patience: Duration,
    ask: impl AsyncFn(Channel) -> Result<Response<v1::ModelInfo>, Status>,
) -> Result<(Channel, v1::ModelInfo), ConnectError> {
    let bad_url = || ConnectError::BadUrl { worker, url: url.to_owned() };
    let endpoint = Endpoint::from_shared(url.to_owned()).map_err(|_| bad_url())?;
    if endpoint.uri().scheme_str() != Some("http") {
        return Err(bad_url());
    }
    let endpoint = endpoint
        .connect_timeout(Duration::from_secs(5))
        .http2_keep_alive_interval(Duration::from_secs(20))
        .tcp_nodelay(true);
    let deadline = Instant::now() + patience;
    loop {
        let last = Instant::now() + RETRY_PAUSE > deadline;
        match endpoint.connect().await {
            Ok(channel) => match tokio::time::timeout_at(deadline, ask(channel.clone())).await {
                Ok(Ok(info)) => return Ok((channel, info.into_inner())),
                // A connection that nobody served in time, or that broke when the worker gave up.
                Ok(Err(status)) if status.code() == Code::Unavailable && !last => {}
                Ok(Err(status)) => return Err(ConnectError::Refused { worker, url: url.to_owned(), status }),
                Err(_) => {
                    let seconds = patience.as_secs();
                    return Err(ConnectError::Silent { worker, url: url.to_owned(), seconds });
                }
            },
            Err(source) if last => {
                return Err(ConnectError::Unreachable { worker, url: url.to_owned(), source });
            }
            Err(_) => {}
        }
        tracing::info!(worker, url, "waiting for the service");
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
