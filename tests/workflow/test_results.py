"""What scrflow says of a finished run: costs, provenance, differences."""

from __future__ import annotations

import json
import shutil

import pytest
from tiny_project import POSES, Project
from typer.testing import CliRunner

from scrflow.cli.app import app
from scrflow.report.costs import costs_of, mapping_seconds
from scrflow.storage.artifact import sha256_file


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


@pytest.mark.long
def test_difference_to_a_run_of_another_graph(finished: Project, tmp_path):
    """The graph and what follows it made anew; buffer and retrieval are those of the first run."""
    other = Project(tmp_path / "other")
    for name in ("results", ".snakemake/metadata"):
        shutil.copytree(finished.folder / name, other.folder / name, dirs_exist_ok=True)
    other.edit("config/config.yaml", "min_overlap: 0.05", "min_overlap: 0.3")
    other.snakemake(POSES, "--rerun-triggers", "params")  # by time everything would be old: the copy's photos are newer
    folders = [str(project.folder / "results") for project in (finished, other)]
    done = CliRunner().invoke(app, ["diff", *folders])
    assert isinstance(done.exception, SystemExit) and done.exit_code == 1, done.output
    assert (
        "the first difference is in covisibility: graph.min_overlap 0.05 -> 0.3. All later differences follow from it."
    ) in done.output
    assert CliRunner().invoke(app, ["diff", folders[0], folders[0]]).exit_code == 0
    head = "results/tiny/quick/head.safetensors"
    assert sha256_file(finished.folder / head) != sha256_file(other.folder / head)
