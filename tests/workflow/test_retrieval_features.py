"""Features of a network, and features joined of others, through the workflow up to a query."""

from __future__ import annotations

import json

import pytest
from tiny_project import Project

from scrflow.core.errors import ScrflowError
from scrflow.storage.weights import locate

FEATURES = """retrieval:
  net: {kind: network, network: efficientnet-lite0, options: {short_side: 128}, dim: 8, pq_bytes: 4}
  both: {kind: fusion, parts: [vlad, net], weights: [2, 1], dim: null, pq_bytes: 8}
"""


@pytest.mark.long
@pytest.mark.network
def test_fusion_serves_queries(copied: Project):
    try:
        locate("efficientnet-lite0")
    except ScrflowError as error:
        pytest.skip(f"the published weights are not at hand: {error}")
    copied.edit("config/config.yaml", "retrieval:\n", FEATURES)
    copied.write("config/methods/fused.yaml", {"extends": "quick", "description": "fusion", "retrieval": "both"})
    copied.snakemake("results/tiny/fused/poses.txt")
    folder = copied.folder / "results/tiny"
    quality = {name: json.loads((folder / f"retrieval/{name}.json").read_text()) for name in ("vlad", "net", "both")}
    assert quality["both"]["dim"] == quality["vlad"]["dim"] + quality["net"]["dim"] == 16
    assert quality["both"]["model_mb"] > quality["vlad"]["model_mb"] + quality["net"]["model_mb"] - 0.01
    queries = json.loads((folder / "fused/localization.json").read_text())["queries"]
    assert queries and all(q["hypothesis"] for q in queries.values() if q["localized"])
