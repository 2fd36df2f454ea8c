//! `sightline predict`.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use clap::Args;
use onnx_export::manifest::Task;
use serde_json::json;
use sightline::app::{App, Limits};
use sightline::image::Orientation;
use sightline::pipeline::{ClassifyRequest, Images, classify_pictures};
use sightline::postprocess::classify::Prediction;
use sightline::registry::{LoadedModel, ModelPlan, Registry};
use sightline::store::{ModelRef, read_bounded};
use sightline::threads::usable_cores;

use super::{RuntimeArgs, StoreArgs};

#[derive(Debug, Args)]
pub(super) struct PredictArgs {
    /// Model, as NAME, NAME@VARIANT or a path
    #[arg(long, env = "SIGHTLINE_MODEL", default_value = sightline::catalogue::DEFAULT_MODEL, value_name = "M")]
    model: ModelRef,
    /// Pictures
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<PathBuf>,
    /// Classes to answer with
    #[arg(long, env = "SIGHTLINE_TOP_K", default_value_t = 5, value_name = "N")]
    top_k: usize,
    /// Print one JSON object per picture
    #[arg(long, env = "SIGHTLINE_JSON")]
    json: bool,
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    runtime: RuntimeArgs,
}

/// Answers for each picture; fails at the end if one could not be used.
pub(super) fn run(args: &PredictArgs) -> Result<()> {
    if args.top_k == 0 {
        bail!("`--top-k`: expected at least 1, got 0");
    }
    let runtime = args.runtime.load()?;
    let mut source = args.store.store().find(&args.model)?;
    // One picture at a time: every core works on it.
    source.manifest.batching.instances = Some(1);
    let plan = ModelPlan::new(&source.manifest, usable_cores(), None);
    let app = App::new(Limits::default(), 1);
    let model = LoadedModel::load(source, &runtime, plan, &app.metrics)?;
    app.set_ready(Registry::new(vec![model]));
    let tokio = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut failed = 0;
    for path in &args.images {
        match tokio.block_on(predict(&app, path, args.top_k)) {
            Ok(predictions) if args.json => {
                println!(
                    "{}",
                    json!({ "image": path.display().to_string(), "predictions": predictions })
                );
            }
            Ok(predictions) => print_table(path, &predictions),
            Err(error) => {
                let why = super::explain(&error);
                // The request held one picture, whose name is said already.
                let why = why.trim_start_matches("picture 0: ");
                eprintln!("error: {}: {why}", path.display());
                failed += 1;
            }
        }
    }
    match failed {
        0 => Ok(()),
        failed => bail!(
            "{failed} of {} pictures could not be used",
            args.images.len()
        ),
    }
}

async fn predict(app: &App, path: &Path, top_k: usize) -> Result<Vec<Prediction>> {
    let bytes = read_bounded(path, app.limits.max_body_bytes as u64)?;
    let images = Images {
        pictures: vec![Bytes::from(bytes)],
        memory: None,
    };
    let request = ClassifyRequest {
        model: app.registry()?.for_task(Task::Classification, None)?,
        top_k,
        orientation: Orientation::Apply,
        images,
    };
    let deadline = Instant::now() + app.limits.request_timeout;
    let answer = classify_pictures(app, request, deadline).await?;
    answer.results.into_iter().next().context("no answer")
}

fn print_table(path: &Path, predictions: &[Prediction]) {
    println!("{}", path.display());
    for Prediction {
        class_id,
        label,
        score,
    } in predictions
    {
        println!("  {:5.1} %  {label} ({class_id})", score * 100.0);
    }
}
