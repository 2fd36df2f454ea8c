//! Checkpoints in, ONNX out.

pub mod formula;
pub mod manifest;
pub mod weights;
