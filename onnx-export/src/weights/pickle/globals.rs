//! The classes and functions that a pickle may name.
//!
//! Nothing named is ever imported or called; the list decides what a name *stands for* here.
//! Anything else is refused by name, because skipping what is not understood would hide both an
//! attack and a checkpoint of another kind.

use crate::weights::{DType, WeightsError, error::shown};

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::weights) enum Global {
    /// `collections.OrderedDict` and its relatives.
    Dict,
    /// `torch.Size`: a tuple.
    Size,
    /// `torch._utils._rebuild_tensor` and `_rebuild_tensor_v2`, whose first four arguments agree.
    Tensor,
    /// `torch._utils._rebuild_tensor_v3`: the element type is an argument.
    TensorV3,
    /// `torch._utils._rebuild_parameter` and `_rebuild_parameter_with_state`: a tensor, wrapped.
    Parameter,
    /// `torch._utils._rebuild_qtensor`: integers and their quantiser.
    Quantized,
    /// `torch.per_tensor_affine`: one scale and zero point.
    PerTensorAffine,
    /// `torch.per_channel_affine`: scales and zero points along an axis.
    PerChannelAffine,
    /// A storage class.
    Storage(DType),
    /// An element type as a value, such as `torch.float32`.
    DType(DType),
    /// Something that appears beside weights and is not looked into.
    Opaque(&'static str),
}

/// Names met in training checkpoints: options, counters, clocks, numpy numbers,
/// and the tensor classes that the tar format mentions.
const OPAQUE: &[&str] = &[
    "__builtin__.bytearray",
    "__builtin__.complex",
    "__builtin__.frozenset",
    "__builtin__.set",
    "_codecs.encode",
    "argparse.Namespace",
    "builtins.bytearray",
    "builtins.complex",
    "builtins.frozenset",
    "builtins.set",
    "collections.deque",
    "datetime.date",
    "datetime.datetime",
    "datetime.timedelta",
    "numpy._core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",
    "numpy.bool_",
    "numpy.core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy.dtype",
    "numpy.float32",
    "numpy.float64",
    "numpy.int64",
    "numpy.ndarray",
    "pathlib.Path",
    "pathlib.PosixPath",
    "pathlib.WindowsPath",
    "torch.BFloat16Tensor",
    "torch.ByteTensor",
    "torch.CharTensor",
    "torch.DoubleTensor",
    "torch.FloatTensor",
    "torch.HalfTensor",
    "torch.IntTensor",
    "torch.LongTensor",
    "torch.ShortTensor",
    "torch.device",
    "types.SimpleNamespace",
];

/// What `module.name` stands for.
///
/// # Errors
/// [`WeightsError::Quantised`] for other ways to quantise, [`WeightsError::Global`] for any other name
/// that is not listed.
pub(super) fn resolve(module: &str, name: &str) -> Result<Global, WeightsError> {
    let known = match (module, name) {
        ("collections", "OrderedDict" | "defaultdict" | "Counter") => Some(Global::Dict),
        ("torch", "Size") => Some(Global::Size),
        ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => Some(Global::Tensor),
        ("torch._utils", "_rebuild_tensor_v3") => Some(Global::TensorV3),
        ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => {
            Some(Global::Parameter)
        }
        ("torch._utils", "_rebuild_qtensor") => Some(Global::Quantized),
        ("torch", "per_tensor_affine") => Some(Global::PerTensorAffine),
        ("torch", "per_channel_affine") => Some(Global::PerChannelAffine),
        ("torch" | "torch.cuda" | "torch.storage", _) => storage(name)
            .map(Global::Storage)
            .or_else(|| element_type(name).map(Global::DType)),
        _ => None,
    };
    let full = || format!("{module}.{name}");
    if let Some(global) = known {
        return Ok(global);
    }
    if let Some(opaque) = OPAQUE.iter().find(|&&opaque| opaque == full()) {
        return Ok(Global::Opaque(opaque));
    }
    let name = shown(&full());
    Err(if is_quantised(module, &name) {
        WeightsError::Quantised { name }
    } else {
        WeightsError::Global { name }
    })
}

/// Element type of a storage class. An untyped storage counts bytes; a quantised one holds integers.
fn storage(class: &str) -> Option<DType> {
    Some(match class {
        "FloatStorage" => DType::F32,
        "HalfStorage" => DType::F16,
        "BFloat16Storage" => DType::BF16,
        "DoubleStorage" => DType::F64,
        "LongStorage" => DType::I64,
        "IntStorage" | "QInt32Storage" => DType::I32,
        "ShortStorage" => DType::I16,
        "CharStorage" | "QInt8Storage" => DType::I8,
        "ByteStorage" | "QUInt8Storage" | "UntypedStorage" | "_UntypedStorage" => DType::U8,
        "BoolStorage" => DType::Bool,
        _ => return None,
    })
}

fn element_type(name: &str) -> Option<DType> {
    Some(match name {
        "float32" => DType::F32,
        "float16" => DType::F16,
        "bfloat16" => DType::BF16,
        "float64" => DType::F64,
        "int64" => DType::I64,
        "int32" | "qint32" => DType::I32,
        "int16" => DType::I16,
        "int8" | "qint8" => DType::I8,
        "uint8" | "quint8" => DType::U8,
        "bool" => DType::Bool,
        _ => return None,
    })
}

fn is_quantised(module: &str, full: &str) -> bool {
    let parts = [".quint", ".QInt", ".QUInt", ".per_"];
    module.starts_with("torch") && parts.iter().any(|part| full.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_for_data_or_are_refused() {
        let no_use = "which a checkpoint has no use for";
        let unknown = "tensors quantised so are not read";
        let cases = [
            ("collections", "OrderedDict", Ok(Global::Dict)),
            ("torch", "BFloat16Storage", Ok(Global::Storage(DType::BF16))),
            ("torch.cuda", "HalfStorage", Ok(Global::Storage(DType::F16))),
            (
                "torch.storage",
                "UntypedStorage",
                Ok(Global::Storage(DType::U8)),
            ),
            ("torch", "float16", Ok(Global::DType(DType::F16))),
            ("numpy", "dtype", Ok(Global::Opaque("numpy.dtype"))),
            ("posix", "system", Err(no_use)),
            ("builtins", "eval", Err(no_use)),
            ("builtins", "getattr", Err(no_use)),
            ("torch", "load", Err(no_use)),
            ("torch.storage", "_load_from_bytes", Err(no_use)),
            ("torch.nn.modules.conv", "Conv2d", Err(no_use)),
            ("torch._utils", "_rebuild_qtensor", Ok(Global::Quantized)),
            ("torch", "per_tensor_affine", Ok(Global::PerTensorAffine)),
            ("torch", "per_channel_affine", Ok(Global::PerChannelAffine)),
            ("torch", "QInt8Storage", Ok(Global::Storage(DType::I8))),
            ("torch", "QUInt8Storage", Ok(Global::Storage(DType::U8))),
            ("torch", "QInt32Storage", Ok(Global::Storage(DType::I32))),
            ("torch", "qint8", Ok(Global::DType(DType::I8))),
            ("torch", "quint8", Ok(Global::DType(DType::U8))),
            ("torch", "qint32", Ok(Global::DType(DType::I32))),
            ("torch", "QUInt4x2Storage", Err(unknown)),
            ("torch", "quint2x4", Err(unknown)),
            ("torch", "per_channel_affine_float_qparams", Err(unknown)),
            ("torch", "per_tensor_symmetric", Err(unknown)),
        ];
        for (module, name, expected) in cases {
            match (resolve(module, name), expected) {
                (Ok(got), Ok(expected)) => assert_eq!(got, expected, "{module}.{name}"),
                (Err(got), Err(part)) => {
                    let got = got.to_string();
                    assert!(got.contains(part), "{got}");
                    assert!(got.contains(&format!("'{module}.{name}'")), "{got}");
                }
                (got, _) => panic!("{module}.{name}: {got:?}"),
            }
        }
    }
}
