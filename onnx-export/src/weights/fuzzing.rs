//! The pickle machine alone, for the fuzz target of pickles.

use std::collections::BTreeMap;

use super::layout::{StorageRef, TensorRef};
use super::pickle::{self, Persistent};
use super::references::{check_tensors, storage_sizes};
use super::{DType, Format, WeightsError, nested};

/// Runs the pickle in `bytes` once for each kind of object that its persistent ids may refer to,
/// and searches the results for a state dict. Returns the error of each run and search that failed.
///
/// # Panics
/// If a pickle ends outside of `bytes`.
pub(crate) fn run_pickle(bytes: &[u8]) -> Vec<WeightsError> {
    let tensor = TensorRef {
        storage: StorageRef {
            key: "0".into(),
            dtype: DType::F32,
            quantized: false,
            numel: 6,
            view: None,
        },
        dtype: DType::F32,
        offset: 0,
        shape: vec![2, 3],
        strides: vec![3, 1],
        quantizer: None,
    };
    let numbered = BTreeMap::from([(0, tensor.clone()), (1, tensor)]);
    let kinds = [
        Persistent::Storages,
        Persistent::ViewedStorages,
        Persistent::Numbered(&numbered),
        Persistent::Refused,
    ];
    let run = |persistent| {
        let pickled = pickle::load(bytes, 0, persistent)?;
        assert!(pickled.end <= bytes.len());
        storage_sizes(&pickled, Format::Pickle)?;
        check_tensors(&pickled, Format::Pickle)?;
        nested::select(&pickled).map(drop)
    };
    kinds
        .into_iter()
        .filter_map(|kind| run(kind).err())
        .collect()
}
