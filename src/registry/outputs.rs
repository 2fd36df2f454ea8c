//! Names, data types and shapes of a loaded network's outputs.

use std::sync::Arc;

use crate::engine::{DataType, Output, Outputs};
use crate::image::Preprocessor;
use crate::manifest::{ModelManifest, Task};

/// One output of a network for one image, without the batch axis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputSpec {
    /// Name in the ONNX file.
    pub name: Arc<str>,
    /// Data type of the elements.
    pub data_type: DataType,
    /// Sizes of the axes, the outermost first. `None` for an axis whose size depends on the image.
    pub shape: Vec<Option<usize>>,
}

/// Returns the outputs of the network that returned `warm` for a test image. `two_stage` states whether the network has
/// two stages, so that its outputs have one row per region.
pub(super) fn specs(
    warm: &Outputs,
    manifest: &ModelManifest,
    preprocessor: &Preprocessor,
    two_stage: bool,
) -> Vec<OutputSpec> {
    let fixed_input = preprocessor.fixed_size().is_some();
    let shape = |output: &Output| {
        let axes = output.shape().len();
        let size = |(axis, size): (usize, &usize)| {
            let fixed = match manifest.task {
                _ if two_stage => axis > 0,
                _ if fixed_input => true,
                Task::Classification => axes == 1,
                // The channels of a feature map.
                Task::Segmentation | Task::Detection => axis == 0 && axes == 3,
            };
            fixed.then_some(*size)
        };
        output.shape().iter().enumerate().map(size).collect()
    };
    let spec = |output: &Output| OutputSpec {
        name: Arc::clone(&output.name),
        data_type: output.data_type(),
        shape: shape(output),
    };
    warm.iter().map(spec).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue;
    use crate::engine::Tensor;

    fn shapes(name: &str, warm: &[(&str, &[usize])], two_stage: bool) -> Vec<Vec<Option<usize>>> {
        let manifest = catalogue::manifest(name).unwrap().unwrap();
        let output = |(name, shape): &(&str, &[usize])| {
            let data = vec![0.0; shape.iter().product()];
            let shape = shape.to_vec();
            Output::f32(name, Tensor { shape, data })
        };
        let warm: Outputs = warm.iter().map(output).collect();
        let preprocessor = Preprocessor::new(&manifest.preprocess);
        let specs = specs(&warm, &manifest, &preprocessor, two_stage);
        specs.into_iter().map(|spec| spec.shape).collect()
    }

    #[test]
    fn axes_that_depend_on_the_image_have_no_size() {
        assert_eq!(
            shapes("mobilenet_v3_small", &[("logits", &[3])], false),
            [[Some(3)]]
        );
        assert_eq!(
            shapes("lraspp_mobilenet_v3_large", &[("out", &[2, 3, 4])], false),
            [[Some(2), None, None]]
        );
        let regions: [(&str, &[usize]); 2] = [("regions", &[7, 4]), ("class_logits", &[7, 91])];
        assert_eq!(
            shapes("fasterrcnn_resnet50_fpn", &regions, true),
            [[None, Some(4)], [None, Some(91)]]
        );
    }
}
