"""Map files, checkpoints and NumPy archives that are crafted; what a map's tensors may be is in
tests/map/test_file.py.

All are sealed anew: whoever makes a bad file can do that too.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from bad import Bad, changed, message, written

from scrflow.storage.checksum import COMMENT, EMPTY, write_checksum

MAP, WEIGHTS, GRAPH = "map", "weights", "graph"


class Runs:
    """Unpickling it makes a file: nothing may."""

    def __reduce__(self):
        return os.system, ("touch escaped",)


# --------------------------------------------------------------------------------------------------------- safetensors


def header_of(data: bytes) -> dict:
    return json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])


def with_header(change: Callable[[dict], object]):
    """The sound map with another header."""

    def make(sound: dict[str, Path], folder: Path) -> Path:
        data = sound[MAP].read_bytes()
        header, path = header_of(data), folder / "map.safetensors"
        change(header)
        text = json.dumps(header, separators=(",", ":")).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + int.from_bytes(data[:8], "little") :])
        write_checksum(path)
        return path

    return make


def with_config(**values: object):
    """The sound map with another config; keys as ``head__width``."""

    def change(header: dict) -> None:
        stamp = json.loads(header["__metadata__"]["scrflow"])
        for key, value in values.items():
            at = stamp["config"]
            *way, last = key.split("__")
            for part in way:
                at = at[part]
            at[last] = value
        header["__metadata__"]["scrflow"] = json.dumps(stamp)

    return with_header(change)


def said(**values: str):
    return with_header(lambda header: header["__metadata__"].update(values))


def tensor(name: str, **values: object):
    return with_header(lambda header: header[name].update(values))


def deep(sound: dict[str, Path], folder: Path) -> Path:
    text = b'{"a":' * 200_000
    (folder / "map.safetensors").write_bytes(len(text).to_bytes(8, "little") + text)
    return folder / "map.safetensors"


# ----------------------------------------------------------------------------------------------------- NumPy's archives


def npz(members: dict[str, bytes], sealed: bool = True):
    """The sound graph with other members."""

    def make(sound: dict[str, Path], folder: Path) -> Path:
        path = folder / "covisibility.npz"
        with zipfile.ZipFile(sound[GRAPH]) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
            for name in old.namelist():
                if name not in members:
                    new.writestr(name, old.read(name))
            for name, data in members.items():
                new.writestr(name, data)
            new.comment = COMMENT + EMPTY.encode()
        write_checksum(path)
        return path

    return make


def npy(shape: str, dtype: str = "<f8", data: bytes = b"") -> bytes:
    """A .npy file whose header says so."""
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    text = text.ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


def objects() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([Runs()], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def bomb() -> dict[str, bytes]:
    """100 MB of zeros, which deflate keeps in 0.1 MB."""
    return {"data.npy": npy("(12500000,)", data=bytes(100_000_000))}


# ---------------------------------------------------------------------------------------------------------- checkpoints


def saved(value: object):
    def make(sound: dict[str, Path], folder: Path) -> Path:
        torch.save(value, folder / "weights.pth")
        return folder / "weights.pth"

    return make


CASES = [
    Bad("map: a header of 2^60 bytes", MAP, changed(MAP, "", lambda b: struct.pack("<Q", 1 << 60) + b[8:]), "damaged"),
    Bad("map: a header of 200 000 brackets", MAP, deep, "damaged"),
    Bad("map: text in its place", MAP, written("map.safetensors", "not found\n" * 9), "damaged"),
    Bad(
        "map: a byte of a tensor changed",
        MAP,
        changed(MAP, "", lambda b: b[:-9] + bytes([b[-9] ^ 1]) + b[-8:]),
        "damaged: its content is not what was written",
    ),
    Bad("map: tensors on top of each other", MAP, tensor("pca.mean", data_offsets=[0, 512]), "damaged"),
    Bad("map: a tensor behind the file's end", MAP, tensor("pca.mean", data_offsets=[0, 1 << 50]), "damaged"),
    Bad("map: a tensor longer than its bytes", MAP, tensor("pca.mean", shape=[1 << 40]), "damaged"),
    Bad("map: a shape below zero", MAP, tensor("pca.mean", shape=[-128]), "damaged"),
    Bad("map: a type that is none", MAP, tensor("pca.mean", dtype="F12"), "damaged"),
    Bad("map: of a version to come", MAP, said(format="2"), "map format '2', this scrflow reads 1; use the scrflow"),
    Bad("map: names as numbers beyond bounds", MAP, said(names="[" + "9" * 5000 + "]"), "not a whole map"),
    Bad(
        "map: its encoder is a path",
        MAP,
        with_config(extractor__name="../../../tmp/evil"),
        "no local encoder '../../../tmp/evil'",
    ),
    Bad("map: its encoder is a module", MAP, with_config(extractor__name="os"), "no local encoder 'os'; there are ace"),
    Bad(
        "map: options that are no options", MAP, with_config(extractor__options={"__class__": 1}), "options .*__class__"
    ),
    Bad("map: an option beyond reason", MAP, with_config(extractor__options={"first_octave": -40}), "first_octave"),
    Bad("map: photos of 2^30 px", MAP, with_config(extractor__short_side=1 << 30), "key extractor.short_side"),
    Bad("map: 2^40 keypoints", MAP, with_config(localize__max_keypoints=1 << 40), "key localize.max_keypoints"),
    Bad("map: 10^15 iterations", MAP, with_config(localize__iterations=10**15), "key localize.iterations"),
    Bad("map: a width below zero", MAP, with_config(head__width=-8), "key head.width"),
    Bad(
        "map: a threshold not a number", MAP, with_config(localize__threshold_px=float("nan")), "localize.threshold_px"
    ),
    Bad("map: thresholds of less than nothing", MAP, with_config(thresholds=[[-1.0, 5.0]]), "key thresholds"),
    Bad("map: more hypotheses than numbers", MAP, with_config(localize__hypotheses=10**30), "key localize.hypotheses"),
    Bad("npz: a pickle in an array", GRAPH, npz({"data.npy": objects()}), "[Oo]bject arrays|damaged"),
    Bad("npz: 8 TB by its header", GRAPH, npz({"data.npy": npy("(1000000000000,)")}), "damaged"),
    Bad("npz: bomb of zeros", GRAPH, lambda sound, folder: npz(bomb())(sound, folder), "declares|unpacks"),
    Bad("npz: a shape below zero", GRAPH, npz({"data.npy": npy("(-5,)")}), "damaged"),
    Bad("npz: code in a header", GRAPH, npz({"data.npy": npy("(__import__('os').system('x'),)")}), "damaged"),
    Bad(
        "npz: an index past the images",
        GRAPH,
        npz({"indices.npy": npy("(4,)", "<i4", struct.pack("<4i", 0, 9, 9, 9))}),
        "damaged graph",
    ),
    Bad("npz: text for numbers", GRAPH, npz({"data.npy": npy("(4,)", "<U1", "abcd".encode("utf-32-le"))}), "damaged"),
    Bad("npz: an array is missing", GRAPH, npz({"data.npy": b""}), "damaged"),
    Bad("npz: cut off", GRAPH, changed(GRAPH, "", lambda b: b[: len(b) // 2]), "damaged"),
    Bad("checkpoint: a pickle that runs a command", WEIGHTS, saved({"weight": Runs()}), "no checkpoint of tensors"),
    Bad("checkpoint: a bare pickle", WEIGHTS, written("weights.pth", pickle.dumps(Runs())), "no checkpoint of tensors"),
    Bad("checkpoint: a list", WEIGHTS, saved([1, 2]), "holds no named tensors"),
    Bad("checkpoint: cut off", WEIGHTS, changed(WEIGHTS, "", lambda b: b[: len(b) // 2]), "no checkpoint of tensors"),
    Bad("checkpoint: a web page", WEIGHTS, written("weights.pth", "<html>"), "no checkpoint of tensors"),
    Bad("checkpoint: empty", WEIGHTS, written("weights.pth", b""), "no checkpoint of tensors"),
    Bad(
        "pca: another artifact in its place",
        "pca",
        lambda sound, folder: shutil.copy(sound[MAP], folder / "pca.safetensors"),
        "expected a pca, found a map",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.kind)
def test_bad_tensors(case, confined, sound, tmp_path):
    message(case, confined, sound, tmp_path)
    assert not list(tmp_path.glob("escaped"))
