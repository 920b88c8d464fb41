"""What scrflow says of a finished run: costs and provenance."""

from __future__ import annotations

import json

import pytest
from tiny_project import Project

from scrflow.report.costs import costs_of, mapping_seconds


def test_costs_of_a_finished_run(finished: Project):
    """Every job of the run has its costs, by its own account of time and memory, and no other is counted."""
    results = finished.folder / "results"
    costs = costs_of(results / "tiny/quick")
    assert costs.unknown == ()
    jobs = {f"{stage.rule}/{stage.wildcards}".rstrip("/") for stage in costs.stages}
    assert jobs == {
        *("build_scene", "build_graph", "embed_graph/node2vec", "build_retrieval/vlad", "fit_pca/small"),
        *("fill_buffer/small-0", "fill_buffer/small-1"),
        *("train_head/quick", "write_map/quick", "localize_queries/quick"),
    }
    assert all(stage.cpu_s > 0 and stage.max_rss_mb > 50 and not stage.cpu_is_bound for stage in costs.stages)
    assert mapping_seconds(results / "tiny/quick") == pytest.approx(
        sum(stage.wall_s for stage in costs.stages if stage.rule != "localize_queries")
    )


def test_provenance_of_a_finished_run(finished: Project):
    folder = finished.folder / "results/tiny/quick"
    told = json.loads((folder / "metrics.json").read_text())["provenance"]
    assert told["lost"] == []
    for what, threads in (("training", 2), ("localization", 2), ("evaluation", 1)):
        assert told[what]["packages"]["torch"] and told[what]["cpu"] and told[what]["threads"] == threads
        assert (told[what]["commit"], told[what]["clean"]) == (None, None)  # a copy of the tree, no checkout
    for path, stamp in told["stages"].items():
        assert stamp["code"] and stamp["config"], path
