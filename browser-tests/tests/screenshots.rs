//! The screenshots of the documentation, if `SIGHTLINE_SCREENSHOTS` is set.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use sightline_browser_tests::{Driver, Look, Page, Server, repository};

/// Number of runs from which the usual time is known.
const RUNS: usize = 30;
/// Most further runs until one takes the usual time.
const MORE_RUNS: usize = 100;

#[test]
fn screenshots() {
    if std::env::var_os("SIGHTLINE_SCREENSHOTS").is_none() {
        return;
    }
    // Generated weights find hundreds of things in every photograph.
    assert!(
        std::env::var_os("SIGHTLINE_TEST_SHARED").is_some(),
        "set SIGHTLINE_TEST_SHARED to the folder with trained weights"
    );
    let (driver, server) = (Driver::start(), Server::start(&[]));
    let folder = repository("docs/images");
    std::fs::create_dir_all(&folder).unwrap();
    for (look, name) in [
        (Look::LIGHT, "light"),
        (Look::DARK, "dark"),
        (Look::PHONE, "phone"),
    ] {
        let page = Page::open(&driver, &server.origin, "/", look);
        page.results();
        page.run("document.querySelectorAll('#gallery .pick')[1].click(); document.querySelector('input[value=detect]').click()");
        page.results();
        page.set("#threshold", "0.3");
        run_undisturbed(&page);
        page.screenshot(&folder.join(format!("playground-{name}.png")), false);
        page.finish(&[]);
    }
    let page = Page::open(&driver, &server.origin, "/docs", Look::LIGHT);
    page.wait("document.querySelectorAll('.operation').length > 20");
    page.screenshot(&folder.join("reference.png"), false);
    page.go("/status");
    under_load(&server, || {
        page.wait("document.querySelector('.times span')?.innerText.startsWith('2 min')");
    });
    page.screenshot(&folder.join("status.png"), false);
    page.finish(&[]);
}

/// Repeats the run of the page until its time is about that of the fastest of [`RUNS`] runs: the first run, and other
/// programs on the machine, make it longer.
fn run_undisturbed(page: &Page<'_>) {
    let run = || {
        page.run("document.querySelector('#again').click()");
        page.results();
        let milliseconds = "const [value, unit] = document.querySelector('figcaption .number').innerText.split(' ');
            return value * (unit === 's' ? 1000 : 1)";
        page.run(milliseconds).as_f64().unwrap()
    };
    let fastest = (0..RUNS).map(|_| run()).fold(f64::INFINITY, f64::min);
    let _ = (0..MORE_RUNS).find(|_| run() < 1.2 * fastest);
}

/// Calls `wait` while clients send photographs to the server, one to six at a time.
fn under_load(server: &Server, wait: impl FnOnce()) {
    let photo = std::fs::read(repository("web/samples/coffee.jpg")).unwrap();
    let done = AtomicBool::new(false);
    let began = Instant::now();
    std::thread::scope(|scope| {
        for client in 0..6 {
            let (photo, done) = (&photo, &done);
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    let active = began.elapsed().as_secs() / 15 % 6 + 1;
                    if client >= active {
                        std::thread::sleep(Duration::from_millis(100));
                        continue;
                    }
                    let task = ["classify", "detect"][usize::from(client % 3 == 2)];
                    let request = ureq::post(format!("{}/v1/{task}", server.origin));
                    let _ = request.content_type("image/jpeg").send(&photo[..]);
                    std::thread::sleep(Duration::from_millis(20));
                }
            });
        }
        wait();
        done.store(true, Ordering::Relaxed);
    });
}
