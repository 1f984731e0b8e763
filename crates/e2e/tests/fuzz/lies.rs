//! Workers that answer what the fuzzer chooses.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use tandem_proto::v1;
use tandem_proto::v1::draft_server::Draft;
use tandem_proto::v1::target_server::Target;
use tandem_testkit::toy_tokenizer_json;
use tokio_stream::Stream;
use tonic::{Request, Response, Status};

/// Gives replies that were drawn from a fuzzer's bytes, in order; after the last one it refuses.
#[derive(Clone, Default)]
pub(super) struct Liar {
    pub(super) proposals: Arc<Mutex<VecDeque<v1::ProposeResponse>>>,
    pub(super) scores: Arc<Mutex<VecDeque<v1::ScoreTreeResponse>>>,
    pub(super) handles: Arc<Mutex<VecDeque<v1::SessionHandle>>>,
}

type TokenizerParts = Pin<Box<dyn Stream<Item = Result<v1::GetTokenizerResponse, Status>> + Send>>;

fn next<T>(queue: &Mutex<VecDeque<T>>) -> Result<Response<T>, Status> {
    let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    next.map(Response::new).ok_or_else(|| Status::resource_exhausted("no more lies"))
}

impl Liar {
    fn info() -> v1::ModelInfo {
        v1::ModelInfo {
            model_id: "liar".into(),
            vocab_size: 8,
            vocab_hash: "toy-8".into(),
            context_length: 96,
            incarnation: 1,
            ..v1::ModelInfo::default()
        }
    }

    fn tokenizer() -> Response<TokenizerParts> {
        let chunk =
            v1::GetTokenizerResponse { chunk: toy_tokenizer_json(8).into_bytes(), ..Default::default() };
        Response::new(Box::pin(tokio_stream::once(Ok(chunk))))
    }

    fn open(&self) -> Result<Response<v1::OpenSessionResponse>, Status> {
        let handle = next(&self.handles)?.into_inner();
        Ok(Response::new(v1::OpenSessionResponse { handle: Some(handle), lease_ms: 0 }))
    }
}

#[tonic::async_trait]
impl Draft for Liar {
    type GetTokenizerStream = TokenizerParts;

    async fn get_model_info(
        &self,
        _: Request<v1::GetModelInfoRequest>,
    ) -> Result<Response<v1::ModelInfo>, Status> {
        Ok(Response::new(Self::info()))
    }

    async fn get_tokenizer(
        &self,
        _: Request<v1::GetTokenizerRequest>,
    ) -> Result<Response<TokenizerParts>, Status> {
        Ok(Self::tokenizer())
    }

    async fn open_session(
        &self,
        _: Request<v1::OpenSessionRequest>,
    ) -> Result<Response<v1::OpenSessionResponse>, Status> {
        self.open()
    }

    async fn propose(&self, _: Request<v1::ProposeRequest>) -> Result<Response<v1::ProposeResponse>, Status> {
        next(&self.proposals)
    }

    async fn close_session(
        &self,
        _: Request<v1::CloseSessionRequest>,
    ) -> Result<Response<v1::CloseSessionResponse>, Status> {
        Ok(Response::new(v1::CloseSessionResponse {}))
    }
}

#[tonic::async_trait]
impl Target for Liar {
    type GetTokenizerStream = TokenizerParts;

    async fn get_model_info(
        &self,
        _: Request<v1::GetModelInfoRequest>,
    ) -> Result<Response<v1::ModelInfo>, Status> {
        Ok(Response::new(Self::info()))
    }

    async fn get_tokenizer(
        &self,
        _: Request<v1::GetTokenizerRequest>,
    ) -> Result<Response<TokenizerParts>, Status> {
        Ok(Self::tokenizer())
    }

    async fn open_session(
        &self,
        _: Request<v1::OpenSessionRequest>,
    ) -> Result<Response<v1::OpenSessionResponse>, Status> {
        self.open()
    }

    async fn score_tree(
        &self,
        _: Request<v1::ScoreTreeRequest>,
    ) -> Result<Response<v1::ScoreTreeResponse>, Status> {
        next(&self.scores)
    }

    async fn close_session(
        &self,
        _: Request<v1::CloseSessionRequest>,
    ) -> Result<Response<v1::CloseSessionResponse>, Status> {
        Ok(Response::new(v1::CloseSessionResponse {}))
    }
}
