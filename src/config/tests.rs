use std::path::Path;

use clap::Args as _;

use super::*;
use crate::manifest::{Batching, ModelManifest};
use crate::store::ModelSource;

/// Returns the settings of a configuration file with the content `text`.
fn parse(text: &str) -> Result<Settings, ConfigError> {
    ConfigFile::parse(text, Path::new("a.toml")).into_settings()
}

/// Returns the parsed flags `flags` of `serve`.
fn arguments(flags: &[&str]) -> clap::ArgMatches {
    let command = Settings::augment_args(clap::Command::new("serve"));
    command.get_matches_from(["serve"].iter().chain(flags))
}

#[test]
fn a_flag_wins_over_the_file() {
    let file = "memory_budget = \"1GiB\"\nbody_memory_bytes = 77\nmax_images = 4\nmax_pixels = 9\nmodel = [\"a\"]\nprecision = \"int8\"";
    let settings = parse(file)
        .unwrap()
        .under(&arguments(&["--max-images", "2"]));
    let config = settings.unwrap().resolve().unwrap();
    assert_eq!(config.models, ["a".parse().unwrap()]);
    assert_eq!(config.precision_of("a"), Some(PrecisionChoice::Int8));
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
    parse(text).unwrap_err().explained()
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
        (
            "models = 3",
            "expected a table for each model, such as [models.birds]",
        ),
        ("models_dir = 3", "expected a string"),
        (
            "model = \"birds@\"",
            "expected NAME, NAME@VARIANT or a path, got `birds@`",
        ),
        (
            "default_models = { detection = \"@int8\" }",
            "expected TASK=NAME",
        ),
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
    let parse = |text| parse(text).unwrap();
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
    let command = Settings::augment_args(clap::Command::new("serve"));
    let flags = command.get_arguments().map(|arg| arg.get_id().as_str());
    let all: Vec<&str> = flags.chain(["log", "log_format", "models"]).collect();
    let known: Vec<&str> = keys().to_vec();
    assert_eq!(known, all);
}

#[test]
fn a_key_of_the_wrong_name_or_type_does_not_hide_the_others() {
    let text = "\
max_images = 4
max_pixels = \"x\"
lisen = 1

[models.birds]
instances = 2
max_batchsize = 3
precision = \"int4\"

[models.\"birds@int8\"]
";
    let mut file = ConfigFile::parse(text, Path::new("a.toml"));
    let errors: Vec<String> = file
        .take_errors()
        .iter()
        .map(ConfigError::explained)
        .collect();
    let expected = [
        "line 2, column 14",
        "a.toml, line 3: unknown key `lisen`; did you mean `listen`?",
        "a.toml, line 7: unknown key `max_batchsize`; did you mean `max_batch_size`?",
        "line 8, column 13",
        "a.toml, line 10: expected the name of a model without a variant; the settings in [models.birds]",
    ];
    assert_eq!(errors.len(), expected.len(), "{errors:?}");
    for (error, expected) in errors.iter().zip(expected) {
        assert!(error.contains(expected), "{error}");
    }
    let birds = &file.settings.models.as_ref().unwrap().0["birds"];
    assert_eq!(
        (file.settings.max_images, birds.instances),
        (Some(4), Some(2))
    );
    assert_eq!(birds.precision, None);
    for (key, line) in [
        ("max_images", Some(1)),
        ("models.birds", Some(5)),
        ("models.birds.instances", Some(6)),
        ("listen", None),
    ] {
        assert_eq!(file.line(key), line, "{key}");
    }
    let message = parse(text).unwrap_err().to_string();
    assert!(
        message.starts_with("5 errors in the configuration:\n  - "),
        "{message}"
    );
}

#[test]
fn malformed_text_is_an_error_without_settings() {
    let mut file = ConfigFile::parse("max_images = 4\nlisten = \n[models", Path::new("a.toml"));
    assert!(!file.take_errors().is_empty());
    assert_eq!(file.settings, Settings::default());
}

#[test]
fn a_file_of_unknown_keys_has_a_limited_number_of_errors() {
    let text = (0..20_000).map(|key| format!("k{key} = 1\n"));
    let text = text.collect::<Vec<_>>().concat();
    let errors = ConfigFile::parse(&text, Path::new("a.toml")).take_errors();
    assert_eq!(errors.len(), 50);
    assert!(
        errors[49].to_string().starts_with("a.toml, line 50: "),
        "{}",
        errors[49]
    );
}

#[test]
fn the_models_directory_is_a_string_and_the_settings_of_models_are_tables() {
    let directory = |text| parse(text).unwrap().models_dir;
    assert_eq!(directory("models = \"/srv\""), Some("/srv".into()));
    let both = "models_dir = \"/srv\"\n[models.birds]\ninstances = 1";
    assert_eq!(directory(both), Some("/srv".into()));
    assert!(parse(both).unwrap().models.is_some());
    for text in [
        "models = \"/a\"\nmodels_dir = \"/b\"",
        "models_dir = \"/a\"\nmodels = \"/b\"",
    ] {
        let message = error(text);
        assert!(
            message.starts_with("a.toml, line 2: `models_dir` and"),
            "{message}"
        );
    }
    // A string and tables with the same key are not TOML.
    assert!(parse("models = \"/a\"\n[models.birds]").is_err());
}

#[test]
fn every_invalid_setting_is_reported() {
    let text = "max_images = 0\nthreads = 4\nlog = \"debgu\"\nadmin_listen = 8080\n\
                [models.birds]\ninstances = 0\nmax_batch_size = 1000\n\
                [models.cats]\nmax_queue_delay_us = 2000000\n";
    let mut problems = parse(text).unwrap().problems();
    problems.sort_by_key(ToString::to_string);
    let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
    let expected = [
        "[models.birds]: `instances`: expected 1 to 256, got 0",
        "[models.birds]: `max_batch_size`: expected 1 to 256, got 1000",
        "[models.cats]: `max_queue_delay_us`: expected 1 to 1000000, got 2000000",
        "`admin_listen`: expected another address",
        "`log`: expected levels",
        "`max_images`: expected 1 to 1024, got 0",
    ];
    assert_eq!(problems.len(), expected.len(), "{problems:?}");
    for (problem, expected) in problems.iter().zip(expected) {
        assert!(problem.starts_with(expected), "{problem}");
    }
    assert!(parse("max_images = 3").unwrap().problems().is_empty());
}

#[test]
fn a_flag_beyond_the_range_of_toml_names_its_setting() {
    let flags = arguments(&["--max-pixels", "18446744073709551615"]);
    let settings = parse("max_images = 3").unwrap().under(&flags).unwrap();
    let problems = settings.problems();
    assert_eq!(problems.len(), 1, "{problems:?}");
    let expected = "`max_pixels`: expected 1 to 1073741824, got 18446744073709551615";
    assert_eq!(problems[0].to_string(), expected);
}

#[test]
fn the_most_specific_place_that_sets_a_value_decides() {
    // Columns: `instances` in the manifest, for all models, and in the table of the model; the
    // instances that the model gets.
    let cases = [
        (None, None, None, 16),
        (Some(3), None, None, 3),
        (Some(3), Some(4), None, 4),
        (Some(3), Some(4), Some(5), 5),
        (Some(3), None, Some(5), 5),
        (None, None, Some(5), 5),
    ];
    for (own, all, one, expected) in cases {
        let line =
            |count: Option<usize>| count.map_or(String::new(), |n| format!("instances = {n}\n"));
        let text = format!(
            "threads = 16\n{}[models.efficientnet_lite0]\nmax_queue_size = 9\n{}",
            line(all),
            line(one)
        );
        let config = parse(&text).unwrap().resolve().unwrap();
        let manifest = ModelManifest {
            batching: Batching {
                instances: own,
                ..Batching::default()
            },
            ..ModelSource::embedded().unwrap().manifest
        };
        let plan = config.plan(&manifest);
        assert_eq!(
            (plan.instances, plan.max_queue_size),
            (expected, 9),
            "{text}"
        );
        let other = ModelManifest {
            name: "other".to_owned(),
            ..manifest
        };
        let plan = config.plan(&other);
        let without = all.or(own).unwrap_or(16);
        assert_eq!(
            (plan.instances, plan.max_queue_size),
            (without, 256),
            "{text}"
        );
    }
    let text = "precision = \"int8\"\n[models.birds]\nprecision = \"fp32\"\nintra_op_threads = 2";
    let config = parse(text).unwrap().resolve().unwrap();
    let precisions = ["birds", "cats"].map(|name| config.precision_of(name));
    let expected = [PrecisionChoice::Fp32, PrecisionChoice::Int8].map(Some);
    assert_eq!(precisions, expected);
}

#[test]
fn a_table_of_a_model_that_is_not_served_is_an_error() {
    let text = "[models.bird]\n[models.cats]\n[models.x]";
    let config = parse(text).unwrap().resolve().unwrap();
    let check = |served: &[&str]| {
        config
            .check_overrides(served)
            .map_err(|error| error.to_string())
    };
    assert_eq!(check(&["x", "cats", "bird"]), Ok(()));
    let message = check(&["birds", "birds", "cats"]).unwrap_err();
    for expected in [
        "[models.bird]: expected the name of a served model (birds, cats), got `bird`; did you \
         mean `birds`?",
        "(birds, cats), got `x`",
    ] {
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn a_table_of_a_model_that_may_be_added_is_no_error_unless_its_name_resembles_another() {
    for (setting, allowed) in [
        ("watch = true", true),
        ("admin_listen = \"127.0.0.1:8082\"", true),
        ("watch = true\nmodel = [\"birds\"]", false),
        ("", false),
    ] {
        let check = |name: &str| {
            let config = parse(&format!("{setting}\n[models.{name}]"));
            config
                .unwrap()
                .resolve()
                .unwrap()
                .check_overrides(&["birds"])
        };
        assert_eq!(check("cats").is_ok(), allowed, "{setting}");
        assert!(check("bird").is_err(), "{setting}");
    }
}

#[test]
fn an_error_does_not_quote_the_password_of_a_url() {
    for text in [
        "listen = \"https://user:secret@host",
        "listen = \"https://user:secret@host\"",
        "max_images = \"https://user:secret@host\"",
    ] {
        let message = error(text);
        assert!(message.contains("https://***@host"), "{message}");
        assert!(!message.contains("secret"), "{message}");
    }
}

#[test]
fn a_value_of_a_wrong_type_is_described_without_names_of_rust() {
    for (text, expected) in [
        (
            "[models]\nbirds = 1",
            "expected a table with the settings of the model",
        ),
        ("precision = 1", "expected a string"),
        (
            "max_images = 1979-05-27",
            "date or time, expected a whole number",
        ),
        ("listen = [1979-05-27]", "date or time, expected"),
        (
            "[models.birds]\ninstances = 07:32:00",
            "date or time, expected a whole number",
        ),
        (
            "max_images = { a = 1 }",
            "invalid type: table, expected a whole number",
        ),
        (
            "max_images = [1]",
            "invalid type: list, expected a whole number",
        ),
    ] {
        let message = error(text);
        assert!(message.contains(expected), "{text}: {message}");
        for rust in ["struct", "wanted", "map", "usize", "sequence", "enum"] {
            assert!(!message.contains(rust), "{text}: {message}");
        }
    }
}

#[test]
fn an_error_about_a_url_keeps_its_text() {
    let password = "x".repeat(80);
    for url in [
        "http://u:secret@h:1".to_owned(),
        format!("http://u:{password}@h:1"),
    ] {
        for (setting, expected) in [
            (
                "otlp_endpoint",
                "expected http://HOST:PORT of an OTLP collector",
            ),
            (
                "cors_origin",
                "expected an origin as a browser sends it, SCHEME://HOST or",
            ),
        ] {
            let message = error(&format!("{setting} = \"{url}\""));
            assert!(message.contains(expected), "{message}");
            assert!(message.contains("got `http://***@h:1`"), "{message}");
            assert!(
                !message.contains("secret") && !message.contains("xxx"),
                "{message}"
            );
        }
    }
}
