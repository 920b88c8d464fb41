"""Parsers of text on any text: what comes out is valid, or ScrflowError in one line; what is written is read again."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pycolmap
import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from untrusted_readers import NAMES, READERS

from scrflow.config.base import deep_merge
from scrflow.core.errors import ScrflowError
from scrflow.interop.hloc_matches import read_pairs, write_pairs
from scrflow.pipeline.project import Project
from scrflow.scene.lists import pose_line, query_line, read_poses, read_query_list

# the same cases in every run: what is found by others becomes an example
steady = settings(
    derandomize=True, deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
names = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=20).filter(
    lambda n: n[0] not in '#"'
)
numbers = st.floats(-1e6, 1e6)
# words that parsers know, so that more than the first line of them is reached
words = st.sampled_from(
    [
        "NVM_V3",
        "3",
        "2",
        "-1",
        "0",
        "1",
        "1e999",
        "nan",
        "PINHOLE",
        "FISH",
        "# kapture format: 1.1",
        "cam",
        "camera",
        ",",
        "\t",
        "db/0.png",
        "1_0",
        "٣",
        "9" * 5000,
        "\x00",
        "\x1b[31m",
        "{",
        "[",
        "]",
        "}",
        ":",
        "- ",
        "&a",
        "*a",
        "!!x",
        '"',
    ]
)
texts = st.lists(st.one_of(words, st.text(max_size=8)), max_size=40).flatmap(
    lambda parts: st.lists(st.sampled_from([" ", "\n", ", ", ""]), min_size=len(parts), max_size=len(parts)).map(
        lambda gaps: "".join(part + gap for part, gap in zip(parts, gaps, strict=True))
    )
)


def one_line(read: Callable[[], object]) -> object:
    """What was read, or None where it was refused in one printable line."""
    try:
        return read()
    except ScrflowError as error:
        text = str(error)
        assert text.isprintable() and len(text) <= 2000, text
        return None


# ---------------------------------------------------------------------------------------------------------- round trips


@steady
@given(names, st.tuples(*[st.floats(-1, 1)] * 4).filter(lambda q: math.hypot(*q) > 0.1), st.tuples(*[numbers] * 3))
def test_a_pose_that_is_written_is_read(tmp_path, name, q, t):
    from scrflow.core.geometry import rotation_from_quaternion

    pose = np.column_stack([rotation_from_quaternion(np.array(q)), t])
    path = tmp_path / "poses.txt"
    path.write_text(pose_line(name, pose) + "\n", encoding="utf-8")
    found = read_poses(path)
    assert list(found) == [name]
    np.testing.assert_allclose(found[name], pose, atol=1e-12, rtol=1e-12)


@steady
@given(names, st.integers(1, 1 << 20), st.integers(1, 1 << 20), st.tuples(*[st.floats(0.01, 1e6)] * 4))
def test_a_query_that_is_written_is_read(tmp_path, name, width, height, params):
    camera = pycolmap.Camera(model="PINHOLE", width=width, height=height, params=params)
    path = tmp_path / "queries.txt"
    path.write_text(query_line(name, camera) + "\n", encoding="utf-8")
    found = read_query_list(path)
    assert list(found) == [name]
    assert (found[name].width, found[name].height, found[name].params.tolist()) == (width, height, list(params))


@steady
@given(st.lists(st.tuples(names, names), max_size=5))
def test_pairs_that_are_written_are_read(tmp_path, pairs):
    path = tmp_path / "pairs.txt"
    write_pairs(path, pairs)
    assert read_pairs(path) == pairs


# ------------------------------------------------------------------------------------------------------------ any text

_FILES = {
    "poses": "poses.txt",
    "query list": "list.txt",
    "pairs": "pairs.txt",
    "cameras of photos": "cameras.txt",
    "nvm": "model.nvm",
    "journal": "out.jsonl",
    "table": "table.csv",
    "download table": "files.tsv",
}
_IN_FOLDERS = {
    "kapture": ("sensors/sensors.txt", "sensors/trajectories.txt", "sensors/records_camera.txt"),
    "nerfstudio": ("transforms.json",),
    "nvm scene": ("model.nvm",),
    "pose list": ("poses.txt",),
    "cambridge": ("dataset_train.txt", "reconstruction.nvm"),
    "7-scenes": ("TrainSplit.txt", "seq-01/frame-000000.pose.txt"),
    "12-scenes": ("a/b/info.txt", "a/b/split.txt"),
    "map-free": ("poses.txt", "intrinsics.txt"),
    "dsac": ("train/poses/0.txt", "train/calibration/0.txt"),
    "config": ("config.yaml", "methods/quick.yaml", "scenes/tiny.yaml"),
}


@pytest.mark.parametrize("reader", _FILES)
@steady
@given(texts, st.booleans())
@example("a 1e-200 0 0 0 0 0 0", False)
@example(f"a PINHOLE {2**80} 2 1 1 1 1", False)
@example("a PINHOLE -5 2 1 1 1 1", False)
@example("NVM_V3\n" + "9" * 5000, False)
@example("[" * 100_000, False)
def test_any_text_is_read_or_refused(tmp_path, sound, reader, text, behind):
    path = tmp_path / _FILES[reader]
    start = sound[reader].read_text(encoding="utf-8") if behind else ""
    path.write_text(start + text, encoding="utf-8", newline="")
    one_line(lambda: READERS[reader](path))


@pytest.mark.parametrize(("reader", "name"), [(r, n) for r, found in _IN_FOLDERS.items() for n in found])
@steady
@given(texts, st.integers(0, 400))
@example("9" * 5000, 400)
@example("[" * 100_000, 0)
def test_any_text_in_a_dataset_is_read_or_refused(tmp_path, sound, reader, name, text, at):
    """The text in place of what follows a byte of the sound file."""
    import shutil

    folder = tmp_path / "data"
    if not folder.exists():
        shutil.copytree(sound[reader], folder)
    path = folder / name
    path.write_text((sound[reader] / name).read_text(encoding="utf-8")[:at] + text, encoding="utf-8", newline="")
    one_line(lambda: READERS[reader](folder))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)
_KEYS = ("w", "h", "fl_x", "fl_y", "cx", "k1", "p1", "k4", "camera_angle_x", "camera_model", "is_fisheye", "frames")


@steady
@given(
    st.dictionaries(st.sampled_from(_KEYS), json_values, max_size=4),
    st.sampled_from(["file_path", "transform_matrix"]),
    json_values,
)
@example({"fl_x": 10**400}, "file_path", "db/0.png")
@example({"w": -5.0}, "file_path", "db/0.png")
@example({"camera_angle_x": 0}, "file_path", "db/0.png")
def test_any_values_of_a_transforms_json(tmp_path, sound, values, key, other):
    import shutil

    folder = tmp_path / "data"
    if not folder.exists():
        shutil.copytree(sound["nerfstudio"], folder)
    whole = json.loads((sound["nerfstudio"] / "transforms.json").read_text())
    if "camera_angle_x" in values:
        del whole["fl_x"]
    whole["frames"][0][key] = other
    (folder / "transforms.json").write_text(json.dumps({**whole, **values}))
    one_line(lambda: READERS["nerfstudio"](folder))


# --------------------------------------------------------------------------------------------------------------- config

tree = st.recursive(
    st.none() | st.integers(-9, 9) | st.text(max_size=3),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
trees = st.dictionaries(st.sampled_from("abc"), tree, max_size=3)


@steady
@given(trees, trees, trees)
def test_merging_keeps_what_is_on_top(base, over, top):
    before = json.dumps(base, sort_keys=True)
    merged = deep_merge(base, over)
    assert json.dumps(base, sort_keys=True) == before
    assert deep_merge(base, {}) == base and deep_merge({}, over) == over
    for key, value in over.items():
        if not isinstance(value, dict):
            assert merged[key] == value
    assert deep_merge(merged, over) == merged
    assert set(deep_merge(merged, top)) == set(base) | set(over) | set(top)


_SOME_KEYS = (
    "seed",
    "retrieval",
    "scenes",
    "methods",
    "encoders",
    "tables",
    "tiny",
    "quick",
    "head",
    "training",
    "steps",
)
overrides = st.recursive(
    json_values,
    lambda inner: st.dictionaries(st.sampled_from(_SOME_KEYS), inner, max_size=3),
    max_leaves=6,
)


@steady
@given(st.dictionaries(st.sampled_from(_SOME_KEYS), overrides, max_size=3))
@example({"scenes": [1]})
@example({"methods": {"quick": 5}})
@example({"methods": {"quick": {"extends": ["quick"]}}})
@example({"methods": {"quick": None}})
def test_any_override_is_taken_or_refused(sound, over):
    one_line(lambda: Project(sound["config"], over))


@steady
@given(overrides)
def test_a_config_that_is_written_means_the_same(tmp_path, value):
    """What PyYAML writes, read_yaml reads, but for what a config cannot hold."""
    from scrflow.config.base import read_yaml

    path: Path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump({"key": value}, allow_unicode=True), encoding="utf-8")
    found = one_line(lambda: read_yaml(path))
    if found is not None:
        assert json.dumps(found, sort_keys=True) == json.dumps({"key": value}, sort_keys=True)


def test_the_sound_files_are_read(sound):
    """Otherwise every text above would be refused for another reason."""
    for reader in (*_FILES, *_IN_FOLDERS):
        READERS[reader](sound[reader])
    assert len(NAMES) == 3
