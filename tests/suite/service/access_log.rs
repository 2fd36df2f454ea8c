//! Checks the access log of a running server.

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;

use crate::common::{self, Server, eventually, photo};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// Sends the same requests to a server that logs `events`, and returns its access events.
fn access_events(events: &str) -> Vec<Value> {
    let server = Server::start(&["--log-format", "json", "--access-log", events]);
    let coffee = photo("coffee_500x375.jpg");
    assert_eq!(server.classify("", &coffee).status, 200);
    assert_eq!(server.classify("?model=resnet19", &coffee).status, 404);
    assert_eq!(server.get("/health/live").status, 200);
    disconnect(&server, &coffee);
    server.terminate();
    let (code, log) = server.wait();
    assert_eq!(code, Some(0), "{log}");
    let records = log.lines().filter(|line| line.starts_with('{'));
    let records = records.map(|line| serde_json::from_str::<Value>(line).unwrap());
    records
        .filter(|record| record["target"] == "sightline::access")
        .collect()
}

/// Sends the head and a part of the body of a request, and disconnects.
fn disconnect(server: &Server, image: &[u8]) {
    let mut stream = server.connect();
    let head = format!(
        "POST /v1/classify HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n",
        image.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&image[..1000]).unwrap();
    eventually("the request is in flight", || {
        server.metric("sightline_in_flight") == 2.0
    });
    drop(stream);
    eventually("the request has ended", || {
        server.metric("sightline_in_flight") == 1.0
    });
}

#[test]
fn requests_are_logged_with_their_responses() {
    let events = access_events("all");
    let of_route: Vec<&Value> = events
        .iter()
        .filter(|event| event["span"]["route"] == "/v1/classify")
        .collect();
    let [served, unknown, left] = of_route[..] else {
        panic!("{events:?}");
    };
    let fields = &served["fields"];
    assert_eq!(fields["status"], 200);
    assert_eq!(fields["model"], "efficientnet_lite0");
    assert!(fields["variant"].is_string());
    assert_eq!(fields["bytes_in"], photo("coffee_500x375.jpg").len());
    assert!(fields["bytes_out"].as_u64().unwrap() > 100);
    assert!(fields["duration_ms"].as_f64() > fields["inference_ms"].as_f64());
    assert!(fields["peer"].as_str().unwrap().starts_with("127.0.0.1:"));
    assert_eq!(served["span"]["method"], "POST");
    assert_eq!(served["span"]["request_id"].as_str().unwrap().len(), 36);
    assert_eq!(unknown["fields"]["status"], 404);
    assert_eq!(unknown["fields"]["code"], "unknown_model");
    assert_eq!(left["fields"]["status"], 400);
    assert_eq!(left["fields"]["code"], "body_interrupted");
    let probes = events
        .iter()
        .filter(|event| event["span"]["route"] == "/health/live");
    assert_eq!(probes.count(), 0);
}

#[test]
fn the_log_can_have_errors_only_or_nothing() {
    let statuses: Vec<Value> = access_events("errors")
        .into_iter()
        // A readiness probe during the start fails, too.
        .filter(|event| event["span"]["route"] == "/v1/classify")
        .map(|event| event["fields"]["status"].clone())
        .collect();
    assert_eq!(statuses, [404, 400]);
    assert!(access_events("off").is_empty());
}

#[test]
fn a_log_on_a_full_disk_does_not_stop_the_server() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full");
    let mut command = common::sightline(&["serve", "--listen", "127.0.0.1:0"]);
    command.stdout(Stdio::piped()).stderr(full.unwrap());
    let mut child = command.spawn().unwrap();
    let mut first = String::new();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    stdout.read_line(&mut first).unwrap();
    let (_, address) = first.trim().split_once("listening on ").unwrap();
    let get = || ureq::get(format!("{address}/health/ready")).call();
    eventually("the server is ready", || get().is_ok());
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert!(common::command::wait(&mut child, common::PATIENCE).success());
}

#[test]
fn a_stalled_reader_of_the_log_does_not_stop_the_server() {
    let (reader, writer) = std::io::pipe().unwrap();
    let mut command = common::sightline(&["serve", "--listen", "127.0.0.1:0"]);
    command.stdout(writer.try_clone().unwrap()).stderr(writer);
    let mut child = command.spawn().unwrap();
    drop(command);
    let mut output = BufReader::new(reader).lines().map(Result::unwrap);
    let address = output.find_map(|line| {
        let (_, address) = line.split_once("listening on ")?;
        Some(address.to_owned())
    });
    let address = address.unwrap();
    let agent = common::agent();
    let get = |path: &str| agent.get(format!("{address}{path}")).call().unwrap();
    eventually("the server is ready", || {
        get("/health/ready").status() == 200
    });
    // Nobody reads the pipe, which holds the lines of some hundred requests.
    for _ in 0..1000 {
        assert_eq!(get("/nowhere").status(), 404);
    }
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert!(common::command::wait(&mut child, common::PATIENCE).success());
    let requests = output.filter(|line| line.contains("request finished"));
    let requests = requests.count();
    assert!((10..1000).contains(&requests), "{requests}");
}

#[test]
fn a_sample_of_the_successful_requests_is_logged() {
    let server = Server::start(&["--log-format", "json", "--access-log-sample", "0"]);
    assert_eq!(server.get("/v1/models").status, 200);
    assert_eq!(server.get("/nowhere").status, 404);
    server.terminate();
    let (_, log) = server.wait();
    assert!(
        log.contains("no_route") && !log.contains("/v1/models"),
        "{log}"
    );
}

#[test]
fn a_log_in_json_is_all_that_the_server_prints() {
    let server = Server::start(&["--log-format", "json"]);
    server.terminate();
    let (code, printed) = server.wait();
    assert_eq!(code, Some(0), "{printed}");
    let messages = printed.lines().map(|line| {
        let record: Value = serde_json::from_str(line).unwrap();
        record["fields"]["message"].as_str().unwrap().to_owned()
    });
    let messages: Vec<String> = messages.collect();
    for expected in ["listening", "memory plan", "ready", "stopped"] {
        assert!(
            messages.iter().any(|message| message == expected),
            "{messages:?}"
        );
    }
}
