//! The gRPC face.

use tandem_engine::ModelThread;
use tandem_proto::v1::draft_server::{Draft, DraftServer};
use tandem_proto::{MAX_MESSAGE_BYTES, SessionRef, v1};
use tandem_worker::{RunError, StepRequest, Worker, WorkerArgs, run_worker};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::service::RoutesBuilder;
use tonic::{Request, Response, Status};

use crate::propose::ProposeJob;

/// Implements `tandem.v1.Draft` on a model.
pub struct DraftService {
    worker: Worker<v1::ProposeResponse>,
}

impl DraftService {
    /// The service on `worker`.
    pub fn new(worker: Worker<v1::ProposeResponse>) -> Self {
        Self { worker }
    }
}

#[tonic::async_trait]
impl Draft for DraftService {
    async fn get_model_info(
        &self,
        _: Request<v1::GetModelInfoRequest>,
    ) -> Result<Response<v1::ModelInfo>, Status> {
        Ok(Response::new(self.worker.info()))
    }

    async fn open_session(
        &self,
        request: Request<v1::OpenSessionRequest>,
    ) -> Result<Response<v1::OpenSessionResponse>, Status> {
        Ok(Response::new(self.worker.open(request.into_inner()).await?))
    }

    async fn propose(
        &self,
        request: Request<v1::ProposeRequest>,
    ) -> Result<Response<v1::ProposeResponse>, Status> {
        let mut request = request.into_inner();
        let step = StepRequest {
            session: SessionRef::try_from(request.handle)?,
            step: request.step,
            commit: request.commit.take().map(v1::Commit::into_accepted).transpose()?,
        };
        Ok(Response::new(self.worker.step(step, ProposeJob(request.propose()?)).await?))
    }

    async fn close_session(
        &self,
        request: Request<v1::CloseSessionRequest>,
    ) -> Result<Response<v1::CloseSessionResponse>, Status> {
        Ok(Response::new(self.worker.close(request.into_inner())?))
    }
}

/// Serves drafts of `model` on `listener` until `shutdown`.
pub async fn run(
    model: ModelThread,
    args: &WorkerArgs,
    listener: TcpListener,
    shutdown: CancellationToken,
) -> Result<(), RunError> {
    let worker = Worker::new(model.clone(), args.session_lease(), args.serve.max_sessions);
    let service = DraftServer::new(DraftService::new(worker)).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let mut routes = RoutesBuilder::default();
    routes.add_service(service);
    run_worker("tandem.v1.Draft", routes, &model, args.serve.shutdown_grace(), (listener, shutdown)).await
}
