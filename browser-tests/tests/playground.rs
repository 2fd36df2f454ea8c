//! The playground: each task, filters without a new request, comparison, faulty files, dropped and pasted files, the
//! keyboard, a phone, the camera, API keys.

use std::fs;

use sightline_browser_tests::{Driver, Look, Page, Server, repository};

const TAB: char = '\u{e004}';
const RIGHT: char = '\u{e014}';
const ENTER: char = '\u{e007}';
const ESCAPE: char = '\u{e00c}';

/// Opens the playground and waits for the first result, that of a sample.
fn open<'a>(driver: &'a Driver, server: &Server, look: Look) -> Page<'a> {
    let page = Page::open(driver, &server.origin, "/", look);
    assert!(page.results().contains("Egyptian cat"));
    page
}

fn choose_task(page: &Page<'_>, task: &str) -> String {
    page.run(&format!(
        "document.querySelector('input[name=task][value={task}]').click()"
    ));
    page.results()
}

fn every_task_shows_its_result(driver: &Driver, server: &Server) {
    let page = open(driver, server, Look::LIGHT);
    assert_eq!(page.count("#results li"), 5);
    page.set("#labels", "12");
    page.settle();
    assert_eq!(page.count("#results li"), 12);
    assert!(
        page.text("#facts").contains("75.1 % top-1 (published)"),
        "{}",
        page.text("#facts")
    );
    assert_eq!(page.requests_to("/v1/classify"), 1);
    assert!(page.text("#times").contains("inference"));

    choose_task(&page, "detect");
    page.set("#threshold", "0.06");
    page.settle();
    let many = page.count(".box");
    page.set("#threshold", "0.99");
    page.settle();
    assert!(many > page.count(".box"), "{many} boxes at 0.06");
    page.set("#threshold", "0.06");
    page.settle();
    page.click("#results input[type=checkbox]");
    page.settle();
    assert!(page.count(".box") < many, "a class can be hidden");
    assert_eq!(
        page.requests_to("/v1/detect"),
        1,
        "filters need no new request"
    );

    choose_task(&page, "segment");
    let painted = "const canvas = document.querySelector('.frame canvas'); const { data } = canvas.getContext('2d')
        .getImageData(0, 0, canvas.width, canvas.height); return data.some((value) => value !== 0)";
    assert_eq!(page.run(painted), true);

    choose_task(&page, "embed");
    page.wait("document.querySelectorAll('#results .near').length === 3");
    page.finish(&[]);
}

fn two_variants_are_compared(driver: &Driver, server: &Server) {
    let page = open(driver, server, Look::LIGHT);
    page.set("#other", "efficientnet_lite0@int8");
    page.wait("document.querySelector('#difference')");
    assert_eq!(page.count(".pane"), 2);
    assert_eq!(page.count(".timed"), 2);
    assert!(page.text("#results").contains("fp32") && page.text("#results").contains("int8"));
    page.set("#other", "");
    page.results();
    assert_eq!(page.count(".pane"), 1);
    page.finish(&[]);
}

fn a_damaged_file_is_explained(driver: &Driver, server: &Server) {
    let page = open(driver, server, Look::LIGHT);
    let folder = tempfile::tempdir().unwrap();
    let damaged = folder.path().join("damaged.jpg");
    let photograph = fs::read(repository("web/samples/coffee.jpg")).unwrap();
    fs::write(&damaged, &photograph[..photograph.len() / 3]).unwrap();
    let whole = repository("web/samples/rocket.jpg");
    page.choose_files("#files", &[&whole, &damaged]);
    let text = page.results();
    assert!(
        text.contains("damaged_image") && text.contains("Export or download the file again"),
        "{text}"
    );
    assert_eq!(page.count("#gallery li"), 6);
    page.wait("!document.querySelector('#gallery').innerText.includes('running')");
    assert!(page.text("#gallery").contains("missile") || page.text("#gallery").contains("%"));
    page.click("#clear");
    page.results();
    assert_eq!(page.count("#gallery li"), 4);
    page.finish(&["422"]);
}

/// Fires events with a file `name`, the sample of a rocket, as the data of a drag or of the clipboard.
fn fire(page: &Page<'_>, name: &str, events: &str) -> serde_json::Value {
    page.run(&format!(
        "return fetch('/samples/rocket.jpg').then((response) => response.blob()).then((blob) => {{
            const data = new DataTransfer();
            data.items.add(new File([blob], {name:?}, {{ type: 'image/jpeg' }}));
            const drag = (kind) => document.querySelector('#stage').dispatchEvent(
                new DragEvent(kind, {{ dataTransfer: data, bubbles: true, cancelable: true }}));
            const paste = (clipboardData) => document.body.dispatchEvent(
                new ClipboardEvent('paste', {{ clipboardData, bubbles: true, cancelable: true }}));
            const target = document.querySelector('#drop');
            {events}
        }})"
    ))
}

fn images_are_dropped_and_pasted(driver: &Driver, server: &Server) {
    let page = open(driver, server, Look::LIGHT);
    let highlighted = fire(
        &page,
        "dropped.jpg",
        "drag('dragover'); const shown = !target.hidden; drag('drop'); return shown && target.hidden;",
    );
    assert_eq!(highlighted, true, "the place to drop is shown");
    page.wait("document.querySelectorAll('#gallery li').length === 5");
    assert!(page.results().contains("missile"), "{}", page.results());
    assert!(
        page.text("#gallery li:last-child .caption")
            .contains("dropped.jpg")
    );
    assert!(
        page.text("figcaption").contains("missile"),
        "the result is below the image"
    );
    fire(&page, "pasted.jpg", "paste(data);");
    page.wait("document.querySelectorAll('#gallery li').length === 6");
    page.results();
    fire(
        &page,
        "text",
        "const text = new DataTransfer(); text.setData('text/plain', 'no file'); paste(text);",
    );
    page.settle();
    assert_eq!(page.count("#gallery li"), 6, "text is no image");
    let before = page.requests_to("/v1/classify");
    page.click("#again");
    page.results();
    assert_eq!(page.requests_to("/v1/classify"), before + 1);
    page.finish(&[]);
}

fn the_keyboard_is_enough(driver: &Driver, server: &Server) {
    let page = open(driver, server, Look::LIGHT);
    let focused = |condition: &str| {
        for _ in 0..60 {
            page.press(TAB, 1);
            if page.run(&format!(
                "return document.activeElement.matches({condition:?})"
            )) == true
            {
                return;
            }
        }
        panic!("the Tab key does not reach {condition}");
    };
    page.press(TAB, 1);
    assert_eq!(page.text(":focus"), "Skip to the playground");
    page.press(ENTER, 1);
    focused("#gallery li:nth-child(2) .pick");
    page.press(ENTER, 1);
    page.wait(
        "document.querySelector('#gallery li:nth-child(2) .caption').innerText.includes('%')",
    );
    focused("input[name=task]");
    page.press(RIGHT, 1);
    page.wait("document.querySelector('input[value=detect]').checked");
    page.results();
    focused("#threshold");
    let before = page.text("#controls output");
    page.press(RIGHT, 3);
    page.settle();
    assert_ne!(page.text("#controls output"), before);
    assert_eq!(
        page.run("return document.activeElement.id"),
        "threshold",
        "the focus stays"
    );
    focused("[role=tab][aria-selected=true]");
    page.press(RIGHT, 1);
    assert!(page.text("#snippet").contains("import requests"));
    page.finish(&[]);
}

fn a_phone_shows_everything(driver: &Driver, server: &Server) {
    let page = open(driver, server, Look::PHONE);
    for task in ["classify", "detect", "segment", "embed"] {
        choose_task(&page, task);
        assert_eq!(
            page.run("return document.documentElement.scrollWidth"),
            390,
            "{task}"
        );
    }
    for path in ["/docs", "/status"] {
        page.go(path);
        page.wait("document.querySelector('.operation, .tile')");
        assert_eq!(
            page.run("return document.documentElement.scrollWidth"),
            390,
            "{path}"
        );
    }
    page.finish(&[]);
}

fn the_camera_runs_live(driver: &Driver, server: &Server) {
    let page = open(driver, server, Look::LIGHT);
    page.click("#camera");
    page.wait("document.querySelector('.frame video')?.videoWidth > 0");
    page.click("#live");
    page.wait("document.querySelector('#hint').innerText.includes('frames per second')");
    page.wait("document.querySelectorAll('#results li').length > 0");
    let caption = page.text("figcaption");
    assert!(
        caption.contains('%') && !caption.contains("undefined"),
        "{caption}"
    );
    page.click("#live");
    page.click("#capture");
    page.wait("document.querySelectorAll('#gallery li').length === 5");
    page.results();
    assert_eq!(page.count("video"), 0, "taking a frame closes the camera");
    assert_eq!(
        page.text("#hint"),
        "",
        "no frame rate without a live camera"
    );
    page.finish(&[]);
}

fn a_key_is_asked_for(driver: &Driver) {
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys");
    // The SHA-256 of the key `open sesame`.
    let hash = "41ef4bb0b23661e66301aac36066912dac037827b4ae63a7b1165a5aa93ed4eb";
    fs::write(&keys, format!("tester {hash}\n")).unwrap();
    let server = Server::start(&["--api-keys", keys.to_str().unwrap()]);
    let page = Page::open(driver, &server.origin, "/", Look::DARK);
    assert!(page.results().contains("unauthorized"));
    page.expect_accessible("/ without a key");
    page.click("#results .problem button");
    page.wait("document.activeElement.id === 'key'");
    page.expect_accessible("the dialog for the key");
    page.press(ESCAPE, 1);
    page.wait("!document.querySelector('dialog').open");
    let enter = |key: &str| {
        page.click("#key-button");
        page.run(&format!("document.querySelector('#key').value = {key:?}"));
        page.click("dialog button.primary");
    };
    enter("open sesam");
    page.wait("document.querySelector('#results').innerText.includes('invalid_api_key')");
    enter("open sesame");
    page.wait("document.querySelector('#results').innerText.includes('Egyptian cat')");
    assert_eq!(page.text("#key-button"), "API key set");
    assert!(
        page.text("#snippet").contains("$SIGHTLINE_KEY")
            && !page.text("#snippet").contains("sesame")
    );
    page.go("/status");
    page.wait("document.querySelectorAll('.tile').length > 0");
    page.go("/");
    page.wait("document.querySelector('#results').innerText.includes('Egyptian cat')");
    page.click("#key-button");
    page.click("dialog button.quiet");
    page.wait("document.querySelector('#results').innerText.includes('unauthorized')");
    page.finish(&["401"]);
}

#[test]
fn playground() {
    let driver = Driver::start();
    let server = Server::start(&[]);
    every_task_shows_its_result(&driver, &server);
    two_variants_are_compared(&driver, &server);
    a_damaged_file_is_explained(&driver, &server);
    images_are_dropped_and_pasted(&driver, &server);
    the_keyboard_is_enough(&driver, &server);
    a_phone_shows_everything(&driver, &server);
    the_camera_runs_live(&driver, &server);
    drop(server);
    a_key_is_asked_for(&driver);
}
