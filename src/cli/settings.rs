//! The settings of `serve`: merges flags, environment variables and the configuration file, and
//! tells where the value of each setting comes from.

use std::path::PathBuf;

use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Args, Command};
use sightline::config::{ConfigError, Settings};

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
    pub(super) settings: Settings,
    /// The configuration file and its keys. `None` if no file is named.
    file: Option<(PathBuf, toml::Table)>,
}

/// Where the value of a setting comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    /// A flag, with two hyphens.
    Flag(String),
    /// An environment variable.
    Variable(String),
    /// The configuration file.
    File(PathBuf),
    Default,
}

impl Merged {
    /// Reads the configuration file, if `args` names one, and merges it with flags and environment
    /// variables, which override it. `args` is `None` for commands without the settings of
    /// `serve`; `log` has the flags of the log.
    ///
    /// # Errors
    /// If the file cannot be read or has invalid content.
    pub(super) fn new(args: Option<&SettingsArgs>, log: &LogArgs) -> Result<Self, ConfigError> {
        let given = Settings {
            log: log.log.clone(),
            log_format: log.log_format,
            ..args.map(|args| args.given.clone()).unwrap_or_default()
        };
        let Some(path) = args.and_then(|args| args.config.clone()) else {
            return Ok(Self {
                settings: given,
                file: None,
            });
        };
        let file = Settings::from_file(&path)?;
        Ok(Self {
            settings: given.over(&file)?,
            file: Some((path, toml::Table::try_from(&file)?)),
        })
    }

    /// Returns where the value of the setting `key` comes from. `argument` is the setting's
    /// argument in `matches`, the parsed command line; `None` if the setting has no flag.
    pub(super) fn origin(&self, key: &str, argument: Option<&Arg>, matches: &ArgMatches) -> Origin {
        let variable = argument.and_then(Arg::get_env);
        match argument.and_then(|_| source(matches, key)) {
            Some(ValueSource::CommandLine) => {
                let flag = argument.and_then(Arg::get_long).unwrap_or(key);
                Origin::Flag(format!("--{flag}"))
            }
            Some(ValueSource::EnvVariable) => Origin::Variable(
                variable.map_or_else(String::new, |name| name.to_string_lossy().into_owned()),
            ),
            _ => match &self.file {
                Some((path, keys)) if keys.contains_key(key) => Origin::File(path.clone()),
                _ => Origin::Default,
            },
        }
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
