//! The operator `Conv` with its attributes, weight and bias.

use super::super::{Attr, Attrs, Dim, Graph, Scope, Value, Window};
use super::{Extent, MAX_EXTENT, Nchw, attribute_error};
use crate::error::BuildError;

/// Attributes of `Conv` with a square kernel and equal strides on both axes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conv {
    /// Number of output channels.
    pub out: usize,
    /// Height and width of the kernel, in elements.
    pub kernel: usize,
    /// Distance between neighboring positions of the kernel, in elements.
    pub stride: usize,
    /// Distance between neighboring elements that the kernel reads (taps), in elements.
    pub dilation: usize,
    /// Number of channel groups; in a depthwise convolution, the number of input channels.
    pub groups: usize,
    /// How the border is padded with zeros.
    pub padding: Padding,
}

/// How a convolution pads the border with zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Padding {
    /// `(kernel - 1) / 2 * dilation` zeros on each side, so that the output has the size of the
    /// input at stride 1. `kernel` must be odd.
    ///
    /// Source: torchvision's `ops/misc.py`, `ConvNormActivation`.
    Centered,
    /// TensorFlow's `SAME`: as many zeros as an output size of `ceil(size / stride)` needs. If
    /// their number is odd, the bottom or right side has one more than the opposite side.
    SameUpper,
    /// The given number of zeros on each side; 0 is no padding.
    Explicit(usize),
}

impl Conv {
    /// Creates a `kernel` x `kernel` convolution to `out` channels with stride 1 and centered padding.
    pub fn new(out: usize, kernel: usize) -> Self {
        Self {
            out,
            kernel,
            stride: 1,
            dilation: 1,
            groups: 1,
            padding: Padding::Centered,
        }
    }

    /// Creates a depthwise convolution with one `kernel` x `kernel` kernel for each of `channels`
    /// channels, stride 1 and centered padding.
    pub fn depthwise(channels: usize, kernel: usize) -> Self {
        Self {
            groups: channels,
            ..Self::new(channels, kernel)
        }
    }

    /// Sets the stride.
    #[must_use]
    pub fn stride(self, stride: usize) -> Self {
        Self { stride, ..self }
    }

    /// Sets the dilation.
    #[must_use]
    pub fn dilation(self, dilation: usize) -> Self {
        Self { dilation, ..self }
    }

    /// Sets the padding.
    #[must_use]
    pub fn padding(self, padding: Padding) -> Self {
        Self { padding, ..self }
    }

    /// Sets TensorFlow's `SAME` padding.
    #[must_use]
    pub fn same_upper(self) -> Self {
        self.padding(Padding::SameUpper)
    }

    /// Returns the shape of the weight, `[out, channels / groups, kernel, kernel]`, for an input of
    /// `channels` channels. The second size is 0 if `groups` is 0, which [`Graph::conv`] rejects.
    pub fn weight_shape(&self, channels: usize) -> [usize; 4] {
        let input = channels.checked_div(self.groups).unwrap_or(0);
        [self.out, input, self.kernel, self.kernel]
    }

    /// Returns the distance in elements from the kernel's first tap to its last tap. `kernel` must
    /// be at least 1, as `check` ensures.
    fn reach(&self) -> usize {
        self.dilation * (self.kernel - 1)
    }

    fn window(&self) -> Window {
        Window {
            kernel: self.kernel,
            stride: self.stride,
            dilation: self.dilation,
            padding: match self.padding {
                Padding::Centered | Padding::SameUpper => self.reach(),
                Padding::Explicit(side) => 2 * side,
            },
        }
    }

    /// Checks that the attributes are within their ranges and suit an input of `channels` channels.
    fn check(&self, scope: &str, channels: usize) -> Result<(), BuildError> {
        let op = "Conv";
        let positive = [
            Extent::new("kernel_shape", self.kernel),
            Extent::new("strides", self.stride),
            Extent::new("dilations", self.dilation),
        ];
        for extent in positive {
            extent.check(op, scope)?;
        }
        let group = Extent::new("group", self.groups);
        let divides = |n: usize| self.groups > 0 && n.is_multiple_of(self.groups);
        if !divides(channels) || !divides(self.out) || self.out == 0 {
            let expected = format!(
                "a divisor of {channels} input channels and of {} (at least 1) output channels",
                self.out
            );
            return Err(attribute_error(op, scope, group, expected));
        }
        match self.padding {
            Padding::Centered if self.kernel.is_multiple_of(2) => {
                let kernel = Extent::new("kernel_shape", self.kernel);
                let expected = "odd for centered padding";
                Err(attribute_error(op, scope, kernel, expected))
            }
            Padding::Explicit(side) if side > MAX_EXTENT => {
                let expected = format!("0 to {MAX_EXTENT}");
                let pads = Extent::new("pads", side);
                Err(attribute_error(op, scope, pads, expected))
            }
            _ => Ok(()),
        }
    }

    fn attrs(&self) -> Attrs {
        let pair = |n: usize| Attr::Ints(vec![n as i64; 2]);
        let pads = |side: usize| ("pads", Attr::Ints(vec![side as i64; 4]));
        let reach = self.reach();
        let border = match self.padding {
            Padding::Explicit(side) => pads(side),
            // At stride 1, `SAME` with an even number of zeros equals centered padding. It is
            // written as `pads`, which more optimizers understand than `auto_pad`.
            Padding::SameUpper if self.stride > 1 || !reach.is_multiple_of(2) => {
                ("auto_pad", Attr::Text("SAME_UPPER"))
            }
            Padding::Centered | Padding::SameUpper => pads(reach / 2),
        };
        vec![
            ("dilations", pair(self.dilation)),
            ("group", Attr::Int(self.groups as i64)),
            ("kernel_shape", pair(self.kernel)),
            border,
            ("strides", pair(self.stride)),
        ]
    }
}

/// The elements of the weight and bias of a convolution.
#[derive(Debug, Clone, PartialEq)]
pub struct ConvData {
    /// Weight `[out, channels / groups, kernel, kernel]` in C order.
    pub weight: Vec<f32>,
    /// Bias `[out]`. `None` if the convolution has no bias.
    pub bias: Option<Vec<f32>>,
}

impl ConvData {
    /// Creates the data of a convolution that has a bias.
    pub fn new(weight: Vec<f32>, bias: Vec<f32>) -> Self {
        let bias = Some(bias);
        Self { weight, bias }
    }
}

/// Weight and bias of a convolution as constants of the graph, which several nodes may read.
#[derive(Debug, Clone, Copy)]
pub struct ConvWeights {
    weight: Value,
    bias: Option<Value>,
}

impl Graph {
    /// Adds `Conv` of `x` `[N, C, H, W]` with the weight and bias in `data`, which become constants
    /// named after `scope`. The output is `[N, conv.out, h, w]`.
    ///
    /// # Errors
    /// [`BuildError::Attribute`] if an attribute is 0 or too large, `groups` does not divide the
    /// channels, or the kernel is even with centered padding. [`BuildError::Shape`] if `x` is not
    /// `[N, C, H, W]` with a fixed C, if its padded height or width is smaller than the kernel, or
    /// if `data` does not fill the shapes of weight and bias.
    pub fn conv(
        &mut self,
        scope: &Scope<'_>,
        x: Value,
        conv: Conv,
        data: ConvData,
    ) -> Result<Value, BuildError> {
        let path = scope.path();
        let channels = self.nchw("Conv", path, x)?.channels;
        let weights = self.conv_weights(path, channels, conv, data)?;
        self.conv_with(path, x, conv, weights)
    }

    /// Adds the weight and bias of a convolution with `channels` input channels as constants, named
    /// `<path>.weight` and `<path>.bias`.
    ///
    /// # Errors
    /// [`BuildError::Attribute`] if an attribute is 0 or too large, `groups` does not divide the
    /// channels, or the kernel is even with centered padding. [`BuildError::Shape`] if `data` does
    /// not fill the shapes of weight and bias.
    pub fn conv_weights(
        &mut self,
        path: &str,
        channels: usize,
        conv: Conv,
        data: ConvData,
    ) -> Result<ConvWeights, BuildError> {
        conv.check(path, channels)?;
        let shape = conv.weight_shape(channels);
        let weight = self.weight("Conv", &format!("{path}.weight"), &shape, data.weight)?;
        let bias = data.bias.map(|bias| {
            let name = format!("{path}.bias");
            self.weight("Conv", &name, &[conv.out], bias)
        });
        let bias = bias.transpose()?;
        Ok(ConvWeights { weight, bias })
    }

    /// Adds `Conv` of `x` `[N, C, H, W]` with `weights` that are in the graph already. The node is
    /// named after the module `path`.
    ///
    /// # Errors
    /// [`BuildError::Attribute`] if an attribute is 0 or too large, `groups` does not divide the
    /// channels, or the kernel is even with centered padding. [`BuildError::Shape`] if `x` is not
    /// `[N, C, H, W]` with a fixed C, if its padded height or width is smaller than the kernel, or
    /// if the shape of the weight is not [`Conv::weight_shape`].
    pub fn conv_with(
        &mut self,
        path: &str,
        x: Value,
        conv: Conv,
        weights: ConvWeights,
    ) -> Result<Value, BuildError> {
        let Nchw {
            batch,
            channels,
            height,
            width,
        } = self.nchw("Conv", path, x)?;
        conv.check(path, channels)?;
        let weight_shape = conv.weight_shape(channels).map(Dim::Fixed);
        if self.shape(weights.weight) != weight_shape.as_slice() {
            let expected = self.show_shape(&weight_shape);
            return Err(self.shape_error("Conv", path, weights.weight, expected));
        }
        let Some([height, width]) = self.slide_both([height, width], conv.window()) else {
            let expected = format!(
                "[N, C, H, W] with padded sides of at least {}",
                conv.reach() + 1
            );
            return Err(self.shape_error("Conv", path, x, expected));
        };
        let shape = vec![batch, Dim::Fixed(conv.out), height, width];
        let inputs = [Some(x), Some(weights.weight), weights.bias];
        let inputs = inputs.into_iter().flatten().collect();
        Ok(self.node("Conv", path, inputs, shape, conv.attrs()))
    }

    /// Adds a constant for the operator `op`, called `name`, of shape `shape`, with the elements
    /// `data` in C order. Returns an error if `data` does not fill `shape`.
    pub(super) fn weight(
        &mut self,
        op: &'static str,
        name: &str,
        shape: &[usize],
        data: Vec<f32>,
    ) -> Result<Value, BuildError> {
        let mut sizes = shape.iter();
        let elements = sizes.try_fold(1_usize, |n, size| n.checked_mul(*size));
        if elements != Some(data.len()) {
            let (scope, operand) = name.rsplit_once('.').unwrap_or(("", name));
            return Err(BuildError::Shape {
                op,
                scope: scope.to_owned(),
                operand: operand.to_owned(),
                expected: format!("{shape:?}"),
                got: format!("{} elements", data.len()),
            });
        }
        Ok(self.table(name, shape, data))
    }

    /// Returns the height and width of the output of `window` on a feature map with `sides`
    /// (height, width). `None` if a fixed side with its padding is shorter than the window.
    pub(super) fn slide_both(&mut self, sides: [Dim; 2], window: Window) -> Option<[Dim; 2]> {
        let [height, width] = sides;
        Some([
            self.dims.slide(height, window)?,
            self.dims.slide(width, window)?,
        ])
    }
}
