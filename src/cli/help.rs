//! The help pages: headings for the settings of `serve`, examples, and a short form for `-h`.

use clap::{Arg, Command, CommandFactory as _};

use super::Cli;

/// Headings of the settings of `serve`, with the ids of their arguments.
const HEADINGS: [(&str, &[&str]); 8] = [
    (
        "Listeners",
        &[
            "listen",
            "admin_listen",
            "grpc_listen",
            "unix_socket_mode",
            "max_connections",
            "keep_alive_ms",
            "compat",
        ],
    ),
    (
        "Keys and TLS",
        &[
            "tls_cert",
            "tls_key",
            "tls_client_ca",
            "api_keys",
            "cors_origin",
        ],
    ),
    (
        "Models",
        &[
            "models_dir",
            "model",
            "default_models",
            "precision",
            "follow_symlinks",
            "watch",
            "lazy",
            "pin",
            "model_memory",
            "load_timeout_ms",
            "load_memory_bytes",
        ],
    ),
    (
        "Performance",
        &[
            "threads",
            "instances",
            "intra_op_threads",
            "performance",
            "decode",
            "max_batch_size",
            "max_queue_delay_us",
            "onnxruntime",
            "cache",
        ],
    ),
    (
        "Limits of requests",
        &[
            "max_body_bytes",
            "max_pixels",
            "max_pixels_per_byte",
            "max_images",
            "max_queue_size",
            "request_timeout_ms",
        ],
    ),
    (
        "Memory for requests",
        &[
            "memory_budget",
            "body_memory_bytes",
            "decode_memory_bytes",
            "tensor_memory_bytes",
            "response_memory_bytes",
        ],
    ),
    (
        "Logs, traces and metrics",
        &[
            "access_log",
            "access_log_sample",
            "otlp_endpoint",
            "otlp_sample_ratio",
            "metrics_compat",
        ],
    ),
    ("Shutdown", &["drain_delay", "shutdown_grace_ms"]),
];

/// Arguments that `serve -h` shows; `--help` shows all.
const FIRST: [&str; 14] = [
    "config",
    "print_config",
    "listen",
    "admin_listen",
    "grpc_listen",
    "tls_cert",
    "tls_key",
    "api_keys",
    "models_dir",
    "model",
    "watch",
    "threads",
    "memory_budget",
    "pull",
];

/// Arguments of several commands that only their `--help` shows.
const COMMON: [&str; 11] = [
    "log",
    "log_format",
    "follow_symlinks",
    "onnxruntime",
    "cache",
    "load_timeout_ms",
    "load_memory_bytes",
    "mirror",
    "ca",
    "download_dir",
    "allow_http",
];

/// Examples at the end of a command's help.
const EXAMPLES: [(&str, &[&str]); 9] = [
    (
        "serve",
        &[
            "sightline serve",
            "sightline serve --models my-models --admin-listen 127.0.0.1:8082",
            "sightline serve --listen :8080 --api-keys keys.txt --tls-cert cert.pem --tls-key key.pem",
        ],
    ),
    (
        "pull",
        &[
            "sightline pull resnet50",
            "sightline pull mobilenet_v3_large --int8 --calibration photographs/",
        ],
    ),
    (
        "export",
        &[
            "sightline export mobilenet_v3_large --weights my_checkpoint.pth --labels birds.txt -o my-models/birds",
        ],
    ),
    (
        "quantize",
        &["sightline quantize birds --models my-models --calibration photographs/"],
    ),
    (
        "predict",
        &[
            "sightline predict photo.jpg",
            "sightline predict --model ssdlite320_mobilenet_v3_large photos/ --annotate drawn/",
        ],
    ),
    (
        "inspect",
        &[
            "sightline inspect my-models/parts/model.onnx",
            "sightline inspect my-models/parts/model.onnx --manifest > my-models/parts/model.toml",
        ],
    ),
    (
        "eval",
        &[
            "sightline eval --model resnet50 --dataset imagenet:val/",
            "sightline eval --compare birds@fp32 birds@int8 --models my-models --dataset imagenet:birds/",
        ],
    ),
    (
        "bench",
        &[
            "sightline bench --model efficientnet_lite0@fp32 --model efficientnet_lite0@int8",
            "sightline bench --url http://127.0.0.1:8080 --rate 100 --seconds 30",
        ],
    ),
    ("plan", &["sightline plan --rate 500 --p99 100"]),
];

/// Returns the command line with its help pages.
pub(super) fn command() -> Command {
    let cli = Cli::command().mut_args(shortened);
    let names: Vec<String> = cli
        .get_subcommands()
        .map(|command| command.get_name().to_owned())
        .collect();
    names.iter().fold(cli, |cli, name| {
        cli.mut_subcommand(name, |command| match name.as_str() {
            "serve" => with_examples(with_headings(command)),
            "config" => command.mut_subcommand("check", with_headings),
            _ => with_examples(command.mut_args(shortened)),
        })
    })
}

/// Leaves an argument that many commands have out of the short help.
fn shortened(argument: Arg) -> Arg {
    let common = COMMON.contains(&argument.get_id().as_str());
    argument.hide_short_help(common)
}

/// Groups the settings of `serve`, and leaves the most important ones in the short help.
fn with_headings(command: Command) -> Command {
    command.mut_args(|argument| {
        let id = argument.get_id().as_str().to_owned();
        let group = HEADINGS.iter().find(|(_, ids)| ids.contains(&id.as_str()));
        let Some((heading, _)) = group else {
            return shortened(argument);
        };
        argument
            .help_heading(*heading)
            .hide_short_help(!FIRST.contains(&id.as_str()))
    })
}

/// Appends the examples of the command, if it has some, to its help.
fn with_examples(command: Command) -> Command {
    let name = command.get_name();
    let Some((_, lines)) = EXAMPLES.iter().find(|(of, _)| *of == name) else {
        return command;
    };
    let mut text = format!("Examples:\n  {}", lines.join("\n  "));
    if let Some(before) = command.get_after_help() {
        text = format!("{text}\n\n{before}");
    }
    command.after_help(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_are_valid_commands() {
        for (name, lines) in EXAMPLES {
            for line in lines {
                let words: Vec<_> = line.split(" > ").next().unwrap().split(' ').collect();
                assert_eq!(words[1], name);
                let parsed = command().try_get_matches_from(&words);
                assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
            }
        }
    }

    #[test]
    fn every_setting_has_a_heading() {
        let mut serve = command().find_subcommand("serve").unwrap().clone();
        for argument in serve.get_arguments() {
            let id = argument.get_id().as_str();
            if !["config", "print_config"].contains(&id) {
                assert!(argument.get_help_heading().is_some(), "{id}");
            }
        }
        for id in HEADINGS.iter().flat_map(|(_, ids)| *ids).chain(&FIRST) {
            let known = serve.get_arguments().any(|known| known.get_id() == id);
            assert!(known, "{id} is no argument of serve");
        }
        let lines = |text: String| text.lines().count();
        let short = lines(serve.render_help().to_string());
        let long = lines(serve.render_long_help().to_string());
        assert!(
            short < 70 && long > 200,
            "{short} lines with -h, {long} with --help"
        );
    }
}
