//! Checks of a network's outputs: logits or scores of the classes that the labels name.

use onnx_export::EMBEDDING;
use onnx_export::proto::FLOAT;
use onnx_export::summary::{Axis, Port, Summary, TensorType};

use super::Finding;
use super::finding::ports;
use super::input::{FLOAT16, FROM_FLOAT16};
use crate::manifest::{Activation, ModelManifest, Task};

/// Output of a classification network, for messages.
const CLASSIFICATION: &str = "[N, classes]";
/// Output of a segmentation network, for messages.
const SEGMENTATION: &str = "[N, classes, H, W]";

/// Returns what is wrong with the outputs of a classification or segmentation network.
pub(super) fn check(summary: &Summary, manifest: &ModelManifest, labels: usize) -> Vec<Finding> {
    let task = manifest.task;
    let answers = summary
        .outputs
        .iter()
        .filter(|output| output.name != EMBEDDING);
    if task == Task::Classification && answers.count() > 1 {
        return vec![Finding::Outputs {
            got: ports(&summary.outputs),
        }];
    }
    let Some(output) = primary(summary, task) else {
        return Vec::new();
    };
    let mut findings = Vec::new();
    if let Some(tensor) = &output.tensor {
        findings.extend(check_type(output, tensor, task));
        findings.extend(check_shape(output, tensor, task));
    }
    let classes = classes(output, task);
    if let Some(classes) = classes.filter(|classes| *classes != labels as u64) {
        findings.push(Finding::Labels {
            file: manifest.labels.clone(),
            classes,
            labels: labels as u64,
        });
    }
    if task == Task::Classification {
        findings.extend(check_activation(output, manifest.activation));
    }
    findings
}

/// Returns the output that a task reads: for segmentation the output `out` if there is one, else the
/// first one.
fn primary(summary: &Summary, task: Task) -> Option<&Port> {
    let named = |name: &str| summary.outputs.iter().find(|output| output.name == name);
    let out = (task == Task::Segmentation).then(|| named("out")).flatten();
    out.or_else(|| summary.outputs.first())
}

/// Returns the number of axes of the output that a task reads.
fn rank(task: Task) -> usize {
    if task == Task::Segmentation { 4 } else { 2 }
}

fn expected(task: Task) -> &'static str {
    if task == Task::Segmentation {
        SEGMENTATION
    } else {
        CLASSIFICATION
    }
}

/// Returns the fixed number of classes of an output. `None` if the file does not state it.
fn classes(output: &Port, task: Task) -> Option<u64> {
    let shape = output.shape().filter(|shape| shape.len() == rank(task))?;
    shape[1].fixed()
}

fn check_type(output: &Port, tensor: &TensorType, task: Task) -> Option<Finding> {
    let ends_in = |operator: &str| output.trail.last().is_some_and(|last| last == operator);
    let advice = match tensor.data_type {
        FLOAT => return None,
        FLOAT16 => FROM_FLOAT16,
        _ if ends_in("ArgMax") => "the network ends in ArgMax: export it without",
        _ => "export the network with float32 logits as its first output",
    };
    Some(Finding::OutputType {
        name: output.name.clone(),
        expected: expected(task),
        got: tensor.to_string(),
        advice,
    })
}

fn check_shape(output: &Port, tensor: &TensorType, task: Task) -> Option<Finding> {
    let shape = tensor.shape.as_ref()?;
    if tensor.data_type != FLOAT || shape.len() == rank(task) {
        return None;
    }
    let advice = match (task, shape.len()) {
        (Task::Classification, 4) => {
            "for pooled features of one pixel add `torch.nn.Flatten(1)`; a network with a map of \
             classes needs `task = \"segmentation\"`"
        }
        (Task::Segmentation, 2) => {
            "a network with one score per class needs `task = \"classification\"`"
        }
        (Task::Segmentation, 3) => "add the axis of the batch",
        _ => "export the network with logits of this shape",
    };
    Some(Finding::OutputShape {
        name: output.name.clone(),
        expected: expected(task),
        got: tensor.to_string(),
        advice,
    })
}

/// Compares the operator in which the network ends with the activation that the manifest states. A
/// final `LogSoftmax` needs no statement: the softmax of log probabilities are the probabilities.
fn check_activation(output: &Port, stated: Option<Activation>) -> Option<Finding> {
    let (operator, found) = final_activation(output)?;
    if stated == Some(found) {
        return None;
    }
    Some(Finding::Activation {
        name: output.name.clone(),
        operator,
        stated,
        found,
    })
}

/// Returns the operator that turns logits into the scores of `output`, if the network ends in one.
fn final_activation(output: &Port) -> Option<(&'static str, Activation)> {
    Some(match output.trail.last()?.as_str() {
        "Softmax" => ("Softmax", Activation::Softmax),
        "Sigmoid" => ("Sigmoid", Activation::Sigmoid),
        _ => return None,
    })
}

/// Returns the task that the outputs suggest. `None` if they suggest none, or if the file does not
/// state their shapes.
pub fn likely_task(summary: &Summary) -> Option<Task> {
    let outputs = &summary.outputs;
    let has = |start: &str| outputs.iter().any(|output| output.name.starts_with(start));
    let boxes = has("boxes") && (has("scores") || has("labels"));
    if boxes || has("bbox_regression") || has("box_regression") || has("class_logits") {
        return Some(Task::Detection);
    }
    let first = primary(summary, Task::Segmentation)?;
    let shape = first.shape()?;
    if first.trail.last().is_some_and(|last| last == "ArgMax") {
        return Some(if shape.len() < 3 {
            Task::Classification
        } else {
            Task::Segmentation
        });
    }
    let is_pixel = |axes: &[Axis]| axes.iter().all(|axis| axis.fixed() == Some(1));
    match shape.len() {
        2 => Some(Task::Classification),
        4 if is_pixel(&shape[2..]) => Some(Task::Classification),
        4 => Some(Task::Segmentation),
        // Boxes and class scores by anchor, as of YOLO and SSD.
        3 if outputs
            .iter()
            .any(|output| output.shape().is_some_and(has_boxes)) =>
        {
            Some(Task::Detection)
        }
        _ => None,
    }
}

/// Returns the number of classes of the output that `task` reads, if the file states it.
pub(super) fn class_count(summary: &Summary, task: Task) -> Option<u64> {
    classes(primary(summary, task)?, task)
}

/// Returns the activation in which a classification network ends.
pub(super) fn activation(summary: &Summary) -> Option<Activation> {
    let (_, activation) = final_activation(primary(summary, Task::Classification)?)?;
    Some(activation)
}

/// Returns the likely reason why `labels` is not `classes`, and what to do.
pub(super) fn label_hint(classes: u64, labels: u64) -> &'static str {
    match (classes.checked_sub(labels), labels.checked_sub(classes)) {
        _ if labels == 0 => "the file is empty: write one label per line",
        (Some(1), _) => {
            "if class 0 of the network is the background, add a first line such as `__background__`"
        }
        (_, Some(1)) => {
            "remove the line of a background class that the network does not have, or an empty line at \
             the end"
        }
        _ => "check that the file belongs to this network",
    }
}

/// Returns whether an output has the shape of boxes by anchor: `[N, anchors, 4 or more]`, or the
/// other way round.
fn has_boxes(shape: &[Axis]) -> bool {
    matches!(shape, [_, one, other] if one.fixed().max(other.fixed()) >= Some(100))
}
