"""HDF5 files, maps, checkpoints and NumPy archives that lie, lead elsewhere, hold code or something else.

Artifacts get a new checksum after each change: whoever makes a bad file can do that too.
"""

import base64
import io
import json
import os
import pickle
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from bad import Bad, changed, check_refused, half, written
from untrusted_readers import NAMES

from scrflow.storage.checksum import COMMENT, EMPTY, write_checksum

FEATURES, MATCHES, GLOBAL, BASELINE = "hloc features", "hloc matches", "hloc descriptors", "baseline map"
MAP, WEIGHTS, GRAPH = "map", "weights", "graph"
KEYPOINTS, FOUND, PAIR = f"{NAMES[0]}/keypoints", f"{NAMES[0]}/global_descriptor", "db-0.png/db-1.png/matches0"

# ---------------------------------------------------------------------------------------------------------------- HDF5


def edited(reader: str, name: str, edit: Callable[[h5py.File, Path], object] | None = None):
    """The sound file of a reader without a name, or with something else under it."""

    def make(sound: dict[str, Path], folder: Path) -> Path:
        path = shutil.copy(sound[reader], folder / sound[reader].name)
        with h5py.File(path, "r+") as f:
            f.pop(name, None)
            if edit is not None:
                edit(f, folder)
        write_checksum(path)
        return path

    return make


def put(reader: str, name: str, values: object, **how: object):
    """Another dataset under a name."""
    how |= {} if values is None else {"data": values}
    return edited(reader, name, lambda f, folder: f.create_dataset(name, **how))


def link(reader: str, name: str, target: object = None):
    """A link under a name; without a target, to a dataset in another file."""

    def edit(f: h5py.File, folder: Path) -> None:
        with h5py.File(folder / "secret.h5", "w") as other:
            other["x"] = np.zeros((12, 2))
        f[name] = target or h5py.ExternalLink(str(folder / "secret.h5"), "x")

    return edited(reader, name, edit)


def external_storage(f: h5py.File, folder: Path) -> None:
    """The numbers are the bytes of another file."""
    (folder / "secret.txt").write_bytes(b"secret--" * 100)
    f.create_dataset(KEYPOINTS, (12, 2), "f4", external=[(str(folder / "secret.txt"), 0, h5py.h5f.UNLIMITED)])


def virtual(f: h5py.File, folder: Path) -> None:
    with h5py.File(folder / "secret.h5", "w") as other:
        other["x"] = np.zeros((12, 2), np.float32)
    layout = h5py.VirtualLayout((12, 2), "f4")
    layout[...] = h5py.VirtualSource(str(folder / "secret.h5"), "x", shape=(12, 2))
    f.create_virtual_dataset(KEYPOINTS, layout)


def huge(reader: str, name: str, shape: tuple[int, ...]):
    """Declared, chunked, and never written."""
    return put(reader, name, None, shape=shape, dtype="f4", chunks=tuple(min(1024, n) for n in shape))


def zeros_under_gzip(f: h5py.File, folder: Path) -> None:
    """600 MB of zeros that gzip keeps in little."""
    f.create_dataset(FOUND, (150_000_000,), "f4", chunks=(1_500_000,), compression="gzip", compression_opts=1)
    f[FOUND][:1_500_000] = np.zeros(1_500_000, np.float32)


STRINGS, RECORDS = h5py.string_dtype(), np.zeros(12, [("x", "f4"), ("y", "f4")])
HDF5 = [
    Bad("hloc: text", FEATURES, written("f.h5", "keypoints"), "not an HDF5 file of local features"),
    Bad("hloc: cut off", FEATURES, changed(FEATURES, "", half), "damaged"),
    Bad("hloc: link to another file", FEATURES, link(FEATURES, KEYPOINTS), "a link to .*secret"),
    Bad("hloc: link in a circle", FEATURES, link(FEATURES, KEYPOINTS, h5py.SoftLink(f"/{KEYPOINTS}")), "is a link to"),
    Bad("hloc: numbers in another file", FEATURES, edited(FEATURES, KEYPOINTS, external_storage), "another file"),
    Bad("hloc: virtual dataset", FEATURES, edited(FEATURES, KEYPOINTS, virtual), "in another file"),
    Bad("hloc: 4 TB declared", FEATURES, huge(FEATURES, KEYPOINTS, (1 << 39, 2)), "declares 4398047 MB and has 0 MB"),
    Bad("hloc: bomb under gzip", GLOBAL, edited(GLOBAL, FOUND, zeros_under_gzip), "declares 600 MB"),
    Bad("hloc: strings", FEATURES, put(FEATURES, KEYPOINTS, [["a", "b"]], dtype=STRINGS), "expected numbers"),
    Bad("hloc: no shape", GLOBAL, put(GLOBAL, FOUND, h5py.Empty("f4")), "without a shape"),
    Bad("hloc: no keypoints of a photo", FEATURES, edited(FEATURES, KEYPOINTS), "no keypoints of db/0.png"),
    Bad("hloc: NaN", FEATURES, put(FEATURES, KEYPOINTS, np.full((12, 2), np.nan)), "not finite"),
    Bad("hloc: another length", GLOBAL, put(GLOBAL, FOUND, np.zeros(7)), "has 6 dimensions"),
    Bad("hloc: a match past the keypoints", MATCHES, put(MATCHES, PAIR, np.full(12, 99)), "match these features"),
    Bad("baseline map: 4 TB declared", BASELINE, huge(BASELINE, "more", (1 << 40,)), "more declares 4398047 MB"),
    Bad("baseline map: a point", BASELINE, put(BASELINE, "point", np.full(5, 9, np.int32)), "none of the 4"),
    Bad("baseline map: numbers for names", BASELINE, put(BASELINE, "names", np.arange(3)), "not a whole map"),
]

# -------------------------------------------------------------------------------------------------- safetensors (maps)


def with_header(change: Callable[[dict], object]):
    """The sound map with another header."""

    def make(sound: dict[str, Path], folder: Path) -> Path:
        data, path = sound[MAP].read_bytes(), folder / "map.safetensors"
        end = 8 + int.from_bytes(data[:8], "little")
        header = json.loads(data[8:end])
        change(header)
        text = json.dumps(header, separators=(",", ":")).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + data[end:])
        write_checksum(path)
        return path

    return make


def config(key: str, value: object):
    """The sound map with another value of its config; keys as ``head.width``."""

    def change(header: dict) -> None:
        stamp = json.loads(header["__metadata__"]["scrflow"])
        at, (*way, last) = stamp["config"], key.split(".")
        for part in way:
            at = at[part]
        at[last] = value
        header["__metadata__"]["scrflow"] = json.dumps(stamp)

    return with_header(change)


def metadata(**values: str):
    return with_header(lambda header: header["__metadata__"].update(values))


def tensor(**values: object):
    return with_header(lambda header: header["pca.mean"].update(values))


DEEP = (6 * 200_000).to_bytes(8, "little") + b'{"a":' * 200_000
MAPS = [
    Bad("map: a header of 2^60 bytes", MAP, changed(MAP, "", lambda b: struct.pack("<Q", 1 << 60) + b[8:]), "damaged"),
    Bad("map: a header of 200 000 brackets", MAP, written("map.safetensors", DEEP), "damaged"),
    Bad("map: a byte changed", MAP, changed(MAP, "", lambda b: b[:-9] + bytes([b[-9] ^ 1]) + b[-8:]), "not what was"),
    Bad("map: tensors on top of each other", MAP, tensor(data_offsets=[0, 512]), "damaged"),
    Bad("map: a tensor behind the file's end", MAP, tensor(data_offsets=[0, 1 << 50]), "damaged"),
    Bad("map: a newer version", MAP, metadata(format="2"), "map format '2'"),
    Bad("map: its encoder is a path", MAP, config("extractor.name", "../../../tmp/evil"), "no local encoder"),
    Bad("map: unknown options", MAP, config("extractor.options", {"__class__": 1}), "__class__"),
    Bad("map: photos of 2^30 px", MAP, config("extractor.short_side", 1 << 30), r"extractor\.short_side"),
    Bad("map: NaN in the config", MAP, config("localize.threshold_px", float("nan")), r"localize\.threshold_px"),
    Bad("pca: another artifact", "pca", lambda sound, to: shutil.copy(sound[MAP], to / "p.safetensors"), "found a map"),
]

# --------------------------------------------------------------------------------------- NumPy archives and checkpoints


class Runs:
    """Unpickling it makes a file: nothing may."""

    def __reduce__(self):
        return os.system, ("touch escaped",)


def npz(name: str, data: bytes):
    """The sound graph with another member."""

    def make(sound: dict[str, Path], folder: Path) -> Path:
        path = folder / "covisibility.npz"
        with zipfile.ZipFile(sound[GRAPH]) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
            for member in old.namelist():
                new.writestr(member, data if member == name else old.read(member))
            new.comment = COMMENT + EMPTY.encode()
        write_checksum(path)
        return path

    return make


def npy(shape: str, dtype: str = "<f8", data: bytes = b"") -> bytes:
    """A .npy file whose header says so."""
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


def objects() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([Runs()], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def saved(value: object):
    def make(sound: dict[str, Path], folder: Path) -> Path:
        torch.save(value, folder / "weights.pth")
        return folder / "weights.pth"

    return make


# torch's own unpickler raises an IndexError (found by fuzzing)
_SHORT_PICKLE = base64.b64decode("cmdoLl91AGVpZ2h0cy9kYXRhW3BrbHJnaC5fdQAAAAACF1pagAIAKFgGCIU94wAZAA==")
OTHERS = [
    Bad("npz: a pickle in an array", GRAPH, npz("data.npy", objects()), "damaged"),
    Bad("npz: 8 TB by its header", GRAPH, npz("data.npy", npy("(1000000000000,)")), "damaged"),
    Bad("npz: bomb of zeros", GRAPH, npz("data.npy", npy("(12500000,)", data=bytes(100_000_000))), "unpacks"),
    Bad("npz: code in a header", GRAPH, npz("data.npy", npy("(__import__('os').system('x'),)")), "damaged"),
    Bad("npz: an index past the images", GRAPH, npz("indices.npy", npy("(4,)", "<i4", bytes([9] * 16))), "damaged"),
    Bad("checkpoint: a pickle that runs a command", WEIGHTS, saved({"weight": Runs()}), "no checkpoint of tensors"),
    Bad("checkpoint: a bare pickle", WEIGHTS, written("weights.pth", pickle.dumps(Runs())), "no checkpoint"),
    Bad("checkpoint: a pickle that ends too soon", WEIGHTS, written("w.pth", _SHORT_PICKLE), "no checkpoint"),
    Bad("checkpoint: a web page", WEIGHTS, written("weights.pth", "<html>"), "no checkpoint of tensors"),
]


@pytest.mark.parametrize("case", [*HDF5, *MAPS, *OTHERS], ids=str)
def test_bad_arrays(case, sound, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check_refused(case, sound, tmp_path)
    assert not list(tmp_path.glob("escaped"))
