//! Sightline serves torchvision's vision networks from a CPU.
//!
//! The path of one request, module by module:
//!
//! 1. [`http`]: checks the query, reads the body, and finds the encoded images in it.
//! 2. [`admission`]: reserves a place in the model's queue and memory ([`budget`]), within a deadline.
//! 3. [`pipeline`]: passes the images through the modules below, and has one file per task for its
//!    postprocessing.
//! 4. [`registry`]: the served models, loaded at start or on first use, with their labels and queues; [`registry::networks`] are their optimized graphs.
//! 5. [`image`]: decodes and preprocesses images on the bounded [`pool`].
//! 6. [`batch`]: queues images, and workers cut batches from the queue.
//! 7. [`engine`]: runs the network in ONNX Runtime.
//! 8. [`postprocess`]: turns outputs into labels, boxes or masks, which [`draw`] can draw into the image.
//!
//! Other modules: [`store`] and [`catalogue`] find models, which [`manifest`] describes and [`inspect`]
//! checks; [`cache`] keeps optimized networks; [`download`] fetches checkpoints for the command line; [`evaluate`]
//! computes the accuracy of results against annotations; [`inference`] and [`grpc`] speak the Open Inference Protocol;
//! [`nearest`] corrects misspelt names; [`random`] has pseudo-random numbers; [`config`], [`defaults`], [`memory`],
//! [`threads`] and [`cpu`] plan a deployment, and [`plan`] its number of replicas; [`keys`] checks API keys; [`metrics`]
//! and [`process`] measure the running server, which [`identity`] names; [`error`] unites the errors of all layers that a
//! request passes.

pub mod admission;
pub mod app;
pub mod batch;
pub mod budget;
pub mod cache;
pub mod cancel;
pub mod catalogue;
pub mod config;
pub mod cores;
pub mod cpu;
pub mod defaults;
pub mod download;
pub mod draw;
mod encode;
pub mod engine;
pub mod error;
pub mod evaluate;
pub mod geometry;
pub mod grpc;
pub mod helpers;
pub mod http;
pub mod identity;
pub mod image;
pub mod inference;
pub mod inspect;
pub mod keys;
pub mod manifest;
pub mod memory;
pub mod metrics;
pub mod nearest;
mod parameters;
pub mod pipeline;
pub mod plan;
pub mod pool;
pub mod postprocess;
pub mod process;
pub mod quantize;
pub mod random;
pub mod registry;
mod simd;
pub mod store;
pub mod telemetry;
pub mod threads;
pub mod tls;

#[cfg(test)]
#[path = "../tests/suite/reference/shared/mod.rs"]
mod testing;
