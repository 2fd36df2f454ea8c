//! `sightline healthcheck`.

use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;

use super::say::say;

/// Longest wait for the response.
const TIMEOUT: Duration = Duration::from_secs(3);

#[derive(Debug, Args)]
pub(super) struct HealthcheckArgs {
    /// URL of the server
    #[arg(
        long,
        env = "SIGHTLINE_HEALTHCHECK_URL",
        default_value = "http://127.0.0.1:8080"
    )]
    url: String,
}

/// Succeeds if the server is ready.
pub(super) fn run(args: &HealthcheckArgs) -> Result<()> {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_global(Some(TIMEOUT))
        .proxy(None)
        .build()
        .into();
    let url = format!("{}/health/ready", args.url.trim_end_matches('/'));
    agent
        .get(&url)
        .call()
        .with_context(|| format!("{url} is not ready"))?;
    say!("ready")
}
