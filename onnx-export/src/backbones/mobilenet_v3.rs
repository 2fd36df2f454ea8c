//! MobileNetV3 Large and Small.
//!
//! Source: Howard et al., "Searching for MobileNetV3" (2019), tables 1 and 2; torchvision's
//! `models/mobilenetv3.py`.

use serde::{Deserialize, Serialize};

use super::{FeatureMaps, Trunk, check_width};
use crate::error::{ArgumentError, BuildError};
use crate::graph::ops::Conv;
use crate::graph::{Graph, Scope, Value};
use crate::heads::Head;
use crate::layers::{
    Activation, ConvNorm, Norm, SqueezeExcitation, conv_norm_activation, make_divisible,
    squeeze_excitation,
};

/// One row of the paper's table: an inverted residual block.
#[derive(Debug, Clone, Copy)]
struct Row {
    input: usize,
    kernel: usize,
    expanded: usize,
    out: usize,
    squeeze: bool,
    activation: Activation,
    stride: usize,
    tail: Tail,
}

/// Position of a row relative to the tail, the last three rows of the table. In the tail,
/// `reduced_tail` halves channels, and `dilated` sets the stride to 1 and the dilation to 2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tail {
    /// Row before the tail, which neither `reduced_tail` nor `dilated` changes.
    No,
    /// First row of the tail, in which `reduced_tail` halves only the output channels.
    First,
    /// Second or third row of the tail, in which `reduced_tail` halves the input, expanded and
    /// output channels.
    Inside,
}

use Activation::{HardSwish as HS, Relu as RE};
use Tail::{First as FIRST, Inside as INSIDE, No as NO};
const SE: bool = true;
const NO_SE: bool = false;

/// The first four columns of a row of the table: input channels, kernel size, expanded channels,
/// output channels.
type Sizes = [usize; 4];

const fn bneck(
    sizes: Sizes,
    squeeze: bool,
    activation: Activation,
    stride: usize,
    tail: Tail,
) -> Row {
    let [input, kernel, expanded, out] = sizes;
    Row {
        input,
        kernel,
        expanded,
        out,
        squeeze,
        activation,
        stride,
        tail,
    }
}

#[rustfmt::skip]
const LARGE: [Row; 15] = [
    //     in   k  exp  out
    bneck([ 16, 3,  16,  16], NO_SE, RE, 1, NO),
    bneck([ 16, 3,  64,  24], NO_SE, RE, 2, NO), // C1
    bneck([ 24, 3,  72,  24], NO_SE, RE, 1, NO),
    bneck([ 24, 5,  72,  40], SE,    RE, 2, NO), // C2
    bneck([ 40, 5, 120,  40], SE,    RE, 1, NO),
    bneck([ 40, 5, 120,  40], SE,    RE, 1, NO),
    bneck([ 40, 3, 240,  80], NO_SE, HS, 2, NO), // C3
    bneck([ 80, 3, 200,  80], NO_SE, HS, 1, NO),
    bneck([ 80, 3, 184,  80], NO_SE, HS, 1, NO),
    bneck([ 80, 3, 184,  80], NO_SE, HS, 1, NO),
    bneck([ 80, 3, 480, 112], SE,    HS, 1, NO),
    bneck([112, 3, 672, 112], SE,    HS, 1, NO),
    bneck([112, 5, 672, 160], SE,    HS, 2, FIRST), // C4
    bneck([160, 5, 960, 160], SE,    HS, 1, INSIDE),
    bneck([160, 5, 960, 160], SE,    HS, 1, INSIDE), // C5 after the last convolution
];

#[rustfmt::skip]
const SMALL: [Row; 11] = [
    //     in   k  exp  out
    bneck([ 16, 3,  16,  16], SE,    RE, 2, NO), // C1
    bneck([ 16, 3,  72,  24], NO_SE, RE, 2, NO), // C2
    bneck([ 24, 3,  88,  24], NO_SE, RE, 1, NO),
    bneck([ 24, 5,  96,  40], SE,    HS, 2, NO), // C3
    bneck([ 40, 5, 240,  40], SE,    HS, 1, NO),
    bneck([ 40, 5, 240,  40], SE,    HS, 1, NO),
    bneck([ 40, 5, 120,  48], SE,    HS, 1, NO),
    bneck([ 48, 5, 144,  48], SE,    HS, 1, NO),
    bneck([ 48, 5, 288,  96], SE,    HS, 2, FIRST), // C4
    bneck([ 96, 5, 576,  96], SE,    HS, 1, INSIDE),
    bneck([ 96, 5, 576,  96], SE,    HS, 1, INSIDE), // C5 after the last convolution
];

/// Ratio of the output channels to the input channels of the convolution after the last block.
const LAST_EXPANSION: usize = 6;

/// Selects one of the two MobileNetV3 networks of the paper (Howard et al. 2019).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MobileNetV3Size {
    /// MobileNetV3-Large, table 1 of the paper.
    Large,
    /// MobileNetV3-Small, table 2 of the paper.
    Small,
}

/// Arguments of MobileNetV3.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MobileNetV3Config {
    /// The paper's table that the network is built from.
    pub size: MobileNetV3Size,
    /// Factor on every channel count, 0.05 to 8.
    #[serde(default = "one")]
    pub width_mult: f64,
    /// Whether the channels of the last three blocks, and of the layers after them, are halved (torchvision's
    /// `reduced_tail`).
    #[serde(default)]
    pub reduced_tail: bool,
    /// Whether the last three blocks use dilation 2, and stride 1 where the table has stride 2 (torchvision's
    /// `dilated`).
    #[serde(default)]
    pub dilated: bool,
    /// Epsilon of every batch norm.
    pub bn_eps: f32,
    /// Whether the batch norms are frozen. The tensors of a frozen batch norm are buffers and do
    /// not count as parameters.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub bn_frozen: bool,
}

fn one() -> f64 {
    1.0
}

impl Trunk for MobileNetV3Config {
    fn name(&self) -> &'static str {
        "mobilenet_v3"
    }

    fn check(&self) -> Result<(), ArgumentError> {
        check_width(self.width_mult)
    }

    fn supports(&self, _: &Head) -> bool {
        true
    }

    fn width_mult(&mut self) -> Option<&mut f64> {
        Some(&mut self.width_mult)
    }

    fn norm(&self) -> Option<Norm> {
        Some(Norm {
            eps: self.bn_eps,
            frozen: self.bn_frozen,
        })
    }

    fn auxiliary_stage(&self) -> Option<usize> {
        Some(4)
    }

    /// Adds the backbone under `scope.0` to `scope.<rows + 1>`, where `rows` is the number of rows
    /// of the table. Its feature maps are the outputs of the stem, of each block whose stride in
    /// the table is 2 (C1, C2, ..., even if dilation replaces the stride), and of the last
    /// convolution. The last one is `[N, C, H/32, W/32]`, or `[N, C, H/16, W/16]` if `dilated` is
    /// true.
    ///
    /// Source: `stage_indices` in torchvision's `models/segmentation/lraspp.py`.
    fn features(
        &self,
        g: &mut Graph,
        scope: &Scope<'_>,
        x: Value,
    ) -> Result<FeatureMaps, BuildError> {
        let rows = self.rows();
        let mut y = self.stem(g, &scope.sub(0), x)?;
        let mut maps = vec![y];
        for (index, row) in rows.iter().enumerate() {
            y = self.inverted_residual(g, &scope.sub(index + 1), y, row)?;
            if row.stride > 1 {
                maps.push(y);
            }
        }
        let last = self.last(g, &scope.sub(rows.len() + 1), y)?;
        Ok(FeatureMaps::new(maps, last))
    }

    fn classifier(
        &self,
        g: &mut Graph,
        root: &Scope<'_>,
        pooled: Value,
        num_classes: usize,
    ) -> Result<Value, BuildError> {
        let classifier = root.sub("classifier");
        let y = g.gemm(&classifier.sub(0), pooled, self.last_channel())?;
        let y = Activation::HardSwish.apply(g, y)?;
        g.gemm(&classifier.sub(3), y, num_classes)
    }

    /// Adds the backbone in two halves and returns the output of each. The first half, `scope.0`,
    /// ends with the expansion of the first block of the tail, at a stride of 16. The second half,
    /// `scope.1`, begins with the depthwise convolution of that block and ends with the last
    /// convolution, at a stride of 32.
    ///
    /// Source: section 6.3 of the paper; torchvision's `models/detection/ssdlite.py`,
    /// `SSDLiteFeatureExtractorMobileNet`.
    fn ssd_features(
        &self,
        g: &mut Graph,
        scope: &Scope<'_>,
        x: Value,
    ) -> Result<[Value; 2], BuildError> {
        let rows = self.rows();
        let is_tail = |row: &Row| row.tail == Tail::First;
        let cut = rows.iter().position(is_tail).unwrap_or_default();
        let (before, after) = (scope.sub(0), scope.sub(1));
        let mut y = self.stem(g, &before.sub(0), x)?;
        for (index, row) in rows[..cut].iter().enumerate() {
            y = self.inverted_residual(g, &before.sub(index + 1), y, row)?;
        }
        let expanded = self.expand(g, &before.sub(cut + 1), y, &rows[cut])?;
        y = self.contract(g, &after.sub(0), expanded, &rows[cut])?;
        for (index, row) in rows[cut + 1..].iter().enumerate() {
            y = self.inverted_residual(g, &after.sub(index + 1), y, row)?;
        }
        let end = self.last(g, &after.sub(rows.len() - cut), y)?;
        Ok([expanded, end])
    }
}

impl MobileNetV3Config {
    /// Returns the rows of the table with `width_mult` and `reduced_tail` applied.
    fn rows(&self) -> Vec<Row> {
        let rows: &[Row] = match self.size {
            MobileNetV3Size::Large => &LARGE,
            MobileNetV3Size::Small => &SMALL,
        };
        rows.iter().map(|row| self.scaled(*row)).collect()
    }

    /// Returns the number of outputs of the classifier's hidden layer.
    fn last_channel(&self) -> usize {
        let channels = match self.size {
            MobileNetV3Size::Large => 1280,
            MobileNetV3Size::Small => 1024,
        };
        self.adjust(channels / if self.reduced_tail { 2 } else { 1 })
    }

    /// Returns `channels` times `width_mult`, rounded by [`make_divisible`].
    fn adjust(&self, channels: usize) -> usize {
        make_divisible(channels as f64 * self.width_mult)
    }

    /// Returns `row` with `width_mult` and `reduced_tail` applied to its channels.
    fn scaled(&self, row: Row) -> Row {
        let halve = |channels: usize, narrowed: bool| {
            self.adjust(if narrowed && self.reduced_tail {
                channels / 2
            } else {
                channels
            })
        };
        Row {
            input: halve(row.input, row.tail == Tail::Inside),
            expanded: halve(row.expanded, row.tail == Tail::Inside),
            out: halve(row.out, row.tail != Tail::No),
            ..row
        }
    }

    fn layer(&self, conv: Conv, activation: Activation) -> ConvNorm {
        let norm = Norm {
            eps: self.bn_eps,
            frozen: self.bn_frozen,
        };
        ConvNorm::new(conv, norm, activation)
    }

    /// Adds the first convolution, a 3x3 of stride 2.
    fn stem(&self, g: &mut Graph, scope: &Scope<'_>, x: Value) -> Result<Value, BuildError> {
        let conv = Conv::new(self.rows()[0].input, 3).stride(2);
        conv_norm_activation(g, scope, x, self.layer(conv, HS))
    }

    /// Adds the convolution after the last block.
    fn last(&self, g: &mut Graph, scope: &Scope<'_>, x: Value) -> Result<Value, BuildError> {
        let conv = Conv::new(LAST_EXPANSION * g.channels(x)?, 1);
        conv_norm_activation(g, scope, x, self.layer(conv, HS))
    }

    /// Adds an inverted residual block: expansion if the row widens the channels, depthwise
    /// convolution, squeeze-and-excitation if the row has it, projection, and a residual if the row
    /// has stride 1 and as many output as input channels.
    ///
    /// Source: torchvision's `models/mobilenetv3.py`, `InvertedResidual`.
    fn inverted_residual(
        &self,
        g: &mut Graph,
        scope: &Scope<'_>,
        x: Value,
        row: &Row,
    ) -> Result<Value, BuildError> {
        let block = scope.sub("block");
        let y = if row.widens() {
            self.expand(g, &block.sub(0), x, row)?
        } else {
            x
        };
        let y = self.contract(g, &block, y, row)?;
        // As in torchvision, the stride in the table decides: a row of stride 2 has no residual,
        // even if dilation replaces the stride.
        if row.stride == 1 && row.input == row.out {
            g.add(y, x)
        } else {
            Ok(y)
        }
    }

    /// Adds the expansion of a block: a 1x1 convolution to `row.expanded` channels.
    fn expand(
        &self,
        g: &mut Graph,
        scope: &Scope<'_>,
        x: Value,
        row: &Row,
    ) -> Result<Value, BuildError> {
        let conv = Conv::new(row.expanded, 1);
        conv_norm_activation(g, scope, x, self.layer(conv, row.activation))
    }

    /// Adds the layers of a block after its expansion: depthwise convolution, squeeze-and-excitation if the row has it,
    /// and projection.
    fn contract(
        &self,
        g: &mut Graph,
        block: &Scope<'_>,
        x: Value,
        row: &Row,
    ) -> Result<Value, BuildError> {
        // The layers of a block are numbered from 0 without gaps: an expansion or
        // squeeze-and-excitation that the block lacks has no number.
        let mut layer = usize::from(row.widens());
        let mut next = || {
            layer += 1;
            block.sub(layer - 1)
        };
        let dilated = self.dilated && row.tail != Tail::No;
        let (stride, dilation) = if dilated { (1, 2) } else { (row.stride, 1) };
        let depthwise = Conv::depthwise(row.expanded, row.kernel)
            .stride(stride)
            .dilation(dilation);
        let depthwise = self.layer(depthwise, row.activation);
        let mut y = conv_norm_activation(g, &next(), x, depthwise)?;
        if row.squeeze {
            let squeeze = SqueezeExcitation {
                channels: make_divisible((row.expanded / 4) as f64),
                activation: Activation::Relu,
                gate: Activation::HardSigmoid,
            };
            y = squeeze_excitation(g, &next(), y, squeeze)?;
        }
        let project = self.layer(Conv::new(row.out, 1), Activation::Identity);
        conv_norm_activation(g, &next(), y, project)
    }
}

impl Row {
    /// Returns whether the block has an expansion, that is, whether its expanded channels differ
    /// from its input channels.
    fn widens(&self) -> bool {
        self.expanded != self.input
    }
}
