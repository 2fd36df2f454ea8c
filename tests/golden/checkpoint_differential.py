"""Compares `onnx-export`'s checkpoint reader with torch on mutated files: `scripts/torch-differential.sh` runs this.

    python tests/golden/checkpoint_differential.py PROGRAM [COUNT] [SEED]

PROGRAM is the example `describe_weights`. Mutates the files of `checkpoints/` COUNT times (default: 2000). Fails if

- PROGRAM ends early,
- both accept a file and differ in a name, data type, shape or element, or
- PROGRAM accepts a file that torch rejects, unless Python's own pickle machine reads the same tensors from the file,
  torch's reason is one of `UNNEEDED`, or Python's `zipfile` cannot read the archive either. The checksums of entries
  are correct in an archive that PROGRAM accepts.

Files that only torch accepts are counted. The input of a failure is kept in the folder that is printed.
"""

import collections
import json
import pathlib
import random
import re
import subprocess
import sys
import tempfile
import warnings

import checkpoint_edits as edits

HERE = pathlib.Path(__file__).parent
# Reasons of torch that concern parts of a file without which the weights are complete.
UNNEEDED = {
    "a missing or damaged storage that no weight uses": r"locating file data/|record size|invalid header|CRC",
    "an untyped storage in a legacy file, read as u8": r"UntypedStorage' has no attribute 'dtype'",
}
GLOBALS = (
    "torch.FloatStorage torch.HalfStorage torch.LongStorage torch.CharStorage torch.QInt8Storage torch.BoolStorage "
    "torch.ComplexFloatStorage torch.storage.UntypedStorage torch.float16 torch.qint8 torch.Size torch.device "
    "torch._utils._rebuild_tensor torch._utils._rebuild_tensor_v2 torch._utils._rebuild_tensor_v3 "
    "torch._utils._rebuild_parameter torch._utils._rebuild_parameter_with_state torch._utils._rebuild_qtensor "
    "torch.per_tensor_affine torch.per_channel_affine collections.OrderedDict collections.Counter "
    "collections.defaultdict collections.deque argparse.Namespace numpy.dtype builtins.set builtins.eval os.system"
).split()
INTEGERS = (-1, 0, 1, 2, 3, 4, 6, 7, 12, 37, 255, 256, 2**31 - 1, 2**31, 2**63 - 1, 2**63, -(2**63))
SIMPLE = [bytes([op]) for op in b"()]}.NRQ01absteu2\x81\x85\x86\x87\x88\x89\x8f\x90\x94"]


def changed_operation(op, rng):
    """Another operation of the same kind."""
    code = op[:1]
    if code in b"KMJ\x8a":
        return edits.integer(rng.choice(INTEGERS if rng.randrange(3) == 0 else range(8)))
    if code == b"c":
        module, _, name = rng.choice(GLOBALS).rpartition(".")
        return f"c{module}\n{name}\n".encode()
    if code in b"X\x8c":
        return edits.text(rng.choice(("0", "1", "w", "storage", "model", "data", "neg", "größe")))
    if code in b"\x88\x89":
        return rng.choice((b"\x88", b"\x89", b"N", b"}"))
    if code in b"qh":
        return code + bytes([rng.randrange(40)])
    return rng.choice(SIMPLE)


def mutate_operations(ops, others, rng):
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        if not ops:
            return ops
        at = rng.randrange(len(ops))
        kind = rng.choice((0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 5, 6, 7, 8, 9))
        if kind < 5:
            # Most operations only memoize or build; those that push values are more interesting.
            values = [i for i, op in enumerate(ops) if op[:1] in b"KMJXc\x89\x8c" or op == b"\x8a"]
            places = values if kind == 0 and values else range(len(ops))
            at = rng.choice(places)
            ops = ops[:at] + [changed_operation(ops[at], rng)] + ops[at + 1 :]
        elif kind == 5:
            ops = ops[:at] + ops[at + 1 :]
        elif kind == 6:
            end = min(len(ops), at + rng.randrange(1, 12))
            to = rng.randrange(len(ops))
            ops = ops[:to] + ops[at:end] + ops[to:]
        elif kind == 7:
            to = rng.randrange(len(ops))
            ops = list(ops)
            ops[at], ops[to] = ops[to], ops[at]
        elif kind == 8:
            start = rng.randrange(len(others))
            ops = ops[:at] + others[start : start + rng.randrange(1, 16)] + ops[at:]
        else:
            ops = ops[:at] + [rng.choice(SIMPLE)] + ops[at:]
    return ops


def mutate_bytes(data, rng):
    data = bytearray(data)
    for _ in range(rng.choice((1, 2, 4))):
        if not data:
            break
        at = rng.randrange(len(data))
        kind = rng.randrange(5)
        if kind == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
        elif kind == 2:
            del data[at : at + rng.randrange(1, 9)]
        elif kind == 3:
            data[at:at] = data[at : at + rng.randrange(1, 9)]
        else:
            del data[at:]
    return bytes(data)


def mutate_container(file, rng):
    if isinstance(file, edits.Legacy):
        if rng.randrange(2):
            file.storages = mutate_bytes(file.storages, rng)
        else:
            which = rng.choice((0, 1, 2, 4))
            file.pickles[which] = mutate_operations(file.pickles[which], file.pickle, rng)
        return file.pack()
    at = rng.randrange(len(file.entries))
    kind = rng.randrange(4)
    if kind == 0:
        del file.entries[at]
    elif kind == 1:
        file.entries[at][0] = rng.choice(file.entries)[0]
    elif kind == 2:
        file.entries[at][1] = mutate_bytes(file.entries[at][1], rng)
    else:
        to = rng.randrange(len(file.entries))
        file.entries[at][1], file.entries[to][1] = file.entries[to][1], file.entries[at][1]
    return file.pack()


def mutated(seeds, rng):
    data, other = rng.choice(seeds), rng.choice(seeds)
    kind = rng.randrange(8)
    if kind == 0:
        return mutate_bytes(data, rng)
    file = edits.opened(data)
    if kind == 1:
        return mutate_container(file, rng)
    file.pickle = mutate_operations(file.pickle, edits.opened(other).pickle, rng)
    return file.pack()


def lines(command, paths):
    """The JSON object that a reader prints for each path; `None` if it ends early at the path or takes too long."""
    results = []
    while len(results) < len(paths):
        rest = paths[len(results) :]
        text = "".join(f"{path}\n" for path in rest)
        try:
            out = subprocess.run(
                command, input=text, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, timeout=600
            ).stdout
        except subprocess.TimeoutExpired as error:
            out = (error.stdout or b"").decode()
        results += [json.loads(line) for line in out.splitlines()[: len(rest)]]
        if len(results) < len(paths):
            results.append(None)
    return results


def verdict(ours, theirs):
    """Whether the two readers agree, and a word for the statistics."""
    if ours is None:
        return False, "the program ended early"
    if "error" in ours:
        if theirs is None:
            return True, "rejected, and torch crashed"
        both = "error" in theirs["weights_only"]
        return True, "rejected by both" if both else "accepted by torch only: " + stricter(ours["error"])
    if theirs is None:
        return False, "accepted, and torch crashed"
    strict, wide = theirs["weights_only"], theirs["every_opcode"]
    if "tensors" in strict:
        return strict["tensors"] == ours["tensors"], "accepted by both"
    if "tensors" in wide:
        return wide["tensors"] == ours["tensors"], "accepted, by torch only with every opcode and class"
    if not theirs["is_archive"]:
        return True, "accepted, a zip directory that other zip readers reject"
    for name, reason in UNNEEDED.items():
        if any(re.search(reason, theirs["error"]) for theirs in (strict, wide)):
            return True, f"accepted, rejected by torch for {name}"
    return False, "accepted by the program only"


def stricter(error):
    """A message without the parts that differ from file to file."""
    return re.sub(r"`[^`]*`|at byte \d+|\[[^\]]*\]|got .*|-?\d+", "_", error)[:110]


def main():
    program = sys.argv[1]
    # Some mutated archives have two entries of one name.
    warnings.simplefilter("ignore")
    count, seed = [int(value) for value in sys.argv[2:4] + ["2000", "1"][len(sys.argv[2:4]) :]]
    rng = random.Random(seed)
    results = json.loads((HERE / "checkpoints/results.json").read_text())["files"]
    # Mutations of rejected files are rejected, too.
    names = [name for name, result in sorted(results.items()) if result.keys() & {"tensors", "tensors_of_pickle"}]
    seeds = [(HERE / f"checkpoints/{name}.pth").read_bytes() for name in names]
    folder = pathlib.Path(tempfile.mkdtemp(prefix="torch-differential-"))
    paths = [folder / f"{index}.pth" for index in range(count)]
    for path in paths:
        path.write_bytes(mutated(seeds, rng))
    ours = lines([program], paths)
    theirs = lines([sys.executable, str(HERE / "checkpoint_reader.py")], paths)
    statistics, failures = collections.Counter(), 0
    for path, our, their in zip(paths, ours, theirs):
        agreed, what = verdict(our, their)
        statistics[what] += 1
        if agreed:
            path.unlink()
        else:
            failures += 1
            print(f"{path}: {what}\n    program: {our}\n    torch: {their}")
    for what, number in statistics.most_common():
        print(f"{number:7} {what}")
    print(f"{count} mutated files of {len(seeds)}, seed {seed}: {failures} disagreements")
    if failures:
        sys.exit(f"the files are in {folder}")
    folder.rmdir()


if __name__ == "__main__":
    main()
