//! Messages and services of the Open Inference Protocol over gRPC.
//!
//! The code is generated from `proto/inference.proto`. The elements of raw tensors are [`bytes::Bytes`], which share the
//! memory of the message that they came in.
//!
//! ```
//! use open_inference::ModelReadyRequest;
//! use prost::Message;
//!
//! let request = ModelReadyRequest {
//!     name: "resnet50".to_owned(),
//!     version: String::new(),
//! };
//! let read = ModelReadyRequest::decode(&*request.encode_to_vec())?;
//! assert_eq!(read.name, "resnet50");
//! # Ok::<(), prost::DecodeError>(())
//! ```

pub mod codec;
pub mod limits;

mod generated {
    #![allow(
        clippy::pedantic,
        missing_docs,
        unreachable_pub,
        reason = "generated code; the comments of the protocol describe only what its names do not say"
    )]
    tonic::include_proto!("inference");
}

pub use generated::*;

/// The encoded `FileDescriptorSet` of the protocol, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// The name of the service, which begins the paths of its methods.
pub const SERVICE: &str = "inference.GRPCInferenceService";
