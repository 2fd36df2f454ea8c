//! `inference.GRPCInferenceService`.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::Stream;
use open_inference::grpc_inference_service_server::GrpcInferenceService;
use open_inference::*;
use tonic::{Request, Response, Status, Streaming};

use super::Control;
use crate::app::App;

pub(super) struct Inference {
    app: Arc<App>,
    control: Control,
}

impl Inference {
    pub(super) fn new(app: Arc<App>, control: Control) -> Self {
        Self { app, control }
    }
}

macro_rules! todo_methods {
    ($($name:ident $request:ident $response:ident),*) => {
        #[tonic::async_trait]
        impl GrpcInferenceService for Inference {
            type ModelStreamInferStream = Pin<Box<dyn Stream<Item = Result<ModelStreamInferResponse, Status>> + Send>>;
            async fn model_stream_infer(&self, _: Request<Streaming<ModelInferRequest>>) -> Result<Response<Self::ModelStreamInferStream>, Status> { Err(Status::unimplemented("")) }
            $(async fn $name(&self, _: Request<$request>) -> Result<Response<$response>, Status> { let _ = (&self.app, self.control); Err(Status::unimplemented("")) })*
        }
    };
}
todo_methods!(server_live ServerLiveRequest ServerLiveResponse, server_ready ServerReadyRequest ServerReadyResponse, model_ready ModelReadyRequest ModelReadyResponse, server_metadata ServerMetadataRequest ServerMetadataResponse, model_metadata ModelMetadataRequest ModelMetadataResponse, model_infer ModelInferRequest ModelInferResponse, model_config ModelConfigRequest ModelConfigResponse, model_statistics ModelStatisticsRequest ModelStatisticsResponse, repository_index RepositoryIndexRequest RepositoryIndexResponse, repository_model_load RepositoryModelLoadRequest RepositoryModelLoadResponse, repository_model_unload RepositoryModelUnloadRequest RepositoryModelUnloadResponse);
