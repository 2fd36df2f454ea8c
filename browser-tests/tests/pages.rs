//! The reference and the status page, the accessibility of all pages in both color schemes, and the screenshots of the
//! documentation.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use sightline_browser_tests::{Driver, Look, Page, Server, repository};

fn the_reference_sends_requests(driver: &Driver, server: &Server) {
    let page = Page::open(driver, &server.origin, "/docs", Look::LIGHT);
    page.wait("document.querySelectorAll('.operation').length > 20");
    page.set("#filter", "embed");
    page.settle();
    let shown = "return [...document.querySelectorAll('.operation')].filter(({ hidden }) => !hidden).map(({ id }) => id)";
    assert_eq!(page.run(shown), serde_json::json!(["embed"]));
    page.set("#filter", "");
    page.run("document.querySelector('#classify .try').open = true");
    page.wait("document.querySelector('#classify form')");
    page.set("#classify-top_k", "2");
    page.run("document.querySelector('#classify form').requestSubmit()");
    page.wait("document.querySelector('#classify .answer .status')");
    let answer = page.text("#classify .answer");
    assert!(
        answer.starts_with("200") && answer.contains("Egyptian cat"),
        "{answer}"
    );
    page.set("#classify-top_k", "0");
    page.run("document.querySelector('#classify form').requestSubmit()");
    page.wait("document.querySelector('#classify .answer .failed')");
    assert!(page.text("#classify .answer").contains("bad_parameter"));
    // Every description, field and example can be opened.
    page.run("for (let depth = 0; depth < 2; depth += 1) for (const details of document.querySelectorAll('details')) details.open = true");
    page.settle();
    page.finish(&["400"]);
}

fn the_status_page_controls_models(driver: &Driver, server: &Server) {
    let page = Page::open(driver, &server.origin, "/status", Look::LIGHT);
    page.wait("document.querySelectorAll('#models tbody tr').length >= 4");
    assert!(page.text("#control").contains("--admin-listen"));
    assert_eq!(page.count("#models button"), 0);
    page.finish(&[]);
    let page = Page::open(driver, &server.admin, "/status", Look::LIGHT);
    let state = "document.querySelector('#models').innerText";
    page.wait("document.querySelectorAll('#models button').length >= 4");
    page.run("document.getElementById('unload-lraspp_mobilenet_v3_large@fp32').click()");
    page.wait("document.querySelector('#outcome').innerText.includes('is unloaded')");
    page.wait(&format!("{state}.includes('unloaded')"));
    page.run("document.getElementById('load-lraspp_mobilenet_v3_large@fp32').click()");
    page.wait("document.querySelector('#outcome').innerText.includes('is loaded')");
    page.wait(&format!("!{state}.includes('unloaded')"));
    page.finish(&[]);
}

fn all_pages_are_accessible(driver: &Driver, server: &Server) {
    for look in [Look::LIGHT, Look::DARK, Look::PHONE] {
        let page = Page::open(driver, &server.origin, "/", look);
        page.results();
        page.expect_accessible(&format!("/ {look:?}"));
        page.run("document.querySelector('input[value=detect]').click()");
        page.results();
        page.set("#threshold", "0.1");
        page.settle();
        page.expect_accessible(&format!("/ with boxes {look:?}"));
        page.run("document.querySelector('input[value=segment]').click()");
        page.results();
        page.expect_accessible(&format!("/ with a mask {look:?}"));
        page.run("document.querySelector('input[value=classify]').click()");
        page.set("#other", "efficientnet_lite0@int8");
        page.wait("document.querySelector('#difference')");
        page.expect_accessible(&format!("/ with a comparison {look:?}"));
        page.go("/docs");
        page.wait("document.querySelectorAll('.operation').length > 20");
        page.run("document.querySelectorAll('#classify details').forEach((details) => { details.open = true; })");
        page.settle();
        page.expect_accessible(&format!("/docs {look:?}"));
        page.go("/status");
        page.wait("document.querySelectorAll('.tile').length > 0");
        page.expect_accessible(&format!("/status {look:?}"));
        page.finish(&[]);
    }
}

/// Writes the screenshots of the documentation, if `SIGHTLINE_SCREENSHOTS` is set.
fn screenshots(driver: &Driver, server: &Server) {
    if std::env::var_os("SIGHTLINE_SCREENSHOTS").is_none() {
        return;
    }
    let folder = repository("docs/images");
    std::fs::create_dir_all(&folder).unwrap();
    for (look, name) in [
        (Look::LIGHT, "light"),
        (Look::DARK, "dark"),
        (Look::PHONE, "phone"),
    ] {
        let page = Page::open(driver, &server.origin, "/", look);
        page.results();
        page.run("document.querySelectorAll('#gallery .pick')[1].click(); document.querySelector('input[value=detect]').click()");
        page.results();
        // The first run is slower.
        page.click("#again");
        page.results();
        page.set("#threshold", "0.3");
        page.screenshot(&folder.join(format!("playground-{name}.png")), false);
        page.finish(&[]);
    }
    let page = Page::open(driver, &server.origin, "/docs", Look::LIGHT);
    page.wait("document.querySelectorAll('.operation').length > 20");
    page.screenshot(&folder.join("reference.png"), false);
    page.go("/status");
    under_load(server, || {
        page.wait("document.querySelector('.times span')?.innerText.startsWith('2 min')");
    });
    page.screenshot(&folder.join("status.png"), false);
    page.finish(&[]);
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

#[test]
fn pages() {
    let driver = Driver::start();
    let server = Server::start(&[]);
    the_reference_sends_requests(&driver, &server);
    the_status_page_controls_models(&driver, &server);
    all_pages_are_accessible(&driver, &server);
    screenshots(&driver, &server);
}
