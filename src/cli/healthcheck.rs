//! `sightline healthcheck`: checks whether a running server is ready.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::parser::ValueSource;
use clap::{ArgMatches, Args};
use sightline::config::{ConfigError, DEFAULT_LISTEN, ListenAddress, Settings, SocketPath};
use ureq::http::Uri;
use ureq::http::uri::Authority;

use super::probe::{Endpoint, Health};
use super::say::say;

/// Maximum time to wait for the server's response.
const TIMEOUT: Duration = Duration::from_secs(3);

#[derive(Debug, Args)]
pub(super) struct HealthcheckArgs {
    /// URL of the server, as http://HOST:PORT or https://HOST:PORT, or its socket, as `unix:/PATH`
    /// [default: the address that `serve` listens on with the same flags, environment and
    /// configuration file: `admin_listen`, else the first one of `listen`, else 127.0.0.1:8080]
    #[arg(long, env = "SIGHTLINE_HEALTHCHECK_URL", value_name = "URL", value_parser = checked)]
    url: Option<Endpoint>,
    /// Value of `--admin-listen` with which the server was started
    #[arg(long, env = "SIGHTLINE_ADMIN_LISTEN", value_name = "ADDR")]
    admin_listen: Option<ListenAddress>,
    /// Values of `--listen` with which the server was started; the first one is asked
    #[arg(
        long,
        env = "SIGHTLINE_LISTEN",
        value_name = "ADDR",
        value_delimiter = ','
    )]
    listen: Option<Vec<ListenAddress>>,
    /// Value of `--tls-cert` with which the server was started: `--listen` serves HTTPS. The certificate is not verified
    #[arg(long, env = "SIGHTLINE_TLS_CERT", value_name = "FILE")]
    tls_cert: Option<PathBuf>,
    /// Value of `--config` with which the server was started
    #[arg(long, env = "SIGHTLINE_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
}

/// The server whose health is checked.
#[derive(Debug, PartialEq)]
struct Target {
    /// Where the server is reached.
    endpoint: Endpoint,
    /// Description, for error messages, of the setting that the endpoint comes from: a flag, an
    /// environment variable, a key of the configuration file, or the default address.
    origin: String,
}

impl HealthcheckArgs {
    /// Returns the server whose health is checked. `matches` is the parsed command line that `self`
    /// comes from; it tells whether a flag or an environment variable set a value.
    ///
    /// # Errors
    /// If the configuration file cannot be read or has invalid content.
    fn target(&self, matches: &ArgMatches) -> Result<Target, ConfigError> {
        if let Some(url) = &self.url {
            return Ok(Target {
                endpoint: url.clone(),
                origin: origin(matches, "url", "SIGHTLINE_HEALTHCHECK_URL"),
            });
        }
        let file = match &self.config {
            Some(path) => Settings::from_file(path)?,
            None => Settings::default(),
        };
        let tls = self.tls_cert.is_some() || file.tls_cert.is_some();
        let at = |address: &ListenAddress, public, origin| {
            let scheme = if public && tls { "https" } else { "http" };
            Target {
                endpoint: Endpoint::at(address, scheme),
                origin,
            }
        };
        let path = self.config.as_deref().unwrap_or_else(|| "".as_ref());
        let first = |list: &'_ Option<Vec<ListenAddress>>| list.as_ref()?.first().cloned();
        let settings = [
            (
                "admin_listen",
                "SIGHTLINE_ADMIN_LISTEN",
                self.admin_listen.clone(),
                file.admin_listen.clone(),
            ),
            (
                "listen",
                "SIGHTLINE_LISTEN",
                first(&self.listen),
                first(&file.listen),
            ),
        ];
        for (name, variable, given, in_file) in settings {
            if let Some(address) = given {
                let origin = origin(matches, name, variable);
                return Ok(at(&address, name == "listen", origin));
            }
            if let Some(address) = in_file {
                let origin = format!("`{name}` in {}", path.display());
                return Ok(at(&address, name == "listen", origin));
            }
        }
        let origin = "the default address".to_owned();
        Ok(at(&DEFAULT_LISTEN.into(), true, origin))
    }
}

/// Returns `variable` in backticks if this environment variable set the argument `name`, and the
/// argument's flag in backticks if the command line set it.
fn origin(matches: &ArgMatches, name: &str, variable: &str) -> String {
    match matches.value_source(name) {
        Some(ValueSource::EnvVariable) => format!("`{variable}`"),
        _ => format!("`--{}`", name.replace('_', "-")),
    }
}

/// Checks that `url` is an `http` or `https` URL with a host and without a query, whose port and path are optional, or
/// the path of a Unix socket after `unix:`.
fn checked(url: &str) -> Result<Endpoint, String> {
    if let Some(path) = url.strip_prefix("unix:") {
        let path: Result<SocketPath, _> = path.parse();
        return path.map(Endpoint::Unix).map_err(|error| error.to_string());
    }
    let usable = |uri: &Uri| {
        matches!(uri.scheme_str(), Some("http" | "https"))
            && uri.host().is_some_and(|host| !host.is_empty())
            // A port that is not a number would otherwise count as no port.
            && uri.authority().is_some_and(|authority| authority.port_u16().is_some() || has_no_port(authority))
            && uri.query().is_none()
    };
    if url.parse().is_ok_and(|uri| usable(&uri)) {
        return Ok(Endpoint::Url(url.trim_end_matches('/').to_owned().into()));
    }
    Err("expected http://HOST:PORT, such as http://127.0.0.1:8080, or unix:/PATH".to_owned())
}

/// Returns whether the text of `authority` has no colon after the host.
fn has_no_port(authority: &Authority) -> bool {
    let text = authority.as_str();
    !text.rsplit(']').next().unwrap_or(text).contains(':')
}

/// Requests `/health/ready` from the server, and prints where the server is reached, its version and its instance id.
/// `matches` is the parsed command line that `args` comes from.
///
/// # Errors
/// If the configuration file is invalid, or if the server is not ready or does not respond.
pub(super) fn run(args: &HealthcheckArgs, matches: &ArgMatches) -> Result<()> {
    let Target { endpoint, origin } = args.target(matches)?;
    let not_ready = format!("the server {endpoint} (from {origin}) is not ready");
    let health = Health::request(&endpoint, "/health/ready", TIMEOUT);
    let health = health.with_context(|| not_ready.clone())?;
    match (health.status, health.text("status"), health.text("code")) {
        (200, Some("ready"), _) => {
            let identity = health.identity();
            let identity = identity.unwrap_or_else(|| "version unknown".to_owned());
            say!("ready {endpoint}, {identity}")
        }
        (status, _, Some(code)) => {
            let detail = health.text("detail").unwrap_or_default();
            bail!("{not_ready}: {status} `{code}`: {detail}")
        }
        (status, ..) => bail!(
            "{not_ready}: its response, with status {status}, is not from Sightline; another \
             program may use this address"
        ),
    }
}

#[cfg(test)]
mod tests {
    use clap::{Command, FromArgMatches};

    use super::*;

    /// Returns the server that the command `healthcheck` with the arguments `args` would contact.
    fn target(args: &[&str]) -> Result<Target, ConfigError> {
        let command = HealthcheckArgs::augment_args(Command::new("healthcheck"));
        let line = ["healthcheck"].iter().chain(args);
        let matches = command.try_get_matches_from(line).unwrap();
        let args = HealthcheckArgs::from_arg_matches(&matches).unwrap();
        args.target(&matches)
    }

    #[test]
    fn the_server_is_the_one_that_serve_would_start() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let public = file("public.toml", "listen = \"0.0.0.0:90\"\nmax_images = 4");
        let both = file(
            "both.toml",
            "listen = \"[::]:90\"\nadmin_listen = \"[::]:91\"",
        );
        let neither = file("neither.toml", "");
        let cases: &[(&[&str], &str, &str)] = &[
            (&[], "http://127.0.0.1:8080", "the default address"),
            (&["--listen", "9000"], "http://127.0.0.1:9000", "`--listen`"),
            (
                &["--listen", ":9000"],
                "http://127.0.0.1:9000",
                "`--listen`",
            ),
            (
                &["--listen", "localhost:9000"],
                "http://127.0.0.1:9000",
                "`--listen`",
            ),
            (
                &["--listen", "0.0.0.0:81"],
                "http://127.0.0.1:81",
                "`--listen`",
            ),
            (
                &["--listen", "0.0.0.0:81", "--admin-listen", "[::]:82"],
                "http://127.0.0.1:82",
                "`--admin-listen`",
            ),
            (
                &["--admin-listen", "10.0.0.1:1"],
                "http://10.0.0.1:1",
                "`--admin-listen`",
            ),
            (
                &["--url", "http://x:9/", "--listen", "0.0.0.0:81"],
                "http://x:9",
                "`--url`",
            ),
            (
                &["--listen", "unix:/run/a.sock,0.0.0.0:81"],
                "unix:/run/a.sock",
                "`--listen`",
            ),
            (
                &["--url", "unix:///run/a.sock"],
                "unix:/run/a.sock",
                "`--url`",
            ),
            (
                &["--config", &public],
                "http://127.0.0.1:90",
                "`listen` in FILE",
            ),
            (
                &["--config", &both],
                "http://127.0.0.1:91",
                "`admin_listen` in FILE",
            ),
            (
                &["--config", &neither],
                "http://127.0.0.1:8080",
                "the default address",
            ),
            (
                &["--config", &public, "--listen", "127.0.0.2:7"],
                "http://127.0.0.2:7",
                "`--listen`",
            ),
            // `--listen` overrides only the key `listen` of the file, as in `serve`; `admin_listen`
            // of the file still has precedence.
            (
                &["--config", &both, "--listen", "127.0.0.2:7"],
                "http://127.0.0.1:91",
                "`admin_listen` in FILE",
            ),
        ];
        for &(args, url, origin) in cases {
            let path = args.iter().skip_while(|arg| **arg != "--config").nth(1);
            let expected = Target {
                endpoint: checked(url).unwrap(),
                origin: origin.replace("FILE", path.unwrap_or(&"")),
            };
            assert_eq!(target(args).unwrap(), expected, "{args:?}");
        }
        assert!(target(&["--config", "/nowhere.toml"]).is_err());
        let wrong = file("wrong.toml", "listem = \"0.0.0.0:90\"");
        assert!(target(&["--config", &wrong]).is_err());
    }

    #[test]
    fn a_public_listener_with_a_certificate_is_asked_by_https() {
        let cert = ["--tls-cert", "/tls.crt"];
        for (args, url) in [
            (["--listen", "[::]:81"], "https://127.0.0.1:81"),
            (["--listen", "unix:/run/s"], "unix:/run/s"),
            (["--admin-listen", "9001"], "http://127.0.0.1:9001"),
            (["--url", "http://x:9"], "http://x:9"),
        ] {
            let target = target(&[&args[..], &cert].concat()).unwrap();
            assert_eq!(target.endpoint, checked(url).unwrap(), "{args:?}");
        }
    }

    #[test]
    fn malformed_urls_are_rejected() {
        for url in [
            "",
            "x",
            "127.0.0.1:8080",
            "ftp://x",
            "http://",
            "http://:80",
            "http://x y",
            "http://127.0.0.1:80800",
            "http://127.0.0.1:80x",
            "http://127.0.0.1:",
            "http://[::1]:",
            "unix:",
            "unix:a.sock",
            "unix:/",
        ] {
            assert!(checked(url).is_err(), "{url}");
        }
    }
}
