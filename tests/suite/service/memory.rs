//! Checks the server's memory: the memory plan, the peak during segmentation, and the growth over
//! many segmentation and detection requests.

use crate::common::{Server, checkpoint, form, run};
use libjpeg_turbo_rs::{PixelFormat, Subsampling, compress};
use tempfile::TempDir;

const MIB: u64 = 1 << 20;

/// Exports LR-ASPP with generated weights as the model `lraspp`. Returns the models directory, a
/// temporary folder.
fn exported() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let network = "lraspp_mobilenet_v3_large";
    let weights = at("weights.safetensors");
    checkpoint::write(network, 21, weights.as_ref());
    let out = at("lraspp");
    let (code, _, stderr) = run(&["export", network, "--weights", &weights, "-o", &out]);
    assert_eq!(code, Some(0), "{stderr}");
    directory
}

/// Returns a JPEG file of `width` x `height` pixels with no block of a single color, so that the
/// file is not small for its size.
fn jpeg(width: usize, height: usize) -> Vec<u8> {
    let sample = |at: usize| {
        let (x, y) = (at / 3 % width, at / 3 / width);
        (x * x / 64 + y * (at % 3 + 1) + (x * y) % 31) as u8
    };
    let pixels: Vec<u8> = (0..width * height * 3).map(sample).collect();
    compress(
        &pixels,
        width,
        height,
        PixelFormat::Rgb,
        85,
        Subsampling::S420,
    )
    .unwrap()
}

fn start(directory: &TempDir) -> Server {
    let models = directory.path().to_str().unwrap();
    Server::start(&["--models", models, "--model", "lraspp"])
}

fn segment(server: &Server, query: &str, image: &[u8]) {
    let path = format!("/v1/segment{query}");
    let reply = server.post(&path, "image/jpeg", image);
    assert_eq!(reply.status, 200, "{}", reply.text());
}

#[test]
fn a_large_image_stays_within_the_memory_limit() {
    let directory = exported();
    let server = start(&directory);
    let image = jpeg(4000, 3000);
    for query in ["", "?mask=rle", "?annotate=true"] {
        segment(&server, query, &image);
    }
    let peak = server.memory("VmHWM");
    println!("peak memory with a 4000x3000 image: {} MiB", peak / MIB);
    assert!(peak < 600_000_000, "peak {} MiB", peak / MIB);
}

/// Checks peak memory with elongated images: their files are small, but they are resized to the
/// largest possible input tensors.
#[test]
fn many_elongated_images_stay_within_the_memory_limit() {
    let directory = exported();
    let server = start(&directory);
    let before = server.memory("VmRSS");
    let strips = [jpeg(16, 92), jpeg(92, 16)];
    let parts: Vec<(&str, &[u8])> = (0..8)
        .map(|n| ("image", strips[n % 2].as_slice()))
        .collect();
    let (kind, body) = form(&parts);
    for _ in 0..2 {
        let reply = server.post("/v1/segment?mask=none", kind, &body);
        assert_eq!(reply.results().len(), 8);
    }
    let (peak, after) = (server.memory("VmHWM"), server.memory("VmRSS"));
    println!(
        "memory: peak {} MiB, {} MiB before the requests, {} MiB after",
        peak / MIB,
        before / MIB,
        after / MIB
    );
    assert!(peak < 1_200_000_000, "peak {} MiB", peak / MIB);
    // ONNX Runtime must release the memory of its arenas after the requests.
    assert!(after < before + 200_000_000, "{} MiB after", after / MIB);
}

/// Checks that the server rejects a memory budget that is too small, and that the memory plan for a
/// sufficient budget is printed, exported as metrics and within the budget.
#[test]
fn the_memory_plan_is_checked_and_printed() {
    let (code, _, stderr) = run(&["serve", "--memory-budget", "100MiB"]);
    assert_eq!(code, Some(64), "{stderr}");
    assert!(stderr.contains("is too small: at least"), "{stderr}");
    assert!(stderr.contains("`max_pixels`"), "{stderr}");
    let args = [
        "--memory-budget",
        "400MiB",
        "--response-memory-bytes",
        "40MiB",
    ];
    let server = Server::start(&args);
    let printed = server.printed("memory for requests: ");
    assert!(printed.ends_with("responses 40 MiB)"), "{printed}");
    let total = |kind: &str| {
        server.metric(&format!(
            "sightline_budget_bytes{{kind=\"{kind}\",state=\"total\"}}"
        ))
    };
    assert_eq!(total("responses"), (40 * MIB) as f64);
    let sum: f64 = ["bodies", "pixels", "tensors", "responses"]
        .map(total)
        .iter()
        .sum();
    assert!(sum <= (400 * MIB) as f64, "{sum}");
    assert!(sum > (350 * MIB) as f64, "{sum}");
}

/// Checks that segmentation does not leak memory.
///
/// This command runs the ignored tests of this file:
/// `cargo nextest run --run-ignored only --no-capture -E 'binary(memory)'`
#[test]
#[ignore = "2,000 requests take minutes; its figures are in docs/BENCHMARKS.md"]
fn memory_is_flat_over_masks_of_mixed_sizes() {
    let directory = exported();
    let server = start(&directory);
    let queries = [
        "",
        "?mask=rle",
        "?mask=none",
        "?annotate=true",
        "?size=logits",
    ];
    soak(&server, "/v1/segment", &queries, 2000);
}

/// Checks that detection does not leak memory.
///
/// This command runs the ignored tests of this file:
/// `cargo nextest run --run-ignored only --no-capture -E 'binary(memory)'`
#[test]
#[ignore = "1,000 requests take minutes; its figures are in docs/BENCHMARKS.md"]
fn memory_is_flat_over_boxes_of_mixed_sizes() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let network = "fasterrcnn_mobilenet_v3_large_fpn";
    let (weights, out) = (at("weights.safetensors"), at("detector"));
    checkpoint::write(network, 91, weights.as_ref());
    let (code, _, stderr) = run(&["export", network, "--weights", &weights, "-o", &out]);
    assert_eq!(code, Some(0), "{stderr}");
    let models = directory.path().to_str().unwrap();
    let server = Server::start(&["--models", models, "--model", "detector"]);
    let queries = ["", "?score_threshold=0", "?annotate=true"];
    soak(&server, "/v1/detect", &queries, 1000);
}

/// Sends `requests` images of mixed sizes, two at the same time so that several workers and batches
/// of two images are used. Panics if the server's median resident memory in the last quarter of the
/// requests is 5 % or more above the median in the second quarter. The first quarter is ignored,
/// since the server allocates memory for every image size then.
fn soak(server: &Server, route: &str, queries: &[&str], requests: usize) {
    let sizes = [
        (500, 375),
        (640, 480),
        (375, 500),
        (320, 240),
        (1024, 683),
        (200, 600),
        (1920, 1080),
    ];
    let images = sizes.map(|(width, height)| jpeg(width, height));
    let ask = |request: usize| {
        let image = &images[request * 5 % images.len()];
        let path = format!("{route}{}", queries[request * 3 % queries.len()]);
        let reply = server.post(&path, "image/jpeg", image);
        assert_eq!(reply.status, 200, "{}", reply.text());
    };
    let mut resident: Vec<u64> = Vec::new();
    for pair in 0..requests / 2 {
        std::thread::scope(|scope| {
            scope.spawn(|| ask(2 * pair));
            scope.spawn(|| ask(2 * pair + 1));
        });
        resident.push(server.memory("VmRSS") / MIB);
    }
    let quarters: Vec<&mut [u64]> = resident.chunks_mut(requests / 8).collect();
    let quarters: Vec<(u64, u64)> = quarters
        .into_iter()
        .map(|quarter| {
            quarter.sort_unstable();
            (quarter[quarter.len() / 2], quarter[quarter.len() - 1])
        })
        .collect();
    // The median is compared, since a leak raises it. The maximum also depends on which large
    // images are processed at the same time.
    println!("resident memory per quarter, (median, maximum): {quarters:?} MiB");
    let growth = quarters[3].0 as f64 / quarters[1].0 as f64 - 1.0;
    println!(
        "growth of median memory from the second quarter to the last: {:.1} %",
        growth * 100.0
    );
    assert!(growth < 0.05, "median memory grew by {growth}");
}
