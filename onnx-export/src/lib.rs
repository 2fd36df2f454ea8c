//! Checkpoints in, ONNX out: no inference, no async, no Python.
//!
//! ```text
//! weights::StateDict ──┐
//!                      ├─> Loader/Scope ─> architecture ─> Graph ─> Model ─> bytes of an .onnx file
//! architecture::Architecture ┘   (strict)       (tables)      (checked)
//! ```
//!
//! 1. [`weights`] reads a checkpoint, whatever its container, into named tensors.
//! 2. [`architecture`] describes the network that they belong to: backbone, head and arguments.
//! 3. [`backbones`] hold the trunks as tables, `classification`, `segmentation` and `detection` the
//!    heads on them; they take weights from a [`graph::Scope`], whose path is the state dict's, and add nodes
//!    to a [`graph::Graph`], which checks every shape at once.
//! 4. [`qat`] takes a checkpoint that was trained for int8 apart, into the float network's tensors and the
//!    scales that training chose, and says with those how it becomes an int8 network.
//! 5. [`Model`] is the finished graph with its opset and metadata; [`Model::to_bytes`] encodes it.
//! 6. [`quantize`] turns the bytes of a float file and a recipe into those of an int8 one.
//! 7. [`lower`] rewrites what a runtime has made of an int8 file, in memory, for kernels of our own.

pub mod architecture;
pub mod backbones;
mod check;
mod classification;
mod detection;
mod error;
pub mod formula;
pub mod graph;
mod layers;
pub mod lower;
mod model;
mod proto;
pub mod qat;
pub mod quantize;
mod read;
mod segmentation;
mod stages;
pub mod weights;

pub use detection::{FusedOptions, ProposalOptions};
pub use error::{ArgumentError, BuildError};
pub use model::{DEFAULT_OPSET, Model, ModelInfo, OPSETS, build, build_fused, tensor_shapes};
pub use read::{GraphReadError, WeightTensor, read_initializers};
pub use stages::{Role, Stage, Stages};
