//! The parity check of `export`: the exported network must compute the values that another implementation has computed
//! from the same checkpoint.

use std::path::Path;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use onnx_export::{Model, formula};
use sightline::engine::{Engine as _, OnnxRuntime, find_library};
use sightline::image::{ImageSize, PreparedImage};
use sightline::manifest::{ModelManifest, Parity, Task, WeightsFile};
use sightline::postprocess::primary_output;

/// Name from which the input is generated.
const INPUT: &str = "parity";
/// Largest difference of a value, relative to the root of the mean square of all values.
const TOLERANCE: f64 = 1e-4;

/// Compares the network of `model`, exported from the published checkpoint `published`, with the values in the catalogue.
/// `library` is ONNX Runtime's library; `None` for the one that is found. Returns the line that says what was compared.
///
/// # Errors
/// If the network cannot be run, if it computes other values, or if `library` cannot be used.
pub(super) fn check(
    published: &WeightsFile,
    manifest: &ModelManifest,
    model: &Model,
    library: Option<&Path>,
) -> Result<String> {
    let name = &published.name;
    let Some(parity) = &published.parity else {
        return Ok(format!(
            "parity of {name}: not checked, because the catalogue has no outputs of another implementation for this \
             checkpoint; `sightline eval` measures its accuracy"
        ));
    };
    let Some(side) = manifest.preprocess.crop else {
        bail!("parity of {name}: expected a network with inputs of one size");
    };
    let library = match find_library(library) {
        Ok(found) => found,
        // A library that is named must be there.
        Err(error) if library.is_some() => return Err(error.into()),
        Err(_) => {
            return Ok(format!(
                "parity of {name}: not checked, because ONNX Runtime was not found; set ORT_DYLIB_PATH"
            ));
        }
    };
    let runtime = OnnxRuntime::load(&library)?;
    let graph = Bytes::from(model.to_files().network().clone());
    let error = compare(&runtime, &graph, side, parity)
        .with_context(|| format!("cannot check the parity of {name}"))?;
    if error.is_nan() || error > TOLERANCE {
        bail!(
            "the exported network computes other values than the checkpoint's reference: the relative difference is \
             {error:.1e}, expected at most {TOLERANCE:.0e}; please report this"
        );
    }
    Ok(format!(
        "parity of {name}: {} values of another implementation, relative difference {error:.1e}",
        parity.values.len()
    ))
}

/// Returns the largest difference between the outputs of the network and `parity`, relative to the root of the mean square
/// of the values.
fn compare(runtime: &OnnxRuntime, graph: &Bytes, side: u32, parity: &Parity) -> Result<f64> {
    let Parity { elements, values } = parity;
    if elements.len() != values.len() || values.is_empty() {
        bail!(
            "the catalogue has {} values for {} elements",
            values.len(),
            elements.len()
        );
    }
    let size = ImageSize {
        width: side,
        height: side,
    };
    let count = 3 * side as usize * side as usize;
    let input = PreparedImage::whole(size, formula::uniform(INPUT, count).collect());
    let mut session = runtime.prepare_classifier(graph)?.session()?;
    let outputs = session.run(vec![input])?;
    let outputs = outputs.first().context("the network has no outputs")?;
    let output = primary_output(Task::Classification, outputs)?;
    let scale = values.iter().map(|value| f64::from(*value).powi(2));
    let scale = (scale.sum::<f64>() / values.len() as f64).sqrt();
    let mut largest = 0.0_f64;
    for (element, value) in elements.iter().zip(values) {
        let got = output.data.get(*element);
        let got = got.with_context(|| format!("the output has no element {element}"))?;
        let difference = (f64::from(*got) - f64::from(*value)).abs();
        if difference.is_nan() || difference > largest {
            largest = difference;
        }
        if largest.is_nan() {
            break;
        }
    }
    Ok(largest / scale)
}
