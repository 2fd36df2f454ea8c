//! The allow-list of classes and functions that a pickle may name.
//!
//! Nothing is imported or called: the list maps a name to a [`Global`]. A name outside the list is
//! an error, since skipping it would hide an attack or a checkpoint of another kind.

use crate::text::shown;
use crate::weights::{DType, WeightsError};

/// What the reader makes of a class or function that a pickle names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::weights) enum Global {
    /// `collections.OrderedDict`.
    OrderedDict,
    /// `collections.defaultdict`: a dictionary whose default value is dropped.
    DefaultDict,
    /// `torch.Size`: a tuple of sizes.
    Size,
    /// `torch._utils._rebuild_tensor`: a tensor with the data type of its storage.
    Tensor,
    /// `torch._utils._rebuild_tensor_v2`, which has more arguments than `_rebuild_tensor`.
    TensorV2,
    /// `torch._utils._rebuild_tensor_v3`: a tensor whose data type is an argument.
    TensorV3,
    /// `torch._utils._rebuild_parameter`, which wraps a tensor.
    Parameter,
    /// `torch._utils._rebuild_parameter_with_state`, which wraps a tensor and sets attributes.
    ParameterWithState,
    /// `torch._utils._rebuild_qtensor`: a tensor of integers with scales and zero points.
    Quantized,
    /// `torch.per_tensor_affine`: the quantization scheme with one scale and zero point.
    PerTensorAffine,
    /// `torch.per_channel_affine`: the quantization scheme with scales and zero points along an axis.
    PerChannelAffine,
    /// A storage class such as `torch.FloatStorage`, and the data type of its elements.
    Storage(DType),
    /// A storage class of quantized tensors such as `torch.QInt8Storage`, and the data type of its
    /// integers.
    QuantizedStorage(DType),
    /// A data type as a value, such as `torch.float32`.
    DType(DType),
    /// A quantized data type as a value, such as `torch.qint8`, which quantized modules save.
    QuantizedDType,
    /// A class or function in [`OPAQUE`], by name. Weights do not need the objects that it creates,
    /// so their content is dropped.
    Opaque(&'static str),
}

/// Classes and functions in training checkpoints that weights do not need: options, counters, times, numpy scalars,
/// and the tensor classes of the tar format.
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
    "collections.Counter",
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

/// Packages whose classes are models or parts of models, in files that users save with
/// `torch.save(model, path)`.
const MODEL_PACKAGES: &[&str] = &[
    "__main__",
    "efficientnet_pytorch",
    "lightning",
    "model",
    "models",
    "net",
    "nets",
    "network",
    "networks",
    "pretrainedmodels",
    "pytorch_lightning",
    "segmentation_models_pytorch",
    "timm",
    "torchvision",
    "transformers",
    "ultralytics",
];

/// Returns what `module.name` means according to the allow-list.
///
/// # Errors
/// Returns [`WeightsError::UnsupportedQuantization`] for an unsupported quantization scheme or
/// quantized data type, [`WeightsError::WholeModel`] for a class of a package of models,
/// [`WeightsError::Foreign`] for a class of a `TorchScript` model, or [`WeightsError::Global`] for any other name
/// outside the allow-list.
pub(super) fn resolve(module: &str, name: &str) -> Result<Global, WeightsError> {
    let known = match (module, name) {
        ("collections", "OrderedDict") => Some(Global::OrderedDict),
        ("collections", "defaultdict") => Some(Global::DefaultDict),
        ("torch", "Size") => Some(Global::Size),
        ("torch._utils", "_rebuild_tensor") => Some(Global::Tensor),
        ("torch._utils", "_rebuild_tensor_v2") => Some(Global::TensorV2),
        ("torch._utils", "_rebuild_tensor_v3") => Some(Global::TensorV3),
        ("torch._utils", "_rebuild_parameter") => Some(Global::Parameter),
        ("torch._utils", "_rebuild_parameter_with_state") => Some(Global::ParameterWithState),
        ("torch._utils", "_rebuild_qtensor") => Some(Global::Quantized),
        ("torch", "per_tensor_affine") => Some(Global::PerTensorAffine),
        ("torch", "per_channel_affine") => Some(Global::PerChannelAffine),
        ("torch", "qint8" | "quint8" | "qint32") => Some(Global::QuantizedDType),
        ("torch" | "torch.cuda" | "torch.storage", _) => {
            storage(name).or_else(|| element_type(name).map(Global::DType))
        }
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
    Err(
        if module.starts_with("__torch__") || module.starts_with("torch.jit") {
            WeightsError::torchscript()
        } else if holds_models(module) {
            WeightsError::WholeModel { class: name }
        } else if is_quantized(module, &name) {
            WeightsError::UnsupportedQuantization { name }
        } else {
            WeightsError::Global { name }
        },
    )
}

/// Returns whether the Python module `module` belongs to a package that defines models, or is the
/// user's own script. Its classes are then those of a whole model.
fn holds_models(module: &str) -> bool {
    let package = module.split('.').next().unwrap_or_default();
    MODEL_PACKAGES.contains(&package)
        || ["torch.nn.", "torch.fx."]
            .iter()
            .any(|part| module.starts_with(part))
}

/// Returns the meaning of a storage class; `None` if `class` is not a storage class. An untyped
/// storage is read as u8.
fn storage(class: &str) -> Option<Global> {
    let elements = match class {
        "FloatStorage" => DType::F32,
        "HalfStorage" => DType::F16,
        "BFloat16Storage" => DType::BF16,
        "DoubleStorage" => DType::F64,
        "LongStorage" => DType::I64,
        "IntStorage" => DType::I32,
        "ShortStorage" => DType::I16,
        "CharStorage" => DType::I8,
        "ByteStorage" | "UntypedStorage" | "_UntypedStorage" => DType::U8,
        "BoolStorage" => DType::Bool,
        "QInt32Storage" => return Some(Global::QuantizedStorage(DType::I32)),
        "QInt8Storage" => return Some(Global::QuantizedStorage(DType::I8)),
        "QUInt8Storage" => return Some(Global::QuantizedStorage(DType::U8)),
        _ => return None,
    };
    Some(Global::Storage(elements))
}

fn element_type(name: &str) -> Option<DType> {
    Some(match name {
        "float32" => DType::F32,
        "float16" => DType::F16,
        "bfloat16" => DType::BF16,
        "float64" => DType::F64,
        "int64" => DType::I64,
        "int32" => DType::I32,
        "int16" => DType::I16,
        "int8" => DType::I8,
        "uint8" => DType::U8,
        "bool" => DType::Bool,
        _ => return None,
    })
}

fn is_quantized(module: &str, full: &str) -> bool {
    let parts = [".quint", ".QInt", ".QUInt", ".per_"];
    module.starts_with("torch") && parts.iter().any(|part| full.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_outside_the_allow_list_are_rejected() {
        let no_use = "which weights do not need";
        let model = "such as a whole model, instead of weights alone";
        let unknown = "an unsupported quantization";
        let cases = [
            ("collections", "OrderedDict", Ok(Global::OrderedDict)),
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
            ("torch.nn.modules.conv", "Conv2d", Err(model)),
            ("torchvision.models.mobilenetv3", "MobileNetV3", Err(model)),
            ("__main__", "BirdNet", Err(model)),
            ("torch._utils", "_rebuild_qtensor", Ok(Global::Quantized)),
            ("torch", "per_tensor_affine", Ok(Global::PerTensorAffine)),
            ("torch", "per_channel_affine", Ok(Global::PerChannelAffine)),
            (
                "torch",
                "QInt8Storage",
                Ok(Global::QuantizedStorage(DType::I8)),
            ),
            (
                "torch",
                "QUInt8Storage",
                Ok(Global::QuantizedStorage(DType::U8)),
            ),
            (
                "torch",
                "QInt32Storage",
                Ok(Global::QuantizedStorage(DType::I32)),
            ),
            ("torch", "qint8", Ok(Global::QuantizedDType)),
            ("torch", "quint8", Ok(Global::QuantizedDType)),
            ("torch", "qint32", Ok(Global::QuantizedDType)),
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
                    assert!(got.contains(&format!("`{module}.{name}`")), "{got}");
                }
                (got, _) => panic!("{module}.{name}: {got:?}"),
            }
        }
    }
}
