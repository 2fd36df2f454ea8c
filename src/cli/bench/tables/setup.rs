//! What tables were measured with: the software, the CPU and the day.

use std::path::Path;

use serde::Serialize;
use sightline::cpu::vector_features;
use sightline::engine::OnnxRuntime;

use crate::cli::eval::today;

/// Begin of the names of the symbol versions in ONNX Runtime's library. The number of the release follows.
const SYMBOLS: &[u8] = b"VERS_";
/// Instruction sets that decide about the speed: the name that Linux gives them, and the one that people know.
const INSTRUCTIONS: [(&str, &str); 10] = [
    ("avx2", "AVX2"),
    ("avx512f", "AVX-512"),
    ("avx512_vnni", "VNNI"),
    ("avx_vnni", "VNNI"),
    ("avx512_bf16", "bf16"),
    ("amx_int8", "AMX"),
    ("asimddp", "dot product"),
    ("i8mm", "i8mm"),
    ("bf16", "bf16"),
    ("sve", "SVE"),
];

/// What the tables were measured with.
#[derive(Debug, Serialize)]
pub(super) struct Setup {
    pub(super) sightline: &'static str,
    /// Version of ONNX Runtime, or the name of its library's file if that does not say.
    pub(super) onnxruntime: String,
    /// Name of the CPU, or its architecture if the name is not known.
    pub(super) cpu: String,
    /// Its instruction sets.
    pub(super) instructions: Vec<&'static str>,
    pub(super) threads: usize,
    /// The day, `YYYY-MM-DD` in UTC.
    pub(super) date: String,
}

impl Setup {
    pub(super) fn new(runtime: &OnnxRuntime) -> Self {
        Self {
            sightline: env!("CARGO_PKG_VERSION"),
            onnxruntime: library(runtime.library()),
            cpu: cpu(),
            instructions: instructions(&vector_features().unwrap_or_default()),
            threads: 1,
            date: today(),
        }
    }

    /// Returns the CPU and its instruction sets.
    pub(super) fn machine(&self) -> String {
        if self.instructions.is_empty() {
            return self.cpu.clone();
        }
        format!("{} ({})", self.cpu, self.instructions.join(", "))
    }
}

/// Returns the name and version of the library at `path`, or only the name of its file.
fn library(path: &Path) -> String {
    let content = std::fs::read(path).unwrap_or_default();
    match release(&content) {
        Some(version) => format!("ONNX Runtime {version}"),
        None => path.file_name().unwrap_or_default().display().to_string(),
    }
}

/// Returns the version in the first symbol version of the library `content`. `None` if there is none.
fn release(content: &[u8]) -> Option<String> {
    let starts = content.windows(SYMBOLS.len()).enumerate();
    let mut starts = starts.filter(|(_, window)| *window == SYMBOLS);
    starts.find_map(|(at, _)| {
        let rest = content.get(at + SYMBOLS.len()..)?;
        let is_part = |byte: &&u8| byte.is_ascii_digit() || **byte == b'.';
        let version: Vec<u8> = rest.iter().take(16).take_while(is_part).copied().collect();
        let version = String::from_utf8(version).ok()?;
        version.contains('.').then_some(version)
    })
}

/// Returns the name of the CPU without the signs of trademarks, or its architecture if the name is not known.
fn cpu() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info
        .lines()
        .find_map(|line| line.strip_prefix("model name"));
    let name = name.map(|name| name.trim_start_matches([' ', '\t', ':']).trim());
    let name = name.unwrap_or(std::env::consts::ARCH);
    name.replace("(R)", "").replace("(TM)", "")
}

/// Returns those of the instruction sets `features` that decide about the speed, by the names that people know.
fn instructions(features: &str) -> Vec<&'static str> {
    let features: Vec<&str> = features.split(' ').collect();
    let mut known = Vec::new();
    for (feature, name) in INSTRUCTIONS {
        if features.contains(&feature) && !known.contains(&name) {
            known.push(name);
        }
    }
    if known.contains(&"AVX-512") {
        known.retain(|name| *name != "AVX2");
    }
    known
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_a_library_is_that_of_its_symbols() {
        let cases: [(&[u8], Option<&str>); 5] = [
            (b"\0VERS_1.30.0\0", Some("1.30.0")),
            (b"VERS_ VERS_x\0VERS_1.2", Some("1.2")),
            (b"VERS_", None),
            (b"VERS", None),
            (b"", None),
        ];
        for (content, expected) in cases {
            assert_eq!(release(content).as_deref(), expected, "{content:?}");
        }
        assert_eq!(library(Path::new("/nowhere/lib.so")), "lib.so");
    }

    #[test]
    fn instruction_sets_have_known_names_once() {
        let xeon = "amx_int8 avx avx2 avx512_bf16 avx512_vnni avx512f avx_vnni fma";
        assert_eq!(instructions(xeon), ["AVX-512", "VNNI", "bf16", "AMX"]);
        assert_eq!(instructions("avx avx2 fma"), ["AVX2"]);
        assert_eq!(instructions(""), [""; 0]);
    }
}
