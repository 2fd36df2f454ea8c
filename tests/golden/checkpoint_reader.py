"""What torch reads from checkpoint files: names, data types, shapes and digests of the tensors.

Two readers are the references of `onnx-export/src/weights`:

- `weights_only`: `torch.load(weights_only=True)`.
- `every_opcode`: torch's containers with Python's own pickle machine. It knows every opcode, and drops the objects of
  the classes that weights do not need. No code of the file runs: a name outside the lists below is an error. If torch
  cannot read a zip, Python's `zipfile` reads it, and torch reads the pickle and the storages from a new archive.

    python tests/golden/checkpoint_reader.py < PATHS     # prints one JSON object per line
"""

import collections
import hashlib
import io
import json
import pathlib
import pickle
import resource
import sys
import types
import warnings
import zipfile

import torch

# As `Global` in `onnx-export/src/weights/pickle/globals.rs`.
REBUILT = (
    "_rebuild_tensor",
    "_rebuild_tensor_v2",
    "_rebuild_tensor_v3",
    "_rebuild_parameter",
    "_rebuild_parameter_with_state",
    "_rebuild_qtensor",
)
DROPPED = """
    __builtin__.bytearray __builtin__.complex __builtin__.frozenset __builtin__.set _codecs.encode argparse.Namespace
    builtins.bytearray builtins.complex builtins.frozenset builtins.set collections.Counter collections.deque
    datetime.date datetime.datetime datetime.timedelta numpy._core.multiarray._reconstruct
    numpy._core.multiarray.scalar numpy.bool_ numpy.core.multiarray._reconstruct numpy.core.multiarray.scalar
    numpy.dtype numpy.float32 numpy.float64 numpy.int64 numpy.ndarray pathlib.Path pathlib.PosixPath
    pathlib.WindowsPath torch.BFloat16Tensor torch.ByteTensor torch.CharTensor torch.DoubleTensor torch.FloatTensor
    torch.HalfTensor torch.IntTensor torch.LongTensor torch.ShortTensor torch.device types.SimpleNamespace
""".split()
DTYPES = {
    torch.float32: "f32",
    torch.float16: "f16",
    torch.bfloat16: "bf16",
    torch.float64: "f64",
    torch.int64: "i64",
    torch.int32: "i32",
    torch.int16: "i16",
    torch.int8: "i8",
    torch.uint8: "u8",
    torch.bool: "bool",
    torch.qint32: "i32",
    torch.qint8: "i8",
    torch.quint8: "u8",
}
# As in `onnx-export/src/weights/nested.rs`.
HOLDERS = ("model", "state_dict", "model_state_dict", "net", "network", "model_ema", "state_dict_ema", "ema")
PREFIXES = ("module.", "_orig_mod.")
PACKED = "_packed_params."
PAIR = "_packed_params"
MAX_DEPTH = 3
MAX_PREFIXES = 4


class Dropped:
    """An object whose content weights do not need."""

    def __new__(cls, *_args, **_kwargs):
        return object.__new__(cls)

    def __init__(self, *_args, **_kwargs):
        pass

    def __setstate__(self, _state):
        pass

    def __setitem__(self, _key, _value):
        pass

    def append(self, _item):
        pass

    def extend(self, _items):
        pass

    def add(self, _item):
        pass


class EveryOpcode(pickle.Unpickler):
    """Python's pickle machine with the names that weights and training checkpoints need."""

    def __init__(self, file, **_arguments):
        # Text of Python 2 that is not UTF-8 is content that weights do not need.
        super().__init__(file, encoding="utf-8", errors="surrogateescape")

    def find_class(self, module, name):
        full = f"{module}.{name}"
        if full in ("collections.OrderedDict", "collections.defaultdict"):
            return getattr(collections, name)
        if full == "torch.Size":
            return torch.Size
        if full == "torch.storage.UntypedStorage":
            return torch.UntypedStorage
        if module == "torch._utils" and name in REBUILT:
            return getattr(torch._utils, name)
        if full in DROPPED:
            return Dropped
        if module in ("torch", "torch.cuda", "torch.storage"):
            value = getattr(torch, name, None)
            if isinstance(value, (torch.dtype, torch.qscheme)):
                return value
        raise pickle.UnpicklingError(f"{full} is not in the list of allowed names")


def _load_every_opcode(file, **arguments):
    return EveryOpcode(file, **arguments).load()


MACHINE = types.ModuleType("every_opcode")
MACHINE.Unpickler = EveryOpcode
MACHINE.load = _load_every_opcode
MACHINE.UnpicklingError = pickle.UnpicklingError


def digest(tensor):
    """SHA-256 of the elements in C order: as f32 if the tensor is quantized or of a floating-point type except f64,
    with one NaN for all, and else in the tensor's own type."""
    tensor = tensor.detach()
    if tensor.numel() == 0:
        return hashlib.sha256().hexdigest()
    if tensor.is_quantized:
        tensor = tensor.dequantize()
    if tensor.is_floating_point():
        if tensor.dtype != torch.float64:
            tensor = tensor.float()
        tensor = torch.where(tensor.isnan(), torch.tensor(float("nan"), dtype=tensor.dtype), tensor)
    elif tensor.dtype == torch.bool:
        tensor = tensor.contiguous().view(torch.uint8) != 0
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()


def describe(tensor):
    if tensor.layout != torch.strided or tensor.dtype not in DTYPES or tensor.is_neg() or tensor.is_conj():
        raise ValueError(f"unsupported tensor of {tensor.dtype} and {tensor.layout}")
    return [DTYPES[tensor.dtype], list(tensor.shape), digest(tensor)]


def is_dict(value):
    return type(value) in (dict, collections.OrderedDict, collections.defaultdict)


def is_utf8(text):
    return text.encode("utf-8", "replace").decode() == text


def tensors(saved):
    """The named tensors directly in a dictionary, with those of packed layers."""
    named = {}
    texts = {key: value for key, value in saved.items() if type(key) is str and is_utf8(key)}
    for key, value in sorted(texts.items(), key=lambda item: item[0].encode()):
        layer, tensor = "", key
        if PACKED in key:
            start, _, end = key.rpartition(PACKED)
            if end in ("weight", "bias", PAIR):
                layer, tensor = start, end
        if isinstance(value, torch.Tensor):
            named[layer + tensor] = value
        elif type(value) is tuple and tensor == PAIR:
            for name, part in zip(("weight", "bias"), value):
                if isinstance(part, torch.Tensor):
                    named[layer + name] = part
    return named


def find(saved, depth):
    """The tensors of the state dict in a checkpoint, or `None`."""
    if depth == 0 or not is_dict(saved):
        return None
    for key in HOLDERS:
        if key in saved and (named := find(saved[key], depth - 1)):
            return named
    return tensors(saved) or None


def named_tensors(saved):
    named = find(saved, MAX_DEPTH)
    if named is None:
        raise ValueError("no state dict")
    for _ in range(MAX_PREFIXES):
        prefix = next((p for p in PREFIXES if all(name.startswith(p) for name in named)), None)
        if prefix is None:
            break
        named = {name[len(prefix) :]: tensor for name, tensor in sorted(named.items())}
    return {name: describe(tensor) for name, tensor in sorted(named.items())}


def cause(error):
    """The reason in an error of torch, which repeats advice in many lines."""
    text = str(error)
    text = text.partition("WeightsUnpickler error:")[2] or text
    line = next((line for line in text.splitlines() if line.strip()), "")
    line = line.strip().partition(' at "/')[0]
    return f"{type(error).__name__}: {line[:120]}"


def attempt(path, **arguments):
    """Either `{"tensors": {name: [dtype, shape, digest]}}` or `{"error": text}`."""
    try:
        saved = torch.load(path, map_location="cpu", **arguments)
        return {"tensors": named_tensors(saved)}
    except Exception as error:
        return {"error": cause(error)}


def repacked(path):
    """The pickle and the storages of a zip in a new archive, or `None`."""
    data = pathlib.Path(path).read_bytes()
    out = io.BytesIO()
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive, zipfile.ZipFile(out, "w") as new:
            (pickled,) = [name for name in archive.namelist() if name.endswith("data.pkl")]
            root = pickled.removesuffix("data.pkl")
            for name in archive.namelist():
                if name == pickled or name.startswith(f"{root}data/"):
                    new.writestr(f"archive/{name.removeprefix(root)}", archive.read(name))
            new.writestr("archive/version", "3\n")
    except Exception:
        return None
    return out


def read(path):
    warnings.simplefilter("ignore")
    strict = attempt(path, weights_only=True)
    wide = attempt(path, weights_only=False, pickle_module=MACHINE)
    is_archive = True
    if "error" in wide and pathlib.Path(path).read_bytes().startswith(b"PK"):
        archive = repacked(path)
        is_archive = archive is not None
        if is_archive:
            archive.seek(0)
            wide = attempt(archive, weights_only=False, pickle_module=MACHINE)
    return {"weights_only": strict, "every_opcode": wide, "is_archive": is_archive}


def main():
    # A damaged file may state huge storages. Without a limit, torch would reserve and fill them.
    resource.setrlimit(resource.RLIMIT_DATA, (6 << 30, 6 << 30))
    torch.set_num_threads(1)
    for line in sys.stdin:
        print(json.dumps(read(line.rstrip("\n"))), flush=True)


if __name__ == "__main__":
    main()
