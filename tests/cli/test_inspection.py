"""The inspector on files of every format, whole and damaged."""

import io
import json

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from tiny_project import REPO

from scrflow.cli import inspection
from scrflow.cli.inspection import inspect_file
from scrflow.core.errors import ScrflowError
from scrflow.storage.artifact import Stamp, create_h5, write_npz, write_safetensors

STAMP = Stamp("pca", {"dim": 128}, "abc123", {"scene": "0123456789abcdef"})
STAMPED = ("kind pca", STAMP.digest, "schema 1", "abc123", '"dim": 128', "scene 0123456789abcdef", "as it was written")


def shown(path) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(inspect_file(path))
    return " ".join(console.file.getvalue().split())


def assert_shown(path, *parts: str) -> None:
    text = shown(path)
    assert [part for part in parts if part not in text] == [], text


def test_npz(tmp_path):
    numbers, names = np.array([1.0, 3.0, np.nan, 8.0]), np.array(["a.jpg", "b.jpg"])
    write_npz(tmp_path / "a.npz", {"data": numbers, "names": names, "empty": np.zeros((0, 3))}, STAMP)
    assert_shown(tmp_path / "a.npz", *STAMPED, "data 4 float64 1 4 8 1 not finite", "a.jpg, b.jpg", "empty 0x3 float64")


def test_h5(tmp_path, monkeypatch):
    with create_h5(tmp_path / "a.h5", STAMP) as f:
        f["descriptor"] = np.arange(12, dtype=np.float16).reshape(6, 2)
        f["view"] = np.array([0, 0, 1], np.int32)
        f["names"] = np.array(["x/1.jpg", "x/2.jpg"], h5py.string_dtype())
        f.attrs["encoder"] = "sift"
    assert_shown(tmp_path / "a.h5", *STAMPED, "descriptor 6x2 float16 0 5.5 11", "view 3 int32 0 0.33333 1")
    assert_shown(tmp_path / "a.h5", "x/1.jpg, x/2.jpg", "encoder sift")
    monkeypatch.setattr(inspection, "SAMPLE", 4)
    assert_shown(tmp_path / "a.h5", "of every 3th")


def test_h5_of_hloc(tmp_path):
    """One group an image, names with folders, no stamp, keypoints of different numbers."""
    with h5py.File(tmp_path / "a.h5", "w") as f:
        for i in range(60):
            f[f"db/{i:03}.jpg/global_descriptor"] = np.full(8, float(i), np.float32)
            f[f"db/{i:03}.jpg/keypoints"] = np.zeros((10 + i, 2), np.float16)
    parts = ("no stamp", "60 names db/000.jpg, db/001.jpg", "55 more", "global_descriptor (60) 8 float32 0 29.5 59")
    assert_shown(tmp_path / "a.h5", *parts, "keypoints (60) 10..69x2 float16 0 0 0")


def test_safetensors(tmp_path):
    tensors = {"w": torch.tensor([[1.0, -2.0]], dtype=torch.bfloat16), "n": torch.tensor(3)}
    write_safetensors(tmp_path / "a.safetensors", tensors, STAMP, {"encoder": "xfeat"})
    parts = ("1x2 float32 -2 -0.5 1", "w (torch.bfloat16)", "n scalar int64 3 3 3", "encoder xfeat")
    assert_shown(tmp_path / "a.safetensors", *STAMPED, *parts)


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        ("a.jsonl", '{"step": 1, "loss": 4}\n{"step": 2, "ran": {}, "loss": 2}\n', ("loss 2 int64 2 3 4", "'step': 2")),
        ("a.csv", "name,t_err\na,0.5\nb,inf\n", ("t_err 2 float64 0.5 0.5 0.5 1 not finite", "2 distinct: a, b")),
        ("a.tsv", "s\tmax_rss\n1.5\t20\n", ("s 1 float64 1.5 1.5 1.5",)),
        ("a.txt", "a 1 0 0 0 -1 0 0\nb 1 0 0 0 -3 0 2\n", ("poses", "2 names a, b", "x 1 to 3")),
        ("a.txt", "a.jpg 1 0 0 0 -1 0 0 525\n", ("pose list", "1 names a.jpg")),
        ("a.txt", "a.jpg PINHOLE 64 48 50 50 32 24\n", ("query list", "1 PINHOLE 64x48")),
        ("a.txt", "a.jpg\nb.jpg\n", ("list of names", "2 names")),
        ("a.txt", "some words\nand more\n", ("text, 2 lines",)),
        ("a.json", '{"recall": [0.5, 1.0], "all": {"queries": 3}}', ("'recall': [0.5, 1.0]", "{'queries': 3}")),
    ],
)
def test_text(tmp_path, name, content, parts):
    (tmp_path / name).write_text(content)
    assert_shown(tmp_path / name, *parts)


def test_checkpoint_is_listed_but_never_unpickled(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"w": torch.zeros(1000), "x": Evil()}, tmp_path / "a.pt")
    assert_shown(tmp_path / "a.pt", "torch checkpoint", "4.0 kB")
    np.savez(tmp_path / "a.npz", a=np.array([Evil()], object))
    with pytest.raises(ScrflowError, match=r"a\.npz: damaged"):
        inspect_file(tmp_path / "a.npz")
    assert not (tmp_path / "ran").exists()


def test_folders(sound, tmp_path):
    assert_shown(sound["scene"], "kind scene", "2 mapping db/0.png, db/1.png", "1 queries query/0.png", "of 1 queries")
    for path in (sound["colmap"], sound["colmap"] / "images.bin"):
        assert_shown(path, "COLMAP model", "3 images db/0.png", "num_points3D = 3", "1 PINHOLE 32x24")
    Image.new("RGB", (20, 10)).save(tmp_path / "a.png")
    assert_shown(tmp_path / "a.png", "PNG picture, 20 x 10 px, RGB")
    assert_shown(tmp_path, "folder", "a.png")


# ------------------------------------------------------------------------------------------------------------- damaged


def refused(path, says: str) -> None:
    with pytest.raises(ScrflowError, match=says) as caught:
        inspect_file(path)
    assert str(caught.value).startswith(str(path.parent)) and "\n" not in str(caught.value)


@pytest.mark.parametrize("reader", ["graph", "hloc features", "map", "weights", "photo", "json"])
def test_a_file_cut_in_half(sound, tmp_path, reader):
    data = sound[reader].read_bytes() if reader in sound else (REPO / "demo/images/mapping/000.jpg").read_bytes()
    path = tmp_path / (sound[reader].name if reader in sound else "a.jpg")
    if reader == "json":
        path, data = tmp_path / "a.json", json.dumps(list(range(99))).encode()
    path.write_bytes(data)
    inspect_file(path)
    path.write_bytes(data[: len(data) // 2])
    refused(path, "damaged")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.txt", "a.jpg 1 0 0 0 0 0 0\nb.jpg 1 0 0 0 0 0\n", "line 2"),
        ("a.txt", "# nothing\n", "comments"),
        ("a.csv", "a,b\n1,2\n1,2,3\n", "damaged"),
        ("a.json", '{"scrflow": {"schema": 99, "kind": "x"}}', "schema version 99"),
        ("a.h5", "", "empty"),
        ("a.xyz", "text", "unknown kind"),
        ("cameras.bin", "\0" * 8, r"images\.bin"),
    ],
)
def test_faults(tmp_path, name, content, says):
    refused(tmp_path / name, "no such file")
    refused(tmp_path, "empty folder")
    (tmp_path / name).write_text(content)
    refused(tmp_path / name, says)
