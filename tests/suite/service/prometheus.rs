//! A real Prometheus scrapes a real server in each format of `/metrics`.
//!
//! The load is known from the header `Server-Timing` of each response, whose `total` is the duration that the server
//! records for the request.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;

use crate::common::{Server, agent, eventually, photo};
use crate::reference::shared::skip;
use serde_json::Value;

/// Number of requests of the known load.
const REQUESTS: usize = 400;

/// A running Prometheus. Dropping the value kills the process.
struct Prometheus {
    child: Child,
    address: String,
    agent: ureq::Agent,
    _folder: tempfile::TempDir,
}

impl Prometheus {
    /// Starts Prometheus, which scrapes `targets`: names of jobs and addresses. Returns `None` if it is not installed.
    fn start(targets: &[(&str, SocketAddr)]) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("prometheus.yml");
        std::fs::write(&config, scrape_config(targets)).unwrap();
        let spawned = Command::new("prometheus")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", folder.path().display()))
            .arg("--web.listen-address=127.0.0.1:0")
            .arg("--enable-feature=native-histograms")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = spawned.ok()?;
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
        let address = log.by_ref().map_while(Result::ok).find_map(|line| {
            let (_, address) = line.split_once("msg=\"Listening on\" address=")?;
            Some(address.trim().to_owned())
        });
        // Prometheus would wait if nobody read its log.
        thread::spawn(move || log.count());
        Some(Self {
            child,
            address: address.expect("Prometheus prints the address that it listens on"),
            agent: agent(),
            _folder: folder,
        })
    }

    /// Evaluates an expression. Returns the labels and the value of each series.
    fn query(&self, expression: &str) -> Vec<(BTreeMap<String, String>, f64)> {
        let url = format!("http://{}/api/v1/query", self.address);
        let response = self.agent.get(&url).query("query", expression).call();
        let text = response.unwrap().body_mut().read_to_string().unwrap();
        let answer: Value = serde_json::from_str(&text).unwrap();
        let series = answer["data"]["result"].as_array().cloned();
        let sample = |series: Value| {
            let labels = serde_json::from_value(series["metric"].clone()).unwrap();
            // Histograms have no value of their own.
            let value = series["value"][1].as_str().map_or("NaN", |value| value);
            (labels, value.parse().unwrap())
        };
        series.unwrap_or_default().into_iter().map(sample).collect()
    }

    /// Returns the value of an expression with one series. `None` if it has none.
    fn value(&self, expression: &str) -> Option<f64> {
        self.query(expression).first().map(|(_, value)| *value)
    }

    /// Returns all series of the job `job`, except those that the scrapes themselves change.
    fn series(&self, job: &str, names: &str) -> BTreeMap<String, f64> {
        let expression = format!(
            "{{job=\"{job}\", __name__=~\"{names}\", __name__!~\"process_.*\", route!=\"/metrics\"}}"
        );
        let key = |(mut labels, value): (BTreeMap<String, String>, f64)| {
            labels.retain(|name, _| name != "job" && name != "instance");
            (format!("{labels:?}"), value)
        };
        self.query(&expression).into_iter().map(key).collect()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn scrape_config(targets: &[(&str, SocketAddr)]) -> String {
    let mut config =
        "global: {scrape_interval: 1s, scrape_timeout: 1s}\nscrape_configs:\n".to_owned();
    for (job, address) in targets {
        let line = writeln!(
            config,
            "- {{job_name: {job}, static_configs: [{{targets: [\"{address}\"]}}]}}"
        );
        line.unwrap();
    }
    config
}

/// Starts a server that passes the metrics of `server` on in the format `accept`, whatever its clients accept.
/// Prometheus itself prefers one format for all of its targets.
fn translator(server: SocketAddr, accept: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            // A client that disconnects is no failure of the test.
            let _ = translate(client, server, accept);
        }
    });
    address
}

fn translate(mut client: TcpStream, server: SocketAddr, accept: &str) -> std::io::Result<()> {
    let mut head = BufReader::new(client.try_clone()?).lines();
    while head
        .next()
        .transpose()?
        .is_some_and(|line| !line.is_empty())
    {}
    let mut upstream = TcpStream::connect(server)?;
    write!(
        upstream,
        "GET /metrics HTTP/1.1\r\nhost: sightline\r\naccept: {accept}\r\nconnection: close\r\n\r\n"
    )?;
    let mut response = Vec::new();
    upstream.read_to_end(&mut response)?;
    client.write_all(&response)
}

/// Classifies images with four clients at a time. Returns the duration of each request in seconds, in ascending order,
/// as the server reports it.
fn known_load(server: &Server) -> Vec<f64> {
    let images = ["coffee_500x375.jpg", "chelsea.png", "rocket.jpg"].map(photo);
    let client = |client: usize| {
        let requests = (0..REQUESTS / 4).map(move |request| (client + request) % 3);
        let duration = |image: usize| {
            let response = server.classify("", &images[image]);
            assert_eq!(response.status, 200);
            let (_, total) = response
                .header("server-timing")
                .split_once("total;dur=")
                .unwrap();
            total.parse::<f64>().unwrap() / 1000.0
        };
        requests.map(duration).collect::<Vec<f64>>()
    };
    let mut durations: Vec<f64> = thread::scope(|scope| {
        let clients: Vec<_> = (0..4).map(|id| scope.spawn(move || client(id))).collect();
        let joined = clients.into_iter().map(|client| client.join().unwrap());
        joined.flatten().collect()
    });
    durations.sort_by(f64::total_cmp);
    durations
}

#[test]
fn prometheus_reads_every_format_and_computes_quantiles_from_native_histograms() {
    let server = Server::start(&["--metrics-compat", "triton"]);
    let targets = [
        ("protobuf", server.address),
        (
            "openmetrics",
            translator(server.address, "application/openmetrics-text;version=1.0.0"),
        ),
        (
            "text",
            translator(server.address, "text/plain;version=0.0.4"),
        ),
    ];
    let Some(prometheus) = Prometheus::start(&targets) else {
        let reason =
            "the command `prometheus` is not installed (Debian: apt-get install prometheus)";
        skip::announce_outside_ci("scrapes by Prometheus", reason);
        return;
    };
    let durations = known_load(&server);
    let route = "route=\"/v1/classify\"";
    for (job, _) in targets {
        eventually(&format!("Prometheus has scraped {job}"), || {
            let requests = format!("sightline_requests_total{{job=\"{job}\",{route}}}");
            prometheus.value(&requests) == Some(REQUESTS as f64)
        });
        assert_eq!(
            prometheus.value(&format!("up{{job=\"{job}\"}}")),
            Some(1.0),
            "{job}"
        );
    }

    // Native histograms come with protobuf only, and this version of Prometheus drops the classic ones then.
    let name = "sightline_request_duration_seconds";
    for (job, native, classic) in [("protobuf", 1, 0), ("openmetrics", 0, 28), ("text", 0, 28)] {
        let series = |suffix| {
            prometheus
                .query(&format!("{name}{suffix}{{job=\"{job}\",{route}}}"))
                .len()
        };
        assert_eq!((series(""), series("_bucket")), (native, classic), "{job}");
    }
    let native = format!("sightline_request_duration_seconds{{job=\"protobuf\",{route}}}");
    let count = prometheus.value(&format!("histogram_count({native})"));
    assert_eq!(count, Some(REQUESTS as f64));
    for quantile in [0.5, 0.9, 0.99] {
        let exact = durations[(REQUESTS as f64 * quantile) as usize - 1];
        let expression = format!("histogram_quantile({quantile}, sum({native}))");
        let computed = prometheus.value(&expression).unwrap();
        println!("quantile {quantile}: {computed} s, exactly {exact} s");
        assert!(
            (computed / exact - 1.0).abs() < 0.05,
            "quantile {quantile}: {computed} s, exactly {exact} s"
        );
    }

    // The share of requests that took at most the exact median, and their mean duration.
    let share = format!(
        "histogram_fraction(0, {}, sum({native}))",
        durations[REQUESTS / 2 - 1]
    );
    let share = prometheus.value(&share).unwrap();
    let sum = prometheus
        .value(&format!("histogram_sum({native})"))
        .unwrap();
    assert!(
        (sum - durations.iter().sum::<f64>()).abs() < 0.001,
        "{sum} s"
    );
    println!("share: {share}");

    let text = prometheus.series("text", "(sightline|nv)_.*");
    assert!(text.len() > 200, "{text:#?}");
    assert_eq!(text, prometheus.series("openmetrics", "(sightline|nv)_.*"));
    let scalars = "(sightline|nv)_.*(total|bytes|depth|capacity|loaded|info|flight|workers|success|failure|us|count)";
    let scalars = |job| {
        let mut series = prometheus.series(job, scalars);
        series.retain(|name, _| !name.contains("seconds_count") && !name.contains("size_count"));
        series
    };
    assert!(scalars("text").len() > 40, "{:#?}", scalars("text"));
    assert_eq!(scalars("text"), scalars("protobuf"));
    for (metric, expected) in [
        ("nv_inference_request_success", Some(REQUESTS as f64)),
        ("nv_inference_count", Some(REQUESTS as f64)),
        ("nv_inference_pending_request_count", Some(0.0)),
    ] {
        let selector = format!("{metric}{{job=\"protobuf\",model=\"efficientnet_lite0\"}}");
        assert_eq!(prometheus.value(&selector), expected, "{metric}");
    }
    let times = ["queue", "compute_input", "compute_infer", "compute_output"];
    let time = |name: &str| {
        let name = format!("nv_inference_{name}_duration_us{{job=\"text\"}}");
        prometheus.value(&name).unwrap()
    };
    let stages: f64 = times.iter().map(|name| time(name)).sum();
    let whole = time("request");
    assert!(
        stages <= whole && stages > 0.9 * whole,
        "{stages} of {whole} us"
    );
}
