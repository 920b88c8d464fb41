"""The feature-matching baseline in the workflow."""

from __future__ import annotations

import json

import pytest
from tiny_project import Project

from scrflow.report.costs import costs_of

BASELINE = {
    "description": "SIFT, small",
    "features": {"name": "sift", "max_keypoints": 2000, "descriptors": "uint8"},
    "neighbours": 6,
    "retrieval": "vlad",
    "localize": {"retrieved": 24},
}
METRICS = "results/tiny/match/metrics.json"


@pytest.mark.long
def test_map_poses_and_evaluation(copied: Project):
    copied.write("config/baselines/match.yaml", BASELINE)
    assert set(copied.planned(METRICS)) == {"map_baseline", "localize_baseline", "evaluate_baseline"}
    copied.snakemake(METRICS)
    metrics = json.loads(copied.read(METRICS))
    assert metrics["training"] is None and 0.03 < metrics["map_mb"] < 0.3
    # 24 renderings, so far apart that not every query has enough in common with one
    assert metrics["conditions"]["day"]["recall"][0] >= 0.5, metrics["conditions"]
    costs = costs_of(copied.folder / "results/tiny/match")
    assert not costs.unknown
    made = ("build_scene", "build_graph", "build_retrieval", "map_baseline", "localize_baseline")
    assert {stage.rule for stage in costs.stages} == set(made)
    again = copied.planned(METRICS, "--config", "baselines={match: {localize: {iterations: 900}}}")
    assert again == {"localize_baseline": 1, "evaluate_baseline": 1}
