//! A window of the browser with one page of the server.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::{Driver, eventually};

/// Name of the key under which WebDriver returns elements.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// Longest time that a script may take, in milliseconds: axe takes its time on the reference.
const MAX_SCRIPT_MS: u64 = 300_000;

/// Color scheme and size of a window.
#[derive(Debug, Clone, Copy)]
pub struct Look {
    /// Whether the system prefers dark colors.
    pub dark: bool,
    /// Width and height in CSS pixels.
    pub size: (u32, u32),
}

impl Look {
    /// A desktop window with light colors.
    pub const LIGHT: Self = Self {
        dark: false,
        size: (1360, 900),
    };
    /// A desktop window with dark colors.
    pub const DARK: Self = Self {
        dark: true,
        size: (1360, 900),
    };
    /// A phone held upright.
    pub const PHONE: Self = Self {
        dark: false,
        size: (390, 844),
    };
}

/// A browser window. Dropping the value closes it.
pub struct Page<'a> {
    driver: &'a Driver,
    session: String,
    origin: String,
}

impl<'a> Page<'a> {
    /// Opens `path` of the server at `origin`.
    pub fn open(driver: &'a Driver, origin: &str, path: &str, look: Look) -> Self {
        let arguments = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--use-fake-device-for-media-stream",
            "--use-fake-ui-for-media-stream",
        ];
        let capabilities = json!({"capabilities": {"alwaysMatch": {
            "goog:chromeOptions": {"args": arguments},
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }}});
        let session = driver.post("/session", &capabilities);
        let session = format!("/session/{}", session["sessionId"].as_str().unwrap());
        let page = Self {
            driver,
            session,
            origin: origin.to_owned(),
        };
        page.post(
            "/timeouts",
            &json!({"script": MAX_SCRIPT_MS, "pageLoad": MAX_SCRIPT_MS}),
        );
        let scheme = if look.dark { "dark" } else { "light" };
        page.devtools(
            "Emulation.setEmulatedMedia",
            &json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]}),
        );
        page.resize(look.size);
        page.go(path);
        page
    }

    fn post(&self, path: &str, body: &Value) -> Value {
        self.driver.post(&format!("{}{path}", self.session), body)
    }

    fn devtools(&self, command: &str, parameters: &Value) -> Value {
        self.post(
            "/goog/cdp/execute",
            &json!({"cmd": command, "params": parameters}),
        )
    }

    /// Sets the size of the window's content.
    pub fn resize(&self, (width, height): (u32, u32)) {
        let metrics =
            json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.devtools("Emulation.setDeviceMetricsOverride", &metrics);
    }

    /// Loads `path` of the server.
    pub fn go(&self, path: &str) {
        self.post("/url", &json!({"url": format!("{}{path}", self.origin)}));
    }

    /// Runs `script`, the body of a function, and returns what it returns.
    pub fn run(&self, script: &str) -> Value {
        self.post("/execute/sync", &json!({"script": script, "args": []}))
    }

    /// Waits until the expression `condition` is true.
    pub fn wait(&self, condition: &str) {
        eventually(condition, || {
            self.run(&format!("return Boolean({condition})"))
                .as_bool()
                .filter(|it| *it)
        });
    }

    /// Waits until the results are those of the current choices, and returns their text.
    pub fn results(&self) -> String {
        self.settle();
        self.wait("document.querySelector('#results').dataset.state !== 'pending' && document.querySelector('#results').children.length");
        self.text("#results")
    }

    /// Waits until the page has drawn what the last events have changed.
    pub fn settle(&self) {
        let script = "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(() => done(true)))";
        self.post("/execute/async", &json!({"script": script, "args": []}));
    }

    /// Returns the text of the element `selector` as it is shown.
    pub fn text(&self, selector: &str) -> String {
        let text = self.run(&format!(
            "return document.querySelector({selector:?})?.innerText ?? ''"
        ));
        text.as_str().unwrap().to_owned()
    }

    /// Returns the number of elements that match `selector`.
    pub fn count(&self, selector: &str) -> u64 {
        self.run(&format!(
            "return document.querySelectorAll({selector:?}).length"
        ))
        .as_u64()
        .unwrap()
    }

    fn element(&self, selector: &str) -> String {
        let found = self.post(
            "/element",
            &json!({"using": "css selector", "value": selector}),
        );
        found[ELEMENT].as_str().unwrap().to_owned()
    }

    /// Clicks on the element `selector`.
    pub fn click(&self, selector: &str) {
        self.post(
            &format!("/element/{}/click", self.element(selector)),
            &json!({}),
        );
    }

    /// Chooses the value of a list or a slider, as a user does.
    pub fn set(&self, selector: &str, value: &str) {
        self.run(&format!(
            "const input = document.querySelector({selector:?}); input.value = {value:?};
             for (const name of ['input', 'change']) input.dispatchEvent(new Event(name, {{ bubbles: true }}))"
        ));
    }

    /// Chooses files in the input `selector`.
    pub fn choose_files(&self, selector: &str, files: &[&Path]) {
        // chromedriver rejects paths with `..`.
        let files = files.iter().map(|file| file.canonicalize().unwrap());
        let names: Vec<_> = files.map(|file| file.display().to_string()).collect();
        self.post(
            &format!("/element/{}/value", self.element(selector)),
            &json!({"text": names.join("\n")}),
        );
    }

    /// Presses `key`, a character of WebDriver's keys such as `\u{e004}` (Tab), `times` times.
    pub fn press(&self, key: char, times: usize) {
        let stroke = [
            json!({"type": "keyDown", "value": key}),
            json!({"type": "keyUp", "value": key}),
        ];
        let strokes: Vec<_> = stroke.iter().cycle().take(2 * times).collect();
        self.post(
            "/actions",
            &json!({"actions": [{"type": "key", "id": "keyboard", "actions": strokes}]}),
        );
    }

    /// Returns the number of requests that the page has sent to `route` since it was loaded.
    pub fn requests_to(&self, route: &str) -> u64 {
        let script = format!(
            "return performance.getEntriesByType('resource').filter(({{ name }}) => new URL(name).pathname === {route:?}).length"
        );
        self.run(&script).as_u64().unwrap()
    }

    /// Writes a screenshot to `path`: of the whole page if `whole`, else of the window.
    pub fn screenshot(&self, path: &Path, whole: bool) {
        self.settle();
        let shot = self.devtools(
            "Page.captureScreenshot",
            &json!({"format": "png", "captureBeyondViewport": whole}),
        );
        std::fs::write(
            path,
            STANDARD.decode(shot["data"].as_str().unwrap()).unwrap(),
        )
        .unwrap();
    }

    /// Runs axe on the page and panics if it finds a violation.
    pub fn expect_accessible(&self, name: &str) {
        let file = std::env::var("SIGHTLINE_TEST_AXE")
            .expect("SIGHTLINE_TEST_AXE names axe.min.js; `make browser-test` sets it");
        self.run(&format!(
            "{}; window.axe = axe;",
            std::fs::read_to_string(file).unwrap()
        ));
        let script = "const done = arguments[0];
            axe.run({ resultTypes: ['violations'] }).then(
                ({ violations }) => done(violations.map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html).join(' ')}`)),
                (error) => done([String(error)]))";
        let found = self.post("/execute/async", &json!({"script": script, "args": []}));
        assert_eq!(found, json!([]), "{name}");
    }

    /// Checks that the console has no error except those with one of the texts `allowed`, and that all requests went to
    /// the server.
    pub fn finish(self, allowed: &[&str]) {
        let log = |kind| self.post("/se/log", &json!({"type": kind}));
        for entry in log("browser").as_array().unwrap() {
            let message = entry["message"].as_str().unwrap();
            let known = allowed.iter().any(|text| message.contains(text));
            assert!(known || entry["level"] != "SEVERE", "console: {message}");
        }
        for entry in log("performance").as_array().unwrap() {
            let event: Value = serde_json::from_str(entry["message"].as_str().unwrap()).unwrap();
            let (method, parameters) = (&event["message"]["method"], &event["message"]["params"]);
            let Some(url) = parameters["request"]["url"]
                .as_str()
                .filter(|_| method == "Network.requestWillBeSent")
            else {
                continue;
            };
            let own = url.starts_with(&self.origin)
                || ["blob:", "data:", "about:"]
                    .iter()
                    .any(|start| url.starts_with(start));
            assert!(own, "a request to another host: {url}");
        }
    }
}

impl Drop for Page<'_> {
    fn drop(&mut self) {
        self.driver.delete(&self.session);
    }
}
