//! MobileNetV3 Large and Small.
//!
//! Source: Howard et al., "Searching for MobileNetV3" (2019), tables 1 and 2;
//! `torchvision.models.mobilenetv3`.

use super::FeatureMaps;
use crate::architecture::{MobileNetV3Config, MobileNetV3Size};
use crate::error::BuildError;
use crate::graph::ops::Conv;
use crate::graph::{Graph, Scope, Value};
use crate::layers::{Activation, Norm, conv_norm_activation, make_divisible, squeeze_excitation};

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
    /// In the tail `reduced_tail` halves the channels and `dilated` replaces the stride.
    tail: Tail,
}

/// Which channel counts of a row belong to the tail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tail {
    No,
    /// The first row of the tail: only its output is narrowed.
    First,
    /// A later row: input, expansion and output are.
    Inside,
}

const SE: bool = true;
const NO_SE: bool = false;
use Activation::{HardSwish as HS, Relu as RE};

const fn bneck(
    (input, kernel, expanded, out): (usize, usize, usize, usize),
    squeeze: bool,
    activation: Activation,
    stride: usize,
    tail: Tail,
) -> Row {
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
    bneck(( 16, 3,  16,  16), NO_SE, RE, 1, Tail::No),
    bneck(( 16, 3,  64,  24), NO_SE, RE, 2, Tail::No), // C1
    bneck(( 24, 3,  72,  24), NO_SE, RE, 1, Tail::No),
    bneck(( 24, 5,  72,  40), SE,    RE, 2, Tail::No), // C2
    bneck(( 40, 5, 120,  40), SE,    RE, 1, Tail::No),
    bneck(( 40, 5, 120,  40), SE,    RE, 1, Tail::No),
    bneck(( 40, 3, 240,  80), NO_SE, HS, 2, Tail::No), // C3
    bneck(( 80, 3, 200,  80), NO_SE, HS, 1, Tail::No),
    bneck(( 80, 3, 184,  80), NO_SE, HS, 1, Tail::No),
    bneck(( 80, 3, 184,  80), NO_SE, HS, 1, Tail::No),
    bneck(( 80, 3, 480, 112), SE,    HS, 1, Tail::No),
    bneck((112, 3, 672, 112), SE,    HS, 1, Tail::No),
    bneck((112, 5, 672, 160), SE,    HS, 2, Tail::First), // C4
    bneck((160, 5, 960, 160), SE,    HS, 1, Tail::Inside),
    bneck((160, 5, 960, 160), SE,    HS, 1, Tail::Inside), // C5 after the last convolution
];

#[rustfmt::skip]
const SMALL: [Row; 11] = [
    //     in   k  exp  out
    bneck(( 16, 3,  16,  16), SE,    RE, 2, Tail::No), // C1
    bneck(( 16, 3,  72,  24), NO_SE, RE, 2, Tail::No), // C2
    bneck(( 24, 3,  88,  24), NO_SE, RE, 1, Tail::No),
    bneck(( 24, 5,  96,  40), SE,    HS, 2, Tail::No), // C3
    bneck(( 40, 5, 240,  40), SE,    HS, 1, Tail::No),
    bneck(( 40, 5, 240,  40), SE,    HS, 1, Tail::No),
    bneck(( 40, 5, 120,  48), SE,    HS, 1, Tail::No),
    bneck(( 48, 5, 144,  48), SE,    HS, 1, Tail::No),
    bneck(( 48, 5, 288,  96), SE,    HS, 2, Tail::First), // C4
    bneck(( 96, 5, 576,  96), SE,    HS, 1, Tail::Inside),
    bneck(( 96, 5, 576,  96), SE,    HS, 1, Tail::Inside), // C5 after the last convolution
];

/// Expansion of the convolution after the last block.
const LAST_EXPANSION: usize = 6;

impl MobileNetV3Config {
    /// The rows of the table with this network's width and tail applied.
    fn rows(&self) -> Vec<Row> {
        let rows: &[Row] = match self.size {
            MobileNetV3Size::Large => &LARGE,
            MobileNetV3Size::Small => &SMALL,
        };
        rows.iter().map(|row| self.scaled(*row)).collect()
    }

    pub(crate) fn norm(&self) -> Norm {
        Norm {
            eps: self.bn_eps,
            frozen: self.bn_frozen,
        }
    }

    /// Width of the classifier's hidden layer.
    pub(crate) fn last_channel(&self) -> usize {
        let channels = match self.size {
            MobileNetV3Size::Large => 1280,
            MobileNetV3Size::Small => 1024,
        };
        self.adjust(channels / if self.reduced_tail { 2 } else { 1 })
    }

    fn adjust(&self, channels: usize) -> usize {
        make_divisible(channels as f64 * self.width_mult)
    }

    /// The row with this network's width and tail applied.
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
}

/// Adds the trunk under `scope.0` to `scope.<rows + 1>`. Its maps are those after the stem, after
/// each block that halves the resolution (C1, C2, ...; a dilated one counts), and after the last
/// convolution: `[N, C, H/32, W/32]`, or `H/16` where dilated.
///
/// Source: `stage_indices` in `torchvision.models.segmentation.lraspp`.
///
/// # Errors
/// [`BuildError::Shape`] if `x` is not `[N, 3, H, W]`.
pub fn features(
    g: &mut Graph,
    scope: &Scope<'_>,
    x: Value,
    config: &MobileNetV3Config,
) -> Result<FeatureMaps, BuildError> {
    let rows = config.rows();
    let mut y = stem(g, &scope.sub(0), x, config)?;
    let mut maps = vec![y];
    for (index, row) in rows.iter().enumerate() {
        y = inverted_residual(g, &scope.sub(index + 1), y, row, config)?;
        if row.stride > 1 {
            maps.push(y);
        }
    }
    maps.push(last(g, &scope.sub(rows.len() + 1), y, config)?);
    Ok(FeatureMaps(maps))
}

/// Adds the trunk cut in two as SSD reads it: `scope.0` ends with the expansion inside the tail's
/// first block, at a stride of 16; `scope.1` goes on from its depthwise convolution to the end.
///
/// Source: section 6.3 of the paper; `SSDLiteFeatureExtractorMobileNet` in
/// `torchvision.models.detection.ssdlite`.
///
/// # Errors
/// [`BuildError::Shape`] if `x` is not `[N, 3, H, W]`.
pub(crate) fn ssd_features(
    g: &mut Graph,
    scope: &Scope<'_>,
    x: Value,
    config: &MobileNetV3Config,
) -> Result<[Value; 2], BuildError> {
    let rows = config.rows();
    let is_tail = |row: &Row| row.tail == Tail::First;
    let cut = rows.iter().position(is_tail).unwrap_or_default();
    let (before, after) = (scope.sub(0), scope.sub(1));
    let mut y = stem(g, &before.sub(0), x, config)?;
    for (index, row) in rows[..cut].iter().enumerate() {
        y = inverted_residual(g, &before.sub(index + 1), y, row, config)?;
    }
    let expanded = expand(g, &before.sub(cut + 1), y, &rows[cut], config)?;
    y = contract(g, &after.sub(0), expanded, &rows[cut], config)?;
    for (index, row) in rows[cut + 1..].iter().enumerate() {
        y = inverted_residual(g, &after.sub(index + 1), y, row, config)?;
    }
    let end = last(g, &after.sub(rows.len() - cut), y, config)?;
    Ok([expanded, end])
}

fn stem(
    g: &mut Graph,
    scope: &Scope<'_>,
    x: Value,
    config: &MobileNetV3Config,
) -> Result<Value, BuildError> {
    let conv = Conv::new(config.rows()[0].input, 3).stride(2);
    conv_norm_activation(g, scope, x, conv, config.norm(), HS)
}

/// The convolution after the last block.
fn last(
    g: &mut Graph,
    scope: &Scope<'_>,
    x: Value,
    config: &MobileNetV3Config,
) -> Result<Value, BuildError> {
    let conv = Conv::new(LAST_EXPANSION * g.channels(x)?, 1);
    conv_norm_activation(g, scope, x, conv, config.norm(), HS)
}

/// Expansion where it widens, depthwise convolution, squeeze-and-excitation, projection, residual.
/// Source: `torchvision.models.mobilenetv3.InvertedResidual`.
fn inverted_residual(
    g: &mut Graph,
    scope: &Scope<'_>,
    x: Value,
    row: &Row,
    config: &MobileNetV3Config,
) -> Result<Value, BuildError> {
    let block = scope.sub("block");
    let y = if row.widens() {
        expand(g, &block.sub(0), x, row, config)?
    } else {
        x
    };
    let y = contract(g, &block, y, row, config)?;
    // By the table's stride: a dilated block of stride 2 has no residual.
    if row.stride == 1 && row.input == row.out {
        g.add(y, x)
    } else {
        Ok(y)
    }
}

/// The first layer of a block that widens.
fn expand(
    g: &mut Graph,
    scope: &Scope<'_>,
    x: Value,
    row: &Row,
    config: &MobileNetV3Config,
) -> Result<Value, BuildError> {
    let conv = Conv::new(row.expanded, 1);
    conv_norm_activation(g, scope, x, conv, config.norm(), row.activation)
}

/// The rest of a block, whose layers are numbered in `block` after the expansion.
fn contract(
    g: &mut Graph,
    block: &Scope<'_>,
    x: Value,
    row: &Row,
    config: &MobileNetV3Config,
) -> Result<Value, BuildError> {
    let norm = config.norm();
    // The state dict numbers only the layers that exist.
    let mut layer = usize::from(row.widens());
    let mut next = || {
        layer += 1;
        block.sub(layer - 1)
    };
    let dilated = config.dilated && row.tail != Tail::No;
    let (stride, dilation) = if dilated { (1, 2) } else { (row.stride, 1) };
    let depthwise = Conv::depthwise(row.expanded, row.kernel)
        .stride(stride)
        .dilation(dilation);
    let mut y = conv_norm_activation(g, &next(), x, depthwise, norm, row.activation)?;
    if row.squeeze {
        let channels = make_divisible((row.expanded / 4) as f64);
        y = squeeze_excitation(g, &next(), y, channels)?;
    }
    let project = Conv::new(row.out, 1);
    conv_norm_activation(g, &next(), y, project, norm, Activation::Identity)
}

impl Row {
    /// Whether the block has an expansion.
    fn widens(&self) -> bool {
        self.expanded != self.input
    }
}
