//! Sends mutated images to a running server and checks its responses, memory and log.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::common::Server;
use crate::reference::shared::mutation::{image_seeds, mutated};
use crate::reference::shared::random::Random;

/// Number of requests for each image format.
const REQUESTS: usize = 10_000;
/// Number of connections that send requests at the same time.
const CONNECTIONS: usize = 8;
/// Status codes that a response to a mutated image may have. 400 is the response to a file that was
/// cut to no byte. 429 is allowed because the server may decode more slowly than the test sends.
const ALLOWED: [u16; 6] = [200, 400, 413, 415, 422, 429];
/// Most bytes by which the server's peak resident memory may exceed its resident memory right after
/// the start.
const MAX_GROWTH: u64 = 256 << 20;

/// Number of responses for each status code.
type Statuses = BTreeMap<u16, usize>;

/// Checks that the server responds to every mutated image with a result or a client error.
///
/// The command `make mutation-test` runs this test.
#[test]
#[ignore = "50,000 requests take minutes; its figures are in docs/SECURITY-TESTING.md"]
fn mutated_images_get_results_or_client_errors() {
    let server = Server::start(&[]);
    let ready = server.memory("VmRSS");
    let seeds = image_seeds();
    for extension in ["jpg", "png", "webp", "gif", "bmp"] {
        let of_format = |(name, bytes): &(String, Vec<u8>)| {
            let (_, found) = name.rsplit_once('.').unwrap();
            (found == extension).then(|| bytes.clone())
        };
        let seeds: Vec<_> = seeds.iter().filter_map(of_format).collect();
        let began = Instant::now();
        let statuses = send(&server, &seeds);
        let seconds = began.elapsed().as_secs_f64();
        let (rss, peak) = (server.memory("VmRSS"), server.memory("VmHWM"));
        println!(
            "{extension}: {statuses:?} in {seconds:.1} s; resident {} MiB, peak {} MiB, when ready {} MiB",
            rss >> 20,
            peak >> 20,
            ready >> 20
        );
        assert_eq!(statuses.values().sum::<usize>(), REQUESTS);
        assert!(
            statuses.keys().all(|status| ALLOWED.contains(status)),
            "{statuses:?}"
        );
        assert!(
            statuses
                .get(&200)
                .is_some_and(|decoded| *decoded > REQUESTS / 50),
            "{statuses:?}"
        );
        assert!(
            peak < ready + MAX_GROWTH,
            "{} MiB, {} MiB when ready",
            peak >> 20,
            ready >> 20
        );
    }
    assert_eq!(server.get("/health/ready").status, 200);
    server.terminate();
    let (code, log) = server.wait();
    assert_eq!(code, Some(0), "{log}");
    assert!(!log.contains("panicked"), "{log}");
}

/// Sends `REQUESTS` mutations of `seeds` over [`CONNECTIONS`] connections, and checks the server's
/// memory budgets during the requests. Returns the status codes of the responses.
fn send(server: &Server, seeds: &[Vec<u8>]) -> Statuses {
    let next = AtomicUsize::new(0);
    let client = || {
        let mut statuses = Statuses::new();
        loop {
            let request = next.fetch_add(1, Ordering::Relaxed);
            if request >= REQUESTS {
                return statuses;
            }
            let mut random = Random::new(request as u64);
            let other = &seeds[random.below(seeds.len())];
            let image = mutated(&seeds[request % seeds.len()], other, &mut random);
            let status = server.classify("", &image).status;
            assert_eq!(status == 400, image.is_empty());
            *statuses.entry(status).or_default() += 1;
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while next.load(Ordering::Relaxed) < REQUESTS {
                assert!(within_budgets(server));
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        let clients: Vec<_> = (0..CONNECTIONS).map(|_| scope.spawn(client)).collect();
        let mut total = Statuses::new();
        for client in clients {
            for (status, count) in client.join().unwrap() {
                *total.entry(status).or_default() += count;
            }
        }
        total
    })
}

/// Returns whether the used bytes of every memory budget in the server's metrics are at most its
/// total.
fn within_budgets(server: &Server) -> bool {
    let page = server.get("/metrics").text();
    let budgets = |state: &str| -> BTreeMap<String, f64> {
        let suffix = format!(",state=\"{state}\"}} ");
        let samples = page.lines().filter_map(|line| {
            let (kind, value) = line.split_once(&suffix)?;
            let kind = kind.strip_prefix("sightline_budget_bytes{")?;
            Some((kind.to_owned(), value.parse().unwrap()))
        });
        samples.collect()
    };
    let (used, total) = (budgets("used"), budgets("total"));
    assert!(!used.is_empty() && used.len() == total.len(), "{page}");
    used.iter().all(|(kind, used)| *used <= total[kind])
}
