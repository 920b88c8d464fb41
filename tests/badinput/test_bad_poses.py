"""Poses that cannot be, alone or all together: refused in one line, and the scene of before stays.

Faults of single lines in each dataset form (a quaternion's length, numbers missing or not finite, doubles) are in
tests/scene/test_build.py, test_kapture.py, test_cambridge.py and test_nvm.py.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import photo_kinds as kinds
import pytest

from scrflow.config import NerfstudioSource
from scrflow.core.errors import ScrflowError
from scrflow.core.geometry import invert_pose
from scrflow.scene import load_scene
from scrflow.scene.build import build_scene

COUNT = 6


def lines(change: Callable[[list[str]], list[str]]) -> Callable[[Path], None]:
    def edit(root: Path) -> None:
        path = root / "poses.txt"
        path.write_text("".join(f"{line}\n" for line in change(path.read_text().splitlines())))

    return edit


def field(i: int, number: int, value: str) -> Callable[[Path], None]:
    """Field ``number`` of line ``i``."""

    def change(all_lines: list[str]) -> list[str]:
        fields = all_lines[i].split()
        fields[number] = value
        return [*all_lines[:i], " ".join(fields), *all_lines[i + 1 :]]

    return lines(change)


def poses(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    """All poses [6, 3, 4] anew."""

    def write(root: Path) -> None:
        new = change(np.stack([kinds.pose_of(i) for i in range(COUNT)]))
        (root / "poses.txt").write_text("".join(kinds.pose_text(f"{i}.jpg", pose) for i, pose in enumerate(new)))

    return write


def moved(centres: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    def change(all_poses: np.ndarray) -> np.ndarray:
        inverse = invert_pose(all_poses)
        inverse[:, :, 3] = centres(inverse[:, :, 3])
        return invert_pose(inverse)

    return poses(change)


def lone(index: int, place: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(centres: np.ndarray) -> np.ndarray:
        centres[index, 0] = place
        return centres

    return change


FAULTS = {
    "NaN": (field(1, 3, "nan"), r"poses\.txt: line 2: 1\.jpg: expected 'name qw .* with finite numbers"),
    "infinite": (field(1, 5, "-inf"), r"poses\.txt: line 2: 1\.jpg: expected .*finite numbers"),
    "zero quaternion": (
        lines(lambda ls: [ls[0], "1.jpg 0 0 0 0 1 2 3 130", *ls[2:]]),
        r"poses\.txt: line 2: 1\.jpg: quaternion has length 0, expected 1 \(order: qw qx qy qz\); correct the line",
    ),
    "scaled quaternion": (
        lines(lambda ls: [ls[0], "1.jpg 2 0 0 0 1 2 3 130", *ls[2:]]),
        r"poses\.txt: line 2: 1\.jpg: quaternion has length 2, expected 1",
    ),
    "too few columns": (
        lines(lambda ls: [ls[0], "1.jpg 1 0 0 0 1 2 3", *ls[2:]]),
        r"line 2: 1\.jpg: expected 'name qw",
    ),
    "too many columns": (lines(lambda ls: [ls[0], f"{ls[1]} 0", *ls[2:]]), r"line 2: 1\.jpg: expected 'name qw qx qy"),
    "a word for a number": (field(1, 2, "0,5"), r"line 2: 1\.jpg: expected 'name qw qx qy qz tx ty tz f'"),
    "a line twice": (lines(lambda ls: [ls[0], *ls]), r"poses\.txt: line 2: 0\.jpg: listed twice; remove one line"),
    "empty file": (lines(lambda ls: []), r"poses\.txt: no pose in it; expected lines 'name qw qx qy qz tx ty tz f'"),
    "one camera lost far away": (
        moved(lone(1, 1e9)),
        r"poses\.txt: camera of 1\.jpg is 1e\+09 from the others, which are 0\.\d+ apart \(median\); correct its pose",
    ),
    "geographic coordinates": (
        moved(lambda c: c + np.array([4.5e5, 5.4e6, 100])),
        r"poses\.txt: the cameras stand 5\.42e\+06 from the origin and 0\.\d+ from each other \(median\); single",
    ),
    "all cameras in one place": (
        moved(lambda c: np.tile(c[:1], (len(c), 1))),
        r"poses\.txt: all 4 mapping cameras stand in one place, so no depth can be learnt; are their translations",
    ),
    "no translations": (moved(lambda c: 0 * c), r"poses\.txt: all 4 mapping cameras stand in one place"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_bad_poses_are_refused_and_the_scene_of_before_stays(tmp_path, fault):
    root = kinds.dataset(tmp_path / "data", COUNT)
    build_scene(kinds.STAGE, root, tmp_path / "scene")
    before = (tmp_path / "scene/scene.json").read_bytes()
    spoil, message = FAULTS[fault]
    spoil(root)
    with pytest.raises(ScrflowError, match=message) as caught:
        build_scene(kinds.STAGE, root, tmp_path / "scene")
    assert "\n" not in str(caught.value) and str(root / "poses.txt") in str(caught.value)
    assert (tmp_path / "scene/scene.json").read_bytes() == before


def test_a_line_less_is_told_by_the_split_that_asks_for_it(tmp_path):
    root = kinds.dataset(tmp_path / "data", COUNT)
    (root / "mapping.txt").write_text("".join(f"{i}.jpg\n" for i in range(4)))
    (root / "queries.txt").write_text("5.jpg\n")
    lines(lambda ls: [ls[0], *ls[2:]])(root)
    split = {"every": None, "mapping": "mapping.txt", "queries": {"all": "queries.txt"}}
    stage = kinds.STAGE.model_copy(update={"split": kinds.STAGE.split.model_copy(update=split)})
    with pytest.raises(ScrflowError, match=r"mapping\.txt: 1\.jpg is listed, but .*poses\.txt has no pose of it; add"):
        build_scene(stage, root, tmp_path / "scene")


def test_a_copied_line_is_warned_of(tmp_path, caplog):
    root = kinds.dataset(tmp_path / "data", COUNT)
    lines(lambda ls: [*ls[:3], ls[2].replace("2.jpg", "3.jpg"), *ls[4:]])(root)
    with caplog.at_level(logging.WARNING, "scrflow"):
        build_scene(kinds.STAGE, root, tmp_path / "scene")
    assert "1 mapping images have exactly the pose of another one: 3.jpg; is a line copied?" in caplog.text
    assert len(load_scene(tmp_path / "scene").mapping) == 4


# ------------------------------------------------------------------------------------------------------- 4x4 matrices


def _matrix(change: Callable[[np.ndarray], object]) -> Callable[[list[dict]], None]:
    def spoil(frames: list[dict]) -> None:
        new = change(np.array(frames[1]["transform_matrix"]))
        frames[1]["transform_matrix"] = new.tolist() if isinstance(new, np.ndarray) else new

    return spoil


def _last_row(m: np.ndarray) -> np.ndarray:
    m[3] = (0, 0, 0, 2)
    return m


def _sheared(m: np.ndarray) -> np.ndarray:
    m[0, 1] += 0.1
    return m


FRAME = r"transforms\.json: frame images/1\.jpg: "
MATRIX_FAULTS = {
    "mirrored": (
        _matrix(lambda m: m @ np.diag([1.0, 1, -1, 1])),
        FRAME
        + r"3x3 part of the pose is a mirrored rotation \(determinant -1\.0000, expected \+1\); an axis has the wrong",
    ),
    "scaled": (
        _matrix(lambda m: m @ np.diag([1.1, 1.1, 1.1, 1])),
        FRAME + r"3x3 part of the pose is not a rotation \(R R",
    ),
    "sheared": (_matrix(_sheared), FRAME + r"3x3 part of the pose is not a rotation"),
    "all zero": (
        _matrix(lambda m: 0 * m),
        FRAME + r"last row of the pose is \[0\.0, 0\.0, 0\.0, 0\.0\], expected 0 0 0 1",
    ),
    "last row": (_matrix(_last_row), FRAME + r"last row of the pose is \[0\.0, 0\.0, 0\.0, 2\.0\], expected 0 0 0 1"),
    "3x3": (_matrix(lambda m: m[:3, :3]), FRAME + r"pose has shape \(3, 3\), expected 4x4 or 3x4"),
    "ragged": (_matrix(lambda m: [[1, 2], [3]]), FRAME + "transform_matrix is not a 4x4 of numbers"),
    "NaN": (_matrix(lambda m: m * np.nan), FRAME + "pose has a number that is not finite"),
}


@pytest.mark.parametrize("fault", MATRIX_FAULTS)
def test_bad_matrices_are_refused(tmp_path, fault):
    root = kinds.dataset(tmp_path / "data", COUNT)
    frames = [
        {
            "file_path": f"images/{i}.jpg",
            "transform_matrix": np.vstack([invert_pose(kinds.pose_of(i)), [0, 0, 0, 1]]).tolist(),
        }
        for i in range(COUNT)
    ]
    stage = kinds.STAGE.model_copy(update={"source": NerfstudioSource(reader="nerfstudio")})
    (root / "transforms.json").write_text(json.dumps({"fl_x": 130, "frames": frames}))
    build_scene(stage, root, tmp_path / "scene")
    before = (tmp_path / "scene/scene.json").read_bytes()
    spoil, message = MATRIX_FAULTS[fault]
    spoil(frames)
    (root / "transforms.json").write_text(json.dumps({"fl_x": 130, "frames": frames}))
    with pytest.raises(ScrflowError, match=message) as caught:
        build_scene(stage, root, tmp_path / "scene")
    assert "\n" not in str(caught.value)
    assert (tmp_path / "scene/scene.json").read_bytes() == before
