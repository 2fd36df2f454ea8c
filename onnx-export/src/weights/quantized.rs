//! From a pickle's description of a quantiser to its numbers.
//!
//! Scales and zero points stand in the pickle itself, or in storages of their own, which are read
//! with all others (`layout`).

use std::collections::BTreeMap;

use super::{
    Format, InvalidQuantizer, Quantizer, Tensor, Tensors, WeightsError, layout::TensorRef,
    limits::Budget,
};

/// A quantiser as a pickle describes it.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum QuantizerRef<'a> {
    /// One scale and zero point for all elements.
    PerTensor { scale: f64, zero_point: i64 },
    /// One of each for every index of an axis.
    PerChannel(Box<PerChannelRef<'a>>),
}

/// The numbers of a quantiser along an axis.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct PerChannelRef<'a> {
    pub(super) scales: Numbers<'a, f64>,
    pub(super) zero_points: Numbers<'a, i64>,
    pub(super) axis: usize,
}

/// Numbers of one kind.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Numbers<'a, T> {
    /// In the pickle, as the first versions of torch write them.
    Listed(Vec<T>),
    /// In a tensor of rank 1.
    Held(TensorRef<'a>),
}

/// What of a tensor lies in a storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    Elements,
    Scales,
    ZeroPoints,
}

/// Tensors by the name of what they are a part of.
pub(super) type Parts<'n> = BTreeMap<(&'n str, Part), Tensor>;

impl<'a> TensorRef<'a> {
    /// The tensor and those that its quantiser is held in.
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

impl<'a, T: Copy> Numbers<'a, T> {
    fn held(&self) -> Option<&TensorRef<'a>> {
        match self {
            Self::Listed(_) => None,
            Self::Held(tensor) => Some(tensor),
        }
    }

    fn listed_bytes(&self) -> usize {
        match self {
            Self::Listed(numbers) => size_of_val(numbers.as_slice()),
            Self::Held(_) => 0,
        }
    }

    /// The numbers: those of the list, else `held`.
    fn read(&self, held: Option<Vec<T>>) -> Vec<T> {
        match self {
            Self::Listed(numbers) => numbers.clone(),
            Self::Held(_) => held.unwrap_or_default(),
        }
    }
}

/// The tensors `wanted` out of their parts.
///
/// # Errors
/// [`WeightsError::Entry`] for a quantiser that no such tensor can have.
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
            return Err(WeightsError::entry(format, name, "its elements", "none"));
        };
        if let Some(reference) = &tensor.quantizer {
            budget.spend(reference.listed_bytes())?;
            let scales = part(Part::Scales).map(|tensor| floats(&tensor));
            let scales = scales.transpose().map_err(wrong)?;
            let zero_points = part(Part::ZeroPoints).map(|tensor| integers(&tensor));
            let zero_points = zero_points.transpose().map_err(wrong)?;
            let quantizer = reference.read(scales, zero_points);
            let quantised = quantizer.and_then(|quantizer| whole.quantized(quantizer));
            whole = quantised.map_err(wrong)?;
        }
        out.insert(name.clone(), whole);
    }
    Ok(out)
}

impl QuantizerRef<'_> {
    /// Bytes of the numbers in the pickle itself, which many tensors may share.
    fn listed_bytes(&self) -> usize {
        match self {
            Self::PerTensor { .. } => 0,
            Self::PerChannel(along_axis) => {
                along_axis.scales.listed_bytes() + along_axis.zero_points.listed_bytes()
            }
        }
    }

    /// The quantiser, of whose numbers `floats` and `integers` are those that tensors hold.
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
        expected: "scales of floats",
        got: tensor.dtype().to_string(),
    })
}

fn integers(tensor: &Tensor) -> Result<Vec<i64>, InvalidQuantizer> {
    tensor.to_i64().ok_or_else(|| InvalidQuantizer {
        expected: "zero points of whole numbers",
        got: tensor.dtype().to_string(),
    })
}
