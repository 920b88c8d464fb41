"""The feature-matching baseline and the toy example in the workflow."""

from __future__ import annotations

import json

import pytest
from tiny_project import Project

BASELINE = {
    "description": "SIFT, small",
    "features": {"name": "sift", "max_keypoints": 2000, "descriptors": "uint8"},
    "neighbours": 6,
    "retrieval": "vlad",
    "localize": {"retrieved": 24},
}
METRICS = "results/tiny/match/metrics.json"


@pytest.fixture
def matching(project: Project) -> Project:
    project.write("config/baselines/match.yaml", BASELINE)
    return project


def test_plan(matching: Project):
    plan = matching.planned(METRICS)
    own = ("map_baseline", "localize_baseline", "evaluate_baseline")
    assert plan == dict.fromkeys([*own, "build_scene", "build_graph", "build_retrieval"], 1)


def test_plan_of_the_toy_example(project: Project):
    target = "results/tables/glace-figure-8.md"
    assert project.planned(target, "--config", "toy={scenes: [tiny]}") == {"build_scene": 1, "toy_example": 1}
    of_set = target.replace(".md", "@some.md")
    done = project.planned(of_set, "--config", "table_sets={some: [tiny]}", "tables={}")
    assert done == {"build_scene": 1, "toy_example_of_set": 1}


@pytest.mark.slow
def test_run(copied: Project):
    """Map, poses and evaluation, for real, and nothing again."""
    matching = copied
    matching.write("config/baselines/match.yaml", BASELINE)
    assert set(matching.planned(METRICS)) == {"map_baseline", "localize_baseline", "evaluate_baseline"}
    matching.snakemake(METRICS)
    metrics = json.loads(matching.read(METRICS))
    assert metrics["training"] is None and 0.03 < metrics["map_mb"] < 0.3
    # 24 renderings, so far apart that not every query has enough in common with one
    assert metrics["conditions"]["day"]["recall"][0] >= 0.5, metrics["conditions"]
    assert matching.planned(METRICS) == {}
    again = matching.planned(METRICS, "--config", "baselines={match: {localize: {iterations: 900}}}")
    assert again == {"localize_baseline": 1, "evaluate_baseline": 1}
