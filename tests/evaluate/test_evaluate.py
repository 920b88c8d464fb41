"""Evaluation against errors worked out by hand, on a scene written as the scene stage writes it; and the summary."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pycolmap
import pytest
import torch
from PIL import Image
from scenes import scene_of

from scrflow.config import EvaluateStage
from scrflow.core.errors import ScrflowError
from scrflow.evaluate.metrics import COLUMNS, evaluate
from scrflow.report.summary import print_summary
from scrflow.scene.colmap_model import View
from scrflow.scene.lists import pose_line
from scrflow.scene.model import Query
from scrflow.storage.artifact import (
    Stamp,
    read_json,
    read_stamp,
    sha256_file,
    write_json,
    write_safetensors,
    write_text,
)

CONFIG = EvaluateStage(thresholds=((0.25, 2.0), (0.5, 5.0), (5.0, 10.0)), unit="m", synthetic=True)
CAMERA = pycolmap.Camera(model="PINHOLE", width=64, height=48, params=[50.0, 50.0, 32.0, 24.0])
QUERIES = {name: name.split("/")[0] for name in ("day/0.png", "day/1.png", "night/0.png", "night/1.png", "night/2.png")}
OUTPUTS = {"out_csv": "queries.csv", "out_metrics": "metrics.json"}
OUTPUTS |= {"errors_png": "errors.png", "overlay_png": "overlay.png"}
CENTRES = {name: np.array([float(i), 0.5, 2.0]) for i, name in enumerate(QUERIES)}


def pose(centre, degrees: float = 0.0) -> np.ndarray:
    """cam_from_world [3, 4] of a camera at ``centre``, turned about its y axis."""
    a = math.radians(degrees)
    R = np.array([[math.cos(a), 0, math.sin(a)], [0, 1, 0], [-math.sin(a), 0, math.cos(a)]])
    return np.column_stack([R, -R @ np.asarray(centre, float)])


# off by 0.1 m; by 3 degrees; by 3 m; night/1 not localized; by 0.3 m and 20 degrees
ESTIMATES = {
    "day/0.png": pose(CENTRES["day/0.png"] + [0.1, 0, 0]),
    "day/1.png": pose(CENTRES["day/1.png"], 3),
    "night/0.png": pose(CENTRES["night/0.png"] + [0, 0, 3]),
    "night/2.png": pose(CENTRES["night/2.png"] + [0, 0.3, 0], 20),
}
REFERENCE = {name: pose(centre) for name, centre in CENTRES.items()}


def write_inputs(root: Path, reference=REFERENCE, estimates=ESTIMATES) -> dict[str, Path]:
    """results/square/tiny with all that evaluation reads; the arguments of ``evaluate`` by name."""
    images = root / "images"
    names = [f"map/{i}.png" for i in range(4)] + list(QUERIES)
    rng = np.random.default_rng(0)
    for name in names:
        (images / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (48, 64, 3), np.uint8)).save(images / name)
    scene, folder = root / "results/square/scene", root / "results/square/tiny"
    mapping = [View(f"map/{i}.png", CAMERA, pose([i, 0, 0], 10 * i)) for i in range(4)]
    scene_of(scene, images, mapping, [Query(name, CAMERA, condition) for name, condition in QUERIES.items()], reference)
    write_safetensors(folder / "map.safetensors", {"w": torch.zeros(1000)}, Stamp("map"))
    write_text(folder / "poses.txt", "".join(pose_line(n, p) + "\n" for n, p in estimates.items()))
    details = {}
    for i, name in enumerate(QUERIES):
        there = name in estimates
        details[name] = {"localized": there, "inliers": 10 * i, "keypoints": 100, "confidence": 0.2 * i * there}
        details[name] |= {"hypothesis": "map/0.png" if there else None, "reason": None if there else "3 inliers"}
        details[name]["ms"] = {"total": 20.0 + i, "pose": 5.0}
    points = {"pixels": [[10.5, 12], [30, 40]], "reprojected": [[11.5, 12], None], "inlier": [True, False]}
    shown = next(iter(estimates), None)
    values = {"queries": details, "overlay": {"name": shown, **points} if shown else None}
    values["poses_sha256"] = sha256_file(folder / "poses.txt")
    write_json(folder / "localization.json", values, Stamp("localization"))
    (folder / "train.jsonl").write_text(
        '{"step": 1}\n{"seconds": 90.0, "step": 50, "median_error_px": 1.5, "inlier_share": 0.9, "loss": 3}\n'
    )
    files = {"map_path": "map.safetensors", "poses": "poses.txt", "details": "localization.json"}
    files |= {"training": "train.jsonl", **OUTPUTS}
    return {"scene": scene, **{name: folder / file for name, file in files.items()}}


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    paths = write_inputs(tmp_path_factory.mktemp("evaluate"))
    evaluate(CONFIG, **paths)
    return paths


@pytest.fixture
def inputs(tmp_path):
    return write_inputs(tmp_path)


def test_metrics_are_those_worked_out_by_hand(done):
    metrics = read_json(done["out_metrics"], "metrics")
    overall, day, night = metrics["overall"], metrics["conditions"]["day"], metrics["conditions"]["night"]
    assert (overall["queries"], overall["with_reference"], overall["localized"]) == (5, 5, 4)
    assert overall["recall"] == pytest.approx([1 / 5, 2 / 5, 3 / 5])
    assert day["recall"] == pytest.approx([1 / 2, 1, 1])
    assert night["recall"] == pytest.approx([0, 0, 1 / 3])
    # of 0.1, 0, 3, infinite, 0.3 m and 0, 3, 0, infinite, 20 degrees
    assert (overall["median_t_err"], overall["median_r_err"]) == pytest.approx((0.3, 3))
    assert (night["median_t_err"], night["median_r_err"]) == pytest.approx((3, 20))
    assert overall["ms"] == pytest.approx({"total": 22, "pose": 5})
    assert metrics["map_mb"] == done["map_path"].stat().st_size / 1e6
    assert metrics["training"] == {"seconds": 90, "step": 50, "median_error_px": 1.5, "inlier_share": 0.9}
    assert (metrics["scene"], metrics["method"], metrics["unit"], metrics["synthetic"]) == ("square", "tiny", "m", True)
    assert metrics["queries_without_pose"] == {"night/1.png": "3 inliers"}
    assert read_stamp(done["out_metrics"]).inputs["map"] == read_stamp(done["map_path"]).digest


def test_confidences_are_held_against_the_finest_threshold(done):
    """Said 0, 0.2, 0.4, 0 and 0.8; the first alone is right."""
    found = read_json(done["out_metrics"], "metrics")["confidence"]
    assert (found["queries"], found["right"], found["mean"]) == (5, 0.2, pytest.approx(0.28))
    # gaps by bin: the two at 0 together, then 0.2 with 0.4 apart by the bin's edge, and 0.8
    assert found["calibration_error"] == pytest.approx((1 + 0.2 + 0.4 + 0.8) / 5)
    assert found["brier"] == pytest.approx((1 + 0.04 + 0.16 + 0.64) / 5)


def test_csv_has_a_line_for_every_query(done):
    table = pd.read_csv(done["out_csv"])
    assert tuple(table.columns) == COLUMNS
    table = table.set_index("name")
    assert list(table.index) == sorted(QUERIES)
    assert table.loc["day/0.png", "t_err"] == pytest.approx(0.1)
    assert table.loc["day/1.png", "r_err"] == pytest.approx(3)
    assert table.loc["night/1.png", "t_err"] == math.inf and not table.loc["night/1.png", "localized"]
    assert table.loc["night/2.png", ["t_err", "r_err"]].tolist() == pytest.approx([0.3, 20])
    assert table.loc["night/2.png", ["confidence", "inliers", "hypothesis"]].tolist() == [0.8, 40, "map/0.png"]


def test_a_second_evaluation_gives_the_same_bytes(done, tmp_path):
    again = {k: tmp_path / "square/tiny" / p.name if k in OUTPUTS else p for k, p in done.items()}
    evaluate(CONFIG, **again)
    assert all(again[k].read_bytes() == done[k].read_bytes() for k in OUTPUTS)


@pytest.mark.parametrize(("kept", "recall"), [((), [0, 0, 0]), (("day/0.png", "day/1.png"), [0.2, 0.4, 0.4])])
def test_most_are_lost(tmp_path, capsys, kept, recall):
    paths = write_inputs(tmp_path, estimates={name: ESTIMATES[name] for name in kept})
    evaluate(CONFIG, **paths)
    overall = read_json(paths["out_metrics"], "metrics")["overall"]
    assert overall["recall"] == recall and overall["median_t_err"] is None and overall["median_r_err"] is None
    print_summary([paths["out_metrics"].parent])
    assert "infinite" in capsys.readouterr().out


def test_without_reference_poses(tmp_path, capsys):
    paths = write_inputs(tmp_path, reference={})
    evaluate(CONFIG, **paths)
    metrics = read_json(paths["out_metrics"], "metrics")
    assert "no reference poses" in metrics["reference"]
    assert metrics["overall"]["recall"] is None and metrics["overall"]["median_t_err"] is None
    assert metrics["overall"]["localized"] == 4
    assert pd.read_csv(paths["out_csv"])["t_err"].isna().all()
    print_summary([paths["out_metrics"].parent])
    assert "no reference poses" in capsys.readouterr().out


def test_recall_is_over_queries_with_reference(tmp_path):
    paths = write_inputs(tmp_path, reference={n: REFERENCE[n] for n in ("day/0.png", "night/1.png")})
    evaluate(CONFIG, **paths)
    metrics = read_json(paths["out_metrics"], "metrics")
    assert metrics["reference"].startswith("2 of 5")
    assert metrics["overall"]["recall"] == [0.5, 0.5, 0.5]
    assert metrics["overall"]["queries"] == 5 and metrics["conditions"]["night"]["with_reference"] == 1


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("day/9.png 1 0 0 0 0 0 0", "day/9.png is in it or localized in .*, not both"),
        ("night/1.png 1 0 0 0 0 nan 0", "line 5"),
        ("day/0.png 1 0 0 0 0 0 0", "twice"),
        ("night/1.png 1 0 0 0 0 0 0", "night/1.png is in it or localized in .*, not both"),
    ],
)
def test_bad_pose_line(inputs, line, says):
    with open(inputs["poses"], "a") as f:
        f.write(line + "\n")
    with pytest.raises(ScrflowError, match=r"poses\.txt: does not belong to .*localization\.json"):
        evaluate(CONFIG, **inputs)
    values = read_json(inputs["details"], "localization")
    write_json(inputs["details"], {**values, "poses_sha256": sha256_file(inputs["poses"])}, Stamp("localization"))
    with pytest.raises(ScrflowError, match=says) as caught:
        evaluate(CONFIG, **inputs)
    assert "poses.txt" in str(caught.value) and "\n" not in str(caught.value)
    assert not inputs["out_metrics"].exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d: d["queries"].pop("day/1.png"), "day/1.png is in it or a query of .*, not both"),
        (lambda d: d["queries"]["day/1.png"].pop("inliers"), "key queries.day/1.png.inliers"),
        (lambda d: d["queries"]["day/1.png"]["ms"].pop("total"), "ms has no total"),
        (lambda d: d["overlay"]["inlier"].pop(), "differ in length"),
        (lambda d: d["overlay"].update(name="map/0.png"), "map/0.png is in it or a query of"),
        (lambda d: d["overlay"].update(pixels=[[1, 1], [65, 3]]), "outside the photo"),
    ],
)
def test_bad_details(inputs, change, says):
    values = read_json(inputs["details"], "localization")
    change(values)
    write_json(inputs["details"], values, Stamp("localization"))
    with pytest.raises(ScrflowError, match=says) as caught:
        evaluate(CONFIG, **inputs)
    assert "localization.json" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", '{"step": 3}', '{"seconds": NaN, "step": 1, "median_error_px": 1, "inlier_share": 1}']
)
def test_bad_training_log(inputs, text):
    inputs["training"].write_text(text)
    with pytest.raises(ScrflowError, match=r"train\.jsonl.*train again"):
        evaluate(CONFIG, **inputs)


def test_summary_has_day_and_night_apart(done, capsys, monkeypatch):
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    print_summary([done["out_metrics"].parent])
    out = capsys.readouterr().out
    assert "\x1b" not in out and "SYNTHETIC" in out
    row = {part: next(line for line in out.splitlines() if part in line) for part in ("5 all", "2 day", "3 night")}
    for value in ("20.0 %", "40.0 %", "60.0 %", "30 cm 3.00°", "22 ms", "1.5 min", "MB"):
        assert value in row["5 all"]
    for value in ("50.0 %", "100.0 %"):
        assert value in row["2 day"]
    for value in ("33.3 %", "3 m 20.00°"):
        assert value in row["3 night"]
    assert "night/1.png (3 inliers)" in out
    for name in ("errors.png", "overlay.png", "poses.txt", "queries.csv"):
        assert str(done["out_metrics"].parent / name) in out
