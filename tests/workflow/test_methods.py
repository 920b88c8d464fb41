"""Every kind of method runs through the whole workflow: without a global encoding (ACE), with the query's own retrieval
feature (GLACE), with known depths; a graph of shared points; buffer and encoding as in the papers' public code; with
features joined of others; and the baseline of feature matching."""

import json

import pytest
from exif_photos import weights_at_hand
from tiny_project import BASELINE, ENCODER, METHOD, SCENE, Project

from scrflow.config import deep_merge
from scrflow.report.costs import costs_of

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


FEATURES = """retrieval:
  net: {kind: network, network: efficientnet-lite0, options: {short_side: 128}, dim: 8, pq_bytes: 4}
  both: {kind: fusion, parts: [vlad, net], weights: [2, 1], dim: null, pq_bytes: 8}
"""


@pytest.mark.long
@pytest.mark.network
def test_fusion_serves_queries(copied: Project):
    weights_at_hand("efficientnet-lite0")
    copied.edit("config/config.yaml", "retrieval:\n", FEATURES)
    copied.write("config/methods/fused.yaml", {"extends": "quick", "description": "fusion", "retrieval": "both"})
    copied.snakemake("results/tiny/fused/poses.txt")
    folder = copied.folder / "results/tiny"
    quality = {name: json.loads((folder / f"retrieval/{name}.json").read_text()) for name in ("vlad", "net", "both")}
    assert quality["both"]["dim"] == quality["vlad"]["dim"] + quality["net"]["dim"] == 16
    assert quality["both"]["model_mb"] > quality["vlad"]["model_mb"] + quality["net"]["model_mb"] - 0.01
    queries = json.loads((folder / "fused/localization.json").read_text())["queries"]
    assert queries and all(q["hypothesis"] for q in queries.values() if q["localized"])
