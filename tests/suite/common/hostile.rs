//! Networks whose runs depend on the values of the image, for tests with hostile models. The load test uses them, too.

use super::onnx::{BOOL, FLOAT, INT64, Message, floats, graph, graph_attribute, int, node, value};

/// Returns a graph with three logits. The nodes `work` compute the scalar `result` from the scalar `mean`, the mean
/// value of all images, and from `constants`.
pub fn network(work: &[Message], constants: &[Message]) -> Message {
    let pooled = node("GlobalAveragePool", "images", "pooled", &[]);
    let mut nodes = vec![
        node("ReduceMean", "images", "mean", &[int("keepdims", 0)]),
        pooled,
        node("Flatten", "pooled", "flat", &[]),
    ];
    nodes.extend_from_slice(work);
    nodes.push(node("Mul", "result zero", "nothing", &[]));
    nodes.push(node("Add", "flat nothing", "logits", &[]));
    let mut all = vec![floats("zero", &[], &[0.0])];
    all.extend_from_slice(constants);
    let input = value("images", FLOAT, &[0, 3, 8, 8]);
    graph(&nodes, &all, &[input], &[value("logits", FLOAT, &[0, 3])])
}

/// Returns a network with a loop that never ends if the mean value of the images is above `threshold`.
pub fn endless_above(threshold: f32) -> Message {
    let body = graph(
        &[
            node("Identity", "go_on", "go_on_again", &[]),
            node("Identity", "carried", "carried_on", &[]),
        ],
        &[],
        &[
            value("iteration", INT64, &[]),
            value("go_on", BOOL, &[]),
            value("carried", FLOAT, &[]),
        ],
        &[
            value("go_on_again", BOOL, &[]),
            value("carried_on", FLOAT, &[]),
        ],
    );
    let work = [
        node("Greater", "mean threshold", "is_above", &[]),
        node(
            "Loop",
            "- is_above mean",
            "result",
            &[graph_attribute("body", &body)],
        ),
    ];
    network(&work, &[floats("threshold", &[], &[threshold])])
}
