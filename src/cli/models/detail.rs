//! One model in detail.

use anyhow::Result;
use onnx_export::text::{printable, shown};
use sightline::http::route_of;
use sightline::manifest::{Certificate, ModelManifest};

use super::Row;
use crate::cli::say::say;

/// Prints the model that `manifest` describes. `rows` are its rows of the list.
pub(super) fn print(manifest: &ModelManifest, rows: &[Row]) -> Result<()> {
    let name = &manifest.name;
    say!("{name}: {}", shown(&manifest.description))?;
    let task = manifest.task;
    field(
        "task",
        &format!("{}, POST {}", task.as_str(), route_of(task)),
    )?;
    field("here", &here(name, rows))?;
    if let Some(first) = rows.first() {
        let variants = first.marked_variants();
        let (default, others) = variants.split_first().unzip();
        let default = default.map(|name| format!("{name} (the name alone selects this one)"));
        let others = others.unwrap_or_default().iter().cloned();
        let variants: Vec<String> = default.into_iter().chain(others).collect();
        field("variants", &variants.join(", "))?;
    }
    if let Some(architecture) = &manifest.architecture {
        field("classes", &architecture.num_classes.to_string())?;
    }
    if let Some(license) = &manifest.code_license {
        field("code", &format!("license {}", shown(license)))?;
    }
    for row in rows {
        weights(row)?;
    }
    for (variant, certificate) in rows.iter().flat_map(|row| &row.certificates) {
        field("measured", &measured(variant, certificate))?;
    }
    Ok(())
}

/// Returns the figures of a certificate, and what they were measured on.
fn measured(variant: &str, certificate: &Certificate) -> String {
    let figures = certificate.figures.iter();
    let figures = figures.map(|(name, percent)| format!("{} {percent:.1} %", shown(name)));
    let figures: Vec<String> = figures.collect();
    let Certificate {
        images,
        dataset,
        date,
        ..
    } = certificate;
    let on = format!("{images} images ({}), {}", shown(dataset), shown(date));
    format!("{variant}: {} on {on}", figures.join(", "))
}

/// Prints one line with the name of a field and its value. `name` is empty for a continuation of the field before.
fn field(name: &str, value: &str) -> Result<()> {
    say!("  {name:10}  {value}")
}

/// Returns where the model is, or how to install it.
fn here(name: &str, rows: &[Row]) -> String {
    let installed = rows
        .iter()
        .find_map(|row| Some((row, row.here.as_deref()?)));
    let Some((row, path)) = installed else {
        if rows.iter().any(|row| row.url.is_some()) {
            return format!("not installed: sightline pull {name}");
        }
        return format!("not installed: sightline export {name} --weights FILE -o DIR/{name}");
    };
    let size = row.bytes.map(|n| format!(" ({:.1} MB)", n as f64 / 1e6));
    let int8 = row.int8.as_deref().map(|path| format!(", {path}"));
    let text = [path, &size.unwrap_or_default(), &int8.unwrap_or_default()].concat();
    printable(&text, &[]).into_owned()
}

/// Prints the weights of a row: their name, size, published accuracy and URL.
fn weights(row: &Row) -> Result<()> {
    let mut parts = vec![shown(&row.weights)];
    parts.extend(row.parameters.map(|n| format!("{n} parameters")));
    let accuracy = row.accuracy.iter();
    parts.extend(accuracy.map(|(name, percent)| format!("{} {percent:.1} %", shown(name))));
    field("weights", &parts.join(", "))?;
    if let Some(license) = &row.license {
        let data = row.training_data.as_deref().map(shown);
        let data =
            data.map(|data| format!(", trained on {data}, whose terms of use can apply, too"));
        field(
            "",
            &format!("license {}{}", shown(license), data.unwrap_or_default()),
        )?;
    }
    match &row.url {
        Some(url) => field("", &shown(url)),
        None => Ok(()),
    }
}
