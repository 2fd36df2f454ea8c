//! `sightline pull`: downloads official checkpoints, verifies them, and exports them into the models directory.
//!
//! SIGINT and SIGTERM end the command as they end any other: what has arrived is in the folder for downloads and is continued by the
//! next pull, and models appear in the models directory only as a whole.

mod install;
mod lock;
mod progress;
mod source;
mod wanted;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result, bail};
use clap::Args;
use onnx_export::text::shown;
use sightline::config::SecretUrl;
use sightline::manifest::WeightsFile;
use sightline::store::{INT8, ModelRef};
use signal_hook::consts::SIGXFSZ;

use super::quantize::{self, QuantizeArgs};
use super::say::{Closed, complain, say};
use super::{RuntimeArgs, StoreArgs, default_models_directory, explain};
use install::{Installed, Installer, Other, has_int8, reference};
use progress::{Audience, megabytes};
pub(super) use source::SourceArgs;
use source::check_from;
use wanted::{TaskName, Wanted};

#[derive(Debug, Args)]
pub(super) struct PullArgs {
    /// Networks of the catalogue (see `sightline models`), as NAME, or as NAME@int8 to quantize the model, too
    #[arg(value_name = "NAME", required_unless_present = "all")]
    names: Vec<ModelRef>,
    /// Pull all networks of a task that have an official checkpoint
    #[arg(
        long,
        env = "SIGHTLINE_ALL",
        value_name = "TASK",
        conflicts_with = "checkpoint"
    )]
    all: Option<TaskName>,
    /// Quantize the models to int8, too
    #[arg(long, env = "SIGHTLINE_INT8")]
    int8: bool,
    /// Folder of photographs like those that the models will be used on, for int8
    #[arg(long, env = "SIGHTLINE_CALIBRATION", value_name = "DIR")]
    calibration: Option<PathBuf>,
    /// Name of the checkpoint, such as `IMAGENET1K_V1` (see `sightline models NAME`) [default: the newest]
    #[arg(long, env = "SIGHTLINE_CHECKPOINT", value_name = "VERSION")]
    checkpoint: Option<String>,
    /// File with the official checkpoint, its URL, or a folder with official checkpoints (as a URL with / at its end)
    /// [default: the official server]
    #[arg(long, env = "SIGHTLINE_FROM", value_name = "URL|FILE")]
    from: Option<SecretUrl>,
    /// Replace a model of other weights that has the name in the models directory, without keeping its edits
    #[arg(long, env = "SIGHTLINE_FORCE")]
    force: bool,
    /// Keep the downloaded checkpoints in the folder of --download-dir after they are exported
    #[arg(long, env = "SIGHTLINE_KEEP_CHECKPOINT")]
    keep_checkpoint: bool,
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    runtime: RuntimeArgs,
}

/// Pulls the models of `args` one after the other. A model that cannot be pulled does not stop the others.
///
/// # Errors
/// If an argument is wrong, before anything is downloaded, or, at the end, if a model could not be pulled.
pub(super) fn run(args: &PullArgs) -> Result<()> {
    let wanted = args.wanted()?;
    args.runtime.check()?;
    survive_size_limit();
    let installer = Installer {
        source: &args.source,
        from: args.from.as_ref(),
        directory: models_directory(&args.store)?,
        other: if args.force {
            Other::Replace
        } else {
            Other::Refuse
        },
        keep_checkpoint: args.keep_checkpoint,
        audience: Audience::Console,
        runtime: &args.runtime,
    };
    let mut failed = Vec::new();
    for one in &wanted {
        match args.pull(one, &installer) {
            Err(error) if wanted.len() == 1 || error.is::<Closed>() => return Err(error),
            Err(error) => {
                complain!("{}: {}", one.name, explain(&error));
                failed.push(one.name.as_str());
            }
            Ok(()) => {}
        }
    }
    if !failed.is_empty() {
        bail!(
            "{} of {} models were not pulled: {}",
            failed.len(),
            wanted.len(),
            failed.join(", ")
        );
    }
    let flag = match args.store.directory {
        Some(_) => format!(" --models {}", installer.directory.display()),
        None => String::new(),
    };
    say!("try: sightline serve{flag}")
}

impl PullArgs {
    /// Returns what to pull.
    ///
    /// # Errors
    /// If a name is unknown, or if flags contradict each other.
    fn wanted(&self) -> Result<Vec<Wanted>> {
        let find = |reference| Wanted::find(reference, self.checkpoint.as_deref());
        let mut wanted = self.names.iter().map(find).collect::<Result<Vec<_>>>()?;
        if let Some(task) = self.all {
            wanted.extend(Wanted::all(task)?);
        }
        for one in &mut wanted {
            one.int8 |= self.int8;
        }
        if let Some(from) = &self.from {
            check_from(from, wanted.len())?;
        }
        // Checked before the download, which can take minutes.
        let quantizes = wanted
            .iter()
            .any(|one| one.int8 && one.checkpoint.is_some());
        match &self.calibration {
            None if quantizes => {
                bail!("int8 needs photographs: name a folder of 50 to 100 with --calibration DIR")
            }
            Some(folder) if quantizes && !folder.is_dir() => {
                bail!(
                    "the folder {} of --calibration does not exist",
                    folder.display()
                )
            }
            _ => Ok(wanted),
        }
    }

    /// Pulls one model and prints what was done.
    fn pull(&self, wanted: &Wanted, installer: &Installer<'_>) -> Result<()> {
        let installed = installer.install(wanted)?;
        report(wanted, &installed)?;
        let (Some(manifest), Some(calibration)) = (installed.manifest(), &self.calibration) else {
            return Ok(());
        };
        if !wanted.int8 {
            return Ok(());
        }
        if has_int8(manifest)? {
            return say!("{}: int8 is installed already", wanted.name);
        }
        let (store, runtime) = (self.store.clone(), self.runtime.clone());
        let args = QuantizeArgs::in_place(reference(manifest), calibration.clone(), store, runtime);
        let name = &wanted.name;
        quantize::run(&args)
            .with_context(|| format!("{name} is installed in fp32, but not as {name}@{INT8}"))
    }
}

/// Pulls models for `serve`, before it reads the models directory. A model that is there stays as it is, whatever
/// weights it has. Reports to the log.
///
/// # Errors
/// If a model is unknown or cannot be pulled.
pub(super) fn for_server(
    names: &[ModelRef],
    source: &SourceArgs,
    store: &StoreArgs,
    runtime: &RuntimeArgs,
) -> Result<()> {
    runtime.check()?;
    let wanted = names
        .iter()
        .map(|name| Wanted::find(name, None))
        .collect::<Result<Vec<_>>>()?;
    if let Some(one) = wanted
        .iter()
        .find(|one| one.int8 && one.checkpoint.is_some())
    {
        let name = &one.name;
        bail!(
            "`serve --pull {name}@{INT8}` is not possible, because int8 needs photographs: run `sightline pull \
             {name}@{INT8} --calibration DIR` first"
        );
    }
    survive_size_limit();
    let installer = Installer {
        source,
        from: None,
        directory: models_directory(store)?,
        other: Other::Keep,
        keep_checkpoint: false,
        audience: Audience::Log,
        runtime,
    };
    for one in &wanted {
        let model = &one.name;
        let installed = installer
            .install(one)
            .with_context(|| format!("cannot pull {model}"))?;
        match installed {
            Installed::BuiltIn => tracing::info!(model, "model is built in"),
            Installed::Already { manifest } => {
                tracing::info!(model, path = %manifest.display(), "model is installed already");
            }
            Installed::Kept { manifest } => tracing::warn!(
                model,
                path = %manifest.display(),
                "the installed model has other weights than the official ones, and stays"
            ),
            Installed::New {
                manifest,
                checkpoint,
                ..
            } => tracing::info!(
                model,
                path = %manifest.display(),
                checkpoint_sha256 = checkpoint.sha256,
                "model pulled"
            ),
        }
    }
    Ok(())
}

/// Prints what was done for a model.
fn report(wanted: &Wanted, installed: &Installed) -> Result<()> {
    let name = &wanted.name;
    let weights = wanted
        .checkpoint
        .as_ref()
        .map(|checkpoint| &checkpoint.weights);
    let version = weights.map_or("", |weights| weights.name.as_str());
    match installed {
        Installed::BuiltIn => say!("{name}: built in, with int8; there is nothing to download"),
        Installed::Already { manifest } => {
            say!(
                "{name}: {version} is installed already in {}",
                folder(manifest)
            )
        }
        Installed::Kept { manifest } => say!("{name}: kept the model in {}", folder(manifest)),
        Installed::New {
            manifest,
            checkpoint,
            notes,
        } => {
            say!("{name}: installed {version} in {}", folder(manifest))?;
            say!(
                "  checkpoint: {}, SHA-256 {}",
                megabytes(checkpoint.bytes),
                checkpoint.sha256
            )?;
            for line in weights.into_iter().filter_map(terms) {
                say!("  {line}")?;
            }
            notes.iter().try_for_each(|note| say!("  {note}"))
        }
    }
}

/// Returns a line about the license of `weights`. `None` if nothing is known.
fn terms(weights: &WeightsFile) -> Option<String> {
    let data = weights.training_data.as_deref();
    let data = data.map(|data| {
        format!(
            "; trained on {}, whose terms of use can apply, too",
            shown(data)
        )
    });
    let license = weights.license.as_deref()?;
    Some(format!(
        "license of the weights: {}{}",
        shown(license),
        data.unwrap_or_default()
    ))
}

fn folder(manifest: &Path) -> String {
    manifest.parent().unwrap_or(manifest).display().to_string()
}

/// Returns the models directory, which need not exist yet.
///
/// # Errors
/// If neither a flag nor the environment names it.
fn models_directory(store: &StoreArgs) -> Result<PathBuf> {
    let directory = store.directory.clone().or_else(default_models_directory);
    directory
        .context("no models directory: neither HOME nor XDG_DATA_HOME is set; set --models DIR")
}

/// Makes a write beyond the limit on file sizes (`ulimit -f`) return an error instead of ending the process.
fn survive_size_limit() {
    // Registration fails for invalid signal numbers only.
    let _ = signal_hook::flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)));
}
