//! `sightline config`: validates the configuration of `serve` and prints it with origins, or prints
//! an example.

use std::fmt;

use anyhow::Result;
use clap::{ArgMatches, Args, CommandFactory as _, Subcommand};
use serde_json::json;
use sightline::config::{ConfigError, ServeConfig, Settings};
use sightline::defaults::Defaults;
use sightline::engine::find_library;
use sightline::memory::BudgetOrigin;
use sightline::registry::Served;
use toml::Table;

use super::entries::{Entry, entries};
use super::memory::Planned;
use super::model_report::{ModelReport, model_reports};
use super::print_config::model_tables;
use super::say::say;
use super::serve::{check_pinned, check_tls, choose_loads, find_sources, read_keys, served_names};
use super::settings::{Merged, Origin, SettingsArgs, argument};
use super::{Cli, StoreArgs, environment, existing_models_directory, explain};

/// Maximum width of the column with the values; a longer value moves its origin to the right.
const MAX_COLUMN: usize = 48;

#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Validate the settings of `serve` and print each with its value and origin: a flag, an
    /// environment variable, a line of the configuration file or the default. Reports all errors,
    /// with exit code 64
    Check(Box<CheckArgs>),
    /// Print a configuration file with all settings and their defaults, each as a comment
    Example,
}

#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// Print JSON instead of text
    #[arg(long, env = "SIGHTLINE_JSON")]
    json: bool,
    /// Check the settings alone, without the files that they name, the models, the memory and ONNX
    /// Runtime's library of this machine
    #[arg(long)]
    settings_only: bool,
    #[command(flatten)]
    pub(super) settings: SettingsArgs,
}

/// The configuration is invalid. Has a text for each error, at least one.
#[derive(Debug)]
pub(super) struct Invalid(Vec<String>);

impl std::error::Error for Invalid {}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let [only] = &self.0[..] {
            return f.write_str(only);
        }
        write!(f, "{} errors in the configuration:", self.0.len())?;
        for error in &self.0 {
            write!(f, "\n  - {}", error.replace('\n', "\n    "))?;
        }
        Ok(())
    }
}

/// Prints the settings, in TOML, each with a comment that names its origin, or in JSON. `matches` is
/// the parsed command line.
///
/// # Errors
/// [`Invalid`] if `serve` would reject the configuration.
pub(super) fn run(args: &CheckArgs, mut merged: Merged, matches: &ArgMatches) -> Result<()> {
    environment::warn_unknown(&super::variables());
    let mut errors = merged.take_errors();
    errors.extend(merged.valid_settings().problems());
    let errors = errors.iter();
    let mut errors: Vec<String> = errors.map(|e| located(e, &merged, matches)).collect();
    let mut machine = Machine::default();
    if errors.is_empty() && !args.settings_only {
        machine = Machine::new(&merged, matches, &mut errors)?;
    }
    let valid = errors.is_empty();
    let entries = if valid {
        entries(&merged, matches, &machine.derived)?
    } else {
        Vec::new()
    };
    if args.json {
        print_json(&merged, &entries, &machine.models, &errors)?;
    } else if valid {
        print_text(&merged, &entries, &machine.models)?;
    }
    if valid {
        Ok(())
    } else {
        Err(Invalid(errors).into())
    }
}

/// Returns the message of `error`, with the origin of the setting that it is about.
fn located(error: &ConfigError, merged: &Merged, matches: &ArgMatches) -> String {
    let text = error.explained();
    let origin = match error {
        ConfigError::Value { setting, .. } => {
            Some(merged.origin(setting, argument(&Cli::command(), setting), matches))
        }
        ConfigError::Model { model, reason } => match &**reason {
            ConfigError::Value { setting, .. } => {
                merged.file_origin(&format!("models.{model}.{setting}"))
            }
            _ => None,
        },
        ConfigError::UnknownModel { model, .. } => merged.file_origin(&format!("models.{model}")),
        _ => None,
    };
    match origin {
        None | Some(Origin::Default) => text,
        Some(origin) => format!("{text} ({origin})"),
    }
}

/// The defaults and the models that the settings have on this machine.
#[derive(Default)]
struct Machine {
    /// Defaults that depend on the machine or the models.
    derived: Table,
    models: Vec<ModelReport>,
}

impl Machine {
    /// Reads the API keys and the TLS files, finds the models and ONNX Runtime's library, and plans the
    /// memory. Adds all errors to `errors`.
    ///
    /// # Errors
    /// If the settings are invalid.
    fn new(merged: &Merged, matches: &ArgMatches, errors: &mut Vec<String>) -> Result<Self> {
        let settings = merged.valid_settings();
        let config = settings.clone().resolve()?;
        let mut machine = Self::default();
        machine.add_paths(settings, errors);
        let files = [read_keys(&config).map(drop), check_tls(&config)];
        let failed = files.into_iter().filter_map(Result::err);
        errors.extend(failed.map(|error| error.explained()));
        let mut served = match models(&config, settings) {
            Ok(served) => served,
            Err(mut found) => {
                errors.append(&mut found);
                return Ok(machine);
            }
        };
        choose_loads(&config, &mut served);
        let sources: Vec<_> = served.iter().map(|served| &served.source).collect();
        let named = !config.models.is_empty();
        let checks = [
            config.check_overrides(&served_names(&served)),
            check_pinned(&config, &served),
            Defaults::choose(&config.default_models, &sources, named).map(drop),
            machine.plan_memory(&config, &served),
        ];
        let failed = checks.into_iter().filter_map(Result::err);
        let failed = failed.flat_map(ConfigError::each);
        errors.extend(failed.map(|error| located(&error, merged, matches)));
        machine.models = model_reports(merged, matches, &config, &served)?;
        Ok(machine)
    }

    /// Adds the paths of the default models directory, if it exists, and of ONNX Runtime's library.
    fn add_paths(&mut self, settings: &Settings, errors: &mut Vec<String>) {
        if let (None, Some(directory)) = (&settings.models_dir, existing_models_directory()) {
            self.add("models_dir", directory.display().to_string());
        }
        match find_library(settings.onnxruntime.as_deref()) {
            Ok(path) if settings.onnxruntime.is_none() => {
                self.add("onnxruntime", path.display().to_string());
            }
            Ok(_) => {}
            Err(error) => errors.push(explain(&error.into())),
        }
    }

    /// Adds the sizes of the parts of the memory budget.
    fn plan_memory(&mut self, config: &ServeConfig, served: &[Served]) -> Result<(), ConfigError> {
        // The origin of the budget only matters to the log.
        let planned = Planned::new(config, BudgetOrigin::File, served)?;
        for (key, bytes) in planned.sizes() {
            if let Some(bytes) = bytes.and_then(|bytes| i64::try_from(bytes).ok()) {
                self.add(key, bytes);
            }
        }
        Ok(())
    }

    fn add(&mut self, key: &str, value: impl Into<toml::Value>) {
        self.derived.insert(key.to_owned(), value.into());
    }
}

/// Returns the models to serve, or the text of each error.
fn models(config: &ServeConfig, settings: &Settings) -> Result<Vec<Served>, Vec<String>> {
    let store = StoreArgs::of(settings).store();
    let named = config.models.iter();
    let missing = named.filter_map(|reference| store.find(reference).err());
    let mut missing: Vec<String> = missing.map(|error| explain(&error.into())).collect();
    // A missing directory is one error, not one of each model.
    missing.dedup();
    if !missing.is_empty() {
        return Err(missing);
    }
    find_sources(&store, config).map_err(|error| vec![explain(&error.into())])
}

/// Prints the settings in TOML.
fn print_text(merged: &Merged, entries: &[Entry], models: &[ModelReport]) -> Result<()> {
    let lines = entries.iter();
    print_lines(lines.map(|entry| (entry.shown(), entry.explained_origin())))?;
    let settings = merged.valid_settings();
    let names = settings.models.iter().flat_map(|models| models.0.keys());
    for (name, table) in names.zip(model_tables(settings)?) {
        let mut lines = table.into_iter();
        say!("\n{}", lines.next().unwrap_or_default())?;
        print_lines(lines.map(|line| {
            let key = line.split(" = ").next().unwrap_or_default();
            let origin = merged.file_origin(&format!("models.{name}.{key}"));
            (line, origin.unwrap_or(Origin::Default).to_string())
        }))?;
    }
    for model in models {
        say!("\n# {}", model.head())?;
        print_lines(model.lines())?;
    }
    say!("\n# The configuration is valid.")
}

/// Prints lines, each with a comment behind it.
fn print_lines(lines: impl Iterator<Item = (String, String)>) -> Result<()> {
    let lines: Vec<_> = lines.collect();
    let widths = lines.iter().map(|(line, _)| line.chars().count());
    let width = widths.max().unwrap_or_default().min(MAX_COLUMN);
    for (line, comment) in lines {
        say!("{line:width$}  # {comment}")?;
    }
    Ok(())
}

/// Prints an object with the settings, the models and the errors.
fn print_json(
    merged: &Merged,
    entries: &[Entry],
    models: &[ModelReport],
    errors: &[String],
) -> Result<()> {
    let settings = entries
        .iter()
        .map(|entry| json!({"name": entry.key, "value": entry.value, "origin": entry.origin}));
    let report = json!({
        "valid": errors.is_empty(),
        "errors": errors,
        "settings": settings.collect::<Vec<_>>(),
        "model_settings": merged.valid_settings().models,
        "models": models,
    });
    say!("{}", serde_json::to_string_pretty(&report)?)
}
