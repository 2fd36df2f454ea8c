//! The findings of an inspection, with what to do about each.

use std::path::PathBuf;

use onnx_export::summary::Port;
use onnx_export::text::shown;
use onnx_export::{ExternalDataError, NotFinite};
use thiserror::Error;

use super::label_hint;
use crate::manifest::Activation;

/// Maximum number of inputs or outputs that a finding lists.
const LISTED: usize = 8;

/// Something about an ONNX file that its manifest must state, or that keeps the file from being
/// served. The message says what was expected, what the file has, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Finding {
    /// The network does not have exactly one input.
    #[error(
        "the network must have one input, a batch of images: expected float32 [N, 3, H, W], got {got}; \
         export the network with the images as its only input"
    )]
    Inputs {
        /// The inputs.
        got: String,
    },
    /// The input is not float32.
    #[error(
        "the input `{}` has the wrong data type: expected float32 [N, 3, H, W], got {got}; {advice}",
        shown(name)
    )]
    InputType {
        /// Name of the input.
        name: String,
        /// Data type and shape of the input.
        got: String,
        /// How to get a float32 input.
        advice: &'static str,
    },
    /// The input is not `[N, 3, H, W]`.
    #[error(
        "the input `{}` has the wrong shape: expected float32 [N, 3, H, W], got {got}; {advice}",
        shown(name)
    )]
    InputShape {
        /// Name of the input.
        name: String,
        /// Data type and shape of the input.
        got: String,
        /// How to get an input of this shape.
        advice: String,
    },
    /// The input has a fixed batch size other than 1.
    #[error(
        "the network has a fixed batch size: expected 1 or a dynamic one, got {got}; export it with \
         `dynamic_axes={{\"{}\": {{0: \"batch\"}}}}` in torch.onnx.export, or with a batch of one image",
        shown(name)
    )]
    FixedBatch {
        /// Name of the input.
        name: String,
        /// Batch size of the network.
        got: u64,
    },
    /// The input has a fixed size that is not the size of the preprocessed images.
    #[error(
        "the network reads images of {expected} pixels (width x height) only, but `[preprocess]` of \
         model.toml makes images of {got}: write {lines}, or export the network with dynamic sizes"
    )]
    Size {
        /// Width and height that the network reads.
        expected: String,
        /// Width and height after preprocessing.
        got: String,
        /// The lines of `[preprocess]`.
        lines: String,
    },
    /// The file says that the network reads the channels in the order blue, green, red.
    #[error(
        "{place} mentions BGR, but `[preprocess]` of model.toml does not state the order of the \
         channels: write `channel_order = \"bgr\"`, with `mean` and `std` in that order, or \
         `channel_order = \"rgb\"` if the network reads RGB"
    )]
    ChannelOrder {
        /// Where the file mentions the order.
        place: String,
    },
    /// A classification network has several outputs.
    #[error(
        "a classification network must have one output: expected float32 [N, classes], got {got}; \
         export the network with the logits as its only output"
    )]
    Outputs {
        /// The outputs.
        got: String,
    },
    /// The output that the task reads is not float32.
    #[error(
        "the output `{}` has the wrong data type: expected float32 {expected}, got {got}; {advice}",
        shown(name)
    )]
    OutputType {
        /// Name of the output.
        name: String,
        /// Shape of the output that the task reads.
        expected: &'static str,
        /// Data type and shape of the output.
        got: String,
        /// How to get a float32 output.
        advice: &'static str,
    },
    /// The output does not have the shape that the task reads.
    #[error(
        "the output `{}` has the wrong shape: expected float32 {expected}, got {got}; {advice}",
        shown(name)
    )]
    OutputShape {
        /// Name of the output.
        name: String,
        /// Shape of the output that the task reads.
        expected: &'static str,
        /// Data type and shape of the output.
        got: String,
        /// How to get an output of this shape.
        advice: &'static str,
    },
    /// The label file has another number of lines than the network has classes.
    #[error(
        "{} has {labels} labels, but the network has {classes} classes: expected one label per class, \
         in the order of the class ids; {}",
        .file.display(),
        label_hint(*.classes, *.labels)
    )]
    Labels {
        /// The label file, as the manifest names it.
        file: PathBuf,
        /// Number of classes of the network.
        classes: u64,
        /// Number of lines of the label file.
        labels: u64,
    },
    /// The network ends in an activation that the manifest does not state.
    #[error(
        "the network ends in {operator}, so its output `{}` already holds the scores, but model.toml \
         states {}: write `activation = \"{}\"` above the first section, or export the network \
         without {operator}",
        shown(name),
        show_activation(*.stated),
        .found.as_str()
    )]
    Activation {
        /// Name of the output.
        name: String,
        /// The operator.
        operator: &'static str,
        /// Activation that the manifest states; `None` if it states none.
        stated: Option<Activation>,
        /// Activation of the network.
        found: Activation,
    },
    /// The outputs suggest no task of a user's own ONNX file.
    #[error(
        "{}, got {got}",
        if *.detector {
            "a detector is served only from its checkpoint, because the anchors are part of its \
             manifest: `sightline models` lists the detectors, `sightline export` converts them; \
             expected float32 [N, classes] or [N, classes, H, W]"
        } else {
            "the outputs fit no task: expected one output float32 [N, classes] for classification, or \
             a first output float32 [N, classes, H, W] for segmentation"
        }
    )]
    Task {
        /// Whether the outputs are those of a detector.
        detector: bool,
        /// The outputs.
        got: String,
    },
    /// A tensor has its elements in another file.
    #[error(transparent)]
    External(ExternalDataError),
    /// A weight is NaN or infinite.
    #[error(transparent)]
    NotFinite(NotFinite),
}

impl Finding {
    /// Returns a stable identifier of the kind of finding.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Inputs { .. } => "inputs",
            Self::InputType { .. } => "input_type",
            Self::InputShape { .. } => "input_shape",
            Self::FixedBatch { .. } => "fixed_batch",
            Self::Size { .. } => "size",
            Self::ChannelOrder { .. } => "channel_order",
            Self::Outputs { .. } => "outputs",
            Self::OutputType { .. } => "output_type",
            Self::OutputShape { .. } => "output_shape",
            Self::Labels { .. } => "labels",
            Self::Activation { .. } => "activation",
            Self::Task { .. } => "task",
            Self::External(_) => "external_data",
            Self::NotFinite(_) => "not_finite",
        }
    }
}

/// Returns what a manifest states about the activation, for a message.
fn show_activation(activation: Option<Activation>) -> String {
    match activation {
        None => "no `activation`, which means logits".to_owned(),
        Some(activation) => format!("`activation = \"{}\"`", activation.as_str()),
    }
}

/// Lists inputs or outputs with their types for a message, such as
/// `` 2 (`a` float32 [1, 3], `b` int64 [1]) ``.
pub(super) fn ports(ports: &[Port]) -> String {
    let mut list: Vec<String> = ports.iter().take(LISTED).map(port).collect();
    if ports.len() > LISTED {
        list.push("...".to_owned());
    }
    match list.len() {
        0 => "none".to_owned(),
        _ => format!("{} ({})", ports.len(), list.join(", ")),
    }
}

/// Returns name and type of an input or output for a message.
fn port(port: &Port) -> String {
    let kind = port.tensor.as_ref();
    let kind = kind.map_or("not a dense tensor".to_owned(), ToString::to_string);
    format!("`{}` {kind}", shown(&port.name))
}
