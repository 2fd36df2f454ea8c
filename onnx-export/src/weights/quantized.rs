//! Reads the scales and zero points of quantized tensors.
//!
//! A pickle either lists scales and zero points or refers to storages that hold them, which
//! `layout` reads together with the storages of the elements.

use std::collections::BTreeMap;

use super::{
    Format, InvalidQuantizer, Quantizer, Tensor, Tensors, WeightsError, layout::TensorRef,
    limits::Budget,
};

/// The scales and zero points of a tensor as a pickle describes them.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum QuantizerRef<'a> {
    /// One scale and zero point for all elements.
    PerTensor { scale: f64, zero_point: i64 },
    /// One scale and zero point for each index of an axis.
    PerChannel(Box<PerChannelRef<'a>>),
}

/// The scales and zero points along an axis.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct PerChannelRef<'a> {
    pub(super) scales: Values<'a, f64>,
    pub(super) zero_points: Values<'a, i64>,
    pub(super) axis: usize,
}

/// Scales or zero points along an axis, as a pickle describes them.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Values<'a, T> {
    /// Listed in the pickle, as the first versions of torch write them.
    Listed(Vec<T>),
    /// Stored in a tensor of rank 1.
    Held(TensorRef<'a>),
}

/// Which part of a quantized tensor a storage holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    Elements,
    Scales,
    ZeroPoints,
}

/// The parts of quantized tensors that were read from storages, by tensor name and kind of part.
pub(super) type Parts<'n> = BTreeMap<(&'n str, Part), Tensor>;

impl<'a> TensorRef<'a> {
    /// Returns the tensor itself and the tensors, if any, that hold its scales and zero points.
    pub(super) fn parts(&self) -> impl Iterator<Item = (Part, &TensorRef<'a>)> {
        let along_axis = match &self.quantizer {
            Some(QuantizerRef::PerChannel(along_axis)) => Some(along_axis),
            _ => None,
        };
        let scales = along_axis.and_then(|along_axis| along_axis.scales.held());
        let zero_points = along_axis.and_then(|along_axis| along_axis.zero_points.held());
        let scales = scales.map(|held| (Part::Scales, held));
        let zero_points = zero_points.map(|held| (Part::ZeroPoints, held));
        [(Part::Elements, self)]
            .into_iter()
            .chain(scales)
            .chain(zero_points)
    }
}

impl<'a, T: Copy> Values<'a, T> {
    fn held(&self) -> Option<&TensorRef<'a>> {
        match self {
            Self::Listed(_) => None,
            Self::Held(tensor) => Some(tensor),
        }
    }

    fn listed_bytes(&self) -> usize {
        match self {
            Self::Listed(values) => size_of_val(values.as_slice()),
            Self::Held(_) => 0,
        }
    }

    /// Returns the values listed in the pickle or, if a tensor holds them, `held`, the values that
    /// were read from this tensor.
    fn read(&self, held: Option<Vec<T>>) -> Vec<T> {
        match self {
            Self::Listed(values) => values.clone(),
            Self::Held(_) => held.unwrap_or_default(),
        }
    }
}

/// Combines the `parts` of the tensors `wanted`: attaches scales and zero points to the elements of
/// each quantized tensor.
///
/// # Errors
/// Returns [`WeightsError::Entry`] if a quantizer does not match its tensor, or
/// [`WeightsError::Limit`] if copies of listed scales and zero points exceed the budget.
pub(super) fn assemble<'n>(
    wanted: &'n BTreeMap<String, &TensorRef<'_>>,
    mut parts: Parts<'n>,
    budget: &mut Budget,
    format: Format,
) -> Result<Tensors, WeightsError> {
    let mut out = Tensors::new();
    for (name, tensor) in wanted {
        let mut part = |part| parts.remove(&(name.as_str(), part));
        let wrong =
            |InvalidQuantizer { expected, got }| WeightsError::entry(format, name, expected, got);
        let Some(mut whole) = part(Part::Elements) else {
            return Err(WeightsError::entry(
                format,
                name,
                "the elements of the tensor",
                "none",
            ));
        };
        if let Some(reference) = &tensor.quantizer {
            budget.spend(reference.listed_bytes())?;
            let scales = part(Part::Scales).map(|tensor| floats(&tensor));
            let scales = scales.transpose().map_err(wrong)?;
            let zero_points = part(Part::ZeroPoints).map(|tensor| integers(&tensor));
            let zero_points = zero_points.transpose().map_err(wrong)?;
            let quantizer = reference.read(scales, zero_points);
            let quantized = quantizer.and_then(|quantizer| whole.quantized(quantizer));
            whole = quantized.map_err(wrong)?;
        }
        out.insert(name.clone(), whole);
    }
    Ok(out)
}

impl QuantizerRef<'_> {
    /// Returns the size in bytes of the scales and zero points listed in the pickle. Each tensor
    /// gets a copy of them, so a list that many tensors share counts once per tensor.
    fn listed_bytes(&self) -> usize {
        match self {
            Self::PerTensor { .. } => 0,
            Self::PerChannel(along_axis) => {
                along_axis.scales.listed_bytes() + along_axis.zero_points.listed_bytes()
            }
        }
    }

    /// Creates the quantizer. `floats` are the scales and `integers` the zero points that were read
    /// from tensors; each is `None` if no tensor holds these values.
    fn read(
        &self,
        floats: Option<Vec<f64>>,
        integers: Option<Vec<i64>>,
    ) -> Result<Quantizer, InvalidQuantizer> {
        match self {
            Self::PerTensor { scale, zero_point } => Quantizer::per_tensor(*scale, *zero_point),
            Self::PerChannel(along_axis) => Quantizer::per_channel(
                along_axis.scales.read(floats),
                along_axis.zero_points.read(integers),
                along_axis.axis,
            ),
        }
    }
}

fn floats(tensor: &Tensor) -> Result<Vec<f64>, InvalidQuantizer> {
    tensor.to_f64().ok_or_else(|| InvalidQuantizer {
        expected: "floating-point scales",
        got: tensor.dtype().to_string(),
    })
}

fn integers(tensor: &Tensor) -> Result<Vec<i64>, InvalidQuantizer> {
    tensor.to_i64().ok_or_else(|| InvalidQuantizer {
        expected: "integer zero points",
        got: tensor.dtype().to_string(),
    })
}
