"""What scrflow says of a finished run: costs, provenance, its page, and Snakemake's report, made without network."""

import json
import re
import subprocess
import zipfile

import pytest
from tiny_project import Project

from scrflow.report.costs import costs_of, mapping_seconds

PAGE = "results/tiny/quick/report.html"
NOWHERE = "http://127.0.0.1:9"  # nobody listens there


@pytest.fixture(scope="module")
def archive(finished: Project, tmp_path_factory):
    """The unpacked report of the page and of what it was made from."""
    finished.snakemake(PAGE)
    env = {**finished.environment(), **dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), NOWHERE)}
    command = finished.command(PAGE, "--report", "report.zip")
    done = subprocess.run(
        command, cwd=finished.folder, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=600
    )
    assert done.returncode == 0, done.stdout
    assert "downloading" not in done.stdout
    folder = tmp_path_factory.mktemp("archive")
    with zipfile.ZipFile(finished.folder / "report.zip") as z:
        z.extractall(folder)
    return folder / "report"


def test_page_is_made_once(finished: Project, archive):
    assert finished.planned(PAGE) == {}
    html = (finished.folder / PAGE).read_text(encoding="utf-8")
    assert "tiny · quick" in html
    for rule in ("build_scene", "train_head quick", "localize_queries quick"):
        assert rule in html  # the benchmarks are found
    assert "Not known, and so in no sum" not in html


def test_archive_has_categories_labels_and_captions(archive):
    html = (archive / "report.html").read_text(encoding="utf-8")
    results = json.loads(re.search(r"var results = (\{.*?\});\n", html, re.S)[1])
    by_name = {result["name"]: result for result in results.values()}
    assert set(by_name) == {"report.html", "errors.png", "overlay.png", "queries.csv"}
    for result in by_name.values():
        assert result["labels"]["method"] == "quick" and result["labels"]["what"]
        assert "<p>" in result["caption"] and "{{" not in result["caption"]
        assert (archive / result["data_uri"]).stat().st_size > 100
    assert "tiny" in by_name["report.html"]["caption"] and "quick" in by_name["report.html"]["caption"]
    assert list(json.loads(re.search(r"var categories = (\{.*?\});\n", html, re.S)[1])) == ["tiny"]
    assert "scene coordinate regression" in html


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
