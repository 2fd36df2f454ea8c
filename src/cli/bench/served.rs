//! The server that `sightline serve` runs, started in this process on a free loopback port.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use sightline::app::{App, Limits};
use sightline::engine::OnnxRuntime;
use sightline::http;
use sightline::http::server::ConnectionTimeouts;
use sightline::memory::TENSOR_BYTES_PER_MODEL;
use sightline::process::ProcessUsage;
use sightline::registry::{Entry, LoadedModel, ModelPlan, Registry};
use sightline::store::ModelSource;
use sightline::threads::usable_cores;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::load::Target;

/// Maximum number of open connections of the server.
const MAX_CONNECTIONS: usize = 1024;
/// Maximum time for requests in flight to finish when the server stops.
const GRACE: Duration = Duration::from_secs(5);

/// A running server with one loaded model.
pub(super) struct Server {
    /// URL to which images for the model are posted.
    url: String,
    runtime: tokio::runtime::Runtime,
    stop: CancellationToken,
    task: JoinHandle<bool>,
}

impl Server {
    pub(super) fn start(onnx_runtime: &OnnxRuntime, source: ModelSource) -> Result<Self> {
        let cores = usable_cores();
        let app = App::new(Limits::default(), cores);
        let route = http::route_of(source.manifest.task);
        let plan = ModelPlan::new(&source.manifest, cores, None);
        let model = LoadedModel::load(source.clone(), onnx_runtime, plan, &app.metrics)?;
        let registry = Registry::new(vec![Entry::loaded(source, model)]);
        registry.share_tensor_memory(TENSOR_BYTES_PER_MODEL)?;
        app.set_ready(registry);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(cores)
            .enable_all()
            .build()?;
        let listener =
            runtime.block_on(TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))))?;
        let url = format!("http://{}{route}", listener.local_addr()?);
        let stop = CancellationToken::new();
        let server = http::server::Server {
            listeners: listener.into(),
            router: http::router(Arc::new(app)),
            max_connections: MAX_CONNECTIONS,
            timeouts: ConnectionTimeouts::default(),
            transport: Arc::default(),
        };
        let stopped = stop.clone().cancelled_owned();
        let task = runtime.spawn(server.run(stopped, GRACE));
        Ok(Self {
            url,
            runtime,
            stop,
            task,
        })
    }

    pub(super) fn target(&self) -> Target<'_> {
        Target {
            url: &self.url,
            api_key: None,
        }
    }

    pub(super) fn stop(self) -> Result<()> {
        self.stop.cancel();
        self.runtime.block_on(self.task)?;
        Ok(())
    }
}

/// Sleeps for `length` and returns the CPU usage of this process in that time, as a fraction of one
/// core. The server in this process must be idle.
pub(super) fn idle_cpu(length: Duration) -> f64 {
    let (before, start) = (ProcessUsage::now().cpu_seconds, Instant::now());
    std::thread::sleep(length);
    (ProcessUsage::now().cpu_seconds - before) / start.elapsed().as_secs_f64()
}
