//! The gRPC service.

use tandem_engine::ModelThread;
use tandem_generation::Proposal;
use tandem_proto::v1::draft_server::{Draft, DraftServer};
use tandem_proto::{MAX_MESSAGE_BYTES, v1};
use tandem_serving::Serving;
use tandem_worker::{Calls, StepRequest, TokenizerParts, Worker, WorkerConfig, WorkerError, WorkerService};
use tonic::service::RoutesBuilder;
use tonic::{Request, Response, Status};

use crate::propose::ProposeTask;

/// Implements `tandem.v1.Draft` on a model.
pub struct DraftService {
    worker: Worker<Proposal>,
}

impl DraftService {
    /// The draft service of `worker`.
    pub fn new(worker: Worker<Proposal>) -> Self {
        Self { worker }
    }
}

#[tonic::async_trait]
impl Draft for DraftService {
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

    async fn propose(
        &self,
        request: Request<v1::ProposeRequest>,
    ) -> Result<Response<v1::ProposeResponse>, Status> {
        let (metadata, _, mut request) = request.into_parts();
        let work = async {
            let step = StepRequest::read(request.handle, request.step, request.commit.take())?;
            let proposal = self.worker.step(step, ProposeTask(request.draft_request()?)).await?;
            Ok::<_, WorkerError>(proposal.into())
        };
        self.worker.calls().answer("Propose", &metadata, work).await
    }

    async fn close_session(
        &self,
        request: Request<v1::CloseSessionRequest>,
    ) -> Result<Response<v1::CloseSessionResponse>, Status> {
        let closed = self.worker.close(request.into_inner()).map_err(WorkerError::from)?;
        Ok(Response::new(closed))
    }
}

/// A server of drafts by `model`. Must be called inside a tokio runtime.
pub fn serving(model: ModelThread, config: &WorkerConfig) -> Serving {
    let calls = Calls::new();
    let worker = Worker::new(model.clone(), config.incarnation, config.table_limits(), calls.clone());
    let admission = vec![worker.admission()];
    let service = DraftServer::new(DraftService::new(worker)).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let mut routes = RoutesBuilder::default();
    routes.add_service(service);
    let service = WorkerService { service: "draft", name: "tandem.v1.Draft", routes, admission, calls };
    tandem_worker::serving(service, &model, config)
}
