//! Runs the examples of `docs/clients.md` as they are written there, each whose programs and packages are present, and
//! tells which ones it has skipped.
//!
//! An example is a code block in one of the [`LANGUAGES`]. A comment of HTML before it can say what it prints,
//! `<!-- prints: TEXT -->`, what it needs besides its language, `<!-- needs: PROGRAM -->`, or why it is not run,
//! `<!-- not run: REASON -->`.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::common::{self, Server};
use crate::reference::shared::skip;

/// Languages of examples. Blocks in others, such as configurations, are not run.
const LANGUAGES: [&str; 4] = ["sh", "python", "js", "go"];
/// The addresses of the examples, in place of which the test has its own.
const HTTP: &str = "127.0.0.1:8080";
const GRPC: &str = "127.0.0.1:8001";
/// Status with which the shell reports a program that does not exist.
const NOT_FOUND: i32 = 127;

/// A code block of the page.
#[derive(Debug, Default)]
struct Example {
    /// Line of the page at which it begins.
    line: usize,
    language: String,
    code: String,
    /// Texts that it prints.
    prints: Vec<String>,
    /// Programs that it needs.
    needs: Vec<String>,
    /// Why it is not run.
    not_run: Option<String>,
}

/// Returns the examples of `page`.
fn examples(page: &str) -> Vec<Example> {
    let mut examples = Vec::new();
    let mut next = Example::default();
    let mut inside = false;
    for (index, line) in page.lines().enumerate() {
        let comment = line
            .strip_prefix("<!-- ")
            .and_then(|l| l.strip_suffix(" -->"));
        if inside && line == "```" {
            inside = false;
            examples.push(std::mem::take(&mut next));
        } else if inside {
            next.code += line;
            next.code += "\n";
        } else if let Some(language) = line.strip_prefix("```") {
            inside = true;
            (next.line, next.language) = (index + 1, language.to_owned());
        } else if let Some((kind, value)) = comment.and_then(|comment| comment.split_once(": ")) {
            match kind {
                "prints" => next.prints.push(value.to_owned()),
                "needs" => next.needs.push(value.to_owned()),
                "not run" => next.not_run = Some(value.to_owned()),
                _ => panic!("line {}: unknown comment {line}", index + 1),
            }
        }
    }
    examples.retain(|example| LANGUAGES.contains(&&*example.language));
    examples
}

/// The servers of the examples and the folder in which they run.
struct Scene {
    server: Server,
    grpc: String,
    folder: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        let server = Server::start(&["--grpc-listen", "127.0.0.1:0"]);
        let grpc = server.printed("gRPC on ").trim().to_owned();
        let folder = tempfile::tempdir().unwrap();
        let photo = common::path("photos/coffee_500x375.jpg");
        std::fs::copy(&photo, folder.path().join("photo.jpg")).unwrap();
        let photos = folder.path().join("photos");
        std::fs::create_dir(&photos).unwrap();
        for name in ["coffee.png", "chelsea.png", "rocket.jpg"] {
            std::fs::copy(common::path("photos").join(name), photos.join(name)).unwrap();
        }
        let proto = Path::new(env!("CARGO_MANIFEST_DIR")).join("open-inference/proto");
        std::fs::copy(
            proto.join("inference.proto"),
            folder.path().join("inference.proto"),
        )
        .unwrap();
        Self {
            server,
            grpc,
            folder,
        }
    }

    /// Runs `example`. Returns why it was skipped; `None` if it has passed.
    fn run(&self, example: &Example) -> Option<String> {
        if let Some(reason) = &example.not_run {
            return Some(reason.clone());
        }
        if let Some(missing) = example.needs.iter().find(|program| !is_installed(program)) {
            return Some(format!("{missing} is not installed"));
        }
        let code = example.code.replace(HTTP, &self.server.address.to_string());
        let code = code.replace(GRPC, &self.grpc);
        let output = match &*example.language {
            "sh" => self.command("bash", &["-euo", "pipefail", "-c", &code]),
            "python" => match std::env::var("SIGHTLINE_TEST_TRITONCLIENT") {
                Ok(python) => self.script(&python, "example.py", &code, &["photos", "photo.jpg"]),
                Err(_) => return Some("SIGHTLINE_TEST_TRITONCLIENT names no Python".to_owned()),
            },
            "js" if is_installed("node") => self.script("node", "example.mjs", &code, &[]),
            "go" if is_installed("go") => {
                // The packages of gRPC, which the example of the shell before has not fetched.
                std::fs::write(self.folder.path().join("main.go"), &code).unwrap();
                let fetched = self.command("go", &["mod", "tidy"]);
                if !fetched.status.success() {
                    return Some("`go mod tidy` cannot fetch the packages of gRPC".to_owned());
                }
                self.command("go", &["run", "."])
            }
            language => return Some(format!("{language} is not installed")),
        };
        let shown = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
        if let Some(missing) = shown[1].lines().find_map(missing_module) {
            return Some(missing);
        }
        let line = example.line;
        assert_ne!(
            output.status.code(),
            Some(NOT_FOUND),
            "line {line}: {shown:?}"
        );
        assert!(output.status.success(), "line {line}: {shown:?}");
        for text in &example.prints {
            assert!(
                shown[0].contains(text),
                "line {line}: no `{text}` in {shown:?}"
            );
        }
        None
    }

    /// Runs `program` with `code` in the file `name`.
    fn script(&self, program: &str, name: &str, code: &str, arguments: &[&str]) -> Output {
        std::fs::write(self.folder.path().join(name), code).unwrap();
        self.command(program, &[&[name], arguments].concat())
    }

    fn command(&self, program: &str, arguments: &[&str]) -> Output {
        let mut command = Command::new(program);
        // The example calls the client `sightline` by its name.
        let binary = PathBuf::from(env!("CARGO_BIN_EXE_sightline"));
        let path = std::env::var("PATH").unwrap_or_default();
        let path = format!("{}:{path}", binary.parent().unwrap().display());
        let command = command.args(arguments).env("PATH", path);
        command.current_dir(self.folder.path()).output().unwrap()
    }
}

/// Returns whether the shell finds `program`.
fn is_installed(program: &str) -> bool {
    let script = format!("command -v {program}");
    let found = Command::new("sh").args(["-c", &script]).output();
    found.is_ok_and(|found| found.status.success())
}

/// Returns why an example was skipped, if `line` of its errors says that a package of Python is missing.
fn missing_module(line: &str) -> Option<String> {
    let name = line.strip_prefix("ModuleNotFoundError: No module named ")?;
    Some(format!("the Python package {name} is not installed"))
}

#[test]
fn examples_work_as_they_are_written() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/clients.md");
    let examples = examples(&std::fs::read_to_string(page).unwrap());
    assert!(examples.len() > 8, "{examples:?}");
    let scene = Scene::new();
    let mut passed = 0;
    for example in &examples {
        let Example { line, language, .. } = example;
        match scene.run(example) {
            None => passed += 1,
            Some(reason) => {
                skip::announce(&format!("docs/clients.md:{line} ({language})"), &reason);
            }
        }
    }
    eprintln!("{passed} of {} examples have run", examples.len());
    // curl is everywhere where this test runs.
    assert!(passed >= 2, "{passed}");
}
