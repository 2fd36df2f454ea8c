//! The process `chromedriver`, and commands of WebDriver.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::PATIENCE;

/// A running chromedriver. Dropping the value ends it and its browsers.
pub struct Driver {
    child: Child,
    /// Base URL of the commands.
    url: String,
    agent: ureq::Agent,
}

impl Driver {
    /// Starts `chromedriver`, or the program that `CHROMEDRIVER` names, on a free port.
    pub fn start() -> Self {
        let program = std::env::var_os("CHROMEDRIVER").unwrap_or_else(|| "chromedriver".into());
        let mut command = Command::new(&program);
        command
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = command.spawn().unwrap_or_else(|error| {
            panic!(
                "cannot start {}: {error}; Debian: apt-get install chromium-driver",
                program.display()
            )
        });
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let port = lines.map_while(Result::ok).find_map(|line| {
            let (_, port) = line.split_once("started successfully on port ")?;
            Some(port.trim_end_matches('.').to_owned())
        });
        let port = port.expect("chromedriver prints its port");
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(3 * PATIENCE));
        let (url, agent) = (format!("http://127.0.0.1:{port}"), config.build().into());
        Self { child, url, agent }
    }

    /// Sends `POST path` with `body` and returns the value of the response. Panics if the driver returns an error.
    pub fn post(&self, path: &str, body: &Value) -> Value {
        let request = self.agent.post(format!("{}{path}", self.url));
        let response = request
            .content_type("application/json")
            .send(body.to_string());
        Self::value(path, response)
    }

    /// Sends `GET path` and returns the value of the response. Panics if the driver returns an error.
    pub fn get(&self, path: &str) -> Value {
        Self::value(path, self.agent.get(format!("{}{path}", self.url)).call())
    }

    /// Sends `DELETE path`.
    pub fn delete(&self, path: &str) {
        let _ = self.agent.delete(format!("{}{path}", self.url)).call();
    }

    fn value(path: &str, response: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Value {
        let mut response = response.unwrap_or_else(|error| panic!("{path}: {error}"));
        let text = response
            .body_mut()
            .with_config()
            .limit(64 << 20)
            .read_to_string()
            .unwrap();
        let mut body: Value = serde_json::from_str(&text).unwrap();
        assert!(
            response.status().is_success(),
            "{path}: {}",
            body["value"]["message"]
        );
        body["value"].take()
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
