//! Networks and decoders in ONNX Runtime and in the library: their values against torchvision's and Pillow's.

mod detection_graphs;
mod fused;
mod golden_boxes;
mod golden_classification;
mod golden_detection;
mod golden_quantized;
mod golden_segmentation;
mod images;
mod jpeg;
mod quantized;
mod real_decode;
mod real_detection;
mod real_quantized;
mod real_weights;
