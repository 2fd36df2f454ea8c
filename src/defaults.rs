//! The default model of each task, which serves the requests that name no model.

use std::collections::BTreeMap;
use std::str::FromStr;

use thiserror::Error;

use crate::config::ConfigError;
use crate::manifest::Task;
use crate::registry::Served;
use crate::store::{ModelRef, ModelSource};

/// Name of the setting, for errors.
const SETTING: &str = "default_models";

/// A task and its default model, as a setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DefaultModel {
    /// The task.
    pub task: Task,
    /// The model, as `name` or `name@variant`.
    pub model: ModelRef,
}

/// The error of a text that is not of the form `TASK=MODEL`.
#[derive(Debug, Error)]
#[error(
    "expected TASK=NAME or TASK=NAME@VARIANT, such as classification=birds, with the task \
     classification, detection or segmentation, got {got}"
)]
pub struct InvalidDefault {
    /// The text.
    pub got: String,
}

impl FromStr for DefaultModel {
    type Err = InvalidDefault;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parsed = text
            .split_once('=')
            .and_then(|(task, model)| Self::new(task, model));
        parsed.ok_or_else(|| InvalidDefault {
            got: text.to_owned(),
        })
    }
}

impl DefaultModel {
    /// Returns `None` if `task` is not the name of a task, or if `model` is no name of a model.
    fn new(task: &str, model: &str) -> Option<Self> {
        let task = Task::ALL.into_iter().find(|known| known.as_str() == task)?;
        let model = model.parse().ok()?;
        Some(Self { task, model })
    }
}

/// Conversion of the setting from and to a table with a key per task, for serde.
pub(crate) mod table {
    use std::collections::BTreeMap;

    use serde::de::Error as _;
    use serde::ser::Error as _;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::{DefaultModel, InvalidDefault};

    /// Writes the table.
    ///
    /// # Errors
    /// As `serializer`, and if a task has two models.
    #[expect(clippy::ref_option, reason = "serde calls the function with this type")]
    pub(crate) fn serialize<S: Serializer>(
        defaults: &Option<Vec<DefaultModel>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let Some(defaults) = defaults else {
            return serializer.serialize_none();
        };
        let mut table = BTreeMap::new();
        for DefaultModel { task, model } in defaults {
            let other = table.insert(task.as_str(), model.to_string());
            if let Some(other) = other {
                let task = task.as_str();
                let error = format!("two default models for the task {task}: {other} and {model}");
                return Err(S::Error::custom(error));
            }
        }
        table.serialize(serializer)
    }

    /// Reads the table.
    ///
    /// # Errors
    /// As `deserializer`, and if a key is not the name of a task or a value is empty.
    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Vec<DefaultModel>>, D::Error> {
        let pairs = BTreeMap::<String, String>::deserialize(deserializer)?;
        let parse = |(task, model): (String, String)| {
            let got = || InvalidDefault {
                got: format!("{task}={model}"),
            };
            DefaultModel::new(&task, &model).ok_or_else(got)
        };
        let defaults = pairs.into_iter().map(parse).collect::<Result<_, _>>();
        defaults.map(Some).map_err(D::Error::custom)
    }
}

/// How the default model of a task was chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// A setting names the model.
    Configured,
    /// The task has no other model.
    Only,
    /// The model is the first one of the task in `--model`.
    FirstNamed,
    /// The model is the first one of the task by its name.
    FirstByName,
}

impl Choice {
    fn as_str(self) -> &'static str {
        match self {
            Self::Configured => "configured",
            Self::Only => "the only model of the task",
            Self::FirstNamed => "first of --model",
            Self::FirstByName => "first by name",
        }
    }
}

/// The default model of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Chosen {
    /// The model, as `name` or `name@variant`.
    model: String,
    choice: Choice,
    /// Names of all models of the task.
    models: Vec<String>,
}

/// The default models of the tasks for which a model is served.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Defaults(BTreeMap<Task, Chosen>);

impl Defaults {
    /// Chooses the default model of each task among `sources`, the models to serve, in order. A task without a model in
    /// `configured` gets its first model. `named` states whether `--model` names the models.
    ///
    /// # Errors
    /// [`ConfigError::Value`] if `configured` has two models for a task, or a model that is not among `sources` or has
    /// another task.
    pub fn choose(
        configured: &[DefaultModel],
        sources: &[&ModelSource],
        named: bool,
    ) -> Result<Self, ConfigError> {
        let mut chosen = BTreeMap::new();
        for default in configured {
            check(default, sources)?;
            let entry = Chosen {
                model: default.model.to_string(),
                choice: Choice::Configured,
                models: names(default.task, sources),
            };
            if let Some(other) = chosen.insert(default.task, entry) {
                let expected = format!("one model for the task {}", default.task.as_str());
                let got = format!("{} and {}", other.model, default.model);
                return Err(invalid(expected, got));
            }
        }
        for &source in sources {
            let task = source.manifest.task;
            chosen
                .entry(task)
                .or_insert_with(|| first(source, names(task, sources), named));
        }
        Ok(Self(chosen))
    }

    /// Returns the default model of `task`, as `name` or `name@variant`. `None` if the task has no model.
    pub fn of(&self, task: Task) -> Option<&str> {
        self.0.get(&task).map(|chosen| chosen.model.as_str())
    }

    /// Logs an event for each task.
    pub fn log(&self) {
        for (task, chosen) in &self.0 {
            let Chosen {
                model,
                choice,
                models,
            } = chosen;
            let (task, chosen) = (task.as_str(), choice.as_str());
            if *choice == Choice::FirstByName {
                let models = models.join(", ");
                let setting = format!("{SETTING} = {{ {task} = \"{model}\" }}");
                tracing::info!(
                    task,
                    model,
                    chosen,
                    models,
                    %setting,
                    "default model, which a model with an earlier name would replace: the setting in the \
                     configuration file keeps it"
                );
            } else {
                tracing::info!(task, model, chosen, "default model");
            }
        }
    }
}

/// Makes the variants that `configured` names load at start.
pub fn load_at_start(configured: &[DefaultModel], served: &mut [Served]) {
    for item in served {
        let named = |default: &DefaultModel| {
            default.model.variant.is_some() && default.model.names(&item.source)
        };
        item.at_start |= configured.iter().any(named);
    }
}

/// Returns the choice for a task whose first model is `source` and whose models have the names `models`.
fn first(source: &ModelSource, models: Vec<String>, named: bool) -> Chosen {
    let choice = match models.len() {
        0 | 1 => Choice::Only,
        _ if named => Choice::FirstNamed,
        _ => Choice::FirstByName,
    };
    let model = if named {
        source.id()
    } else {
        source.manifest.name.clone()
    };
    Chosen {
        model,
        choice,
        models,
    }
}

/// Checks that `default` is the name of a model of its task among `sources`, and its variant one of that model.
fn check(default: &DefaultModel, sources: &[&ModelSource]) -> Result<(), ConfigError> {
    let DefaultModel { task, model } = default;
    let got = format!("{}={model}", task.as_str());
    let variants = sources.iter().copied();
    let variants = variants.filter(|source| source.manifest.name == model.name);
    let variants: Vec<&ModelSource> = variants.collect();
    let Some(first) = variants.first() else {
        return Err(invalid(expected(*task, sources), got));
    };
    let other = first.manifest.task;
    if other != *task {
        let got = format!("{got}, a {} model", other.as_str());
        return Err(invalid(expected(*task, sources), got));
    }
    if variants.iter().any(|source| model.names(source)) {
        return Ok(());
    }
    let ids: Vec<String> = variants.iter().map(|source| source.id()).collect();
    Err(invalid(format!("one of {}", ids.join(", ")), got))
}

/// Returns the allowed default models of `task`, in words.
fn expected(task: Task, sources: &[&ModelSource]) -> String {
    let names = names(task, sources);
    let task = task.as_str();
    if names.is_empty() {
        return format!("no model for {task}, because no model of this task is served");
    }
    format!("the name of a served {task} model ({})", names.join(", "))
}

/// Returns the names of the models of `task` among `sources`, in order.
fn names(task: Task, sources: &[&ModelSource]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for source in sources {
        if source.manifest.task == task && !names.contains(&source.manifest.name) {
            names.push(source.manifest.name.clone());
        }
    }
    names
}

fn invalid(expected: String, got: String) -> ConfigError {
    ConfigError::Value {
        setting: SETTING,
        expected,
        got,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;
    use crate::store::FP32;

    /// Returns sources of the given tasks and identifiers. Each has a variant `320` beside fp32.
    fn sources(models: &[(Task, &str)]) -> Vec<ModelSource> {
        let source = |(task, id): &(Task, &str)| {
            let mut source = ModelSource::embedded().unwrap();
            let (name, variant) = id.split_once('@').unwrap_or((id, FP32));
            source.manifest.task = *task;
            source.manifest.name = name.to_owned();
            let resized = source.manifest.variants["int8"].clone();
            source.manifest.variants.insert("320".to_owned(), resized);
            source.variant = variant.to_owned();
            source
        };
        models.iter().map(source).collect()
    }

    const MODELS: [(Task, &str); 5] = [
        (Task::Classification, "alpaca@int8"),
        (Task::Classification, "alpaca"),
        (Task::Classification, "birds"),
        (Task::Classification, "birds@int8"),
        (Task::Segmentation, "rivers"),
    ];

    fn chosen(configured: &str, named: bool) -> Result<Defaults, ConfigError> {
        let configured = configured.split_whitespace();
        let configured: Vec<_> = configured.map(|text| text.parse().unwrap()).collect();
        let sources = sources(&MODELS);
        Defaults::choose(&configured, &sources.iter().collect::<Vec<_>>(), named)
    }

    #[test]
    fn the_default_is_the_configured_or_the_first_model_of_its_task() {
        use Choice::{Configured, FirstByName, FirstNamed, Only};
        let cases = [
            ("", false, "alpaca", FirstByName),
            ("", true, "alpaca@int8", FirstNamed),
            ("classification=birds", false, "birds", Configured),
            ("classification=birds", true, "birds", Configured),
            ("classification=birds@int8", false, "birds@int8", Configured),
        ];
        for (configured, named, model, choice) in cases {
            let defaults = chosen(configured, named).unwrap();
            assert_eq!(defaults.of(Task::Classification), Some(model));
            assert_eq!(defaults.0[&Task::Classification].choice, choice);
            assert_eq!(defaults.0[&Task::Segmentation].choice, Only);
            assert_eq!(defaults.of(Task::Detection), None);
        }
    }

    #[test]
    fn a_default_that_is_not_served_is_an_error() {
        let cases = [
            (
                "classification=owls",
                "expected the name of a served classification model (alpaca, birds), got \
                 classification=owls",
            ),
            (
                "classification=rivers",
                "(alpaca, birds), got classification=rivers, a segmentation model",
            ),
            (
                "classification=birds@int4",
                "expected one of birds@fp32, birds@int8, got classification=birds@int4",
            ),
            (
                "detection=boxes",
                "no model of this task is served, got detection=boxes",
            ),
            (
                "classification=birds classification=alpaca",
                "expected one model for the task classification, got birds and alpaca",
            ),
        ];
        for (configured, expected) in cases {
            let error = chosen(configured, false).unwrap_err().to_string();
            assert!(error.starts_with("`default_models`: expected "), "{error}");
            assert!(error.ends_with(expected), "{error}");
        }
        for text in ["birds", "classify=birds", "classification=", "=birds"] {
            let error = text.parse::<DefaultModel>().unwrap_err().to_string();
            assert!(error.ends_with(&format!("got {text}")), "{error}");
        }
    }

    #[test]
    fn a_variant_that_is_a_default_is_loaded_at_start() {
        for (text, expected) in [
            ("classification=birds@int8", [false, true]),
            ("classification=birds@320", [false, false]),
            ("classification=birds", [false, false]),
            ("classification=owls@int8", [false, false]),
        ] {
            let birds = sources(&MODELS[2..4]).into_iter();
            let later = birds.map(|source| Served {
                source,
                at_start: false,
            });
            let mut served: Vec<Served> = later.collect();
            load_at_start(&[text.parse().unwrap()], &mut served);
            let at_start: Vec<bool> = served.iter().map(|item| item.at_start).collect();
            assert_eq!(at_start, expected, "{text}");
        }
    }

    #[test]
    fn the_setting_is_a_table_in_the_file() {
        let file = "default_models = { classification = \"birds\", detection = \"boxes@int8\" }";
        let settings: Settings = toml::from_str(file).unwrap();
        let expected = ["classification=birds", "detection=boxes@int8"];
        let expected = expected.map(|text| text.parse().unwrap());
        assert_eq!(settings.default_models.as_deref(), Some(&expected[..]));
        let written = toml::to_string(&settings).unwrap();
        assert_eq!(toml::from_str::<Settings>(&written).unwrap(), settings);
        for wrong in ["{ classify = \"birds\" }", "{ detection = \"\" }"] {
            let error = toml::from_str::<Settings>(&format!("default_models = {wrong}"));
            let error = error.unwrap_err().to_string();
            assert!(error.contains("expected TASK=NAME"), "{error}");
        }
        assert!(toml::from_str::<Settings>("default_models = \"birds\"").is_err());
        assert!(
            !toml::to_string(&Settings::default())
                .unwrap()
                .contains("default")
        );
    }
}
