"""Recipe of `checkpoints/`: small checkpoints in the variants that torch writes, some of them damaged, and
`results.json` with what torch reads from each.

    python tests/golden/checkpoints.py            # compares the results of the committed files
    python tests/golden/checkpoints.py --write    # replaces the files and their results

The legacy files hold memory addresses as keys, so their bytes differ from run to run, but not their results.

For a file that `torch.load(weights_only=True)` rejects, `results.json` has its error, and the tensors that
`checkpoint_reader.py` reads with Python's own pickle machine, if any.
"""

import argparse
import collections
import datetime
import io
import json
import pathlib
import sys
import warnings
import zipfile

import numpy
import torch

import checkpoint_reader
from checkpoint_edits import Legacy, Zip, integer, opened, text

FOLDER = pathlib.Path(__file__).parent / "checkpoints"
DTYPES = ("float32", "float16", "bfloat16", "float64", "int64", "int32", "int16", "int8", "uint8", "bool")


def saved(value, **options):
    out = io.BytesIO()
    torch.save(value, out, **options)
    return out.getvalue()


def legacy(value, **options):
    return saved(value, _use_new_zipfile_serialization=False, **options)


def counting(*shape, dtype="float32"):
    count = int(torch.Size(shape).numel())
    return (torch.arange(count) % 7 - 3).to(getattr(torch, dtype)).reshape(shape)


def layouts():
    base = counting(4, 6)
    cube = counting(2, 3, 4, 5)
    return {
        "transposed": base.t(),
        "rows": base[1:3],
        "columns": base[:, 2:4],
        "steps": base[::2, 1::3],
        "expanded": counting(3, 1).expand(3, 4),
        "scalar": torch.tensor(1.5),
        "scalar_in_base": base[2, 3],
        "empty": torch.zeros(0),
        "empty_rows": torch.zeros(0, 5),
        "empty_part": base[4:],
        "channels_last": cube.to(memory_format=torch.channels_last),
        "permuted": cube.permute(3, 1, 0, 2),
        "one": counting(1, 1, 1),
        "windows": counting(6).as_strided((3, 3), (1, 1), 1),
    }


def special():
    nan = float("nan")
    values = torch.tensor([nan, -nan, float("inf"), -0.0, 1e-45])
    return {"f32": values, "f16": torch.tensor([nan, 6e-8, 65504.0]).half()}


def module():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Conv2d(1, 2, 2), torch.nn.BatchNorm2d(2), torch.nn.Linear(2, 2))


def quantized():
    weight = counting(2, 3) / 4
    scales, zeros = torch.tensor([0.1, 0.25], dtype=torch.float64), torch.tensor([0, 3])
    return {
        "tensor_i8": torch.quantize_per_tensor(weight, 0.1, 3, torch.qint8),
        "tensor_u8": torch.quantize_per_tensor(weight, 0.5, 128, torch.quint8),
        "tensor_i32": torch.quantize_per_tensor(weight, 1e-3, 0, torch.qint32),
        "channel_i8": torch.quantize_per_channel(weight, scales, zeros, 0, torch.qint8),
        "channel_axis": torch.quantize_per_channel(weight.t().contiguous(), scales, zeros, 1, torch.qint8),
        "plain": weight,
    }


def packed():
    pair = (quantized()["tensor_i8"], counting(2))
    items = [("fc._packed_params.dtype", torch.qint8), ("fc._packed_params._packed_params", pair)]
    return collections.OrderedDict(items)


def with_attribute():
    parameter = torch.nn.Parameter(counting(2))
    parameter.note = "first layer"
    return parameter


def training():
    model = module()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    model[2](torch.ones(1, 2)).sum().backward()
    optimizer.step()
    return {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3, "best": 0.5, "note": None}


def plain_values():
    return {
        "w": counting(2),
        "int": -5,
        "large": 2**70,
        "float": 1.5,
        "none": None,
        "flags": (True, False),
        "list": [1, "a", [2.5]],
        "set": {1, 2},
        "bytes": b"\xff\x00",
        "array": bytearray(b"\x01\x02"),
        "size": torch.Size([1, 2]),
        "dtype": torch.float16,
        "device": torch.device("cpu"),
        "complex": 1 + 2j,
        "counter": collections.Counter("aab"),
        7: counting(1),
    }


def named(value):
    return {"w": counting(2, 2), "extra": value}


def written():
    """Files that torch writes, by name."""
    files = {}
    for container, save in (("zip", saved), ("legacy", legacy)):
        files |= {
            f"{container}_dtypes": save({dtype: counting(2, 3, dtype=dtype) for dtype in DTYPES}),
            f"{container}_layouts": save(layouts()),
            f"{container}_special_values": save(special()),
            f"{container}_state_dict": save(module().state_dict()),
            f"{container}_parameters": save(dict(module().named_parameters())),
            f"{container}_training": save(training()),
            f"{container}_quantized": save(quantized()),
            f"{container}_plain_values": save(plain_values()),
            f"{container}_attribute": save({"p": with_attribute()}),
            f"{container}_protocol_4": save(module().state_dict(), pickle_protocol=4),
        }
        shared = counting(6)
        views = {"all": shared, "again": shared, "part": shared[2:5], "kept": shared.clone()}
        files[f"{container}_shared"] = save(views)
    for protocol in (3, 5):
        files[f"zip_protocol_{protocol}"] = saved(named(1), pickle_protocol=protocol)
    state = module().state_dict()
    files |= {
        "nested_state_dict": saved({"state_dict": {f"module.{name}": value for name, value in state.items()}}),
        "nested_ema": saved({"ema": {"module": counting(2)}, "net": {}, "w": counting(1)}),
        "nested_twice": saved({"model": {"state_dict": {"_orig_mod.w": counting(2)}}}),
        "prefix_of_some": saved({"module.a": counting(2), "b": counting(2)}),
        "names": saved({"größe.重み": counting(2), "": counting(1), "a\nb": counting(1), "x" * 300: counting(1)}),
        "packed_linear": saved(packed()),
        "not_a_dict": saved(counting(2)),
        "list_of_tensors": saved([counting(2)]),
        "empty_dict": saved({}),
        "storage": saved({"w": counting(2), "storage": counting(3).untyped_storage()}),
        "negative_view": saved({"w": torch.tensor([1 + 2j, 3 - 4j]).conj().imag}),
        "numpy_scalar": saved(named(numpy.float64(0.5))),
        "numpy_array": saved(named(numpy.arange(3))),
        "namespace": saved(named(argparse.Namespace(lr=0.1))),
        "date": saved(named(datetime.datetime(2020, 1, 2))),
        "path": saved(named(pathlib.Path("a/b"))),
        "deque": saved(named(collections.deque([1, 2], maxlen=4))),
        "frozenset": saved(named(frozenset([1]))),
        "defaultdict": saved(collections.defaultdict(None, w=counting(2))),
        "complex_tensor": saved(named(torch.zeros(2, dtype=torch.complex64))),
        "uint16_tensor": saved(named(torch.zeros(2, dtype=torch.uint16))),
        "float8_tensor": saved(named(torch.zeros(2, dtype=torch.float8_e4m3fn))),
        "sparse_tensor": saved(named(torch.eye(2).to_sparse())),
        "subclass": saved(named(torch.nn.Buffer(counting(1)))),
        "whole_module": saved(module()),
    }
    return files


def replaced(data, old, new, which=0):
    """Replace the operation `old` of the pickle, at its occurrence number `which`, by the operations `new`."""
    file = opened(data)
    ops = file.pickle
    at = [i for i, op in enumerate(ops) if op == old][which]
    file.pickle = ops[:at] + list(new) + ops[at + 1 :]
    return file.pack()


def without_entry(data, end):
    file = Zip(data)
    del file.entries[file.index(end)]
    return file.pack()


def with_entry(data, end, content):
    file = Zip(data)
    file.entries[file.index(end)][1] = content
    return file.pack()


def global_op(name):
    module, _, name = name.rpartition(".")
    return f"c{module}\n{name}\n".encode()


def deflated(data):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in Zip(data).entries:
            archive.writestr(name, content)
    return out.getvalue()


def damaged():
    """Files that differ from those that torch writes, by name."""
    # One tensor of shape (3, 5) and strides (7, 1) at offset 2, in a storage of 37 elements.
    base = counting(37).as_strided((3, 5), (7, 1), 2)
    files = {}
    for container, data in (("zip", saved({"w": base})), ("legacy", legacy({"w": base}))):
        edits = {
            "offset": (integer(2), [integer(18)]),
            "offset_outside": (integer(2), [integer(20)]),
            "offset_negative": (integer(2), [integer(-1)]),
            "offset_bool": (integer(2), [b"\x88"]),
            "offset_huge": (integer(2), [integer(2**62)]),
            "shape_negative": (integer(3), [integer(-3)]),
            "shape_zero": (integer(3), [integer(0)]),
            "shape_outside": (integer(3), [integer(6)]),
            "stride": (integer(7), [integer(0)]),
            "stride_outside": (integer(7), [integer(17)]),
            "stride_negative": (integer(7), [integer(-1)]),
            "numel_smaller": (integer(37), [integer(30)]),
            "numel_larger": (integer(37), [integer(38)]),
            "type_of_storage": (global_op("torch.FloatStorage"), [global_op("torch.IntStorage")]),
            "wider_type": (global_op("torch.FloatStorage"), [global_op("torch.DoubleStorage")]),
            "quantized_storage": (global_op("torch.FloatStorage"), [global_op("torch.QInt8Storage")]),
            "unknown_global": (global_op("torch.FloatStorage"), [global_op("builtins.eval")]),
            "system": (b"\x89", [global_op("posix.system"), text("true"), b"\x85R"]),
            "other_function": (
                global_op("torch._utils._rebuild_tensor_v2"),
                [global_op("torch._utils._rebuild_tensor")],
            ),
            "requires_grad": (b"\x89", [b"\x88"]),
            "requires_grad_int": (b"\x89", [integer(0)]),
            "key": (text("0"), [text("1")]),
            "popped": (b".", [b"0", b"."]),
            "new_object": (b"R", [b"\x81"]),
            "no_stop": (b".", []),
            "name_of_bytes": (text("w"), [b"U\x01w"]),
            "name_not_utf8": (text("w"), [b"U\x01\xff"]),
            "name_of_int": (text("w"), [integer(4)]),
        }
        for name, (old, new) in edits.items():
            if old in opened(data).pickle:
                files[f"{container}_{name}"] = replaced(data, old, new)
        for share in (10, 50, 90, 99):
            files[f"{container}_cut_{share}"] = data[: len(data) * share // 100]
    files |= {
        "zip_two_sizes": two_sizes(saved({"a": base, "b": base[1:]})),
        "zip_without_storage": without_entry(saved({"w": base}), "data/0"),
        "zip_without_version": without_entry(saved({"w": base}), "/version"),
        "zip_without_byteorder": without_entry(saved({"w": base}), "byteorder"),
        "zip_big_endian": with_entry(saved({"w": base}), "byteorder", b"big"),
        "zip_short_storage": with_entry(saved({"w": base}), "data/0", b"\0" * 147),
        "zip_long_storage": with_entry(saved({"w": base}), "data/0", b"\0" * 160),
        "zip_deflated": deflated(saved({"w": base})),
        "zip_state_of_tensor": built(saved({"w": base})),
        "legacy_key_twice": key_twice(legacy({"w": base})),
        "legacy_short_storage": legacy({"w": base})[:-4],
    }
    return files


def two_sizes(data):
    """Change the size of the storage in the second reference to it."""
    file = Zip(data)
    ops = file.pickle
    at = [i for i, op in enumerate(ops) if op == integer(37)]
    # torch memoizes the id of a storage, so the second tensor refers to the first one's.
    if len(at) > 1:
        ops[at[1]] = integer(30)
    file.pickle = ops
    return file.pack()


def built(data):
    """Set a state on the tensor, which replaces its elements by the ones of another part of the storage."""
    file = Zip(data)
    ops = file.pickle
    call = max(i for i, op in enumerate(ops) if op == b"R")
    storage = next(i for i, op in enumerate(ops) if op == b"Q")
    # The storage is memoized under an unused number, and used again as the first item of the state.
    state = [b"(", b"h\xfa", integer(0), b"(", integer(2), b"t", b"(", integer(1), b"t", b"t", b"b"]
    file.pickle = ops[: storage + 1] + [b"q\xfa"] + ops[storage + 1 : call + 1] + state + ops[call + 1 :]
    return file.pack()


def key_twice(data):
    file = Legacy(data)
    ops = file.pickles[4]
    file.pickles[4] = [op for op in ops if op != b"."] + [next(op for op in ops if op[:1] == b"X"), b"a", b"."]
    file.storages += file.storages
    return file.pack()


def result(path):
    got = checkpoint_reader.read(str(path))
    torch_result, wide = got["weights_only"], got["every_opcode"]
    if "tensors" in torch_result:
        return torch_result
    rejected = {"rejected": torch_result["error"]}
    return rejected | ({"tensors_of_pickle": wide["tensors"]} if "tensors" in wide else {})


def main():
    warnings.simplefilter("ignore")
    if "--write" in sys.argv[1:]:
        FOLDER.mkdir(exist_ok=True)
        for old in FOLDER.glob("*.pth"):
            old.unlink()
        for name, data in (written() | damaged()).items():
            (FOLDER / f"{name}.pth").write_bytes(data)
    results = {path.stem: result(path) for path in sorted(FOLDER.glob("*.pth"))}
    content = json.dumps({"torch": torch.__version__.split("+")[0], "files": results}, indent=1, sort_keys=True) + "\n"
    file = FOLDER / "results.json"
    if "--write" in sys.argv[1:]:
        file.write_text(content)
    else:
        print(f"{file.name}: {'identical' if file.read_text() == content else 'DIFFERENT'}")


if __name__ == "__main__":
    main()
