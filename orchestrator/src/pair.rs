//! The pair of models behind the orchestrator.

use std::sync::Arc;
use std::time::Duration;

use tandem_decoding::TokenId;
use tandem_proto::v1;
use tandem_proto::v1::target_client::TargetClient;
use tokenizers::Tokenizer;
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::retry::Backoff;
use crate::workers::{DraftPool, Pool, TargetPool};
use crate::{ChatTemplate, ConnectError, Network, WorkerKind, WorkerLimits, WorkerName};

/// Largest tokenizer.json that is taken from a target.
const MAX_TOKENIZER_BYTES: usize = 64 << 20;
/// How long the drafts have at least, once the targets have answered.
const DRAFT_PATIENCE: Duration = Duration::from_secs(1);

/// Where the workers are.
#[derive(Clone, Debug)]
pub struct WorkerNames {
    /// Of the drafts.
    pub draft: Vec<WorkerName>,
    /// Of the targets.
    pub target: Vec<WorkerName>,
}

/// Drafts and targets that agree on their tokens.
pub struct Pair {
    /// The drafts.
    pub drafter: DraftPool,
    /// The targets.
    pub scorer: TargetPool,
    drafts: Pool,
    targets: Pool,
    /// What the targets are.
    pub target: v1::ModelInfo,
    /// The target's.
    pub tokenizer: Tokenizer,
    /// How conversations become prompts, if the target's model says it.
    pub chat: Option<ChatTemplate>,
    /// Tokens that end a text, by the target.
    pub eos: Vec<TokenId>,
}

impl Pair {
    /// Looks for workers, for at most `patience`. A target must be there; without a draft it goes on, and uses one as soon as it is
    /// there.
    pub async fn connect(
        names: WorkerNames,
        patience: Duration,
        limits: WorkerLimits,
        network: Arc<dyn Network>,
    ) -> Result<Self, ConnectError> {
        let by = Instant::now() + patience;
        let seconds = patience.as_secs();
        let targets = Pool::start(WorkerKind::Target, names.target, None, limits, network.clone());
        let nobody = |reason| ConnectError::NoWorker { worker: WorkerKind::Target, seconds, reason };
        let mut backoff = Backoff::new(0);
        let vocabulary = loop {
            let first = targets.somebody(by).await.map_err(nobody)?;
            match fetch_tokenizer(first.channel.clone(), limits.step).await {
                Ok(vocabulary) => break vocabulary,
                Err(status) if Instant::now() >= by => return Err(nobody(status.message().to_owned())),
                // It was lost meanwhile; or it has none, and nothing to wait for.
                Err(status) if status.code() == Code::InvalidArgument => {
                    return Err(ConnectError::NoTokenizer { address: first.address, status });
                }
                Err(status) => first.suspect(status.message()),
            }
            // Whoever has just failed may answer other questions at once.
            tokio::time::sleep_until((Instant::now() + backoff.next()).min(by)).await;
        };
        let Some(target) = targets.model().cloned() else { return Err(nobody(targets.trouble())) };
        let unusable = |reason| ConnectError::Tokenizer { target: target.model_id.clone(), reason };
        let tokenizer = Tokenizer::from_bytes(vocabulary.json).map_err(|e| unusable(e.to_string()))?;
        // A model whose template is broken still completes texts.
        let chat =
            ChatTemplate::new(&vocabulary.config, &vocabulary.chat_template).unwrap_or_else(|reason| {
                tracing::warn!(model = target.model_id, reason, "no chats: the chat template cannot be used");
                None
            });

        let vocabulary = Some(target.vocab_hash.clone());
        let drafts = Pool::start(WorkerKind::Draft, names.draft, vocabulary, limits, network);
        if let Err(trouble) = drafts.somebody(by.max(Instant::now() + DRAFT_PATIENCE)).await {
            if let Some(reason) = drafts.unfit() {
                return Err(ConnectError::VocabularyMismatch { target: target.model_id, reason });
            }
            tracing::warn!(trouble, "no draft answered: texts are written without drafts until one does");
        }
        let eos = target.eos_token_ids.iter().copied().map(TokenId).collect();
        let (drafter, scorer) = (DraftPool::optional(drafts.clone()), TargetPool::new(targets.clone()));
        Ok(Self { drafter, scorer, drafts, targets, target, tokenizer, chat, eos })
    }

    /// What the drafts are; the default while none has answered yet.
    pub fn draft(&self) -> v1::ModelInfo {
        self.drafts.model().cloned().unwrap_or_default()
    }

    /// Tokens that both models have: their embeddings may be padded differently.
    pub fn vocab(&self) -> u32 {
        let target = self.target.vocab_size;
        self.drafts.model().map_or(target, |draft| draft.vocab_size.min(target))
    }

    /// Tokens that a text may have on both models.
    pub fn context(&self) -> usize {
        let target = self.target.context_length;
        self.drafts.model().map_or(target, |draft| draft.context_length.min(target)) as usize
    }

    /// How all workers are, by role, without asking them.
    pub(crate) fn worker_states(&self) -> Vec<(&'static str, v1::WorkerState)> {
        let states = |role, pool: &Pool| pool.endpoints().into_iter().map(move |e| (role, e.wire_state()));
        states("draft", &self.drafts).chain(states("target", &self.targets)).collect()
    }

    /// Whether somebody could score now; why not.
    pub fn ready(&self) -> Result<(), String> {
        self.targets
            .pick(&[])
            .map(drop)
            .ok_or_else(|| format!("no target serves: {}", self.targets.trouble()))
    }

    /// All workers as they are now.
    pub async fn workers(&self) -> Vec<v1::WorkerStatus> {
        let (mut drafts, targets) = tokio::join!(self.drafts.status(), self.targets.status());
        drafts.extend(targets);
        drafts
    }
}

/// The files of a tokenizer.
#[derive(Default)]
struct Vocabulary {
    /// tokenizer.json
    json: Vec<u8>,
    /// tokenizer_config.json; empty if there is none.
    config: Vec<u8>,
    /// chat_template.jinja; empty if there is none.
    chat_template: String,
}

async fn fetch_tokenizer(channel: Channel, within: Duration) -> Result<Vocabulary, Status> {
    let fetch = async {
        let mut chunks =
            TargetClient::new(channel).get_tokenizer(v1::GetTokenizerRequest {}).await?.into_inner();
        let mut all = Vocabulary::default();
        while let Some(part) = chunks.message().await? {
            all.json.extend(part.chunk);
            all.config.extend(part.config);
            all.chat_template.push_str(&part.chat_template);
            if all.json.len().max(all.config.len()).max(all.chat_template.len()) > MAX_TOKENIZER_BYTES {
                return Err(Status::invalid_argument("it is larger than 64 MiB"));
            }
        }
        Ok(all)
    };
    let fetched = tokio::time::timeout(within, fetch).await;
    fetched.unwrap_or_else(|_| Err(Status::deadline_exceeded("its tokenizer did not come in time")))
}
