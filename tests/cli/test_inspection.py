"""The inspector on real artifacts of every form, whole and damaged."""

import io
import json

import h5py
import numpy as np
import pycolmap
import pytest
import torch
from PIL import Image
from rich.console import Console

from scrflow.cli.inspection import inspect_file, ranges
from scrflow.config import PcaConfig
from scrflow.core.errors import ScrflowError
from scrflow.scene.model import Query, View, write_scene
from scrflow.storage.artifact import Stamp, create_h5, sha256_file, write_json, write_npz, write_safetensors

STAMP = Stamp("pca", {"dim": 128}, "abc123", {"scene": "0123456789abcdef"})
CAMERA = pycolmap.Camera(model="PINHOLE", width=64, height=48, params=[50.0, 50.0, 32.0, 24.0])


def shown(path) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(inspect_file(path))
    return " ".join(console.file.getvalue().split())


def assert_stamped(text: str) -> None:
    for part in ("kind pca", STAMP.digest, "schema 1", "abc123", '"dim": 128', "scene 0123456789abcdef"):
        assert part in text


def test_npz(tmp_path):
    numbers, names = np.array([1.0, 3.0, np.nan, 8.0]), np.array(["a.jpg", "b.jpg"])
    arrays = {"data": numbers, "names": names, "empty": np.zeros((0, 3))}
    write_npz(tmp_path / "a.npz", arrays, STAMP)
    text = shown(tmp_path / "a.npz")
    assert_stamped(text)
    assert "data 4 float64 1 4 8 1 not finite" in text
    assert "names 2 <U5 a.jpg, b.jpg" in text
    assert "empty 0x3 float64" in text


def test_h5(tmp_path):
    with create_h5(tmp_path / "a.h5", STAMP) as f:
        f["descriptor"] = np.arange(12, dtype=np.float16).reshape(6, 2)
        f["view"] = np.array([0, 0, 1], np.int32)
        f["names"] = np.array(["x/1.jpg", "x/2.jpg"], h5py.string_dtype())
        f.attrs["encoder"] = "sift"
    text = shown(tmp_path / "a.h5")
    assert_stamped(text)
    assert "descriptor 6x2 float16 0 5.5 11" in text
    assert "view 3 int32 0 0.33333 1" in text
    assert "x/1.jpg, x/2.jpg" in text and "encoder sift" in text


def test_large_arrays_are_read_by_slabs(tmp_path, monkeypatch):
    with create_h5(tmp_path / "a.h5", STAMP) as f:
        f["d"] = np.arange(1000.0).reshape(100, 10)
    monkeypatch.setattr(ranges, "CHUNK", 64)
    assert "d 100x10 float64 0 499.5 999" in shown(tmp_path / "a.h5")
    monkeypatch.setattr(ranges, "FULL", 300)
    assert "of a sample" in shown(tmp_path / "a.h5")


def test_h5_of_hloc(tmp_path):
    """One group an image, names with folders, no stamp."""
    with h5py.File(tmp_path / "global.h5", "w") as f:
        for i in range(60):
            f.create_dataset(f"db/{i:03}.jpg/global_descriptor", data=np.full(8, float(i), np.float32))
    text = shown(tmp_path / "global.h5")
    assert "no stamp" in text
    assert "60 names db/000.jpg, db/001.jpg" in text and "55 more" in text
    assert "global_descriptor 60 8 float32 0 29.5 59" in text


def test_h5_of_hloc_features_of_different_lengths(tmp_path):
    with h5py.File(tmp_path / "local.h5", "w") as f:
        for i in range(30):
            f[f"{i}.jpg/keypoints"] = np.zeros((10 + i, 2), np.float32)
            f[f"{i}.jpg/scores"] = np.ones(10 + i, np.float16)
    text = shown(tmp_path / "local.h5")
    assert "keypoints 30 10..39x2 float32 0 0 0" in text
    assert "scores 30 10..39 float16 1 1 1" in text


def test_safetensors(tmp_path):
    tensors = {"w": torch.tensor([[1.0, -2.0]], dtype=torch.bfloat16), "n": torch.tensor(3)}
    write_safetensors(tmp_path / "a.safetensors", tensors, STAMP, {"encoder": "xfeat"})
    text = shown(tmp_path / "a.safetensors")
    assert_stamped(text)
    assert "w 1x2 bfloat16 -2 -0.5 1" in text and "n scalar int64 3 3 3" in text and "encoder xfeat" in text


def test_json(tmp_path):
    values = {"recall": [0.5, 1.0], "all": {"queries": 3}, "many": {str(i): i for i in range(99)}}
    write_json(tmp_path / "a.json", values, STAMP)
    text = shown(tmp_path / "a.json")
    assert_stamped(text)
    assert "recall [0.5, 1.0]" in text and "all.queries 3" in text and "99 keys" in text


def test_jsonl(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"step": 1, "loss": 4}\n{"step": 2, "loss": 2}\n')
    text = shown(tmp_path / "a.jsonl")
    assert "records 2" in text and "loss int64 2 3 4" in text and '{"step": 2, "loss": 2}' in text


def test_csv_and_tsv(tmp_path):
    (tmp_path / "a.csv").write_text("name,t_err\na,0.5\nb,inf\n")
    (tmp_path / "a.tsv").write_text("s\tmax_rss\n1.5\t20\n")
    text = shown(tmp_path / "a.csv")
    assert "rows 2" in text and "t_err float64 0.5 0.5 0.5 1 not finite" in text and "2 distinct: a, b" in text
    assert "s float64 1.5 1.5 1.5" in shown(tmp_path / "a.tsv")


def test_text_forms(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("a.jpg 1 0 0 0 -1 0 0\nb.jpg 1 0 0 0 -3 0 2\n")
    assert "poses" in shown(path) and "2 names a.jpg, b.jpg" in shown(path) and "x 1 to 3" in shown(path)
    path.write_text("a.jpg 1 0 0 0 -1 0 0 525\n")
    assert "pose list" in shown(path)
    path.write_text("a.jpg PINHOLE 64 48 50 50 32 24\n")
    assert "query list" in shown(path) and "1 PINHOLE 64x48" in shown(path)
    path.write_text("a.jpg\nb.jpg\n")
    assert "list of names" in shown(path) and "2 names" in shown(path)
    path.write_text("some words\nand more\n")
    assert "text, 2 lines" in shown(path)


def test_picture(tmp_path):
    Image.new("RGB", (20, 10)).save(tmp_path / "a.png")
    assert "PNG picture, 20 x 10 px, RGB" in shown(tmp_path / "a.png")


def test_checkpoint_is_named_but_never_unpickled(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"w": torch.zeros(1000), "x": Evil()}, tmp_path / "checkpoint.pt")
    text = shown(tmp_path / "checkpoint.pt")
    assert "torch checkpoint" in text and "4.00 kB" in text
    assert not (tmp_path / "ran").exists()


@pytest.fixture
def scene(tmp_path):
    names = [f"m{i}.png" for i in range(3)] + ["q[1].png"]
    for name in names:
        Image.new("RGB", (64, 48)).save(tmp_path / name)
    identity = np.eye(3, 4)
    write_scene(
        tmp_path / "scene",
        config=PcaConfig(),
        code="c",
        image_root=tmp_path,
        unit="m",
        mapping=[View(n, CAMERA, identity) for n in names[:3]],
        queries=[Query(names[3], CAMERA, "night")],
        query_poses={names[3]: identity},
        image_sha256={n: sha256_file(tmp_path / n) for n in names},
    )
    return tmp_path / "scene"


def test_scene_and_model_folders(scene):
    text = shown(scene)
    # a name in brackets is a name, not markup
    for part in ("kind scene", "3 mapping m0.png, m1.png, m2.png", "1 queries q[1].png", "1 night", "1 of 1 queries"):
        assert part in text
    for path in (scene / "mapping", scene / "mapping" / "images.bin"):
        text = shown(path)
        assert "COLMAP model" in text and "3 images m0.png" in text and "points none" in text


def test_other_folder(scene):
    text = shown(scene.parent)
    assert "folder" in text and "scene/" in text and "m0.png" in text


# ------------------------------------------------------------------------------------------------------------- damaged


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("suffix", ["npz", "h5", "safetensors", "json", "jsonl", "png", "pt"])
def test_a_file_cut_in_half_is_one_clear_error(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    data = np.random.default_rng(0).normal(size=5000)
    if suffix == "npz":
        write_npz(path, {"a": data}, STAMP)
    elif suffix == "h5":
        with create_h5(path, STAMP) as f:
            f["a"] = data
    elif suffix == "safetensors":
        write_safetensors(path, {"a": torch.from_numpy(data)}, STAMP)
    elif suffix in ("json", "jsonl"):
        path.write_text(json.dumps({"a": data.tolist()}))
    elif suffix == "png":
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 50), np.uint8)).save(path)
    else:
        torch.save({"a": torch.from_numpy(data)}, path)
    inspect_file(path)
    truncate(path)
    with pytest.raises(ScrflowError) as caught:
        inspect_file(path)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


def test_flipped_bytes_inside_an_archive(tmp_path):
    path = tmp_path / "a.npz"
    write_npz(path, {"a": np.random.default_rng(0).normal(size=5000)}, STAMP)
    content = bytearray(path.read_bytes())
    content[2000:2100] = bytes(100)
    path.write_bytes(content)
    with pytest.raises(ScrflowError, match="damaged"):
        inspect_file(path)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.txt", "a.jpg 1 0 0 0 0 0 0\nb.jpg 1 0 0 0 0 0\n", "line 2"),
        ("a.txt", "a.jpg PINHOLE 64 48 50\n", "line 1"),
        ("a.txt", "# nothing\n", "comments"),
        ("a.csv", "a,b\n1,2\n1,2,3\n", "damaged"),
        ("a.jsonl", '{"a": 1}\n{"a"', "line 2"),
        ("a.json", '{"scrflow": {"schema": 99, "kind": "x"}}', "schema version 99"),
        ("a.npz", "text", "damaged"),
        ("a.h5", "text", "damaged"),
        ("a.safetensors", "text", "damaged"),
        ("a.h5", "", "empty"),
        ("a.xyz", "text", "no known kind"),
    ],
)
def test_faults(tmp_path, name, content, says):
    (tmp_path / name).write_text(content)
    with pytest.raises(ScrflowError, match=says) as caught:
        inspect_file(tmp_path / name)
    assert str(caught.value).startswith(str(tmp_path)) and "\n" not in str(caught.value)


def test_missing_file_and_empty_folder(tmp_path):
    with pytest.raises(ScrflowError, match="no such file"):
        inspect_file(tmp_path / "a.npz")
    with pytest.raises(ScrflowError, match="empty folder"):
        inspect_file(tmp_path)
    (tmp_path / "cameras.bin").write_bytes(b"\0" * 8)
    with pytest.raises(ScrflowError, match=r"images\.bin"):
        inspect_file(tmp_path)


def test_object_arrays_are_not_unpickled(tmp_path):
    np.savez(tmp_path / "a.npz", a=np.array([{}, []], object))
    with pytest.raises(ScrflowError, match=r"a\.npz"):
        inspect_file(tmp_path / "a.npz")
