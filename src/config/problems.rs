//! All errors of the settings, rather than the first.

use serde_json::Value;

use super::{ConfigError, Settings, keys};

impl Settings {
    /// Validates the settings, and returns an error for each invalid one. Removes a setting with an
    /// invalid value and validates the others again, so that a new setting needs no code here.
    pub fn problems(&self) -> Vec<ConfigError> {
        let mut settings = self.clone();
        let mut errors = Vec::new();
        while errors.len() <= keys().len() {
            let Err(error) = settings.clone().resolve() else {
                break;
            };
            let rest = invalid(&error).and_then(|(model, key)| settings.without(model, key));
            errors.push(error);
            match rest {
                Some(rest) => settings = rest,
                None => break,
            }
        }
        errors
    }

    /// Returns these settings without `key`, or, if `model` is not `None`, without `key` in the
    /// table of this model. `None` if they do not contain it, or have a path that is not UTF-8.
    fn without(&self, model: Option<&str>, key: &str) -> Option<Self> {
        let mut value = serde_json::to_value(self).ok()?;
        let settings = value.as_object_mut()?;
        settings.retain(|_, value| !value.is_null());
        let table = match model {
            Some(model) => settings
                .get_mut("models")
                .and_then(|models| models.get_mut(model))
                .and_then(Value::as_object_mut)?,
            None => settings,
        };
        table.remove(key).filter(|value| !value.is_null())?;
        serde_json::from_value(value).ok()
    }
}

/// Returns the setting that `error` is about, with the name of the model if it is in the table of a
/// model. `None` if it is about no single setting.
fn invalid(error: &ConfigError) -> Option<(Option<&str>, &'static str)> {
    match error {
        ConfigError::Value { setting, .. } => Some((None, setting)),
        ConfigError::Model { model, reason } => match &**reason {
            ConfigError::Value { setting, .. } => Some((Some(model), setting)),
            _ => None,
        },
        _ => None,
    }
}
