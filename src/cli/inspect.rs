//! `sightline inspect`: shows what an ONNX file states, what is wrong with it, and a manifest to
//! start from.

use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow, bail};
use clap::Args;
use onnx_export::summary::{Axis, Port, Summary, SummaryError, data_type_name};
use onnx_export::text::{printable, shown};
use onnx_export::weights::{FileKind, kind_of_file};
use serde_json::{Value, json};
use sightline::inspect::{Draft, Finding, Inspection};
use sightline::manifest::{ModelManifest, Task};
use sightline::store::{MAX_ONNX_BYTES, MAX_TEXT_BYTES, read_regular};

use super::say::{complain, say};

/// Maximum number of inputs, outputs and operators that are printed.
const LISTED: usize = 40;
/// Width of a line of the list of operators.
const WIDTH: usize = 96;

#[derive(Debug, Args)]
pub(super) struct InspectArgs {
    /// ONNX file
    #[arg(value_name = "FILE.onnx")]
    file: PathBuf,
    /// Print JSON
    #[arg(long, env = "SIGHTLINE_JSON")]
    json: bool,
    /// Print only the manifest to start from, as TOML
    #[arg(long, env = "SIGHTLINE_MANIFEST")]
    manifest: bool,
}

/// Reads the file without running it, and prints what it states.
///
/// # Errors
/// If the file is not an ONNX file, or cannot be served with any manifest and has none.
pub(super) fn run(args: &InspectArgs) -> Result<()> {
    let path = &args.file;
    let bytes = read(path)?;
    let mut inspection =
        Inspection::new(path, &bytes).map_err(|error| not_onnx(path, &bytes, &error))?;
    let manifest = detector_of(path);
    if manifest.is_some() {
        // The manifest states the task, and the anchors that a detector needs.
        let problems = &mut inspection.problems;
        problems.retain(|problem| !matches!(problem, Finding::Task { .. }));
    }
    if args.manifest {
        for problem in &inspection.problems {
            complain!("warning: {problem}");
        }
        if let Some(draft) = &inspection.draft {
            say!("{}", draft.to_toml().trim_end())?;
        }
    } else if args.json {
        let json = to_json(path, bytes.len(), &inspection);
        say!("{}", serde_json::to_string_pretty(&json)?)?;
    } else {
        print(path, bytes.len(), &inspection)?;
        if let Some(manifest) = manifest {
            let manifest = printable(&manifest.to_string_lossy(), &[]).into_owned();
            say!("\nthe file belongs to the detector that this manifest describes: {manifest}")?;
        }
    }
    match inspection.problems.len() {
        0 => Ok(()),
        count => bail!(
            "{} cannot be served as it is: {count} {} found",
            path.display(),
            if count == 1 {
                "problem was"
            } else {
                "problems were"
            }
        ),
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    if path.is_dir() {
        let inside = path.join("model.onnx");
        let advice = if inside.is_file() {
            format!("give its ONNX file: sightline inspect {}", inside.display())
        } else {
            "give the path of an .onnx file".to_owned()
        };
        bail!(
            "cannot inspect {}: it is a folder; {advice}",
            path.display()
        );
    }
    Ok(read_regular(path, MAX_ONNX_BYTES)?)
}

/// Returns the path of the manifest of a detector beside the ONNX file at `path` that names this file.
/// `None` if there is no valid one.
fn detector_of(path: &Path) -> Option<PathBuf> {
    let file = Path::new(path.file_name()?);
    let names_file = |manifest: &PathBuf| {
        let text = read_regular(manifest, MAX_TEXT_BYTES).ok();
        let text = text.and_then(|bytes| String::from_utf8(bytes).ok());
        let manifest = text.and_then(|text| ModelManifest::parse(&text).ok());
        let manifest = manifest.filter(|manifest| manifest.task == Task::Detection);
        manifest.is_some_and(|manifest| {
            let variants = manifest.variants.values();
            let mut stages = variants
                .flat_map(|variant| &variant.stages)
                .chain(&manifest.stages);
            stages.any(|stage| stage.file == file)
        })
    };
    let beside = [
        path.with_extension("toml"),
        path.with_file_name("model.toml"),
    ];
    beside.into_iter().find(names_file)
}

/// Returns the error for a file that is not an ONNX file, which says what the file is.
fn not_onnx(path: &Path, bytes: &[u8], error: &SummaryError) -> anyhow::Error {
    let path = path.display();
    match kind_of_file(bytes) {
        Some(FileKind::Checkpoint(format)) => anyhow!(
            "cannot inspect {path}: it is not an ONNX file but looks like a {format}; convert a checkpoint of a network \
             that `sightline models` lists with `sightline export NETWORK --weights {path} -o FOLDER`, and other \
             networks with torch.onnx.export"
        ),
        Some(FileKind::Other(name)) if name != "an ONNX file" => {
            anyhow!("cannot inspect {path}: it is not an ONNX file but {name}")
        }
        _ => anyhow!(
            "cannot inspect {path}: {error}; if it should be an ONNX file, download or export it again"
        ),
    }
}

fn print(path: &Path, size: usize, inspection: &Inspection) -> Result<()> {
    let summary = &inspection.summary;
    let path = printable(&path.to_string_lossy(), &[]).into_owned();
    let producer = match shown(&summary.producer) {
        producer if producer.is_empty() => String::new(),
        producer => format!(", written by {producer}"),
    };
    say!("{path}: {:.1} MB{producer}", size as f64 / 1e6)?;
    say!(
        "IR version {}, operator sets {}",
        summary.ir_version,
        opsets(summary)
    )?;
    say!("parameters: {}", thousands(summary.parameters))?;
    print_ports("inputs", &summary.inputs)?;
    print_ports("outputs", &summary.outputs)?;
    print_operators(summary)?;
    match (inspection.task, &inspection.draft) {
        (Some(task), Some(draft)) => match draft.classes {
            Some(classes) => say!("task: probably {}, {classes} classes", task.as_str())?,
            None => say!("task: probably {}", task.as_str())?,
        },
        (Some(task), None) => say!("task: probably {}", task.as_str())?,
        (None, _) => say!("task: unknown")?,
    }
    print_findings("problems", &inspection.problems)?;
    print_findings(
        "the manifest must state (the one below does)",
        &inspection.notes,
    )?;
    let Some(draft) = &inspection.draft else {
        return Ok(());
    };
    say!("\nmanifest to start from (`--manifest` prints only this):\n")?;
    say!("{}", draft.to_toml().trim_end())
}

fn print_ports(title: &str, ports: &[Port]) -> Result<()> {
    say!("{title}:")?;
    for port in ports.iter().take(LISTED) {
        say!("  {}  {}", shown(&port.name), type_of(port))?;
    }
    match ports.len() {
        0 => say!("  none"),
        count if count > LISTED => say!("  ... and {} more", count - LISTED),
        _ => Ok(()),
    }
}

fn type_of(port: &Port) -> String {
    let kind = port.tensor.as_ref();
    kind.map_or_else(|| "not a dense tensor".to_owned(), ToString::to_string)
}

/// Prints the operators, the most frequent first.
fn print_operators(summary: &Summary) -> Result<()> {
    let mut operators: Vec<(&String, &u64)> = summary.operators.iter().collect();
    operators.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    say!("operators: {} in {} nodes", operators.len(), summary.nodes)?;
    let mut line = String::new();
    let cells = operators.iter().take(LISTED);
    for cell in cells.map(|(name, count)| format!("{} {count}", shown(name))) {
        if !line.is_empty() && line.len() + cell.len() + 2 > WIDTH {
            say!("  {line},")?;
            line.clear();
        }
        if !line.is_empty() {
            line.push_str(", ");
        }
        line.push_str(&cell);
    }
    let more = if operators.len() > LISTED {
        ", ..."
    } else {
        ""
    };
    say!("  {line}{more}")
}

fn print_findings(title: &str, findings: &[Finding]) -> Result<()> {
    if findings.is_empty() {
        return Ok(());
    }
    say!("\n{title}:")?;
    for finding in findings {
        say!("  - {finding}")?;
    }
    Ok(())
}

/// Lists the operator sets, such as `ai.onnx 17, com.microsoft 1`.
fn opsets(summary: &Summary) -> String {
    let opsets = summary.opsets.iter().map(|(domain, version)| {
        let domain = if domain.is_empty() { "ai.onnx" } else { domain };
        format!("{} {version}", shown(domain))
    });
    opsets.collect::<Vec<_>>().join(", ")
}

/// Returns `number` with a comma between groups of three digits.
fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

fn to_json(path: &Path, size: usize, inspection: &Inspection) -> Value {
    let Inspection {
        summary,
        task,
        problems,
        notes,
        draft,
    } = inspection;
    let opsets = summary.opsets.iter();
    let opsets = opsets.map(|(domain, version)| json!({"domain": domain, "version": version}));
    json!({
        "file": path.display().to_string(),
        "bytes": size,
        "ir_version": summary.ir_version,
        "opsets": opsets.collect::<Vec<_>>(),
        "producer": summary.producer,
        "parameters": summary.parameters,
        "inputs": summary.inputs.iter().map(port_json).collect::<Vec<_>>(),
        "outputs": summary.outputs.iter().map(port_json).collect::<Vec<_>>(),
        "nodes": summary.nodes,
        "operators": summary.operators,
        "task": task.map(Task::as_str),
        "classes": draft.as_ref().and_then(|draft| draft.classes),
        "problems": problems.iter().map(finding_json).collect::<Vec<_>>(),
        "notes": notes.iter().map(finding_json).collect::<Vec<_>>(),
        "manifest": draft.as_ref().map(Draft::to_toml),
    })
}

/// Returns an input or output. A dynamic axis is the name of its size, which may be empty.
fn port_json(port: &Port) -> Value {
    let shape = port.shape().map(|axes| {
        let axis = |axis: &Axis| match axis {
            Axis::Fixed(size) => json!(size),
            Axis::Dynamic(name) => json!(name),
        };
        axes.iter().map(axis).collect::<Vec<_>>()
    });
    let data_type = port
        .tensor
        .as_ref()
        .map(|tensor| data_type_name(tensor.data_type));
    json!({"name": port.name, "data_type": data_type, "shape": shape})
}

fn finding_json(finding: &Finding) -> Value {
    json!({"code": finding.code(), "message": finding.to_string()})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_groups_of_three_digits() {
        let cases = [
            (0, "0"),
            (999, "999"),
            (1000, "1,000"),
            (25_557_032, "25,557,032"),
        ];
        for (number, expected) in cases {
            assert_eq!(thousands(number), expected);
        }
    }
}
