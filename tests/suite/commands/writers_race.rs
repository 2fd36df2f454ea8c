//! Runs exports, quantizations and loads of one model at the same time, kills some of them, and
//! checks that the old model or the new one remains.

#![allow(clippy::print_stdout, reason = "the summary of a run is its result")]

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::quantizing::text;
use crate::common::{PATIENCE, command, path, run, sightline, tiny};
use crate::reference::shared::random::Random;
use rustix::process::{Pid, Signal, kill_process};
use sightline::manifest::sha256;

/// Two checkpoints of one shape, with the first letter of the labels that are exported with them.
const CHECKPOINTS: [(&str, &str); 2] = [("zip.pth", "a"), ("fp16.pth", "b")];
/// Longest time in milliseconds between the start of a round and the start of one of its processes.
const SPREAD: usize = 30;
/// Longest time in milliseconds between the start of the last process and the first kill.
const KILL_WITHIN: usize = 150;
/// Longest time in milliseconds for which a server runs before it is stopped.
const SERVE_WITHIN: usize = 300;

/// Number of events, for the summary of a run.
type Counts = BTreeMap<&'static str, usize>;

/// A model that the processes of a round write and load.
struct Target {
    folder: tempfile::TempDir,
    /// Output path of the exports: a folder or an `.onnx` file.
    out: PathBuf,
    manifest: PathBuf,
    labels: PathBuf,
}

#[derive(Clone, Copy, PartialEq)]
enum Work {
    Export(usize),
    Quantize,
    Predict,
    Serve,
}

struct Process {
    work: Work,
    child: Child,
    stderr: PathBuf,
    killed: bool,
}

impl Target {
    fn new(out: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("models")).unwrap();
        fs::create_dir(folder.path().join("photos")).unwrap();
        let photo = folder.path().join("photos/coffee.jpg");
        fs::copy(path("photos/coffee_500x375.jpg"), photo).unwrap();
        for (_, letter) in CHECKPOINTS {
            let labels: Vec<String> = (0..10).map(|class| format!("{letter}{class}")).collect();
            fs::write(folder.path().join(letter), labels.join("\n")).unwrap();
        }
        let out = folder.path().join("models").join(out);
        let (manifest, labels) = match out.extension() {
            Some(_) => (out.with_extension("toml"), out.with_extension("labels.txt")),
            None => (out.join("model.toml"), out.join("labels.txt")),
        };
        let target = Self {
            folder,
            out,
            manifest,
            labels,
        };
        let mut first = target.start(Work::Export(0), 0);
        assert!(command::wait(&mut first.child, PATIENCE).success());
        target
    }

    fn command(&self, work: Work) -> Command {
        let out = text(&self.out);
        let photos = self.folder.path().join("photos");
        let photo = photos.join("coffee.jpg");
        match work {
            Work::Export(which) => {
                let (checkpoint, letter) = CHECKPOINTS[which];
                let weights = tiny::CHECKPOINT.replace("zip.pth", checkpoint);
                let (weights, labels) = (path(&weights), self.folder.path().join(letter));
                let files = [
                    "--weights",
                    text(&weights),
                    "--labels",
                    text(&labels),
                    "-o",
                    out,
                ];
                let all = [&["export", tiny::NETWORK, tiny::SHAPE[0]][..], &files].concat();
                sightline(&all)
            }
            Work::Quantize => {
                let fast = ["--images=1", "--method=minmax", "--max-float=0", "--force"];
                let from = [
                    "quantize",
                    text(&self.manifest),
                    "--calibration",
                    text(&photos),
                ];
                sightline(&[&from[..], &fast].concat())
            }
            Work::Predict => sightline(&["predict", "--model", out, text(&photo)]),
            Work::Serve => sightline(&["serve", "--listen", "127.0.0.1:0", "--model", out]),
        }
    }

    fn start(&self, work: Work, index: usize) -> Process {
        let stderr = self.folder.path().join(format!("stderr{index}"));
        let mut command = self.command(work);
        command.stdout(Stdio::null());
        command.stderr(fs::File::create(&stderr).unwrap());
        Process {
            work,
            child: command.spawn().unwrap(),
            stderr,
            killed: false,
        }
    }

    /// Checks that all files of the model belong together.
    ///
    /// # Errors
    /// A description of the mix.
    fn consistent(&self) -> Result<(), String> {
        let manifest = fs::read_to_string(&self.manifest).map_err(|error| error.to_string())?;
        let table: toml::Table = manifest.parse().unwrap();
        let checkpoint = table["provenance"]["checkpoint"].as_str().unwrap();
        let (_, letter) = CHECKPOINTS
            .into_iter()
            .find(|(ending, _)| checkpoint.ends_with(ending))
            .unwrap();
        let labels = fs::read_to_string(&self.labels).map_err(|error| error.to_string())?;
        if !labels.starts_with(letter) {
            return Err(format!("labels {labels} with the manifest of {checkpoint}"));
        }
        let mut files = Vec::new();
        let mut add = |entry: &toml::Value, file: &str, hash: &str| {
            files.push((
                entry[file].as_str().unwrap().to_owned(),
                entry[hash].as_str().unwrap().to_owned(),
            ));
        };
        add(&table["stages"][0], "file", "sha256");
        if let Some(int8) = table.get("variants").and_then(|v| v.get("int8")) {
            add(&int8["stages"][0], "file", "sha256");
            add(int8, "ranges", "ranges_sha256");
        }
        for (file, hash) in files {
            let content = fs::read(self.manifest.with_file_name(&file));
            if content
                .map_err(|error| format!("{file}: {error}"))
                .map(|c| sha256(&c))?
                != hash
            {
                return Err(format!("{file} is not the one of the manifest"));
            }
        }
        Ok(())
    }

    /// Returns the names of stages that are left in the model's folder and its parent.
    fn stages(&self) -> Vec<String> {
        let models = self.folder.path().join("models");
        let entries = [&models, &self.out]
            .into_iter()
            .filter_map(|f| fs::read_dir(f).ok());
        let names = entries.flatten().map(|entry| entry.unwrap().file_name());
        let names = names.map(|name| name.into_string().unwrap());
        names
            .filter(|name| name.starts_with(".sightline"))
            .collect()
    }

    /// Runs `writers` processes at the same time, kills some of them if `kill` is set, and checks the
    /// model.
    fn round(&self, writers: usize, kill: bool, random: &mut Random, counts: &mut Counts) {
        let mut processes = Vec::new();
        for index in 0..writers {
            std::thread::sleep(Duration::from_millis(random.below(SPREAD) as u64));
            // A quantization takes a hundred times as long as an export.
            let work = match random.below(40) {
                0..30 => Work::Export(random.below(2)),
                30 => Work::Quantize,
                31..36 => Work::Predict,
                _ => Work::Serve,
            };
            processes.push(self.start(work, index));
        }
        if kill {
            std::thread::sleep(Duration::from_millis(random.below(KILL_WITHIN) as u64));
            for process in &mut processes {
                if random.below(3) > 0 {
                    let signal = [Signal::KILL, Signal::TERM][usize::from(random.below(4) == 0)];
                    kill_process(Pid::from_child(&process.child), signal).unwrap();
                    process.killed = true;
                }
            }
        }
        for process in &mut processes {
            if process.work == Work::Serve && !process.killed {
                std::thread::sleep(Duration::from_millis(random.below(SERVE_WITHIN) as u64));
                let _ = kill_process(Pid::from_child(&process.child), Signal::TERM);
            }
            process.finish(counts);
        }
        // Every writer removes what killed ones have left.
        let swept = |p: &Process| matches!(p.work, Work::Export(_)) && !p.killed;
        if !kill && processes.iter().any(swept) {
            assert_eq!(self.stages(), [""; 0]);
        }
        self.check(kill, counts);
    }

    /// Checks the model after all processes have ended. `killed` says whether some were killed.
    fn check(&self, killed: bool, counts: &mut Counts) {
        let consistent = self.consistent();
        if !killed && consistent.is_ok() {
            return;
        }
        let (code, _, stderr) = run(&[
            "predict",
            "--model",
            text(&self.out),
            text(&self.folder.path().join("photos/coffee.jpg")),
        ]);
        *counts.entry("loads after a kill").or_default() += 1;
        if let Err(mix) = consistent {
            let own_folder = self.out.extension().is_none();
            assert!(killed && !own_folder, "{mix}; left: {:?}", self.stages());
            assert!(
                code == Some(1) && stderr.contains("SHA-256"),
                "{mix}: {stderr}"
            );
            *counts.entry("mixes that an error explains").or_default() += 1;
        } else {
            assert_eq!(code, Some(0), "{stderr}");
        }
    }
}

impl Process {
    /// Waits until the process ends, and checks its exit code and error.
    fn finish(&mut self, counts: &mut Counts) {
        let status = command::wait(&mut self.child, PATIENCE);
        let stderr = fs::read_to_string(&self.stderr).unwrap();
        let event = match (self.work, status.code()) {
            _ if self.killed => "killed",
            (Work::Export(_), Some(0)) => "exports",
            (Work::Quantize, Some(0)) => "quantizations",
            (Work::Predict, Some(0)) => "predictions",
            // The server may have been stopped before its handlers were registered.
            (Work::Serve, Some(0) | None) => "servers",
            (Work::Quantize | Work::Predict | Work::Serve, Some(1)) => {
                // The model was replaced between the reads of two of its files, or while it was
                // quantized.
                let explanations = ["SHA-256", "cannot read", "was changed while"];
                let explained = explanations.iter().any(|part| stderr.contains(part));
                assert!(explained, "{stderr}");
                "loads that met a new model"
            }
            (_, code) => panic!("exit code {code:?}: {stderr}"),
        };
        *counts.entry(event).or_default() += 1;
    }
}

/// Runs rounds with two and with four processes, for a model in a folder of its own and for a model
/// whose files are beside others. Prints a summary.
fn race(rounds: usize) {
    for writers in [2, 4] {
        for out in ["birds", "birds.onnx"] {
            let began = Instant::now();
            let target = Target::new(out);
            let mut random = Random::new(writers as u64);
            let mut counts = Counts::new();
            for round in 0..rounds / 2 {
                target.round(writers, round % 3 == 2, &mut random, &mut counts);
            }
            let seconds = began.elapsed().as_secs_f64();
            println!(
                "{out}, {writers} processes, {} rounds, {seconds:.0} s: {counts:?}",
                rounds / 2
            );
        }
    }
}

#[test]
fn writers_do_not_mix_their_files() {
    race(6);
}

/// The command `make writers-test` runs this test.
#[test]
#[ignore = "2,000 rounds take minutes"]
fn writers_do_not_mix_their_files_in_many_rounds() {
    let rounds = std::env::var("WRITERS_ROUNDS").ok();
    race(
        rounds
            .and_then(|rounds| rounds.parse().ok())
            .unwrap_or(1000),
    );
}
