//! The command line: one file per command.

mod activation;
mod bench;
mod color;
mod config_check;
mod descriptors;
mod doctor;
mod entries;
mod environment;
mod eval;
mod export;
mod healthcheck;
mod help;
mod inspect;
mod journal;
mod keep;
mod key;
mod listeners;
mod log;
mod memory;
mod misfit;
mod model_report;
mod models;
mod notify;
mod output;
mod parity;
mod plan;
mod predict;
mod print_config;
mod probe;
mod progress;
mod publish;
mod pull;
mod quantize;
mod relaunch;
mod rm;
mod say;
mod serve;
mod settings;
mod shell;
mod signals;
mod staging;
mod style;
mod target;
mod trained;
mod trial;

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Once;

use anyhow::Result;
use clap::error::{ContextKind, ContextValue};
use clap::{ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use sightline::cache::Cache;
use sightline::config::{
    CacheChoice, ConfigError, DEFAULT_LOG, LoadLimits, LogFormat, PrecisionChoice, Settings,
    check_filter, redacted,
};
use sightline::engine::{OnnxRuntime, find_library};
use sightline::memory::ByteSize;
use sightline::registry;
use sightline::store::{ModelRef, ModelSource, ModelStore, StoreError};

use activation::Inherited;
use config_check::{ConfigCommand, Invalid};
use key::KeyCommand;
use log::{FlushOnDrop, Writing};
use say::{Closed, complain};
use settings::Merged;

/// Exit code for an invalid configuration, `EX_USAGE` of sysexits.h.
const EXIT_CONFIG: u8 = 64;

/// Serves torchvision's vision networks from a CPU.
///
/// One binary reads official checkpoints, builds and quantizes ONNX graphs, and serves labels,
/// boxes, masks and embeddings over HTTP and gRPC. `sightline serve` needs no files: its default model is built in.
#[derive(Debug, Parser)]
#[command(name = "sightline", version, max_term_width = 100, after_help = AFTER_HELP)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    log: LogArgs,
}

/// The flags of the log, which every command has. `serve` also reads them from its configuration
/// file.
#[derive(Debug, Clone, Args)]
struct LogArgs {
    /// Log filter, such as `info` or `sightline=debug`
    /// [default: info,h2=error,hyper=error,rustls=error]
    #[arg(
        long,
        env = "SIGHTLINE_LOG",
        global = true,
        value_name = "FILTER",
        help_heading = "Log"
    )]
    log: Option<String>,
    /// Log format [default: text]
    #[arg(
        long,
        env = "SIGHTLINE_LOG_FORMAT",
        global = true,
        value_name = "FORMAT",
        help_heading = "Log"
    )]
    log_format: Option<LogFormat>,
}

const AFTER_HELP: &str = "\
Exit codes: 0 success; 1 the command failed; 2 invalid arguments; 64 invalid configuration.
Flags are also environment variables, which the --help of each command names; a flag overrides its variable.";

const COMPLETIONS_HELP: &str = "\
Examples:
  bash  sightline completions bash > ~/.local/share/bash-completion/completions/sightline
  zsh   sightline completions zsh > ~/.zfunc/_sightline    (a folder of fpath)
  fish  sightline completions fish > ~/.config/fish/completions/sightline.fish";

#[derive(Debug, Subcommand)]
enum Command {
    /// Start the server
    Serve(Box<serve::ServeArgs>),
    /// Download official checkpoints, verify them, and install them as models
    Pull(pull::PullArgs),
    /// Convert a checkpoint to an ONNX file and its manifest
    Export(export::ExportArgs),
    /// Quantize a model to int8, and compare it with fp32
    Quantize(quantize::QuantizeArgs),
    /// Run a model on images, without a server
    Predict(predict::PredictArgs),
    /// Show the inputs, outputs and faults of an ONNX file, and write its manifest
    Inspect(inspect::InspectArgs),
    /// Remove installed models
    Rm(rm::RmArgs),
    /// List the catalogue and which of its models are installed
    Models(models::ModelsArgs),
    /// Check whether this machine can run the server: CPU, memory, ONNX Runtime, models, ports
    Doctor(doctor::DoctorArgs),
    /// Check whether a running server is ready (exit code 0 or 1)
    Healthcheck(healthcheck::HealthcheckArgs),
    /// Check the configuration of the server
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Make API keys
    #[command(subcommand)]
    Key(KeyCommand),
    /// Measure the accuracy of a model on annotated images
    Eval(Box<eval::EvalArgs>),
    /// Measure latency and throughput
    Bench(bench::BenchArgs),
    /// Compute the number of replicas for a rate of requests and a latency
    Plan(plan::PlanArgs),
    /// Print a script that completes commands and flags in your shell
    #[command(after_help = COMPLETIONS_HELP)]
    Completions(shell::CompletionsArgs),
    /// Write the manual pages of all commands
    Man(shell::ManArgs),
    /// Load the model on stdin within the limits that it states; other commands start this one
    #[command(hide = true)]
    LoadTrial(trial::TrialArgs),
}

/// The flags that set where installed models are searched for.
#[derive(Debug, Clone, Args)]
struct StoreArgs {
    /// Directory with one folder per model [default: `$XDG_DATA_HOME/sightline/models`, if it
    /// exists]
    #[arg(long = "models", env = "SIGHTLINE_MODELS", value_name = "DIR")]
    directory: Option<PathBuf>,
    /// Allow symbolic links that lead out of the models directory, or, for a model named by a path,
    /// out of the model's folder
    /// [default: false]
    #[arg(
        long,
        env = "SIGHTLINE_FOLLOW_SYMLINKS",
        value_name = "true|false",
        hide_possible_values = true,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    follow_symlinks: Option<bool>,
}

impl StoreArgs {
    /// Returns the flags that `settings` stand for.
    fn of(settings: &Settings) -> Self {
        Self {
            directory: settings.models_dir.clone(),
            follow_symlinks: settings.follow_symlinks,
        }
    }

    /// Opens the directory of `--models`, which must have a model. If the flag is not set, opens the
    /// default directory if that exists.
    fn store(&self) -> ModelStore {
        let store = match &self.directory {
            Some(directory) => ModelStore::new(Some(directory.clone())),
            None => ModelStore::new(existing_models_directory()).optional(),
        };
        store.following_symlinks(self.follow_symlinks.unwrap_or_default())
    }

    /// Finds the model that a command uses: the model `reference`, or, if it is `None`, the only model
    /// of the models directory, or the built-in model if there is none. `choice` selects the variant of
    /// a model without one.
    ///
    /// # Errors
    /// As [`ModelStore::find`] and [`ModelStore::served`], and [`ConfigError::Value`] if `reference` is
    /// `None` and there are several models.
    fn find(
        &self,
        reference: Option<&ModelRef>,
        choice: Option<PrecisionChoice>,
    ) -> Result<ModelSource> {
        if let Some(reference) = reference {
            return Ok(registry::find(&self.store(), reference, choice)?);
        }
        let mut models = self.store().served()?;
        match (models.pop(), &models[..]) {
            (Some(model), []) => Ok(registry::select(model, choice)?),
            (last, others) => {
                let names = others.iter().chain(&last);
                let names: Vec<&str> = names.map(|model| model.manifest.name.as_str()).collect();
                Err(ConfigError::Value {
                    setting: "model",
                    expected: format!("the name of a model ({})", names.join(", ")),
                    got: "none".to_owned(),
                }
                .into())
            }
        }
    }
}

/// Returns the default models directory if it exists. Warns once if that cannot be found out.
fn existing_models_directory() -> Option<PathBuf> {
    static WARNING: Once = Once::new();
    let directory = default_models_directory()?;
    match directory.metadata() {
        Ok(metadata) => metadata.is_dir().then_some(directory),
        Err(error) => {
            if error.kind() == io::ErrorKind::PermissionDenied {
                WARNING.call_once(|| {
                    complain!(
                        "warning: the models in {} are not used: {error}",
                        directory.display()
                    );
                });
            }
            None
        }
    }
}

/// Returns the directory `sightline/models` in `$XDG_DATA_HOME`, or in `$HOME/.local/share` if
/// `$XDG_DATA_HOME` is not set. `None` if neither variable is set.
fn default_models_directory() -> Option<PathBuf> {
    let variable = |name| {
        std::env::var_os(name)
            .filter(|v| !v.is_empty())
            .map(PathBuf::from)
    };
    let data = variable("XDG_DATA_HOME").or_else(|| Some(variable("HOME")?.join(".local/share")));
    Some(data?.join("sightline/models"))
}

/// The flag that chooses the precision of models that are named without a variant. `serve` has the
/// same flag in `Settings`.
#[derive(Debug, Clone, Copy, Args)]
struct PrecisionArgs {
    /// Precision of a model named without a variant; `int8` applies to models with that variant,
    /// `auto` only if the CPU has int8 dot-product instructions, too [default: the manifest's
    /// `default`, else fp32]
    #[arg(
        long,
        env = "SIGHTLINE_PRECISION",
        value_name = "auto|fp32|int8",
        hide_possible_values = true
    )]
    precision: Option<PrecisionChoice>,
}

/// The flags that limit the loading of a model.
#[derive(Debug, Clone, Args)]
struct LoadArgs {
    /// Time that loading a model from files may take, in milliseconds [default: 60000]
    #[arg(long, env = "SIGHTLINE_LOAD_TIMEOUT_MS", value_name = "MILLISECONDS")]
    load_timeout_ms: Option<u64>,
    /// Memory that loading a model from files may take [default: 2GiB and 8 times the size of the
    /// model's files, at most three quarters of the cgroup's memory limit or of the physical memory]
    #[arg(long, env = "SIGHTLINE_LOAD_MEMORY_BYTES", value_name = "SIZE")]
    load_memory_bytes: Option<ByteSize>,
}

impl LoadArgs {
    /// Returns the limits, with defaults for flags that are not set.
    fn limits(&self) -> Result<LoadLimits, ConfigError> {
        LoadLimits::new(self.load_timeout_ms, self.load_memory_bytes)
    }
}

/// The flag that sets where optimized networks are cached. `serve` has the same flag in `Settings`.
#[derive(Debug, Clone, Args)]
struct CacheArgs {
    /// Folder in which optimized networks are cached, so that later starts are faster; `off` to cache nothing [default:
    /// `$XDG_CACHE_HOME/sightline`, else `$HOME/.cache/sightline`]
    #[arg(long, env = "SIGHTLINE_CACHE", value_name = "DIR")]
    cache: Option<CacheChoice>,
}

impl CacheArgs {
    fn cache(&self) -> Cache {
        CacheChoice::cache(self.cache.clone())
    }
}

/// The flag that sets where the ONNX Runtime library is searched for.
#[derive(Debug, Clone, Args)]
struct RuntimeArgs {
    /// ONNX Runtime library (libonnxruntime.so) [default: `ORT_DYLIB_PATH`, else the binary's
    /// folder and the folders relative to it, or the system's library folders]
    #[arg(long, env = "SIGHTLINE_ONNXRUNTIME", value_name = "FILE")]
    onnxruntime: Option<PathBuf>,
}

impl RuntimeArgs {
    /// Checks that the library that the flag names can be used, before work whose result would be lost.
    fn check(&self) -> Result<()> {
        if let Some(library) = &self.onnxruntime {
            find_library(Some(library))?;
        }
        Ok(())
    }

    /// Finds and loads the ONNX Runtime library.
    fn load(&self) -> Result<OnnxRuntime> {
        let library = find_library(self.onnxruntime.as_deref())?;
        Ok(OnnxRuntime::load(&library)?)
    }
}

/// Parses the command line and runs the command. Prints the command's error, if any, and returns
/// the exit code.
pub(crate) fn run() -> ExitCode {
    relaunch::with_variables();
    let matches = help::command().try_get_matches();
    let matches = matches.unwrap_or_else(|error| without_secrets(error).exit());
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let aborts = matches!(cli.command, Command::Serve(_) | Command::LoadTrial(_));
    // For a panic, which ends the process.
    let _unwritten = FlushOnDrop;
    let result = execute(&cli, &matches);
    let code = report(result);
    if aborts {
        // Threads may still load or run a model in ONNX Runtime. A regular exit would run the
        // static destructors of ONNX Runtime's library, and these threads would crash.
        if log::flush() {
            let _ = std::io::stdout().flush();
        }
        signal_hook::low_level::exit(code.into());
    }
    ExitCode::from(code)
}

/// Returns the error of a malformed command line without the user name and password of a URL that it
/// quotes.
fn without_secrets(mut error: clap::Error) -> clap::Error {
    for kind in [ContextKind::InvalidValue, ContextKind::InvalidArg] {
        if let Some(ContextValue::String(text)) = error.get(kind)
            && text.contains("://")
        {
            let text = redacted(text).into_owned();
            error.insert(kind, ContextValue::String(text));
        }
    }
    error
}

/// Starts the log and runs the command. `matches` is the parsed command line that `cli` comes from.
fn execute(cli: &Cli, matches: &ArgMatches) -> Result<()> {
    // Before the log starts a thread.
    let inherited = match &cli.command {
        Command::Serve(_) => Inherited::take(),
        _ => Ok(Inherited::default()),
    };
    let merged = configure(cli, matches)?;
    match &cli.command {
        Command::Serve(args) => serve::run(args, merged, matches, inherited),
        Command::Pull(args) => pull::run(args),
        Command::Export(args) => export::run(args),
        Command::Quantize(args) => quantize::run(args),
        Command::Predict(args) => predict::run(args),
        Command::Inspect(args) => inspect::run(args),
        Command::Rm(args) => rm::run(args),
        Command::Models(args) => models::run(args),
        Command::Doctor(args) => doctor::run(args),
        Command::Healthcheck(args) => {
            let of_command = matches.subcommand_matches("healthcheck");
            healthcheck::run(args, of_command.unwrap_or(matches))
        }
        Command::Config(ConfigCommand::Check(args)) => config_check::run(args, merged, matches),
        Command::Config(ConfigCommand::Example) => print_config::example(),
        Command::Key(command) => key::run(command),
        Command::Eval(args) => eval::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Plan(args) => plan::run(args),
        Command::Completions(args) => shell::completions(args),
        Command::Man(args) => shell::man(args),
        Command::LoadTrial(args) => trial::run(args),
    }
}

/// Reads the settings of `serve`, if the command has them, and starts the log. The configuration
/// file is read first, because it can set the filter and the format of the log; an error of reading
/// the file is logged as the flags say. `matches` is the parsed command line.
fn configure(cli: &Cli, matches: &ArgMatches) -> Result<Merged> {
    let settings = match &cli.command {
        Command::Serve(args) => Some(&args.settings),
        Command::Config(ConfigCommand::Check(args)) => Some(&args.settings),
        _ => None,
    };
    let merged = Merged::new(settings, &cli.log, matches);
    let (filter, format) = match merged.as_ref().map(Merged::valid_settings) {
        Ok(settings) => (&settings.log, settings.log_format),
        Err(_) => (&cli.log.log, cli.log.log_format),
    };
    let filter = filter.as_deref().unwrap_or(DEFAULT_LOG);
    let checked = check_filter(filter);
    // The error of a filter that matches no event is logged, too.
    let usable = if checked.is_ok() { filter } else { DEFAULT_LOG };
    let writing = match &cli.command {
        Command::Serve(_) => Writing::Queued,
        _ => Writing::Direct,
    };
    log::start(usable, format.unwrap_or_default(), writing)?;
    // `config check` reports the filter together with all other errors.
    if !matches!(cli.command, Command::Config(_)) {
        checked?;
    }
    Ok(merged?)
}

/// Returns the names of the environment variables that set arguments of any command.
fn variables() -> Vec<String> {
    let cli = Cli::command();
    let commands = std::iter::once(&cli).chain(cli.get_subcommands());
    let variables = commands.flat_map(clap::Command::get_arguments);
    let variables = variables.filter_map(clap::Arg::get_env);
    variables
        .map(|name| name.to_string_lossy().into_owned())
        .collect()
}

/// Prints the error of a command, if it failed, and returns the exit code of the process.
fn report(result: Result<()>) -> u8 {
    let Err(error) = result else { return 0 };
    if error.is::<Closed>() {
        return 0;
    }
    let text = explain(&error);
    if log::is_json() {
        // One record, so that a line break in a quoted text cannot start another one.
        tracing::error!(error = text, "command failed");
    } else {
        complain!("error: {text}");
    }
    let config = |cause: &(dyn std::error::Error + 'static)| {
        let store = cause.downcast_ref::<StoreError>();
        cause.is::<ConfigError>()
            || cause.is::<Invalid>()
            || matches!(store, Some(StoreError::Directory(_)))
    };
    if error.chain().any(config) {
        EXIT_CONFIG
    } else {
        1
    }
}

/// Returns the messages of an error and its causes, joined by `: `. A cause is left out if its
/// message is part of the messages before it.
fn explain(error: &anyhow::Error) -> String {
    sightline::error::explain(&**error)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn each_cause_is_printed_once() {
        let inner = anyhow::anyhow!("no such file\n");
        let outer = inner
            .context("cannot read x: no such file")
            .context("model `y`");
        assert_eq!(explain(&outer), "model `y`: cannot read x: no such file");
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    /// Checks that an environment variable with a valid value for one command is not invalid for
    /// another command.
    #[test]
    fn a_variable_has_the_same_type_in_all_commands() {
        let cli = Cli::command();
        let mut types = BTreeMap::new();
        for command in cli.get_subcommands() {
            for arg in command.get_arguments() {
                let Some(variable) = arg.get_env() else {
                    continue;
                };
                let parser = arg.get_value_parser();
                let kind = (
                    parser.type_id(),
                    format!("{parser:?}"),
                    format!("{:?}", arg.get_action()),
                    arg.get_value_delimiter(),
                    arg.get_value_names().map(<[_]>::to_vec),
                );
                let first = types.entry(variable).or_insert_with(|| kind.clone());
                assert_eq!(*first, kind, "{variable:?} in `{}`", command.get_name());
            }
        }
        assert!(types.len() > 30, "{types:?}");
    }
}
