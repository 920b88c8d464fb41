"""Every kind of method runs through the whole workflow: without a global encoding (ACE), with the query's own retrieval
feature (GLACE), with known depths; a graph of shared points; buffer and encoding as in the papers' public code."""

from __future__ import annotations

import json

import pytest
from tiny_project import ENCODER, METHOD, SCENE, Project

from scrflow.config import deep_merge

PLAIN_LOSS = {"coarse": False, "depth_adjusted": False, "pull": False}
PUBLISHED = {
    "extractor": {"resize": "bilinear", "multiple": 8},
    "pca": {"kind": "none", "dim": 128},
    "buffer": {
        "plain_copies": 0, "augmented_copies": 9, "max_samples": 5000, "fill": "rooms", "draw": "random",
        "augment": {"kind": "published"},
    },
}  # fmt: skip
CODE = {"engine": "pyg", "graph": "tube", "dim": 16, "walks": 4, "negatives": 1, "iterations": 40}
METHODS = {
    "plain": {
        "encoder": "published",
        "retrieval": None,
        "global_encoding": {"name": None, "neighbour_share": 0.0},
        "head": {"clusters": 1, "refine_blocks": 0},
        "training": {"loss": PLAIN_LOSS},
        "localize": {"hypotheses": 1, "halving": None, "min_iterations": 1000},
    },
    "own": {
        "global_encoding": {"name": "vlad", "neighbour_share": 0.0, "noise": 0.1},
        "head": {"refine_blocks": 0},
        "training": {"loss": PLAIN_LOSS},
        "localize": {"hypotheses": 1},
    },
    "held": {
        "global_encoding": {"name": "code", "scale": False},
        "training": {"mix_share": 0.5, "known_share": 0.9, "loss": {"known_depth": True}},
    },
}


@pytest.fixture(scope="module")
def made(finished: Project, tmp_path_factory) -> Project:
    """Every method, and a scene whose graph counts shared points, by one call of Snakemake."""
    project = finished.copy(tmp_path_factory.mktemp("methods") / "project")
    for name, values in METHODS.items():
        project.write(f"config/methods/{name}.yaml", deep_merge(METHOD, values))
    project.write("config/scenes/dense.yaml", {**SCENE, "graph": "shared"})
    graphs = "  shared: {kind: points, min_points: 5}\n  tube: {kind: scrstudio, samples: 64, min_overlap: 0.05}\n"
    project.edit("config/config.yaml", "graphs:\n", f"graphs:\n{graphs}")
    code = json.dumps(CODE | {"min_average_precision": 0})
    project.edit("config/config.yaml", "encodings:\n", f"encodings:\n  code: {code}\n")
    project.write("config/encoders/published.yaml", deep_merge(ENCODER, PUBLISHED))
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
