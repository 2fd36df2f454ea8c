//! `sightline key`: makes API keys.

use anyhow::{Result, anyhow};
use clap::{Args, Subcommand};
use serde_json::json;
use sightline::keys::{KeyDigest, KeyName, new_key};

use super::say::say;

#[derive(Debug, Subcommand)]
pub(super) enum KeyCommand {
    /// Print a new API key, and the line for the file of `serve --api-keys`
    New(NewArgs),
}

#[derive(Debug, Args)]
pub(super) struct NewArgs {
    /// Name of the key in logs and metrics: 1 to 64 letters, digits, `.`, `_` and `-`
    #[arg(value_name = "NAME")]
    name: KeyName,
    /// Print JSON
    #[arg(long, env = "SIGHTLINE_JSON")]
    json: bool,
}

/// Prints a new key and its line. Neither is stored.
pub(super) fn run(command: &KeyCommand) -> Result<()> {
    let KeyCommand::New(NewArgs { name, json }) = command;
    let key = new_key();
    let key = key.map_err(|_| anyhow!("the operating system has no random source"))?;
    let sha256 = KeyDigest::of(key.as_bytes()).to_string();
    let line = format!("{name} {sha256}");
    if *json {
        let name = name.as_str();
        return say!(
            "{}",
            json!({"name": name, "key": key, "sha256": sha256, "line": line})
        );
    }
    say!("# The key, for the client. It cannot be shown again:")?;
    say!("{key}")?;
    say!("# The line for the file of `sightline serve --api-keys FILE`:")?;
    say!("{line}")
}
