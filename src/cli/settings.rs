//! The settings of `serve`: merges flags, environment variables and the configuration file, and
//! tells where the value of each setting comes from.

use std::fmt;
use std::path::PathBuf;

use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Args, Command};
use serde::Serialize;
use sightline::config::{ConfigError, ConfigFile, Settings};

use super::LogArgs;

#[derive(Debug, Args)]
pub(super) struct SettingsArgs {
    /// TOML file with the settings below, with underscores in their names (`max_images = 8`); flags
    /// and environment variables override it
    #[arg(long, env = "SIGHTLINE_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// The settings that flags and environment variables set.
    #[command(flatten)]
    pub(super) given: Settings,
}

/// The settings of flags, environment variables and the configuration file.
#[derive(Debug)]
pub(super) struct Merged {
    settings: Settings,
    /// The configuration file. `None` if no file is named.
    file: Option<ConfigFile>,
    /// Errors of the configuration file, whose settings are then incomplete.
    errors: Vec<ConfigError>,
}

/// Where the value of a setting comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase", tag = "kind")]
pub(super) enum Origin {
    /// A flag.
    Flag {
        /// The flag, with two hyphens.
        name: String,
    },
    /// An environment variable.
    Variable {
        /// Name of the variable.
        name: String,
    },
    /// The configuration file.
    File {
        path: PathBuf,
        /// Line of the key, from 1.
        line: usize,
    },
    /// The default, which is the same on every machine.
    Default,
    /// The default on this machine and with these models.
    Derived,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag { name } => write!(f, "flag {name}"),
            Self::Variable { name } => write!(f, "environment {name}"),
            Self::File { path, line } => {
                // A line break in the path would end the comment that contains it.
                let path = path.display().to_string().replace(['\n', '\r'], "?");
                write!(f, "file {path}, line {line}")
            }
            Self::Default => f.write_str("default"),
            Self::Derived => f.write_str("default on this machine"),
        }
    }
}

impl Merged {
    /// Reads the configuration file, if `args` names one, and merges it with flags and environment
    /// variables, which override it. `args` is `None` for commands without the settings of
    /// `serve`; `log` has the flags of the log, and `matches` is the parsed command line. Errors in
    /// the content of the file are kept.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub(super) fn new(
        args: Option<&SettingsArgs>,
        log: &LogArgs,
        matches: &ArgMatches,
    ) -> Result<Self, ConfigError> {
        let path = args.and_then(|args| args.config.as_deref());
        let mut file = path.map(ConfigFile::read).transpose()?;
        let errors = file.as_mut().map(ConfigFile::take_errors);
        let lower = file.as_ref().map(|file| file.settings.clone());
        let mut settings = lower.unwrap_or_default();
        if args.is_some() {
            settings = settings.under(command(matches))?;
        }
        settings.log = log.log.clone().or(settings.log);
        settings.log_format = log.log_format.or(settings.log_format);
        Ok(Self {
            settings,
            file,
            errors: errors.unwrap_or_default(),
        })
    }

    /// Returns the settings.
    ///
    /// # Errors
    /// If the configuration file has errors.
    pub(super) fn into_settings(self) -> Result<Settings, ConfigError> {
        ConfigError::all(self.errors)?;
        Ok(self.settings)
    }

    /// Returns the settings without those that are invalid in the configuration file.
    pub(super) fn valid_settings(&self) -> &Settings {
        &self.settings
    }

    /// Removes and returns the errors of the configuration file.
    pub(super) fn take_errors(&mut self) -> Vec<ConfigError> {
        std::mem::take(&mut self.errors)
    }

    /// Returns where the value of the setting `key` comes from. `argument` is the setting's
    /// argument in `matches`, the parsed command line; `None` if the setting has no flag.
    pub(super) fn origin(&self, key: &str, argument: Option<&Arg>, matches: &ArgMatches) -> Origin {
        match argument.and_then(|_| source(matches, key)) {
            Some(ValueSource::CommandLine) => {
                let flag = argument.and_then(Arg::get_long).unwrap_or(key);
                let name = format!("--{flag}");
                Origin::Flag { name }
            }
            Some(ValueSource::EnvVariable) => {
                let variable = argument.and_then(Arg::get_env).unwrap_or_default();
                let name = variable.to_string_lossy().into_owned();
                Origin::Variable { name }
            }
            _ => self.file_origin(key).unwrap_or(Origin::Default),
        }
    }

    /// Returns the place of `key`, such as `listen` or `models.birds.instances`, in the
    /// configuration file. `None` if the file does not contain it.
    pub(super) fn file_origin(&self, key: &str) -> Option<Origin> {
        let file = self.file.as_ref()?;
        Some(Origin::File {
            path: file.path.clone(),
            line: file.line(key)?,
        })
    }
}

/// Returns the arguments of the command that `matches` has selected.
fn command(matches: &ArgMatches) -> &ArgMatches {
    match matches.subcommand() {
        Some((_, inner)) => command(inner),
        None => matches,
    }
}

/// Returns the source of the argument `id` of the command that `matches` has selected, or of the
/// command line before it. `None` if neither has a value for it.
fn source(matches: &ArgMatches, id: &str) -> Option<ValueSource> {
    let of_subcommand = matches.subcommand().and_then(|(_, sub)| source(sub, id));
    // Unlike `value_source`, `try_contains_id` does not panic if there is no such argument.
    let here = || matches.try_contains_id(id).is_ok_and(|has| has);
    of_subcommand.or_else(|| here().then(|| matches.value_source(id)).flatten())
}

/// Returns the argument of `serve` or of all commands that sets the setting `key`. `None` if the
/// setting has no flag. `cli` is the command line of the program.
pub(super) fn argument<'a>(cli: &'a Command, key: &str) -> Option<&'a Arg> {
    let serve = cli.find_subcommand("serve");
    let arguments = serve.into_iter().flat_map(Command::get_arguments);
    let mut arguments = arguments.chain(cli.get_arguments());
    arguments.find(|arg| arg.get_id() == key)
}
