//! The reference and the status page, and the accessibility of all pages in both color schemes and on a phone.

use sightline_browser_tests::{Driver, Look, Page, Server};

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

#[test]
fn pages() {
    let driver = Driver::start();
    let server = Server::start(&[]);
    the_reference_sends_requests(&driver, &server);
    the_status_page_controls_models(&driver, &server);
    all_pages_are_accessible(&driver, &server);
}
