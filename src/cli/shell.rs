//! `sightline completions` and `sightline man`: completions for shells, and manual pages.

use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use clap::builder::PossibleValuesParser;
use clap_complete::Shell;
use sightline::catalogue;

use super::say::{Closed, say};
use super::{help, staging};

#[derive(Debug, Args)]
pub(super) struct CompletionsArgs {
    /// Shell to print the completions for
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

#[derive(Debug, Args)]
pub(super) struct ManArgs {
    /// Folder for the pages, such as /usr/local/share/man/man1; it is created if it does not exist, and
    /// pages of the same names are replaced
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

/// Prints a script that completes the commands and flags in the shell.
///
/// # Errors
/// If stdout cannot be written.
pub(super) fn completions(args: &CompletionsArgs) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut completed(), "sightline", &mut script);
    // Not with `say!`, which would escape control characters of the script.
    match io::stdout().write_all(&script) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(Closed.into()),
        written => written.context("cannot write to stdout"),
    }
}

/// Returns the command line with the names of the catalogue as values of arguments that name a network.
fn completed() -> clap::Command {
    let names = || PossibleValuesParser::new(catalogue::names());
    [("pull", "names"), ("export", "name"), ("models", "name")]
        .into_iter()
        .fold(help::command(), |cli, (command, argument)| {
            cli.mut_subcommand(command, |command| {
                command.mut_arg(argument, |argument| argument.value_parser(names()))
            })
        })
}

/// Writes a manual page for the program and for each of its commands.
///
/// # Errors
/// If a page cannot be written.
pub(super) fn man(args: &ManArgs) -> Result<()> {
    let folder = &args.folder;
    std::fs::create_dir_all(folder)
        .with_context(|| format!("cannot create the folder {}", folder.display()))?;
    let mut command = help::command().disable_help_subcommand(true);
    command.build();
    let count = pages(&command, folder)?;
    say!("{}: wrote {count} manual pages", folder.display())
}

/// Writes the pages of `command` and its commands into `folder`. Returns their number.
fn pages(command: &clap::Command, folder: &Path) -> Result<usize> {
    let page = clap_mangen::Man::new(command.clone());
    let mut text = Vec::new();
    page.render(&mut text)?;
    staging::write_file(&folder.join(page.get_filename()), &text)?;
    let shown = command.get_subcommands();
    let shown = shown.filter(|command| !command.is_hide_set());
    let counts = shown.map(|command| pages(command, folder));
    Ok(1 + counts.sum::<Result<usize>>()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page() {
        let folder = tempfile::tempdir().unwrap();
        let args = ManArgs {
            folder: folder.path().join("man1"),
        };
        man(&args).unwrap();
        let page = |name: &str| std::fs::read_to_string(args.folder.join(name)).unwrap();
        for (name, text) in [
            ("sightline.1", "sightline\\-serve(1)"),
            ("sightline-serve.1", "\\-\\-listen"),
            ("sightline-config-check.1", ".SH SYNOPSIS"),
            ("sightline-man.1", ".SH SYNOPSIS"),
        ] {
            assert!(page(name).contains(text), "{name}: {}", page(name));
        }
        for hidden in ["sightline-load-trial.1", "sightline-help.1"] {
            assert!(!args.folder.join(hidden).exists(), "{hidden}");
        }
    }

    #[test]
    fn completions_name_commands_and_flags() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut completed(), "sightline", &mut script);
            let script = String::from_utf8(script).unwrap();
            for word in ["quantize", "score-threshold", "completions"] {
                assert!(script.contains(word), "{shell}: {word}");
            }
            // `clap_complete` writes no values of positional arguments for fish.
            let names_values = shell != Shell::Fish;
            assert_eq!(script.contains("resnet50"), names_values, "{shell}");
        }
    }
}
