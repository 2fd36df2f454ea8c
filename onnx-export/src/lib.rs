//! Checkpoints in, ONNX out.

pub mod manifest;
pub mod weights;
