//! Checks that commands other than `serve` use settings from environment variables and the
//! configuration file.

use crate::common::{self, finish, sightline};

/// Environment variables and arguments of a command, and a text that its error message contains.
type Case<'a> = (&'a [(&'a str, &'a str)], &'a [&'a str], &'a str);

#[test]
fn healthcheck_follows_the_settings_of_serve() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("sightline.toml");
    std::fs::write(&config, "listen = \"[::]:1\"").unwrap();
    let path = config.to_str().unwrap();
    let cases: &[Case<'_>] = &[
        (
            &[("SIGHTLINE_CONFIG", path)],
            &[],
            "http://127.0.0.1:1 (from `listen` in",
        ),
        (
            &[],
            &["--config", path],
            "http://127.0.0.1:1 (from `listen` in",
        ),
        (
            &[
                ("SIGHTLINE_CONFIG", path),
                ("SIGHTLINE_LISTEN", "0.0.0.0:1"),
            ],
            &[],
            "http://127.0.0.1:1 (from `SIGHTLINE_LISTEN`)",
        ),
        (
            &[("SIGHTLINE_LISTEN", "0.0.0.0:2")],
            &["--listen", "127.0.0.1:1"],
            "http://127.0.0.1:1 (from `--listen`)",
        ),
        (
            &[("SIGHTLINE_LISTEN", ":1")],
            &[],
            "http://127.0.0.1:1 (from `SIGHTLINE_LISTEN`)",
        ),
        (
            &[],
            &["--listen", "localhost:1"],
            "http://127.0.0.1:1 (from `--listen`)",
        ),
        (
            &[("SIGHTLINE_HEALTHCHECK_URL", "http://127.0.0.1:1")],
            &[],
            "http://127.0.0.1:1 (from `SIGHTLINE_HEALTHCHECK_URL`)",
        ),
    ];
    for &(variables, args, expected) in cases {
        let mut command = sightline(&["healthcheck"]);
        command.args(args).envs(variables.iter().copied());
        let (code, _, stderr) = finish(command);
        assert_eq!(code, Some(1), "{stderr}");
        assert!(stderr.contains(expected), "{expected}: {stderr}");
        assert!(stderr.contains("is not ready"), "{stderr}");
    }
    std::fs::write(&config, "listem = 1").unwrap();
    let (code, _, stderr) = finish({
        let mut command = sightline(&["healthcheck"]);
        command.env("SIGHTLINE_CONFIG", path);
        command
    });
    assert_eq!(code, Some(64), "{stderr}");
    assert!(stderr.contains("listem"), "{stderr}");
}

#[test]
fn a_misspelt_variable_is_reported() {
    let mut command = sightline(&["serve", "--threads", "0"]);
    command
        .env("SIGHTLINE_MAX_IMAGSE", "4")
        .env("SIGHTLINE_TEST_BINARY", "x")
        .env("SIGHTLINE_MODEL", "a,b")
        .env("SIGHTLINE_PORT", "tcp://10.0.0.1:80");
    let (code, _, stderr) = finish(command);
    assert_eq!(code, Some(64), "{stderr}");
    let warnings: Vec<_> = stderr
        .lines()
        .filter(|line| line.contains("WARN"))
        .collect();
    assert_eq!(warnings.len(), 1, "{stderr}");
    for text in [
        r#"variable="SIGHTLINE_MAX_IMAGSE""#,
        r#"did_you_mean="SIGHTLINE_MAX_IMAGES""#,
    ] {
        assert!(warnings[0].contains(text), "{stderr}");
    }
}

#[test]
fn predict_uses_the_first_model_of_the_list_for_serve() {
    let image = common::path("photos/coffee_500x375.jpg");
    let mut command = sightline(&["predict"]);
    command
        .arg(image)
        .env("SIGHTLINE_MODEL", "efficientnet_lite0@fp32,lraspp");
    let (code, stdout, stderr) = finish(command);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stdout.contains("espresso"), "{stdout}");
}
