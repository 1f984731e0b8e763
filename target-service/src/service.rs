//! The gRPC service.

use tandem_draft_service::DraftService;
use tandem_engine::ModelThread;
use tandem_generation::Scores;
use tandem_proto::v1::draft_server::DraftServer;
use tandem_proto::v1::target_server::{Target, TargetServer};
use tandem_proto::{MAX_MESSAGE_BYTES, v1};
use tandem_serving::Serving;
use tandem_worker::{Calls, StepRequest, TokenizerParts, Worker, WorkerConfig, WorkerError, WorkerService};
use tonic::service::RoutesBuilder;
use tonic::{Request, Response, Status};

use crate::score::ScoreTask;

/// Implements `tandem.v1.Target` on a model.
pub struct TargetService {
    worker: Worker<Scores>,
}

impl TargetService {
    /// The target service of `worker`.
    pub fn new(worker: Worker<Scores>) -> Self {
        Self { worker }
    }
}

#[tonic::async_trait]
impl Target for TargetService {
    type GetTokenizerStream = TokenizerParts;

    async fn get_model_info(
        &self,
        _: Request<v1::GetModelInfoRequest>,
    ) -> Result<Response<v1::ModelInfo>, Status> {
        Ok(Response::new(self.worker.info()))
    }

    async fn get_tokenizer(
        &self,
        _: Request<v1::GetTokenizerRequest>,
    ) -> Result<Response<Self::GetTokenizerStream>, Status> {
        Ok(Response::new(self.worker.tokenizer()?))
    }

    async fn open_session(
        &self,
        request: Request<v1::OpenSessionRequest>,
    ) -> Result<Response<v1::OpenSessionResponse>, Status> {
        let client = request.remote_addr().map(|a| a.ip());
        let (metadata, _, request) = request.into_parts();
        self.worker.calls().answer("OpenSession", &metadata, self.worker.open(request, client)).await
    }

    async fn score_tree(
        &self,
        request: Request<v1::ScoreTreeRequest>,
    ) -> Result<Response<v1::ScoreTreeResponse>, Status> {
        let (metadata, _, mut request) = request.into_parts();
        let work = async {
            let step = StepRequest::read(request.handle, request.step, request.commit.take())?;
            let task = ScoreTask { tree: request.take_tree()?, request: request.score_request()? };
            let scores = self.worker.step(step, task).await?;
            Ok::<_, WorkerError>(scores.into())
        };
        self.worker.calls().answer("ScoreTree", &metadata, work).await
    }

    async fn close_session(
        &self,
        request: Request<v1::CloseSessionRequest>,
    ) -> Result<Response<v1::CloseSessionResponse>, Status> {
        let closed = self.worker.close(request.into_inner()).map_err(WorkerError::from)?;
        Ok(Response::new(closed))
    }
}

/// A server of scores by `model`. Must be called inside a tokio runtime.
pub fn serving(model: ModelThread, config: &WorkerConfig) -> Serving {
    let calls = Calls::new();
    let worker = Worker::new(model.clone(), config.incarnation, config.table_limits(), calls.clone());
    // For MTJD the target proposes beams of its own: it is its own draft, with separate sessions on the same model.
    // It gets another incarnation, so that a handle of one service is not valid for the other.
    let own_draft = Worker::new(model.clone(), !config.incarnation, config.table_limits(), calls.clone());
    let admission = vec![worker.admission(), own_draft.admission()];
    let service = TargetServer::new(TargetService::new(worker)).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let own_draft =
        DraftServer::new(DraftService::new(own_draft)).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let mut routes = RoutesBuilder::default();
    routes.add_service(service).add_service(own_draft);
    let service = WorkerService { service: "target", name: "tandem.v1.Target", routes, admission, calls };
    tandem_worker::serving(service, &model, config)
}
