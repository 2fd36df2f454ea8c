//! Operators that slide a window over the pixels, and the linear layer.

use super::super::{Attr, Dim, Graph, Scope, Value, Window};
use crate::error::BuildError;

/// Attributes of `Conv`: square kernel, equal strides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conv {
    /// Output channels.
    pub out: usize,
    /// Side of the kernel.
    pub kernel: usize,
    /// Step between outputs.
    pub stride: usize,
    /// Step between taps.
    pub dilation: usize,
    /// Groups of channels; equal to the channels in a depthwise convolution.
    pub groups: usize,
    /// How the border is padded.
    pub padding: Padding,
}

/// How a convolution pads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Padding {
    /// Equal zeros on each side so that stride 1 keeps the size: `(kernel - 1) / 2 * dilation`.
    /// Source: torchvision `ops.misc.ConvNormActivation`.
    Centered,
    /// TensorFlow's `SAME`: the output is `ceil(size / stride)`, an odd zero goes to the end.
    SameUpper,
}

impl Conv {
    /// A `kernel` x `kernel` convolution to `out` channels, stride 1, centred padding.
    pub fn new(out: usize, kernel: usize) -> Self {
        let padding = Padding::Centered;
        Self {
            out,
            kernel,
            stride: 1,
            dilation: 1,
            groups: 1,
            padding,
        }
    }

    /// A convolution of each of `channels` on its own.
    pub fn depthwise(channels: usize, kernel: usize) -> Self {
        Self {
            groups: channels,
            ..Self::new(channels, kernel)
        }
    }

    /// With another stride.
    #[must_use]
    pub fn stride(self, stride: usize) -> Self {
        Self { stride, ..self }
    }

    /// With another dilation.
    #[must_use]
    pub fn dilation(self, dilation: usize) -> Self {
        Self { dilation, ..self }
    }

    /// With TensorFlow's `SAME` padding.
    #[must_use]
    pub fn same_upper(self) -> Self {
        Self {
            padding: Padding::SameUpper,
            ..self
        }
    }

    /// Shape of the weight over `channels` input channels: `[out, channels / groups, k, k]`.
    pub fn weight_shape(&self, channels: usize) -> [usize; 4] {
        [self.out, channels / self.groups, self.kernel, self.kernel]
    }

    fn window(&self) -> Window {
        let Self {
            kernel,
            stride,
            dilation,
            ..
        } = *self;
        let reach = dilation * (kernel - 1);
        Window {
            kernel,
            stride,
            dilation,
            padding: reach / 2 * 2,
        }
    }

    fn attrs(&self) -> Vec<(&'static str, Attr)> {
        let pair = |n: usize| Attr::Ints(vec![n as i64; 2]);
        // At stride 1 `SAME` is centred padding, said explicitly since more optimisers read that.
        let border = if self.padding == Padding::SameUpper && self.stride > 1 {
            ("auto_pad", Attr::Text("SAME_UPPER"))
        } else {
            (
                "pads",
                Attr::Ints(vec![(self.window().padding / 2) as i64; 4]),
            )
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

/// The weight and the bias of a convolution, to be used as often as wanted.
#[derive(Debug, Clone, Copy)]
pub struct ConvWeights {
    weight: Value,
    bias: Value,
}

impl Graph {
    /// `Conv` of `[N, C, H, W]` with a `[out, C / groups, k, k]` weight and a bias `[out]`, both
    /// named after `scope`.
    ///
    /// # Errors
    /// [`BuildError::Shape`] if `x` is not `[N, C, H, W]` with C divisible by the groups, or is
    /// smaller than the kernel.
    pub fn conv(
        &mut self,
        scope: &Scope<'_>,
        x: Value,
        conv: Conv,
        (weight, bias): (Vec<f32>, Vec<f32>),
    ) -> Result<Value, BuildError> {
        let path = scope.path();
        let (channels, _) = self.picture("Conv", path, x)?;
        let weights = self.conv_weights(path, channels, conv, (weight, bias));
        self.conv_with(path, x, conv, weights)
    }

    /// A `[out, channels / groups, k, k]` weight and a bias `[out]` as `path.weight` and `path.bias`.
    pub fn conv_weights(
        &mut self,
        path: &str,
        channels: usize,
        conv: Conv,
        (weight, bias): (Vec<f32>, Vec<f32>),
    ) -> ConvWeights {
        let shape = conv.weight_shape(channels);
        ConvWeights {
            weight: self.weight(&format!("{path}.weight"), &shape, weight),
            bias: self.weight(&format!("{path}.bias"), &[conv.out], bias),
        }
    }

    /// [`Graph::conv`] with weights that are in the graph already.
    ///
    /// # Errors
    /// As [`Graph::conv`], and if the weights are for another number of channels.
    pub fn conv_with(
        &mut self,
        path: &str,
        x: Value,
        conv: Conv,
        weights: ConvWeights,
    ) -> Result<Value, BuildError> {
        let (channels, [batch, height, width]) = self.picture("Conv", path, x)?;
        let weight_shape = conv.weight_shape(channels).map(Dim::Fixed);
        let divides = channels.is_multiple_of(conv.groups);
        if !divides || self.shape(weights.weight) != weight_shape.as_slice() {
            let weight = self.show_shape(self.shape(weights.weight));
            let expected = format!(
                "[N, C, H, W] for a weight {weight} of {} groups",
                conv.groups
            );
            return Err(self.shape_error("Conv", path, x, expected));
        }
        let Some([height, width]) = self.slide_both(height, width, conv.window()) else {
            let expected = format!("at least {} pixels a side", conv.kernel);
            return Err(self.shape_error("Conv", path, x, expected));
        };
        let shape = vec![batch, Dim::Fixed(conv.out), height, width];
        let inputs = vec![x, weights.weight, weights.bias];
        Ok(self.node("Conv", path, inputs, shape, conv.attrs()))
    }

    /// `Gemm` of `[N, in]` with a `[out, in]` weight and a bias `[out]`: `torch.nn.Linear`.
    ///
    /// # Errors
    /// [`BuildError::Shape`] if `x` is not `[N, features]`.
    pub fn gemm(&mut self, scope: &Scope<'_>, x: Value, out: usize) -> Result<Value, BuildError> {
        let [batch, Dim::Fixed(features)] = *self.shape(x) else {
            return Err(self.shape_error("Gemm", scope.path(), x, "[N, features]".into()));
        };
        let weight = scope.parameter("weight", &[out, features]);
        let bias = scope.parameter("bias", &[out]);
        let path = scope.path();
        let weight = self.weight(&format!("{path}.weight"), &[out, features], weight);
        let bias = self.weight(&format!("{path}.bias"), &[out], bias);
        let attrs = vec![("transB", Attr::Int(1))];
        Ok(self.node(
            "Gemm",
            path,
            vec![x, weight, bias],
            vec![batch, Dim::Fixed(out)],
            attrs,
        ))
    }

    /// `MaxPool` of `[N, C, H, W]` with a square kernel and `padding` on each side.
    ///
    /// # Errors
    /// [`BuildError::Shape`] if `x` is not `[N, C, H, W]` or is smaller than the kernel.
    pub fn max_pool(
        &mut self,
        x: Value,
        kernel: usize,
        stride: usize,
        padding: usize,
    ) -> Result<Value, BuildError> {
        let scope = self.scope_of(x);
        let (channels, [batch, height, width]) = self.picture("MaxPool", &scope, x)?;
        let window = Window {
            kernel,
            stride,
            dilation: 1,
            padding: 2 * padding,
        };
        let Some([height, width]) = self.slide_both(height, width, window) else {
            let expected = format!("at least {kernel} pixels a side");
            return Err(self.shape_error("MaxPool", &scope, x, expected));
        };
        let attrs = vec![
            ("kernel_shape", Attr::Ints(vec![kernel as i64; 2])),
            ("pads", Attr::Ints(vec![padding as i64; 4])),
            ("strides", Attr::Ints(vec![stride as i64; 2])),
        ];
        let shape = vec![batch, Dim::Fixed(channels), height, width];
        Ok(self.node("MaxPool", &scope, vec![x], shape, attrs))
    }

    fn slide_both(&mut self, height: Dim, width: Dim, window: Window) -> Option<[Dim; 2]> {
        Some([
            self.dims.slide(height, window)?,
            self.dims.slide(width, window)?,
        ])
    }
}
