//! `sightline eval`: measures the accuracy of a model on annotated images.

mod args;
mod certify;
mod compare;
mod dataset;
mod figures;
mod record;
mod report;
mod run;
mod sheet;
mod worst;

use std::path::Path;

use anyhow::{Context, Result, bail};
use sightline::engine::OnnxRuntime;
use sightline::store::ModelSource;

use super::say::say;
use super::staging::FileSet;
pub(super) use args::EvalArgs;
use args::Side;
pub(super) use certify::{today, weights_sha256};
use dataset::Dataset;
use figures::{Summary, summary};
use report::{Comparison, Report, file};
use run::{Evaluated, evaluate};
use worst::{Ranked, worst};

/// Evaluates the model or the two models that `args` name. Prints the figures, writes the reports with
/// `--out`, and writes or checks the certificate.
///
/// # Errors
/// If the data set, an image or a model cannot be used, if a file cannot be written, or if the figures
/// differ from the certificate with `--verify`.
pub(super) fn run(args: &EvalArgs) -> Result<()> {
    let sides = args.sides()?;
    let source = |side: &Side<'_>| args.store.find(side.model, args.precision.precision);
    let sources = sides.iter().map(source).collect::<Result<Vec<_>>>()?;
    let [first, others @ ..] = &sources[..] else {
        bail!("no model was named");
    };
    check_comparable(first, others)?;
    let dataset = Dataset::read(&args.dataset, (&first.manifest, &first.labels), args.images)?;
    certify::check(first, &dataset, args)?;
    if let Some(folder) = &args.out {
        let create = || format!("cannot create the folder {}", folder.display());
        std::fs::create_dir_all(folder).with_context(create)?;
    }
    let runtime = args.runtime.load()?;
    let mut evaluated = Vec::new();
    for ((source, side), number) in sources.into_iter().zip(&sides).zip(1..) {
        let model = (source, side.decode);
        evaluated.push(evaluate(model, &dataset, (args, &runtime), number)?);
    }
    match &mut evaluated[..] {
        [one] => finish_one(one, &dataset, (args, &runtime))?,
        [one, other] => {
            finish_two([one, other], &dataset, args)?;
            one.finish();
            other.finish();
        }
        _ => bail!("expected one or two models"),
    }
    Ok(())
}

/// Checks that models can be compared on the same data set.
fn check_comparable(first: &ModelSource, others: &[ModelSource]) -> Result<()> {
    let comparable = |other: &&ModelSource| {
        other.manifest.task == first.manifest.task && other.labels == first.labels
    };
    match others.iter().find(|other| !comparable(other)) {
        Some(other) => bail!(
            "`--compare`: expected two models of one task with the same labels, got {} and {}",
            first.id(),
            other.id()
        ),
        None => Ok(()),
    }
}

/// Figures and errors of one model.
struct Judged {
    summary: Summary,
    worst: Vec<Ranked>,
}

impl Judged {
    fn new(evaluated: &Evaluated, dataset: &Dataset) -> Self {
        let labels = &evaluated.source.labels;
        Self {
            summary: summary(dataset, &evaluated.records, labels),
            worst: worst(dataset, &evaluated.records, labels),
        }
    }

    fn report<'a>(&'a self, evaluated: &'a Evaluated, dataset: &'a Dataset) -> Report<'a> {
        Report {
            evaluated,
            dataset,
            summary: &self.summary,
            worst: &self.worst,
        }
    }
}

/// Reports on one model.
fn finish_one(
    evaluated: &mut Evaluated,
    dataset: &Dataset,
    (args, runtime): (&EvalArgs, &OnnxRuntime),
) -> Result<()> {
    let judged = Judged::new(evaluated, dataset);
    let report = judged.report(evaluated, dataset);
    let json = file(&report.json())?;
    if let Some(folder) = &args.out {
        let sheet = sheet::sheet(evaluated, dataset, &judged.worst)?;
        let texts = [
            ("report.json", json.clone()),
            ("report.md", report.markdown()),
            ("classes.csv", report.classes_csv()),
            ("images.csv", report.images_csv()),
        ];
        let mut files: Vec<(&str, &[u8])> = Vec::new();
        files.extend(sheet.as_deref().map(|png| ("worst.png", png)));
        files.extend(texts.iter().map(|(name, text)| (*name, text.as_bytes())));
        write(folder, &files)?;
    }
    print(args, &json, &report.text())?;
    if args.certify {
        certify::certify(evaluated, &judged.summary, dataset, (args, runtime))?;
    }
    // Before the verdict: a repeated verification must run the model again.
    evaluated.finish();
    if args.verify {
        certify::verify(evaluated, &judged.summary, args)?;
    }
    Ok(())
}

/// Reports on the comparison of two models.
fn finish_two(evaluated: [&Evaluated; 2], dataset: &Dataset, args: &EvalArgs) -> Result<()> {
    let judged = evaluated.map(|each| Judged::new(each, dataset));
    let [one, other] = evaluated;
    let differences = compare::compare(dataset, &one.records, &other.records);
    let comparison = Comparison {
        reports: [
            judged[0].report(one, dataset),
            judged[1].report(other, dataset),
        ],
        differences: &differences,
    };
    let json = file(&comparison.json())?;
    if let Some(folder) = &args.out {
        let markdown = comparison.markdown();
        let files = [
            ("compare.json", json.as_bytes()),
            ("compare.md", markdown.as_bytes()),
        ];
        write(folder, &files)?;
    }
    print(args, &json, &comparison.text())
}

/// Writes all files into the folder of `--out`, or none of them.
fn write(folder: &Path, files: &[(&str, &[u8])]) -> Result<()> {
    let mut set = FileSet::new(folder);
    for (name, content) in files {
        set.add(Path::new(name), content);
    }
    set.write_beside()
}

fn print(args: &EvalArgs, json: &str, text: &str) -> Result<()> {
    say!("{}", if args.json { json } else { text }.trim_end())?;
    match &args.out {
        Some(folder) if !args.json => say!("reports: {}", folder.display()),
        _ => Ok(()),
    }
}
