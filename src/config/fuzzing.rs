//! Reads configuration files from arbitrary bytes. The fuzz target `config` and the test below call
//! the function.

use std::path::Path;

use clap::{Args as _, Command};

use super::{ConfigFile, Settings};

/// Reads `bytes` as the configuration file of `serve`, below a flag, and resolves the settings.
/// Returns whether they are valid.
///
/// # Panics
/// If the file overrides the flag, or a setting of a valid file is out of its range.
pub fn read_config(bytes: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(bytes) else {
        return false;
    };
    let command = Settings::augment_args(Command::new("serve"));
    let Ok(flags) = command.try_get_matches_from(["serve", "--max-images", "3"]) else {
        return false;
    };
    let file = ConfigFile::parse(text, Path::new("sightline.toml"));
    // The valid settings of a file with errors are merged and checked as well.
    let Ok(merged) = file.settings.clone().under(&flags) else {
        return false;
    };
    drop(merged.problems());
    let Ok(file) = file.into_settings() else {
        return false;
    };
    let Ok(settings) = file.under(&flags) else {
        return false;
    };
    assert_eq!(settings.max_images, Some(3));
    let Ok(config) = settings.resolve() else {
        return false;
    };
    assert!((1..=1024).contains(&config.cores));
    assert!((1..=1 << 30).contains(&config.limits.max_pixels));
    assert!(config.memory_budget.is_none_or(|bytes| bytes <= 1 << 40));
    true
}

#[cfg(test)]
mod tests {
    use super::read_config;
    use crate::testing::fuzz::check;

    #[test]
    fn mutated_configuration_files() {
        check("config", read_config);
    }
}
