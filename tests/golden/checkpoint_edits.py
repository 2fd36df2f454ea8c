"""Changes of checkpoint files: at the operations of their pickles, at the entries of a zip, and at their bytes."""

import io
import pickle
import pickletools
import zipfile


def operations(data, start=0):
    """The operations of the pickle at `start` as a list of byte strings."""
    at = io.BytesIO(data)
    at.seek(start)
    places = [place for _, _, place in pickletools.genops(at)]
    return [data[a:b] for a, b in zip(places, places[1:] + [at.tell()])]


class Zip:
    """The entries of a zip checkpoint, which `pack` writes without compression and with correct checksums."""

    def __init__(self, data):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            self.entries = [[info.filename, archive.read(info)] for info in archive.infolist()]

    def index(self, end):
        return next(i for i, (name, _) in enumerate(self.entries) if name.endswith(end))

    @property
    def pickle(self):
        return operations(self.entries[self.index("data.pkl")][1])

    @pickle.setter
    def pickle(self, ops):
        self.entries[self.index("data.pkl")][1] = b"".join(ops)

    def pack(self):
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as archive:
            for name, data in self.entries:
                archive.writestr(zipfile.ZipInfo(name), data)
        return out.getvalue()


class Legacy:
    """The pickles of a legacy checkpoint and the bytes after them."""

    def __init__(self, data):
        self.pickles = []
        at = 0
        for _ in range(5):
            ops = operations(data, at)
            self.pickles.append(ops)
            at += sum(map(len, ops))
        self.storages = data[at:]

    @property
    def pickle(self):
        return self.pickles[3]

    @pickle.setter
    def pickle(self, ops):
        self.pickles[3] = ops

    def pack(self):
        return b"".join(b"".join(ops) for ops in self.pickles) + self.storages


def opened(data):
    return Zip(data) if data.startswith(b"PK") else Legacy(data)


def integer(value):
    """The operation that pushes an integer."""
    if 0 <= value < 256:
        return b"K" + bytes([value])
    if -(2**31) <= value < 2**31:
        return b"J" + value.to_bytes(4, "little", signed=True)
    data = pickle.encode_long(value)
    return b"\x8a" + bytes([len(data)]) + data


def text(value):
    data = value.encode()
    return b"X" + len(data).to_bytes(4, "little") + data
