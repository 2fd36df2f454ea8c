//! Commands of the binary, each as a process: their output, files, errors and exit codes.

mod bench;
mod cli;
mod closed_pipes;
mod config_check;
mod configuration;
mod download;
mod environment;
mod evaluate;
mod keep;
mod plan;
mod predict_bulk;
mod pull;
mod quantize;
mod quantize_gate;
mod quantize_refused;
mod trained;
mod untrusted_files;
mod untrusted_models;
mod writers;
mod writers_race;
