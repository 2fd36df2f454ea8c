use std::collections::BTreeMap;
use std::time::Duration;

use prometheus_client::encoding::prometheus_protobuf::prometheus_data_model::MetricFamily;
use prost::Message;

use super::*;
use crate::budget::Budget;
use crate::pipeline::{RequestTiming, Timing};

fn page(metrics: &Metrics, exposition: Exposition) -> String {
    String::from_utf8(metrics.render(exposition).unwrap()).unwrap()
}

/// Returns metrics of which each kind has observations.
fn used() -> Metrics {
    let mut metrics = Metrics::new();
    metrics.add_triton();
    let label = ModelLabel {
        model: "m\"\\",
        variant: "fp32",
    };
    metrics.request("/v1/classify", 200, label, 0.25);
    metrics.rejected(Rejection::queue_full, label);
    metrics.cancelled(Stage::decode, label);
    metrics.failed(Failure::BACKEND, label, Duration::ZERO);
    let model = metrics.model("m", "fp32");
    for millis in [1, 7, 40, 41] {
        model.stage(Stage::inference, Duration::from_millis(millis));
    }
    let mut stages = Timing::default();
    for stage in Stage::ALL {
        stages[stage] = Duration::from_millis(10);
    }
    let timing = RequestTiming::new(Timing::default(), vec![stages]);
    model.succeeded(Duration::from_millis(90), &timing);
    let batch = metrics.batch("m", "fp32");
    batch.batch(3, Cut::full);
    batch.tensor(100, 60);
    metrics
}

/// Returns the samples of a text page, without those that change with time.
fn samples(page: &str) -> BTreeMap<String, f64> {
    let lines = page.lines();
    let lines = lines.filter(|line| !line.starts_with('#') && !line.starts_with("process_"));
    let sample = |line: &str| {
        let (series, value) = line.rsplit_once(' ').unwrap();
        (series.to_owned(), value.parse().unwrap())
    };
    lines.map(sample).collect()
}

fn families(mut page: &[u8]) -> Vec<MetricFamily> {
    let mut families = Vec::new();
    while !page.is_empty() {
        families.push(MetricFamily::decode_length_delimited(&mut page).unwrap());
    }
    families
}

#[test]
fn every_format_has_the_same_series_and_values() {
    let metrics = used();
    let places = Budget::new("queue", 1, 5);
    metrics.batch("m", "fp32").queue(&places);
    let _held = places.try_acquire(2).unwrap();
    let expected = samples(&page(&metrics, Exposition::OpenMetrics));
    assert!(expected.len() > 300, "{expected:#?}");
    assert_eq!(samples(&page(&metrics, Exposition::Text)), expected);
    let encoded = metrics.render(Exposition::Protobuf).unwrap();
    let decoded = text::encode(&families(&encoded)).unwrap();
    assert_eq!(samples(&decoded), expected);
    let queue = r#"{model="m",variant="fp32"}"#;
    assert_eq!(expected[&format!("sightline_queue_depth{queue}")], 2.0);
    assert_eq!(expected[&format!("sightline_queue_capacity{queue}")], 5.0);
}

#[test]
fn types_follow_each_text_format() {
    let metrics = used();
    let text = page(&metrics, Exposition::Text);
    for line in [
        "# TYPE sightline_requests_total counter",
        "# TYPE sightline_build_info gauge",
        "# TYPE sightline_stage_duration_seconds histogram",
        "# TYPE nv_inference_request_success counter",
        r#"nv_inference_request_failure{model="m\"\\",version="fp32",reason="BACKEND"} 1"#,
        r#"nv_inference_queue_duration_us{model="m",version="fp32"} 20000"#,
        r#"nv_inference_count{model="m",version="fp32"} 3"#,
    ] {
        assert!(text.lines().any(|got| got == line), "{line}\n{text}");
    }
    for absent in ["# EOF", "unknown", " info"] {
        assert!(!text.contains(absent), "{absent}");
    }
    let open = page(&metrics, Exposition::OpenMetrics);
    for line in [
        "# TYPE sightline_requests counter",
        "# TYPE sightline_build info",
        "# TYPE nv_inference_request_success unknown",
    ] {
        assert!(open.lines().any(|got| got == line), "{line}\n{open}");
    }
    assert!(open.ends_with("# EOF\n"));
}

#[test]
fn protobuf_has_native_histograms() {
    let page = used().render(Exposition::Protobuf).unwrap();
    let families = families(&page);
    let family = families
        .iter()
        .find(|family| family.name == "sightline_request_duration_seconds");
    let histogram = family.unwrap().metric[0].histogram.as_ref().unwrap();
    assert_eq!((histogram.schema, histogram.sample_count), (4, 1));
    // 0.25 is the upper bound of bucket -32 of width 2^(1/16).
    let span = &histogram.positive_span[0];
    assert_eq!((span.offset, span.length), (-32, 1));
    assert_eq!(histogram.positive_delta, [1]);
    assert_eq!(histogram.bucket.len(), 28);
}

#[test]
fn a_model_that_is_loaded_again_and_again_adds_no_series() {
    let mut metrics = Metrics::new();
    metrics.add_triton();
    let load = || {
        let model = metrics.model("m", "fp32");
        let batch = metrics.batch("m", "fp32");
        let places = Budget::new("queue", 1, 8);
        batch.queue(&places);
        let tensors = Budget::new("tensors", 1, 8);
        batch.budgets.add(tensors.name(), &tensors);
        model.stage(Stage::queue, Duration::from_millis(1));
        (
            samples(&page(&metrics, Exposition::Text)).len(),
            places,
            tensors,
        )
    };
    let (first, ..) = load();
    let kept = load();
    let both = load();
    // The old instance and the new one exist at the same time during a reload.
    assert_eq!((kept.0, both.0), (first, first));
    for _ in 0..1000 {
        assert_eq!(load().0, first);
    }
}

#[test]
fn quantiles_of_native_histograms_are_within_the_width_of_a_bucket() {
    let metrics = Metrics::new();
    let model = metrics.model("m", "fp32");
    // Log-uniform from 20 microseconds to 20 seconds.
    let duration = |index: i32| 2e-5 * 10f64.powf(f64::from(index) * 6.0 / 5000.0);
    for index in 0..5000 {
        model.stage(Stage::queue, Duration::from_secs_f64(duration(index)));
    }
    let page = metrics.render(Exposition::Protobuf).unwrap();
    let families = families(&page);
    let family = families
        .iter()
        .find(|family| family.name == "sightline_stage_duration_seconds");
    let metric = family.unwrap().metric.iter().max_by_key(|metric| {
        metric
            .histogram
            .as_ref()
            .map(|histogram| histogram.sample_count)
    });
    let histogram = metric.unwrap().histogram.as_ref().unwrap();
    // No bucket was merged, although the durations span six decades.
    assert_eq!(histogram.schema, 4);
    let mut deltas = histogram.positive_delta.iter();
    let (mut index, mut count, mut seen) = (0, 0, histogram.zero_count);
    for span in &histogram.positive_span {
        index += span.offset;
        for _ in 0..span.length {
            count += deltas.next().unwrap();
            seen += count as u64;
            let upper = 2f64.powf(f64::from(index) / 16.0);
            let exact = duration(seen as i32 - 1);
            assert!(
                exact <= upper * 1.000_001 && upper < exact * 1.05,
                "{exact} {upper}"
            );
            index += 1;
        }
    }
    assert_eq!(seen, 5000);
}

#[test]
fn every_metric_is_documented() {
    let metrics = used();
    let places = Budget::new("queue", 1, 5);
    metrics.batch("m", "fp32").queue(&places);
    let text = page(&metrics, Exposition::Text);
    let lines = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let guide = include_str!("../../docs/monitoring.md");
    for line in lines {
        let (name, _) = line.split_once(' ').unwrap();
        let page = if name.starts_with("nv_") {
            guide
        } else {
            crate::http::contract::OPENAPI
        };
        assert!(page.contains(&format!("`{name}")), "{name}");
    }
}

#[test]
fn a_removed_model_leaves_no_metrics() {
    let mut metrics = Metrics::new();
    metrics.add_triton();
    let label = ModelLabel {
        model: "gone",
        variant: "fp32",
    };
    metrics.request("/v1/classify", 200, label, 0.1);
    metrics.rejected(Rejection::deadline, label);
    metrics.cancelled(Stage::queue, label);
    metrics.failed(Failure::OTHER, label, Duration::ZERO);
    metrics.model(label.model, label.variant);
    let batch = metrics.batch(label.model, label.variant);
    batch.ready.set(true);
    metrics.loads.loaded(label).set(1);
    metrics.loads.took(label, 1.0);
    assert!(
        metrics
            .page()
            .contains("sightline_model_ready{model=\"gone\"")
    );
    metrics.loads.unloaded(label);
    assert!(
        !metrics
            .page()
            .contains("sightline_model_ready{model=\"gone\"")
    );
    metrics.forget_model(label);
    let page = metrics.page();
    assert!(!page.contains("gone"), "{page}");
}
