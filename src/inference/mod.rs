//! Inference on named tensors, for any protocol: the model of the Open Inference Protocol, whose REST form is
//! `http::v2`.
//!
//! ```text
//! InferRequest ─(inputs)─> pipeline::Input ─(pipeline)─> ImageResult ─(outputs)─> InferResponse
//! ```
//!
//! Every served variant has two [`Face`]s, which are two names: the tensor face has the network's own input and outputs,
//! the image face has encoded images as its input and the task's results as its outputs. [`Target::find`] resolves a
//! name. A front end admits the request as it does every other ([`crate::admission`]), reads its message, and calls
//! [`infer`], which runs [`crate::pipeline`]. So tensors and images of all protocols wait in one queue.
//!
//! What is *not* here: types of a protocol, the encoding of messages, and status codes.

mod answer;
mod assemble;
mod describe;
mod face;
mod inputs;
mod outputs;
mod parameters;
mod run;
mod statistics;
mod tensor;

pub use describe::{
    ConfigInput, ConfigOutput, DynamicBatching, EXTENSIONS, IndexEntry, InstanceGroup, Latest,
    ModelConfig, ModelMetadata, ServerMetadata, TensorMetadata, VersionPolicy, config, index,
    metadata, readiness, server_metadata,
};
pub use face::{Face, Target, VERSION, base_name};
pub use inputs::whole_body;
pub use parameters::{Parameter, Parameters, Scheduling};
pub use run::{InferRequest, InferResponse, RequestedOutput, infer};
pub use statistics::{
    BatchStatistics, DurationCount, DurationStatistics, ModelStatistics, statistics,
};
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use tensor::split_elements;
pub use tensor::{DataType, InputTensor, OutputTensor, TensorData, elements};
