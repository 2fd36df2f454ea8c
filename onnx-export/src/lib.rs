//! Builds ONNX graphs of torchvision's networks straight from their checkpoints, without Python. The crate
//! does not run networks and has no async code.
//!
//! # A checkpoint to ONNX
//!
//! An [`Architecture`](architecture::Architecture) describes the network as data, a
//! [`StateDict`](weights::StateDict) is a checkpoint in memory, and [`build`] turns an architecture
//! and a checkpoint into a [`Model`]:
//!
//! ```
//! use onnx_export::{DEFAULT_OPSET, architecture::Architecture, build, weights::StateDict};
//!
//! let architecture: Architecture = toml::from_str(r#"
//!     num_classes = 10
//!     backbone = { kind = "mobilenet_v3", size = "small", width_mult = 0.25, bn_eps = 1e-3 }
//! "#)?;
//! let checkpoint = "tests/golden/mobilenet_v3_small-width_mult_0.25-num_classes_10.fp16.pth";
//! let state = StateDict::read(checkpoint.as_ref())?;
//! let model = build("small", &architecture, &state, DEFAULT_OPSET)?;
//! # let directory = tempfile::tempdir()?;
//! # std::env::set_current_dir(&directory)?;
//! std::fs::write("small.onnx", model.to_bytes())?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # A network of your own
//!
//! The functions of [`layers`] add nodes to a [`Graph`](graph::Graph) and read their weights from a
//! [`Scope`](graph::Scope), whose path is the path of the module in the state dict. A graph becomes
//! a [`Model`] only through [`Loader::finish`](graph::Loader::finish), which fails if a tensor of
//! the checkpoint is missing, unexpected or misshapen:
//!
//! ```
//! use onnx_export::DEFAULT_OPSET;
//! use onnx_export::graph::{Graph, Loader, ops::Conv};
//! use onnx_export::layers::{Activation, conv_bias, pool_features};
//! use onnx_export::weights::{StateDict, Tensor};
//!
//! // torch.nn.Sequential(Conv2d(3, 8, 3, stride=2, padding=1), SiLU(), pooling, Linear(8, 2))
//! let state = StateDict::from_tensors([
//!     ("0.weight".to_owned(), Tensor::from_f32(&[8, 3, 3, 3], &[0.1; 216])?),
//!     ("0.bias".to_owned(), Tensor::from_f32(&[8], &[0.0; 8])?),
//!     ("4.weight".to_owned(), Tensor::from_f32(&[2, 8], &[0.5; 16])?),
//!     ("4.bias".to_owned(), Tensor::from_f32(&[2], &[0.0; 2])?),
//! ].into());
//!
//! let loader = Loader::new(&state);
//! let root = loader.root();
//! let mut g = Graph::new(DEFAULT_OPSET);
//! let images = g.image_input("images");
//! let y = conv_bias(&mut g, &root.sub(0), images, Conv::new(8, 3).stride(2))?;
//! let y = Activation::Silu.apply(&mut g, y)?;
//! let y = pool_features(&mut g, y)?;
//! let logits = g.gemm(&root.sub(4), y, 2)?;
//! assert_eq!(g.show_shape(g.shape(logits)), "[batch, 2]");
//! g.output(logits, "logits");
//! let model = loader.finish("own", g)?;
//! assert_eq!(model.info.parameters, 242);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Modules
//!
//! ```text
//! weights::StateDict ─────────┐
//!                             ├─> Loader, Scope ─> backbones, heads ─> Graph ─> Model ─> .onnx
//! architecture::Architecture ─┘
//! ```
//!
//! 1. [`weights`] reads a checkpoint in any container into named tensors.
//! 2. [`architecture`] describes a network: backbone, head and their arguments.
//! 3. [`backbones`] and the heads in [`classification`], [`segmentation`] and [`detection`] add the nodes
//!    of a network to a [`graph::Graph`], which checks every shape.
//! 4. [`Model`] is the finished network; [`Model::to_bytes`] encodes it.
//! 5. [`quantize`] rewrites an fp32 file to an int8 file by a recipe.
//! 6. [`qat`] splits a checkpoint that was trained for int8 into the fp32 network's tensors and the recipe
//!    that training chose.
//! 7. [`fit`] says whether, and under which prefix, a checkpoint fits an architecture by names and shapes.
//! 8. [`reject_external_data`] checks that an ONNX file needs no other file, [`check_weights`] that its
//!    weights are finite.
//! 8. [`with_embedding`] makes the pooled features of a classification network one of its outputs.
//! 8. [`summary`] reads what an ONNX file states about its network, from a file of any origin.
//! 9. [`text`] escapes and cuts text from files before it is printed.
//! 10. [`proto`] contains the protobuf messages of ONNX files, for programs that read or rewrite them.

pub mod architecture;
mod assemble;
pub mod backbones;
pub mod classification;
mod detached;
pub mod detection;
mod embedding;
#[cfg(test)]
mod encoding;
mod error;
mod external;
mod finite;
pub mod fit;
#[cfg(any(test, feature = "testing"))]
pub mod formula;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod graph;
mod heads;
pub mod layers;
mod model;
mod node;
pub mod proto;
pub mod qat;
pub mod quantize;
mod read;
pub mod segmentation;
mod stages;
mod state_error;
pub mod summary;
pub mod text;
pub mod weights;
mod wire;

pub use assemble::{build, build_fused, tensor_shapes};
pub use detached::{DetachedFile, attach};
pub use detection::{FusedOptions, ProposalOptions};
pub use embedding::{EMBEDDING, with_embedding};
pub use error::{ArgumentError, BuildError};
pub use external::{ExternalDataError, reject_external_data, reject_foreign_data};
pub use finite::{NotFinite, check_weights};
pub use model::{DEFAULT_OPSET, Model, ModelInfo, OPSETS, Producer};
pub use read::{GraphReadError, WeightTensor, read_initializers};
pub use stages::{Role, Stage, Stages};
pub use wire::ProtobufError;

#[cfg(test)]
#[path = "../tests/shared/mod.rs"]
mod testing;
