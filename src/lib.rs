//! Sightline serves torchvision's vision networks from a CPU.
//!
//! One request's path, module by module:
//!
//! 1. [`http`]: the body becomes compressed pictures, the query becomes a validated request.
//! 2. [`pipeline`]: walks a request through everything below, a file for each task.
//! 3. [`registry`]: the model, its labels, its queue; [`networks`] are what it runs.
//! 4. [`image`]: pictures are decoded and preprocessed on the bounded [`pool`].
//! 5. [`batch`]: the queue, and the workers that cut batches from it.
//! 6. [`engine`]: ONNX Runtime runs the network.
//! 7. [`postprocess`]: the network's output becomes an answer, which [`http`] sends, perhaps as a picture
//!    ([`draw`]).
//!
//! Beside the path: [`store`] and [`catalogue`] find models, which [`manifest`] describes, [`config`], [`threads`] and [`cpu`] plan a
//! deployment, [`metrics`] and [`process`] measure it, [`error`] is the union of what can go wrong.

pub mod app;
pub mod batch;
pub mod budget;
pub mod catalogue;
pub mod config;
pub mod cpu;
pub mod draw;
pub mod engine;
pub mod error;
pub mod http;
pub mod image;
pub mod int8;
pub mod manifest;
pub mod metrics;
pub mod networks;
pub mod pipeline;
pub mod pool;
pub mod postprocess;
pub mod process;
pub mod quantize;
pub mod registry;
mod simd;
pub mod store;
pub mod threads;
