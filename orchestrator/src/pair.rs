//! The pair of models that the orchestrator generates with.

use std::sync::Arc;
use std::time::Duration;

use tandem_decoding::TokenId;
use tandem_generation::Role;
use tandem_proto::v1;
use tokenizers::Tokenizer;
use tokio::time::Instant;
use tonic::Code;

use crate::chat::ChatTemplate;
use crate::connect_error::ConnectError;
use crate::network::Network;
use crate::retry::Backoff;
use crate::vocabulary::TokenTable;
use crate::workers::{
    DraftPool, Pool, TargetPool, TargetVocabulary, TokenizerFiles, WorkerNames, WorkerState, WorkerStatus,
    WorkerTimeouts,
};

/// How long the drafts have at least, once a target has answered.
const DRAFT_TIMEOUT: Duration = Duration::from_secs(1);

/// Drafts and targets that agree on their tokens.
pub struct Pair {
    /// The drafts.
    pub drafter: DraftPool,
    /// The targets.
    pub scorer: TargetPool,
    drafts: Pool,
    targets: Pool,
    /// The targets' model.
    pub target: v1::ModelInfo,
    /// The target's tokenizer.
    pub tokenizer: Arc<Tokenizer>,
    /// One more than the largest id of the tokenizer.
    tokens: u32,
    /// The chat template, if the target's model has one.
    pub chat: Option<ChatTemplate>,
    /// Tokens that end a sequence, according to the target.
    pub eos: Vec<TokenId>,
}

impl Pair {
    /// Looks for workers, for at most `timeout`. A target must be available; a draft is used as soon as there is one.
    pub async fn connect(
        names: WorkerNames,
        timeout: Duration,
        timeouts: WorkerTimeouts,
        network: Arc<dyn Network>,
    ) -> Result<Self, ConnectError> {
        let deadline = Instant::now() + timeout;
        let targets = Pool::start(Role::Target, names.target, None, timeouts, network.clone());
        let files = first_tokenizer(&targets, deadline, timeout).await?;
        let Some(target) = targets.model().cloned() else {
            return Err(no_target(timeout, targets.trouble()));
        };
        let unusable = |reason| ConnectError::Tokenizer { target: target.model_id.clone(), reason };
        let tokenizer = prompt_tokenizer(&files.json).map_err(|e| unusable(e.to_string()))?;
        let chat = chat_template(&files, &target.model_id);
        let tokenizer = Arc::new(tokenizer);
        let tokens = TokenTable::new(&tokenizer).size();

        let vocabulary = TargetVocabulary::new(target.clone(), tokenizer.clone());
        let drafts = Pool::start(Role::Draft, names.draft, Some(vocabulary), timeouts, network);
        let draft_deadline = deadline.max(Instant::now() + DRAFT_TIMEOUT);
        if let Err(trouble) = drafts.first_serving(draft_deadline).await {
            if let Some(reason) = drafts.unfit() {
                return Err(ConnectError::VocabularyMismatch { reason });
            }
            tracing::warn!(trouble, "no draft answered: generation goes on without drafts until one does");
        }
        let eos = target.eos_token_ids.iter().copied().map(TokenId).collect();
        let drafter = DraftPool::new(drafts.clone());
        let scorer = TargetPool::new(targets.clone());
        Ok(Self { drafter, scorer, drafts, targets, target, tokenizer, tokens, chat, eos })
    }

    /// The drafts' model; the default while none has answered.
    pub fn draft(&self) -> v1::ModelInfo {
        self.drafts.model().cloned().unwrap_or_default()
    }

    /// Tokens from this id on do not occur: the embeddings of the models may be padded differently. A draft whose embedding is smaller
    /// than the tokenizer does not keep the target from its tokens.
    pub fn vocab(&self) -> u32 {
        let target = self.target.vocab_size;
        self.drafts.model().map_or(target, |draft| draft.vocab_size.max(self.tokens).min(target))
    }

    /// Tokens that a sequence may have on both models.
    pub fn context(&self) -> usize {
        let target = self.target.context_length;
        self.drafts.model().map_or(target, |draft| draft.context_length.min(target)) as usize
    }

    /// The role and state of every worker, without a request to it.
    pub(crate) fn worker_states(&self) -> Vec<(Role, WorkerState)> {
        let drafts = self.drafts.states().into_iter().map(|state| (Role::Draft, state));
        let targets = self.targets.states().into_iter().map(|state| (Role::Target, state));
        drafts.chain(targets).collect()
    }

    /// Whether a target could score now; the error says why not.
    pub fn ready(&self) -> Result<(), String> {
        match self.targets.pick(&[]) {
            Some(_) => Ok(()),
            None => Err(format!("no target serves: {}", self.targets.trouble())),
        }
    }

    /// All workers as they are now.
    pub(crate) async fn workers(&self) -> Vec<WorkerStatus> {
        let (mut drafts, targets) = tokio::join!(self.drafts.status(), self.targets.status());
        drafts.extend(targets);
        drafts
    }
}

fn no_target(timeout: Duration, reason: String) -> ConnectError {
    ConnectError::NoWorker { role: Role::Target, seconds: timeout.as_secs(), reason }
}

/// The tokenizer of the first target that sends it.
async fn first_tokenizer(
    targets: &Pool,
    deadline: Instant,
    timeout: Duration,
) -> Result<TokenizerFiles, ConnectError> {
    let mut backoff = Backoff::new(0);
    loop {
        let first = targets.first_serving(deadline).await.map_err(|reason| no_target(timeout, reason))?;
        let timeout_of_request = targets.timeouts().request;
        match TokenizerFiles::fetch(Role::Target, first.channel.clone(), timeout_of_request).await {
            Ok(files) => return Ok(files),
            Err(status) if Instant::now() >= deadline => {
                return Err(no_target(timeout, status.message().to_owned()));
            }
            // It has no tokenizer, so there is nothing to wait for.
            Err(status) if status.code() == Code::InvalidArgument => {
                let reason = status.message().to_owned();
                return Err(ConnectError::NoTokenizer { address: first.address, reason });
            }
            // It was lost meanwhile.
            Err(status) => first.suspect(status.message()),
        }
        let pause = backoff.next().min(deadline.saturating_duration_since(Instant::now()));
        #[allow(
            clippy::disallowed_methods,
            reason = "a worker that has just failed may answer other requests at once"
        )]
        tokio::time::sleep(pause).await;
    }
}

/// The tokenizer in `json`. Truncation and padding are settings of the training: a prompt would lose its end, or gain tokens.
fn prompt_tokenizer(json: &[u8]) -> tokenizers::Result<Tokenizer> {
    let mut tokenizer = Tokenizer::from_bytes(json)?;
    tokenizer.with_padding(None);
    tokenizer.with_truncation(None)?;
    Ok(tokenizer)
}

/// The chat template. A model whose template is broken still completes prompts.
fn chat_template(files: &TokenizerFiles, model: &str) -> Option<ChatTemplate> {
    ChatTemplate::new(&files.config, &files.chat_template).unwrap_or_else(|reason| {
        tracing::warn!(model, reason, "chats are refused: the chat template cannot be used");
        None
    })
}
