"""scrflow diff, on results that the evaluation stage wrote."""

import json
import shutil
from pathlib import Path

import pytest
from result_folders import Results
from test_evaluate import CENTRES, CONFIG, ESTIMATES, pose, write_inputs
from typer.testing import CliRunner

from scrflow.cli.app import app
from scrflow.config import deep_merge
from scrflow.evaluate.metrics import evaluate
from scrflow.scene.lists import pose_line
from scrflow.storage.artifact import read_stamp, write_text
from scrflow.storage.checksum import write_checksum

GRAPH = {"graph": {"kind": "frustum", "min_overlap": 0.2}, "seed": 1}
METHOD = "results/square/tiny"


def write_result(root: Path, graph: dict = GRAPH, code: str = "c", estimates: dict = ESTIMATES) -> Path:
    """results/square/tiny, evaluated, with a graph and a head upstream of its map; the folder."""
    arguments = write_inputs(root, estimates=estimates)
    r = Results(root / "results")
    scene = {"scene": "square/scene/scene.json"}
    covisibility = r.artifact("square/covisibility.npz", "covisibility", graph, **scene)
    head = r.artifact("square/tiny/head.safetensors", "head", {"training": {"steps": 5}}, graph=covisibility)
    r.artifact("square/tiny/map.safetensors", "map", {}, code, head=head, **scene)
    details = json.loads(arguments["details"].read_text())
    map_digest = read_stamp(arguments["map_path"]).digest
    details["scrflow"]["inputs"] = {"scene": read_stamp(root / "results/square/scene/scene.json").digest}
    details["scrflow"]["inputs"]["map"] = map_digest
    write_text(arguments["details"], json.dumps(details))
    write_checksum(arguments["details"])
    evaluate(CONFIG, **arguments)
    return root / METHOD


@pytest.fixture(scope="module")
def first(tmp_path_factory) -> Path:
    """Folder of the first result."""
    return write_result(tmp_path_factory.mktemp("diff") / "a")


def diff(a: Path, b: Path, *options: str, status: int) -> str:
    done = CliRunner().invoke(app, ["diff", str(a), str(b), *options])
    assert done.exit_code == status, done.output
    return done.output


def copied(folder: Path, to: Path) -> Path:
    shutil.copytree(folder.parents[2], to)
    return to / METHOD


def edited(folder: Path, changes: dict) -> None:
    """Change what metrics.json says."""
    path = folder / "metrics.json"
    path.write_text(json.dumps(deep_merge(json.loads(path.read_text()), changes)))
    write_checksum(path)


def test_equal_results(first, tmp_path):
    """Evaluated again: all but the time of day is the same."""
    again = write_result(tmp_path / "again")
    assert diff(first, again, status=0).startswith(f"{first} -> {again}: equal (recipe, poses and map size)\n")


def test_the_first_stage_that_differs_is_named(first, tmp_path):
    # day/0 becomes worse, night/0 better
    estimates = ESTIMATES | {
        "day/0.png": pose(CENTRES["day/0.png"] + [0.4, 0, 0]),
        "night/0.png": pose(CENTRES["night/0.png"] + [0, 0, 0.1]),
    }
    graph = {"graph": {"kind": "frustum", "min_overlap": 0.1}, "seed": 1}
    out = diff(first, write_result(tmp_path / "b", graph, estimates=estimates), status=1)
    lines = [line.strip() for line in out.splitlines()]
    assert lines[1] == (
        "the first difference is in covisibility: graph.min_overlap 0.2 -> 0.1. All later differences follow from it."
    )
    assert lines[2] == "outcome:"
    assert "recall 0.25 m 2°: 20.0 % -> 20.0 %" not in out
    assert "recall 0.5 m 5°: 40.0 % -> 60.0 %" in lines
    assert "0.25 m 2°, within in the second only: night/0.png (3 m 0° -> 0.1 m 0°)" in lines
    assert "0.25 m 2°, no longer within: day/0.png (0.1 m 0° -> 0.4 m 0°)" in lines
    assert "5 m 10°, " not in out


def test_another_device_is_no_difference_by_itself(first, tmp_path):
    other = copied(first, tmp_path / "b")
    ran = {"cpu": "another", "packages": {"torch": "9.9"}, "commit": "0" * 40}
    edited(other, {"provenance": {"evaluation": ran}, "overall": {"ms": {"total": 1.0, "pose": 1.0}}})
    out = diff(first, other, status=0)
    assert "equal" in out and "all the same, evaluation: cpu " in out and "-> 9.9" in out
    assert "0" * 40 not in out
    # with other poses it may be the cause
    write_text(other / "poses.txt", pose_line("day/0.png", pose([0, 0, 0])) + "\n")
    edited(other, {"scrflow": {"inputs": {"poses": "e" * 16}}})
    out = diff(first, other, status=1)
    assert "config, code and data are the same" in out and "see what it ran on" in out
    assert "poses differ, but no query changes sides" in out


def test_the_first_file_with_other_bytes_is_named(first, tmp_path):
    other = copied(first, tmp_path / "b")
    edited(other, {"scrflow": {"inputs": {"poses": "e" * 16}}})
    # stamps are the same, contents not
    config = read_stamp(other / "head.safetensors").config
    changed = {"graph": "square/covisibility.npz", "weight": 1.0}
    Results(other.parents[1]).artifact("square/tiny/head.safetensors", "head", config, **changed)
    assert "bytes differ first in square/tiny/head.safetensors" in diff(first, other, status=1)


def test_folders_of_several_results(first, tmp_path):
    other = copied(first, tmp_path / "b")
    shutil.copytree(other, other.with_name("more"))
    edited(other, {"map_mb": 9.0})
    for a, b, name in ((first.parent, other.parent, "more"), (first.parents[1], other.parents[1], "square/more")):
        out = diff(a, b, status=1)
        assert f"{name}: only in {b}" in out
        assert f"{first} -> {other}" in out and "-> 9.000 MB" in out


@pytest.mark.parametrize("which", ["absent", "empty", "kinds", "queries"])
def test_errors_have_status_2_and_a_line(first, tmp_path, which):
    other = copied(first, tmp_path / "b")
    if which == "queries":
        (other / "queries.csv").write_text("query\nx\n")
    a = {"absent": tmp_path / "none", "empty": tmp_path, "kinds": first.parent, "queries": first}[which]
    done = CliRunner().invoke(app, ["diff", str(a), str(other)])
    assert done.exit_code == 2
    assert done.output.startswith("error: ") and done.output.count("\n") == 1
