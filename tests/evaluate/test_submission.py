"""The file for visuallocalization.net."""

import json
import logging
from pathlib import Path

import pytest

from scrflow.config import SubmissionStage
from scrflow.core.errors import ScrflowError
from scrflow.evaluate.submission import write_submission
from scrflow.storage.artifact import Stamp, sha256_file, write_json
from scrflow.storage.checksum import write_checksum

NUMBERS = "0.5 0.5 0.5 0.5 1 2 3"


@pytest.fixture
def results(tmp_path) -> Path:
    """What the stages before leave: two queries by day, two by night, of which b/4.jpg was not localized."""
    conditions = {"a/1.jpg": "day", "a/2.jpg": "day", "b/3.jpg": "night", "b/4.jpg": "night"}
    empty = SubmissionStage(pose_names="path")
    write_json(tmp_path / "scene/scene.json", {"conditions": conditions}, Stamp.make("scene", empty, "1"))
    (tmp_path / "poses.txt").write_text("".join(f"{name} {NUMBERS}\n" for name in ("a/1.jpg", "a/2.jpg", "b/3.jpg")))
    evaluated(tmp_path)
    return tmp_path


def evaluated(folder: Path) -> None:
    """Metrics of the poses that are there."""
    lost = {"queries_without_pose": {"b/4.jpg": "too few keypoints"}}
    poses = sha256_file(folder / "poses.txt")[:16]
    write_json(folder / "metrics.json", lost, Stamp("metrics", inputs={"poses": poses}))


def submit(folder: Path, names: str) -> str:
    out = folder / "out/poses.txt"
    files = (folder / "scene", folder / "poses.txt", folder / "metrics.json", out)
    write_submission(SubmissionStage(pose_names=names), *files)
    return out.read_text()


def test_names_with_and_without_folders(results, caplog):
    assert submit(results, "path") == (results / "poses.txt").read_text()
    with caplog.at_level(logging.INFO, "scrflow"):
        assert submit(results, "basename") == "".join(f"{i}.jpg {NUMBERS}\n" for i in (1, 2, 3))
    assert "1 of 2 queries (night) have a pose" in caplog.text and "2 of 2 queries (day)" in caplog.text


SUBMISSION_FAULTS = {
    "missing query": (
        lambda t: t.replace(f"a/2.jpg {NUMBERS}\n", ""),
        r"a/2\.jpg has a line or is localized by .*, not both \(1 of 4 queries\)",
    ),
    "second line": (lambda t: t + f"a/1.jpg {NUMBERS}\n", r"line 4: a/1\.jpg: listed twice"),
    "lost yet there": (lambda t: t + f"b/4.jpg {NUMBERS}\n", r"b/4\.jpg has a line or is localized by .*metrics\.json"),
    "unknown": (lambda t: t + f"c/9.jpg {NUMBERS}\n", r"c/9\.jpg has a line or is localized"),
    "not of length 1": (lambda t: t.replace(" 0.5 1 2", " 0.6 1 2", 1), r"line 1: a/1\.jpg: quaternion"),
}


@pytest.mark.parametrize("fault", SUBMISSION_FAULTS)
def test_a_file_that_the_benchmark_would_misread_is_not_written(results, fault):
    change, message = SUBMISSION_FAULTS[fault]
    text = (results / "poses.txt").read_text()
    assert change(text) != text
    (results / "poses.txt").write_text(change(text))
    with pytest.raises(ScrflowError, match=r"poses\.txt: not the poses that .*metrics\.json is of"):
        submit(results, "path")
    evaluated(results)
    with pytest.raises(ScrflowError, match=message) as error:
        submit(results, "path")
    assert "\n" not in str(error.value) and not (results / "out").exists()


def test_two_queries_of_one_name_cannot_lose_their_folders(results):
    info = json.loads((results / "scene/scene.json").read_text())
    info["conditions"]["b/1.jpg"] = "night"
    (results / "scene/scene.json").write_text(json.dumps(info))
    write_checksum(results / "scene/scene.json")
    with open(results / "poses.txt", "a") as f:
        f.write(f"b/1.jpg {NUMBERS}\n")
    evaluated(results)
    submit(results, "path")
    with pytest.raises(ScrflowError, match=r"scene\.json: a/1\.jpg and b/1\.jpg both are '1\.jpg' by key pose_names"):
        submit(results, "basename")
