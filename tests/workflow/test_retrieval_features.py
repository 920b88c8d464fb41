"""Features of a network, and features joined of others, through the workflow up to a query."""

from __future__ import annotations

import json

import pytest
from tiny_project import POSES, Project

from scrflow.core.errors import ScrflowError
from scrflow.storage.weights import locate

FEATURES = """retrieval:
  net: {kind: network, network: efficientnet-lite0, options: {short_side: 128}, dim: 8, pq_bytes: 4}
  both: {kind: fusion, parts: [vlad, net], weights: [2, 1], dim: null, pq_bytes: 8}
"""


def add_features(project: Project) -> None:
    project.edit("config/config.yaml", "retrieval:\n", FEATURES)
    project.write("config/methods/fused.yaml", {"extends": "quick", "description": "fusion", "retrieval": "both"})


def test_fusion_builds_its_parts_first(project: Project):
    add_features(project)
    assert project.planned("results/tiny/fused/poses.txt")["build_retrieval"] == 3
    assert project.planned(POSES)["build_retrieval"] == 1
    done = project.snakemake("-n", POSES, "--config", "retrieval={both: {parts: [vlad, ours]}}", check=False)
    assert done.returncode == 1 and "retrieval.both.parts: no 'ours'; there are net, vlad" in done.stdout


@pytest.mark.slow
@pytest.mark.network
def test_fusion_serves_queries(finished: Project):
    try:
        locate("efficientnet-lite0")
    except ScrflowError as error:
        pytest.skip(f"the published weights are not at hand: {error}")
    config = (finished.folder / "config/config.yaml").read_text()
    add_features(finished)
    try:
        finished.snakemake("results/tiny/fused/poses.txt")
    finally:
        (finished.folder / "config/config.yaml").write_text(config)
        (finished.folder / "config/methods/fused.yaml").unlink()
    folder = finished.folder / "results/tiny"
    quality = {name: json.loads((folder / f"retrieval/{name}.json").read_text()) for name in ("vlad", "net", "both")}
    assert quality["both"]["dim"] == quality["vlad"]["dim"] + quality["net"]["dim"] == 16
    assert quality["both"]["model_mb"] > quality["vlad"]["model_mb"] + quality["net"]["model_mb"] - 0.01
    queries = json.loads((folder / "fused/localization.json").read_text())["queries"]
    assert queries and all(q["hypothesis"] for q in queries.values() if q["localized"])
