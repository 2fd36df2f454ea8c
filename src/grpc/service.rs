//! `inference.GRPCInferenceService`: each method converts its request, calls [`crate::inference`] or the registry, and
//! converts the result.

use std::sync::Arc;

use open_inference::grpc_inference_service_server::GrpcInferenceService;
use open_inference::{
    ModelConfigRequest, ModelConfigResponse, ModelInferRequest, ModelInferResponse,
    ModelMetadataRequest, ModelMetadataResponse, ModelReadyRequest, ModelReadyResponse,
    ModelStatisticsRequest, ModelStatisticsResponse, RepositoryIndexRequest,
    RepositoryIndexResponse, RepositoryModelLoadRequest, RepositoryModelLoadResponse,
    RepositoryModelUnloadRequest, RepositoryModelUnloadResponse, ServerLiveRequest,
    ServerLiveResponse, ServerMetadataRequest, ServerMetadataResponse, ServerReadyRequest,
    ServerReadyResponse,
};
use tonic::{Request, Response, Status, Streaming};

use super::call::Call;
use super::infer::Inferring;
use super::stream::Session;
use super::{Control, describe, stream};
use crate::admission::Deadline;
use crate::app::App;
use crate::error::ServeError;
use crate::inference::{self, Target};
use crate::keys::Grant;
use crate::parameters::bad;
use crate::registry::{LoadedModel, Snapshot};

/// The service, on the listeners whose clients may control models as `control` says.
#[derive(Clone)]
pub(super) struct Inference {
    app: Arc<App>,
    control: Control,
}

#[tonic::async_trait]
impl GrpcInferenceService for Inference {
    type ModelStreamInferStream = stream::Responses;

    async fn server_live(
        &self,
        _: Request<ServerLiveRequest>,
    ) -> Result<Response<ServerLiveResponse>, Status> {
        Ok(Response::new(ServerLiveResponse { live: true }))
    }

    async fn server_ready(
        &self,
        _: Request<ServerReadyRequest>,
    ) -> Result<Response<ServerReadyResponse>, Status> {
        let ready = self.app.ready();
        let ready = ready.and_then(|registry| registry.snapshot().check_workers());
        let ready = ready.is_ok();
        Ok(Response::new(ServerReadyResponse { ready }))
    }

    async fn model_ready(
        &self,
        request: Request<ModelReadyRequest>,
    ) -> Result<Response<ModelReadyResponse>, Status> {
        answer(request, async |request, _| {
            let (target, _) = self.target(&request.name, &request.version)?;
            let (ready, _, _) = inference::readiness(&target.entry);
            Ok(ModelReadyResponse { ready })
        })
        .await
    }

    async fn server_metadata(
        &self,
        _: Request<ServerMetadataRequest>,
    ) -> Result<Response<ServerMetadataResponse>, Status> {
        let metadata = inference::server_metadata();
        Ok(Response::new(describe::server(&metadata)))
    }

    async fn model_metadata(
        &self,
        request: Request<ModelMetadataRequest>,
    ) -> Result<Response<ModelMetadataResponse>, Status> {
        answer(request, async |request, deadline| {
            let (target, _) = self.target(&request.name, &request.version)?;
            let model = self.loaded(&target, deadline).await?;
            Ok(describe::metadata(inference::metadata(&target, &model)))
        })
        .await
    }

    async fn model_config(
        &self,
        request: Request<ModelConfigRequest>,
    ) -> Result<Response<ModelConfigResponse>, Status> {
        answer(request, async |request, deadline| {
            let (target, _) = self.target(&request.name, &request.version)?;
            let model = self.loaded(&target, deadline).await?;
            let config = inference::config(&self.app, &target, &model);
            Ok(describe::config(config))
        })
        .await
    }

    async fn model_infer(
        &self,
        request: Request<ModelInferRequest>,
    ) -> Result<Response<ModelInferResponse>, Status> {
        let call = Call::of(request.extensions())?;
        let inferring = Inferring {
            app: &self.app,
            trace: call.trace.clone(),
            deadline: call.deadline,
            body: call.take_memory(&self.app),
        };
        match inferring.run(request.into_inner()).await {
            Ok(done) => {
                call.served(done.served);
                // The encoded response takes as much memory as its tensors.
                call.hold(done.memory);
                Ok(Response::new(done.response))
            }
            Err(problem) => Err(call.failed(problem)),
        }
    }

    async fn model_stream_infer(
        &self,
        request: Request<Streaming<ModelInferRequest>>,
    ) -> Result<Response<stream::Responses>, Status> {
        let session = Session {
            app: Arc::clone(&self.app),
            call: Call::of(request.extensions())?,
            grant: request.extensions().get::<Arc<Grant>>().cloned(),
        };
        Ok(Response::new(stream::responses(
            session,
            request.into_inner(),
        )))
    }

    async fn model_statistics(
        &self,
        request: Request<ModelStatisticsRequest>,
    ) -> Result<Response<ModelStatisticsResponse>, Status> {
        answer(request, async |request, _| {
            let (target, snapshot) = if request.name.is_empty() {
                (None, self.app.registry()?.snapshot())
            } else {
                let (target, snapshot) = self.target(&request.name, &request.version)?;
                (Some(target), snapshot)
            };
            let statistics = inference::statistics(&self.app, &snapshot, target);
            Ok(describe::statistics(statistics))
        })
        .await
    }

    async fn repository_index(
        &self,
        request: Request<RepositoryIndexRequest>,
    ) -> Result<Response<RepositoryIndexResponse>, Status> {
        answer(request, async |request, _| {
            let snapshot = self.app.registry()?.snapshot();
            Ok(describe::index(inference::index(&snapshot, request.ready)))
        })
        .await
    }

    async fn repository_model_load(
        &self,
        request: Request<RepositoryModelLoadRequest>,
    ) -> Result<Response<RepositoryModelLoadResponse>, Status> {
        let call = Call::of(request.extensions())?;
        let loaded = self.load(request.into_inner()).await;
        loaded
            .map(Response::new)
            .map_err(|error| call.load_failed(error.into()))
    }

    async fn repository_model_unload(
        &self,
        request: Request<RepositoryModelUnloadRequest>,
    ) -> Result<Response<RepositoryModelUnloadResponse>, Status> {
        answer(request, async |request, _| {
            self.check_control("RepositoryModelUnload")?;
            // No model depends on another one, so that this parameter has no effect.
            check_parameters(request.parameters.keys(), &["unload_dependents"])?;
            let registry = self.app.registry()?;
            let name = inference::base_name(&registry.snapshot(), &request.model_name);
            registry.unload(&name).await?;
            Ok(RepositoryModelUnloadResponse {})
        })
        .await
    }
}

impl Inference {
    pub(super) fn new(app: Arc<App>, control: Control) -> Self {
        Self { app, control }
    }

    /// Returns the served variant that a request names, and the models of that moment.
    fn target(&self, name: &str, version: &str) -> Result<(Target, Arc<Snapshot>), ServeError> {
        let snapshot = self.app.registry()?.snapshot();
        let target = Target::find(&snapshot, name, Some(version))?;
        Ok((target, snapshot))
    }

    /// Returns the loaded model of `target`. Waits until it is loaded if it is loaded on first use, because only the
    /// loaded network shows its outputs.
    async fn loaded(
        &self,
        target: &Target,
        deadline: Deadline,
    ) -> Result<Arc<LoadedModel>, ServeError> {
        if let Some(model) = target.entry.model() {
            return Ok(model);
        }
        let load = self.app.ready()?.load(&target.entry);
        deadline.bound(load).await
    }

    async fn load(
        &self,
        request: RepositoryModelLoadRequest,
    ) -> Result<RepositoryModelLoadResponse, ServeError> {
        self.check_control("RepositoryModelLoad")?;
        // A model cannot be sent or configured by a request.
        check_parameters(request.parameters.keys(), &[])?;
        let registry = self.app.registry()?;
        let name = inference::base_name(&registry.snapshot(), &request.model_name);
        registry.reload(&name).await?;
        Ok(RepositoryModelLoadResponse {})
    }

    fn check_control(&self, method: &str) -> Result<(), ServeError> {
        match self.control {
            Control::Allowed => Ok(()),
            Control::Elsewhere => Err(ServeError::ControlElsewhere {
                path: method.to_owned(),
            }),
        }
    }
}

/// Calls `run` with the message of `request` and its deadline, and records a failure.
async fn answer<T, U>(
    request: Request<T>,
    run: impl AsyncFnOnce(T, Deadline) -> Result<U, ServeError>,
) -> Result<Response<U>, Status> {
    let call = Call::of(request.extensions())?;
    let answer = run(request.into_inner(), call.deadline).await;
    answer
        .map(Response::new)
        .map_err(|error| call.failed(error.into()))
}

/// Checks that a request to change a model has no parameters other than `known`.
fn check_parameters<'a>(
    mut names: impl Iterator<Item = &'a String>,
    known: &[&str],
) -> Result<(), ServeError> {
    match names.find(|name| !known.contains(&name.as_str())) {
        None => Ok(()),
        Some(name) => {
            let expected = if known.is_empty() {
                "none: models are loaded from the server's files only".to_owned()
            } else {
                known.join(", ")
            };
            Err(bad("parameters", &expected, name))
        }
    }
}
