"""Every kind of method runs through the whole workflow: without a global encoding (ACE), with the query's own retrieval
feature (GLACE), with known depths; and a graph of shared points."""

from __future__ import annotations

import json

import pytest
from tiny_project import METHOD, SCENE, Project

from scrflow.config import deep_merge

PLAIN_LOSS = {"coarse": False, "depth_adjusted": False, "pull": False}
METHODS = {
    "plain": {
        "retrieval": None,
        "global_encoding": {"name": None, "neighbour_share": 0.0},
        "head": {"clusters": 1, "refine_blocks": 0},
        "training": {"loss": PLAIN_LOSS},
        "localize": {"hypotheses": 1},
    },
    "own": {
        "global_encoding": {"name": "vlad", "neighbour_share": 0.0, "noise": 0.1},
        "head": {"refine_blocks": 0},
        "training": {"loss": PLAIN_LOSS},
        "localize": {"hypotheses": 1},
    },
    "held": {"training": {"mix_share": 0.5, "known_share": 0.9, "loss": {"known_depth": True}}},
}


@pytest.fixture(scope="module")
def made(finished: Project, tmp_path_factory) -> Project:
    """Every method, and a scene whose graph counts shared points, by one call of Snakemake."""
    project = finished.copy(tmp_path_factory.mktemp("methods") / "project")
    for name, values in METHODS.items():
        project.write(f"config/methods/{name}.yaml", deep_merge(METHOD, values))
    project.write("config/scenes/dense.yaml", {**SCENE, "graph": "shared"})
    project.edit("config/config.yaml", "graphs:\n", "graphs:\n  shared: {kind: points, min_points: 5}\n")
    project.snakemake("results/dense/covisibility.npz", *(f"results/tiny/{name}/metrics.json" for name in METHODS))
    assert (project.folder / "results/dense/triangulated/triangulation.json").exists()
    return project


@pytest.mark.parametrize("name", METHODS)
def test_method(made: Project, name: str):
    folder = made.folder / "results/tiny" / name
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["method"] == name and metrics["overall"]["queries"] > 0
    details = json.loads((folder / "localization.json").read_text())["queries"]
    tried = {q["hypothesis"] for q in details.values()}
    assert (tried == {None}) == (name != "held")
    # a query is in poses.txt exactly when it was localized
    lines = (folder / "poses.txt").read_text().splitlines()
    assert {line.split()[0] for line in lines} == {n for n, q in details.items() if q["localized"]}
