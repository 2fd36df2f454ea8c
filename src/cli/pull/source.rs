//! Where checkpoints are downloaded from and to.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use sightline::config::SecretUrl;
use sightline::download::ClientOptions;

/// The flags that set how checkpoints are downloaded.
#[derive(Debug, Clone, Args)]
pub(in crate::cli) struct SourceArgs {
    /// URL of a folder that has the official files, to be used instead of the official server
    #[arg(
        long,
        env = "SIGHTLINE_MIRROR",
        value_name = "URL",
        help_heading = "Download"
    )]
    mirror: Option<SecretUrl>,
    /// PEM file with the certificates of the only authorities to trust [default: those of the system]
    #[arg(
        long,
        env = "SIGHTLINE_CA",
        value_name = "FILE",
        help_heading = "Download"
    )]
    ca: Option<PathBuf>,
    /// Folder for checkpoints until they are exported [default: `$XDG_CACHE_HOME/sightline/downloads`, or
    /// `$HOME/.cache/sightline/downloads`]
    #[arg(
        long,
        env = "SIGHTLINE_DOWNLOAD_DIR",
        value_name = "DIR",
        help_heading = "Download"
    )]
    download_dir: Option<PathBuf>,
    /// Allow http, which is not encrypted, to hosts other than this one
    #[arg(long, env = "SIGHTLINE_ALLOW_HTTP", help_heading = "Download")]
    allow_http: bool,
}

/// Where a checkpoint is.
#[derive(Debug, PartialEq)]
pub(super) enum Place {
    File(PathBuf),
    Url(SecretUrl),
}

impl SourceArgs {
    /// Returns how to connect.
    pub(super) fn client(&self) -> ClientOptions {
        ClientOptions {
            ca: self.ca.clone(),
            allow_http: self.allow_http,
            ..ClientOptions::default()
        }
    }

    /// Returns the folder for downloads, and creates it for this user alone.
    ///
    /// # Errors
    /// If the folder cannot be created, or if no flag or variable says where it is.
    pub(super) fn download_dir(&self) -> Result<PathBuf> {
        let variable = |name| {
            std::env::var_os(name)
                .filter(|v| !v.is_empty())
                .map(PathBuf::from)
        };
        let usual = || {
            let caches = variable("XDG_CACHE_HOME");
            let caches = caches.or_else(|| Some(variable("HOME")?.join(".cache")));
            Some(caches?.join("sightline/downloads"))
        };
        let folder = self.download_dir.clone().or_else(usual);
        let folder = folder.context(
            "no folder for downloads: neither HOME nor XDG_CACHE_HOME is set; set --download-dir",
        )?;
        let created = DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder);
        created.with_context(|| {
            format!(
                "cannot create the folder {} (--download-dir)",
                folder.display()
            )
        })?;
        Ok(folder)
    }

    /// Returns where the checkpoint with the official URL `url` is: in `from` (`--from`), which names the file or a
    /// folder with it, else on the mirror, else at `url`.
    pub(super) fn place(&self, url: &str, from: Option<&SecretUrl>) -> Place {
        let file = file_name(url);
        match (from, &self.mirror) {
            (Some(from), _) if is_url(from) => {
                if from.expose().ends_with('/') {
                    Place::Url(format!("{}{file}", from.expose()).into())
                } else {
                    Place::Url(from.clone())
                }
            }
            (Some(from), _) => {
                let path = Path::new(from.expose());
                let inside = path.is_dir().then(|| path.join(file));
                Place::File(inside.unwrap_or_else(|| path.to_path_buf()))
            }
            (None, Some(mirror)) => {
                let folder = mirror.expose().trim_end_matches('/');
                Place::Url(format!("{folder}/{file}").into())
            }
            (None, None) => Place::Url(url.to_owned().into()),
        }
    }
}

/// Checks that `from` (`--from`) can be the place of `count` files.
///
/// # Errors
/// If it names one file and `count` is greater than 1.
pub(super) fn check_from(from: &SecretUrl, count: usize) -> Result<()> {
    let folder = if is_url(from) {
        from.expose().ends_with('/')
    } else {
        Path::new(from.expose()).is_dir()
    };
    if count > 1 && !folder {
        bail!(
            "`--from` names one file, but {count} models are to be pulled: expected a folder, or a URL that ends in /"
        );
    }
    Ok(())
}

fn is_url(from: &SecretUrl) -> bool {
    from.expose().contains("://")
}

/// Returns the last part of the path of `url`.
pub(super) fn file_name(url: &str) -> &str {
    url.rsplit('/').next().unwrap_or(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_is_where_the_most_specific_flag_says() {
        const OFFICIAL: &str = "https://download.pytorch.org/models/x-01.pth";
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_str().unwrap();
        let args = |mirror: Option<&str>| SourceArgs {
            mirror: mirror.map(|url| url.to_owned().into()),
            ca: None,
            download_dir: None,
            allow_http: false,
        };
        let url = |url: &str| Place::Url(url.to_owned().into());
        let inside = Place::File(folder.path().join("x-01.pth"));
        for (mirror, from, expected) in [
            (None, None, url(OFFICIAL)),
            (Some("https://m/a"), None, url("https://m/a/x-01.pth")),
            (Some("https://m/a/"), None, url("https://m/a/x-01.pth")),
            (
                Some("https://m/a"),
                Some("https://n/b.pth"),
                url("https://n/b.pth"),
            ),
            (None, Some("https://n/b/"), url("https://n/b/x-01.pth")),
            (
                None,
                Some("/nowhere/b.pth"),
                Place::File("/nowhere/b.pth".into()),
            ),
            (Some("https://m/a"), Some(path), inside),
        ] {
            let from = from.map(|from| from.to_owned().into());
            assert_eq!(args(mirror).place(OFFICIAL, from.as_ref()), expected);
        }
        let several = |from: &str| check_from(&from.to_owned().into(), 2).is_ok();
        let allowed = ["https://n/b/", "https://n/b.pth", path, "/nowhere/b.pth"].map(several);
        assert_eq!(allowed, [true, false, true, false]);
    }
}
