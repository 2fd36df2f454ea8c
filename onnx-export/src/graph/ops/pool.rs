//! The operator `MaxPool`.

use super::super::{Attr, Dim, Graph, Value, Window};
use super::{Extent, Nchw, attribute_error};
use crate::error::BuildError;

/// Attributes of `MaxPool` with a square kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaxPool {
    /// Height and width of the kernel, in elements.
    pub kernel: usize,
    /// Distance between neighboring positions of the kernel, in elements.
    pub stride: usize,
    /// Number of padding elements on each side, at most half the kernel.
    pub padding: usize,
}

impl Graph {
    /// Adds `MaxPool` of `x` `[N, C, H, W]`, with output `[N, C, h, w]`.
    ///
    /// # Errors
    /// [`BuildError::Attribute`] if the kernel or stride is 0 or too large, or if the padding is
    /// above half the kernel. [`BuildError::Shape`] if `x` is not `[N, C, H, W]` with a fixed C, or
    /// if its padded height or width is smaller than the kernel.
    pub fn max_pool(&mut self, x: Value, config: MaxPool) -> Result<Value, BuildError> {
        let (op, scope) = ("MaxPool", self.scope_of(x));
        let MaxPool {
            kernel,
            stride,
            padding,
        } = config;
        Extent::new("kernel_shape", kernel).check(op, &scope)?;
        Extent::new("strides", stride).check(op, &scope)?;
        if padding > kernel / 2 {
            let pads = Extent::new("pads", padding);
            let expected = format!("0 to {}, half the kernel", kernel / 2);
            return Err(attribute_error(op, &scope, pads, expected));
        }
        let Nchw {
            batch,
            channels,
            height,
            width,
        } = self.nchw(op, &scope, x)?;
        let window = Window {
            kernel,
            stride,
            dilation: 1,
            padding: 2 * padding,
        };
        let Some([height, width]) = self.slide_both([height, width], window) else {
            let expected = format!("[N, C, H, W] with padded sides of at least {kernel}");
            return Err(self.shape_error(op, &scope, x, expected));
        };
        let attrs = vec![
            ("kernel_shape", Attr::Ints(vec![kernel as i64; 2])),
            ("pads", Attr::Ints(vec![padding as i64; 4])),
            ("strides", Attr::Ints(vec![stride as i64; 2])),
        ];
        let shape = vec![batch, Dim::Fixed(channels), height, width];
        Ok(self.node(op, &scope, vec![x], shape, attrs))
    }
}
