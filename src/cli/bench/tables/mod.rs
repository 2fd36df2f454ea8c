//! `sightline bench --tables`: measures the published tables of torchvision's networks on this machine.

mod charts;
mod published;
mod report;
mod setup;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use clap::ValueEnum;
use serde::Serialize;
use sightline::engine::OnnxRuntime;
use sightline::manifest::{Certificate, Task};

use super::BenchArgs;
use super::alone::{Alone, Stages};
use super::generated::{Found, Weights, find_or_make};
use crate::cli::progress::Steps;
use crate::cli::say::{complain, say};
use crate::cli::staging::write_file;
use published::{Row, Table, tables};
use report::{Measured, MeasuredRow, MeasuredTable};
use setup::Setup;

/// File with the tables as JSON, beside the charts.
const DATA: &str = "tables.json";
/// Minimum number of timed runs of a network.
const MIN_RUNS: usize = 3;

/// The tables to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Selection {
    All,
    Classification,
    Detection,
    Segmentation,
}

impl Selection {
    fn has(self, task: Task) -> bool {
        match self {
            Self::All => true,
            Self::Classification => task == Task::Classification,
            Self::Detection => task == Task::Detection,
            Self::Segmentation => task == Task::Segmentation,
        }
    }
}

/// Measures the tables of `selection` and prints them. Writes charts and their data with `--plot`. A row that cannot be
/// measured is printed with its error.
///
/// # Errors
/// If the image cannot be used, if `--model` names no row, if no row could be measured, or if a file cannot be written.
pub(super) fn run(
    args: &BenchArgs,
    selection: Selection,
    runtime: &OnnxRuntime,
    image: &Bytes,
) -> Result<()> {
    let tables = selected(args, selection)?;
    let rows = tables.iter().map(|table| table.rows.len()).sum::<usize>();
    let bench = Bench {
        args,
        runtime,
        image,
        steps: Steps::new("networks", rows, 0),
    };
    let measured: Vec<MeasuredTable> = tables.iter().map(|table| bench.table(table)).collect();
    drop(bench);
    let setup = Setup::new(runtime);
    let json = serde_json::json!({ "setup": setup, "tables": measured });
    let json = serde_json::to_string_pretty(&json)?;
    if args.json {
        say!("{json}")?;
    } else {
        say!("{}", report::markdown(&setup, &measured).trim_end())?;
    }
    if let Some(folder) = &args.plot {
        for table in &measured {
            let path = charts::accuracy(table, &setup).write(folder, &charts::file(table))?;
            complain!("chart: {}", path.display());
        }
        let path = folder.join(DATA);
        write_file(&path, format!("{json}\n").as_bytes())?;
        complain!("data: {}", path.display());
    }
    let mut results = measured.iter().flat_map(|table| &table.rows);
    if results.all(|row| row.result.is_err()) {
        bail!("no network could be measured");
    }
    Ok(())
}

/// Returns the tables of `selection` with the rows of the models that `--model` names, or with all.
fn selected(args: &BenchArgs, selection: Selection) -> Result<Vec<Table>> {
    let mut tables = tables()?;
    tables.retain(|table| selection.has(table.task));
    let named = |row: &Row| {
        let fits = |model: &sightline::store::ModelRef| {
            let variant = model.variant.as_ref();
            model.name == row.model && variant.is_none_or(|variant| *variant == row.variant)
        };
        args.model.is_empty() || args.model.iter().any(fits)
    };
    for table in &mut tables {
        table.rows.retain(named);
    }
    tables.retain(|table| !table.rows.is_empty());
    if tables.is_empty() {
        bail!("`--model`: the tables have no such network; `sightline models` lists the catalogue");
    }
    Ok(tables)
}

/// A measurement of tables.
struct Bench<'a> {
    args: &'a BenchArgs,
    runtime: &'a OnnxRuntime,
    image: &'a Bytes,
    steps: Steps,
}

impl Bench<'_> {
    /// Measures the rows of `table`. The network of the first row runs before each run of the others, so that a slow
    /// moment of the machine affects both and their ratio holds.
    fn table(&self, table: &Table) -> MeasuredTable {
        let mut first: Option<Alone> = None;
        let rows = table.rows.iter().map(|row| {
            self.steps.note(row.title.clone());
            let result = self.row(row, &mut first);
            self.steps.step();
            MeasuredRow::new(row, result)
        });
        let rows = rows.collect();
        MeasuredTable::new(table, rows)
    }

    /// Measures the network of `row` and the network `first`, which becomes that of the row if there is none yet.
    fn row(&self, row: &Row, first: &mut Option<Alone>) -> Result<Measured> {
        let store = self.args.store.store();
        let context = (self.runtime, &self.image[..]);
        let Found {
            source,
            weights,
            parameters,
        } = find_or_make(&store, &row.reference(), None, context)?;
        let certificate = (weights != Weights::Generated)
            .then(|| source.manifest.certificate(&source.variant))
            .flatten();
        let certificate = certificate.map(Certified::new);
        let mut network = Alone::new(self.runtime, &source)?;
        // The graphs of the largest networks have 160 MB.
        drop(source);
        let (own, of_first) = self.runs(&mut network, first.as_mut())?;
        if first.is_none() {
            *first = Some(network);
        }
        Ok(Measured {
            seconds: own.wall / 1e3,
            network_seconds: own.inference / 1e3,
            speed: of_first.wall / own.wall,
            weights,
            parameters,
            certificate,
        })
    }

    /// Returns the medians of the times of `network` and of `first`, which run in turns.
    fn runs(&self, network: &mut Alone, mut first: Option<&mut Alone>) -> Result<(Stages, Stages)> {
        network
            .once(self.image)
            .context("cannot run the network on the image")?;
        let length = Duration::from_millis(self.args.round_ms) * u32::from(self.args.rounds);
        let end = Instant::now() + length;
        let (mut own, mut of_first) = (Vec::new(), Vec::new());
        while own.len() < MIN_RUNS || Instant::now() < end {
            if let Some(first) = &mut first {
                of_first.push(first.once(self.image)?);
            }
            own.push(network.once(self.image)?);
        }
        let own = Stages::median(&own);
        let of_first = if of_first.is_empty() {
            own
        } else {
            Stages::median(&of_first)
        };
        Ok((own, of_first))
    }
}

/// The measured accuracy of an installed model.
#[derive(Debug, Serialize)]
struct Certified {
    /// Figures in percent, by name.
    figures: BTreeMap<String, f64>,
    images: u64,
}

impl Certified {
    fn new(certificate: &Certificate) -> Self {
        Self {
            figures: certificate.figures.clone(),
            images: certificate.images,
        }
    }
}
