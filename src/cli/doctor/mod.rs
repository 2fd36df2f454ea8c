//! `sightline doctor`: checks whether this machine can run the server well, and says what to change.

mod machine;
mod quota;
mod setup;

use anyhow::{Result, bail};
use clap::Args;
use onnx_export::text::printable;
use serde::Serialize;
use sightline::config::{DEFAULT_LISTEN, ListenAddress};

use super::color;
use super::say::{print_marked, say};
use super::{RuntimeArgs, StoreArgs};

#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// Addresses that the server will listen on [default: 127.0.0.1:8080]
    #[arg(
        long,
        env = "SIGHTLINE_LISTEN",
        value_name = "ADDR",
        value_delimiter = ','
    )]
    listen: Option<Vec<ListenAddress>>,
    /// Print JSON instead of text
    #[arg(long, env = "SIGHTLINE_JSON")]
    json: bool,
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    runtime: RuntimeArgs,
}

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    /// The server runs, but worse than it could.
    Warning,
    /// The server does not start.
    Failure,
}

/// The result of one check.
#[derive(Debug, PartialEq, Serialize)]
struct Check {
    /// Stable name of the check.
    name: &'static str,
    verdict: Verdict,
    /// What was found, and what it means.
    found: String,
    /// What to do. `None` if the verdict is [`Verdict::Ok`].
    fix: Option<String>,
}

impl Check {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        let found = found.into();
        Self {
            name,
            verdict: Verdict::Ok,
            found,
            fix: None,
        }
    }

    fn warning(name: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        let (found, fix) = (found.into(), Some(fix.into()));
        Self {
            name,
            verdict: Verdict::Warning,
            found,
            fix,
        }
    }

    fn failure(name: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        let (found, fix) = (found.into(), Some(fix.into()));
        Self {
            name,
            verdict: Verdict::Failure,
            found,
            fix,
        }
    }
}

/// Runs all checks and prints their results.
///
/// # Errors
/// If a check has the verdict `failure`.
pub(super) fn run(args: &DoctorArgs) -> Result<()> {
    let mut checks = vec![
        machine::cpu(),
        machine::cores(),
        machine::memory(),
        machine::open_files(),
        machine::clock(),
        setup::onnx_runtime(&args.runtime),
        setup::models(&args.store),
    ];
    let default = [ListenAddress::from(DEFAULT_LISTEN)];
    let addresses = args.listen.as_deref().unwrap_or(&default);
    checks.extend(addresses.iter().map(setup::address));
    if args.json {
        say!("{}", serde_json::to_string_pretty(&checks)?)?;
    } else {
        checks.iter().try_for_each(print)?;
    }
    let failures = checks
        .iter()
        .filter(|check| check.verdict == Verdict::Failure)
        .count();
    if failures > 0 {
        bail!(
            "{failures} of {} checks failed: the server would not start",
            checks.len()
        );
    }
    Ok(())
}

/// Prints one check.
fn print(check: &Check) -> Result<()> {
    let (verdict, style) = match check.verdict {
        Verdict::Ok => ("ok", color::GOOD),
        Verdict::Warning => ("warning", color::DOUBTFUL),
        Verdict::Failure => ("FAILURE", color::BAD),
    };
    // Errors of files and libraries have several lines.
    let indented = |text: &str| printable(text, &['\n']).replace('\n', "\n                      ");
    let rest = format!("  {:12}{}", check.name, indented(&check.found));
    print_marked(style, &format!("{verdict:8}"), &rest)?;
    match &check.fix {
        Some(fix) => say!("                      {}", indented(&format!("fix: {fix}"))),
        None => Ok(()),
    }
}
