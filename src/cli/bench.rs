//! `sightline bench`.

use anyhow::Result;
use clap::Args;

#[derive(Debug, Args)]
pub(super) struct BenchArgs {}

pub(super) fn run(_args: &BenchArgs) -> Result<()> {
    Ok(())
}
