use std::path::Path;

use super::*;

#[test]
fn a_flag_wins_over_the_file() {
    let flags = Settings {
        max_images: Some(2),
        ..Settings::default()
    };
    let file = "memory_budget = \"1GiB\"\nbody_memory_bytes = 77\nmax_images = 4\nmax_pixels = 9\nmodel = [\"a\"]\nprecision = \"int8\"";
    let file = Settings::parse(file, Path::new("test")).unwrap();
    let config = flags.over(&file).unwrap().resolve().unwrap();
    assert_eq!(config.models, ["a".parse().unwrap()]);
    assert_eq!(config.precision, Some(PrecisionChoice::Int8));
    assert_eq!((config.limits.max_images, config.limits.max_pixels), (2, 9));
    assert_eq!(config.max_connections, 1024);
    let memory = (config.memory_budget, config.parts.bodies);
    assert_eq!(memory, (Some(1 << 30), Some(77)));
}

#[test]
fn bad_values_name_their_setting() {
    let cases = [
        ("max_images = 0", "`max_images`: expected 1 to 1024, got 0"),
        (
            "memory_budget = 0",
            "`memory_budget`: expected 1 to 1099511627776, got 0",
        ),
        (
            "tensor_memory_bytes = \"2TiB\"",
            "`tensor_memory_bytes`: expected 1 to 1099511627776, got 2199023255552",
        ),
        ("threads = 100000", "`threads`: expected 1 to 1024"),
    ];
    for (text, expected) in cases {
        let settings: Settings = toml::from_str(text).unwrap();
        let message = settings.resolve().unwrap_err().to_string();
        assert!(message.starts_with(expected), "{message}");
    }
    assert!(toml::from_str::<Settings>("max_imagse = 1").is_err());
    assert!(toml::from_str::<Settings>("precision = \"int4\"").is_err());
    assert!(toml::from_str::<Settings>("memory_budget = \"1GB\"").is_err());
}

/// Returns the error for a configuration file with the content `text`.
fn error(text: &str) -> String {
    let parsed = Settings::parse(text, Path::new("a.toml"));
    let error = anyhow::Error::new(parsed.unwrap_err());
    format!("{error:#}")
}

#[test]
fn an_unknown_key_is_an_error_with_its_line() {
    let cases = [
        (
            "\nmax_images = 1\nlistem = \"x\"",
            "a.toml, line 3: unknown key `listem`; did you mean `listen`?",
        ),
        (
            "max-images = 1",
            "a.toml, line 1: unknown key `max-images`; did you mean `max_images`?",
        ),
        (
            "[server]\nlisten = 1",
            "a.toml, line 1: unknown key `server`; `sightline serve --print-config` prints all keys",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(error(text), expected, "{text}");
    }
}

#[test]
fn errors_in_the_file_show_the_line_and_no_type_of_rust() {
    let cases = [
        ("max_images = \"x\"", "expected a whole number"),
        ("max_images = -1", "expected a whole number"),
        ("models = 3", "expected a string"),
        ("model = 3", "expected a string or a list of strings"),
        (
            "listen = true",
            "expected an address such as \"127.0.0.1:8080\", a port, or a list of these",
        ),
        (
            "admin_listen = true",
            "expected a string such as \"127.0.0.1:8080\", or a port",
        ),
        (
            "drain_delay = true",
            "expected a duration such as \"5s\", or a number of milliseconds",
        ),
        (
            "unix_socket_mode = \"rw\"",
            "expected permissions as three octal digits",
        ),
        ("listen = 65536", "got `65536`"),
        ("log_format = \"xml\"", "expected `text` or `json`"),
        ("max_images = ", "line 1"),
    ];
    for (text, expected) in cases {
        let message = error(text);
        assert!(message.contains(expected), "{message}");
        assert!(
            message.contains("a.toml") && message.contains(text),
            "{message}"
        );
        for rust in ["usize", "u64", "struct", "enum"] {
            assert!(!message.contains(rust), "{message}");
        }
    }
}

#[test]
fn a_list_of_one_model_may_be_a_text() {
    let parse = |text| Settings::parse(text, Path::new("test")).unwrap();
    assert_eq!(parse("model = \"birds\""), parse("model = [\"birds\"]"));
    assert_eq!(parse("listen = 8080"), parse("listen = \"127.0.0.1:8080\""));
    assert_eq!(parse("model = []").model, Some(Vec::new()));
}

#[test]
fn two_listeners_need_two_addresses() {
    let resolve = |text: &str| toml::from_str::<Settings>(text).unwrap().resolve();
    let same = resolve("admin_listen = 8080").unwrap_err().to_string();
    let expected = "`admin_listen`: expected another address than `listen`, got 127.0.0.1:8080";
    assert_eq!(same, expected);
    assert!(resolve("listen = 0\nadmin_listen = 0").is_ok());
    for (text, expected) in [
        ("listen = []", "expected 1 to 32 addresses, got 0 addresses"),
        (
            "listen = [80, \"[::1]:80\", \"127.0.0.1:80\"]",
            "expected each address once, got 127.0.0.1:80 twice",
        ),
        (
            "listen = [80, \"unix:/a\"]\nadmin_listen = \"unix:/a\"",
            "expected another address than `listen`, got unix:/a",
        ),
        (
            "listen = [\"unix:/a\", \"unix://a\"]",
            "expected each address once, got unix:/a twice",
        ),
    ] {
        let error = resolve(text).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    assert!(resolve("listen = [0, 0]").is_ok());
    assert!(resolve(&format!("listen = {:?}", (1..=33).collect::<Vec<_>>())).is_err());
}

#[test]
fn effective_settings_resolve_to_the_same_configuration() {
    for text in [
        "",
        "listen = [80, \"unix:/a\"]\nunix_socket_mode = \"600\"\ndrain_delay = 5000",
        "listen = \":80\"\nadmin_listen = 81\nmax_images = 3\nmodel = \"a@int8\"\nlog = \"debug\"\n\
         memory_budget = \"1GiB\"\nthreads = 3\nkeep_alive_ms = 5\nfollow_symlinks = true",
    ] {
        let settings: Settings = toml::from_str(text).unwrap();
        let config = settings.clone().resolve().unwrap();
        let effective = config.effective(settings);
        assert_eq!(effective.clone().resolve().unwrap(), config);
        assert!(effective.threads.is_some() && effective.log.is_some());
        assert_eq!(config.effective(effective.clone()), effective);
    }
}

#[test]
fn every_flag_of_serve_is_a_key() {
    use clap::Args as _;

    let command = Settings::augment_args(clap::Command::new("serve"));
    let flags = command.get_arguments().map(|arg| arg.get_id().as_str());
    let all: Vec<&str> = flags.chain(["log", "log_format"]).collect();
    let known: Vec<&str> = keys().to_vec();
    assert_eq!(known, all);
}
