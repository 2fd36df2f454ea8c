//! Constants of a depthwise convolution, in the order in which the kernels read them.

use super::isa::Isa;
use super::spec::DepthwiseSpec;
use super::{LANES, QUAD, Weights};

/// Number of columns of the convolution kernels that [`Order::Stacked`] is for.
pub(super) const COLUMNS: usize = 3;
/// With [`Order::Stacked`], index of the first of three groups of weights that multiply the last three of four rows.
pub(super) const LATE: usize = 0;
/// With [`Order::Stacked`], index of the first of three groups of weights that multiply the first three of four rows.
pub(super) const EARLY: usize = COLUMNS;
/// Number of rows and columns of the convolution kernels that [`Order::Blocked`] is for.
pub(super) const SIDE: usize = 5;

/// Constants for the 64 elements of one vector, in four parts of 16 elements, in the order of the
/// registers of 32-bit sums: see [`Order`].
pub(super) struct Phase {
    pub(super) bias: [[i32; 16]; 4],
    pub(super) multipliers: [[f32; 16]; 4],
    /// Weights by group of four taps and by part: the four weights of an element lie next to each
    /// other. With [`Order::Stacked`], the groups from [`LATE`] on, and then those from [`EARLY`] on.
    pub(super) weights: Vec<[Weights; 4]>,
}

/// Order of the elements of a vector in the parts of a [`Phase`], and of the weights of an element.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// The kernel interleaves the bytes of four consecutive taps, which reorders the elements: part `k`
    /// holds elements `4 k` to `4 k + 3` of each group of sixteen.
    Interleaved,
    /// The kernel reads the values of a column from a stack of four rows, of which it needs three: part `k`
    /// holds channels `16 k` to `16 k + 15` of a block of 64, and there is a phase for each block. A group of
    /// four weights belongs to a column. There are two sets of groups: for the last three rows and for the
    /// first three.
    Stacked,
    /// A vector holds 64 channels of one pixel, and there is a phase for each block of 64 channels. The parts
    /// are those of [`Order::Stacked`]. Each column of the convolution kernel, which has five rows, has two
    /// groups: the weight of the first row, and the weights of the last four.
    Blocked,
}

impl Order {
    /// Returns the order that is faster for a convolution.
    pub(super) fn of(spec: &DepthwiseSpec, isa: Isa) -> Self {
        let window = (spec.kernel, spec.strides, spec.dilations);
        match window {
            ([3, COLUMNS], [1, 1] | [2, 2], [1, 1]) if isa.is_avx512() => Self::Stacked,
            ([SIDE, SIDE], [1, 1] | [2, 2], [1, 1])
                if isa.is_avx512() && spec.bias.len() >= LANES =>
            {
                Self::Blocked
            }
            _ => Self::Interleaved,
        }
    }

    /// Returns the first channel of each [`Phase`] of a convolution of `channels` channels.
    pub(super) fn first_channels(self, channels: usize) -> Vec<usize> {
        let count = match self {
            Self::Interleaved => channels / gcd(channels, LANES),
            Self::Stacked => channels.div_ceil(LANES),
            Self::Blocked => return first_channels(channels).collect(),
        };
        (0..count).map(|index| index * LANES % channels).collect()
    }

    /// Returns the part of a [`Phase`] that holds element `lane` of a vector, and the index of the
    /// element in this part.
    pub(super) fn place(self, lane: usize) -> (usize, usize) {
        match self {
            Self::Interleaved => (lane % 16 / 4, lane / 16 * 4 + lane % 4),
            Self::Stacked | Self::Blocked => (lane / 16, lane % 16),
        }
    }

    /// Returns the number of groups of weights of a convolution kernel of `[height, width]` pixels, of one set.
    fn groups(self, [height, width]: [usize; 2]) -> usize {
        match self {
            Self::Interleaved => (height * width).div_ceil(QUAD),
            Self::Stacked | Self::Blocked => height.div_ceil(QUAD) * width,
        }
    }

    /// Returns the group of the weight in row `y` and column `x` of a convolution kernel of `[height,
    /// width]` pixels, and the place of the weight in the group.
    fn weight(self, [height, width]: [usize; 2], y: usize, x: usize) -> (usize, usize) {
        let place = match self {
            Self::Interleaved => y * width + x,
            Self::Blocked if y == 0 => 2 * QUAD * x,
            Self::Stacked | Self::Blocked => (x + 1) * height.next_multiple_of(QUAD) - height + y,
        };
        (place / QUAD, place % QUAD)
    }
}

impl Phase {
    /// Returns the constants of a vector whose first element belongs to channel `first` modulo the
    /// number of channels.
    pub(super) fn new(spec: &DepthwiseSpec, order: Order, first: usize) -> Self {
        let channels = spec.bias.len();
        let taps = spec.kernel[0] * spec.kernel[1];
        let mut phase = Self {
            bias: [[0; 16]; 4],
            multipliers: [[0.0; 16]; 4],
            weights: vec![[Weights([0; LANES]); 4]; order.groups(spec.kernel)],
        };
        for lane in 0..LANES {
            let (part, place) = order.place(lane);
            let channel = (first + lane) % channels;
            let weights = &spec.weights[channel * taps..][..taps];
            for (tap, weight) in weights.iter().enumerate() {
                let (y, x) = (tap / spec.kernel[1], tap % spec.kernel[1]);
                let (group, index) = order.weight(spec.kernel, y, x);
                phase.weights[group][part].0[QUAD * place + index] = *weight;
            }
            // The kernel multiplies weights by input values from which the zero point was not
            // subtracted, so the bias subtracts the zero point times the sum of the weights.
            let sum: i32 = weights.iter().map(|weight| i32::from(*weight)).sum();
            let zero = i32::from(spec.input_zero_point).wrapping_mul(sum);
            phase.bias[part][place] = spec.bias[channel].wrapping_sub(zero);
            phase.multipliers[part][place] = spec.multipliers[channel];
        }
        if order == Order::Stacked {
            let late = phase.weights[LATE..].iter();
            let early: Vec<_> = late.map(|parts| parts.map(earlier)).collect();
            phase.weights.extend(early);
        }
        phase
    }
}

/// Moves the weight of each row to the row before. The first row has no weight.
fn earlier(weights: Weights) -> Weights {
    let mut earlier = Weights([0; LANES]);
    let rows = weights.0.as_chunks::<QUAD>().0.iter();
    for (earlier, [_, rows @ ..]) in earlier.0.as_chunks_mut::<QUAD>().0.iter_mut().zip(rows) {
        earlier[..QUAD - 1].copy_from_slice(rows);
    }
    earlier
}

/// Returns the index of the first channel of each block of 64 channels. The last block overlaps the one before
/// if the blocks do not divide the number of channels, which is at least 64.
pub(super) fn first_channels(channels: usize) -> impl Iterator<Item = usize> {
    let last = channels.saturating_sub(LANES);
    (0..channels)
        .step_by(LANES)
        .map(move |first| first.min(last))
}

/// Returns the greatest common divisor of `a` and `b`.
fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}
