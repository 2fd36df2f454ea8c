//! The scenario `tensors`: what a request with a raw fp32 tensor takes in addition to the run of the network, over REST and
//! gRPC, with one client.
//!
//! The time of the run is the one that the server reports for the same request (`Server-Timing`), so that changes of the
//! machine's speed do not matter. The time in addition includes everything else: client, loopback, server.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};

use crate::Plan;
use crate::grpc::Channel;
use crate::http::{Connection, Request};
use crate::report::Report;
use crate::server::Server;
use crate::tally::quantile;

/// The built-in model, its input, and the shape of a tensor with one image.
const MODEL: &str = "efficientnet_lite0";
const INPUT: &str = "input";
const SHAPE: [u64; 4] = [1, 3, 224, 224];
/// Number of requests of each protocol that are measured, and of those before that warm the server up.
const REQUESTS: usize = 1000;
const WARM_UP: usize = 100;
/// Maximum of the median of the time in addition, in milliseconds.
const ADDED: f64 = 0.3;

pub(super) fn run(plan: &Plan, report: &mut Report) -> Result<()> {
    report.section("tensors");
    let mut server = Server::start(plan, &["--grpc-listen", "127.0.0.1:0"])?;
    let elements = SHAPE.iter().product::<u64>() as usize;
    let tensor: Vec<u8> = (0..elements)
        .flat_map(|index| ((index % 255) as f32 / 127.0 - 1.0).to_le_bytes())
        .collect();
    let path = format!("/v2/models/{MODEL}/infer");
    let rest = Request::post(&path, "application/octet-stream", &tensor)
        .with_header("inference-header-content-length", "0");
    let call = crate::grpc::infer_message(MODEL, INPUT, &SHAPE, &tensor);
    let mut connection = Connection::new(server.address);
    let grpc = server.grpc.context("the server has no gRPC listener")?;
    let mut channel = Channel::open(grpc)?;
    let mut times = [Times::default(), Times::default()];
    // In turns, so that both see the same machine.
    for index in 0..WARM_UP + REQUESTS {
        let start = Instant::now();
        let response = connection.send(&rest)?;
        let over_rest = (start.elapsed().as_secs_f64() * 1e3, response.inference);
        ensure!(response.status == 200, "status {}", response.status);
        let start = Instant::now();
        let inference = channel.infer(&call)?;
        let over_grpc = (start.elapsed().as_secs_f64() * 1e3, inference);
        if index >= WARM_UP {
            times[0].add(over_rest)?;
            times[1].add(over_grpc)?;
        }
    }
    server.check_alive()?;
    for (name, times) in ["REST", "gRPC"].into_iter().zip(&mut times) {
        let [p10, p90] = [0.1, 0.9].map(|q| quantile(&mut times.added, q));
        report.info(
            &format!("{name}: time besides the run, p10 and p90, ms"),
            format!("{p10:.3}, {p90:.3}"),
        );
        let run = quantile(&mut times.runs, 0.5);
        report.info(&format!("{name}: run, p50, ms"), format!("{run:.2}"));
        let figure = format!("{name}: time besides the run, p50, ms");
        report.below(&figure, quantile(&mut times.added, 0.5), ADDED);
    }
    Ok(())
}

/// Times of the requests of one protocol, in milliseconds.
#[derive(Default)]
struct Times {
    runs: Vec<f64>,
    added: Vec<f64>,
}

impl Times {
    /// Adds a request that took `total`, of which the server reports `inference` for the run.
    fn add(&mut self, (total, inference): (f64, Option<f64>)) -> Result<()> {
        let run = inference.context("the response does not state the time of the run")?;
        self.runs.push(run);
        self.added.push(total - run);
        Ok(())
    }
}
