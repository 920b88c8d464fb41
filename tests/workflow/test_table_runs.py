"""A table over variants and seeds on the tiny scene: real runs, shared stages."""

import csv
import json

import pytest
from tiny_project import Project

from scrflow.core.errors import ScrflowError
from scrflow.pipeline.project import Project as Config

TABLE = {
    "title": "Tiny | table",
    "scenes": ["tiny"],
    "sets": {"again": ["tiny"]},
    "seeds": [1, 2],
    "metrics": ["recall@2", "median_t", "map_mb", "query_ms", "training_min", "mapping_min"],
    "conditions": True,
    "rows": [
        {"id": "quick", "label": "quick", "method": "quick"},
        {"id": "k1", "label": "k = 1 & fewer", "method": "quick", "over": {"localize": {"hypotheses": 1}}},
        {"id": "paper", "label": "from the paper", "published": "GLACE"},
    ],
    "published": {"paper": "some", "table": "1", "columns": {"tiny": {"recall@2": "all"}, "*": {"map_mb": "mb"}}},
    "claims": [{"id": "k", "claim": "Two hypotheses beat one", "better": "quick", "worse": "k1"}],
}
WIDE = {"id": "wide", "label": "wider", "method": "quick", "over": {"head": {"width": 40}}}
PAPER = {
    "name": "Some",
    "title": "Some paper",
    "authors": "Someone",
    "venue": "nowhere (made up for a test)",
    "read": "made up",
    "tables": {
        "1": {
            "name": "Table 1",
            "about": "made up.",
            "read": "made up",
            "columns": {"all": {"unit": "%", "meaning": "recall"}, "mb": {"unit": "MB", "meaning": "map"}},
            "rows": {"GLACE": [64.5, None]},
        }
    },
}


def with_table(project: Project) -> Project:
    project.write("config/tables/mini.yaml", TABLE)
    project.write("config/papers/some.yaml", PAPER)
    return project


def test_variants_share_what_they_have_in_common(project: Project):
    with_table(project).write("config/tables/mini.yaml", {**TABLE, "rows": [*TABLE["rows"], WIDE]})
    plan = project.planned("results/tables/mini.md", "results/tables/mini@again.md")
    # two rows and two seeds each train; k1 takes the heads of quick
    assert plan["train_head"] == 4
    assert plan["write_map"] == plan["localize_queries"] == plan["evaluate_poses"] == 6
    assert plan["fill_buffer"] == 2 and plan["embed_graph"] == plan["build_retrieval"] == plan["fit_pca"] == 1
    # the set has the same scene: nothing is made twice
    assert plan["write_table"] == plan["write_table_of_set"] == 1


@pytest.mark.long
def test_a_table_of_real_runs(copied: Project):
    """Beside what is there: the first seed of the first row."""
    project = with_table(copied)
    project.snakemake("results/tables/mini.md")
    folder = project.folder / "results"
    metrics = {p.parent.name: json.loads(p.read_text()) for p in folder.glob("tiny/quick*/metrics.json")}
    assert set(metrics) == {f"quick{v}{s}" for v in ("", "+k1") for s in ("", "+s2")}
    assert metrics["quick+k1+s2"]["trained_as"] == "quick+s2"
    # another seed is another head, and the same seed of a variant the same one
    assert project.read("results/tiny/quick/head.safetensors") != project.read("results/tiny/quick+s2/head.safetensors")
    assert not (folder / "tiny/quick+k1/head.safetensors").exists()

    rows = list(csv.DictReader((folder / "tables/mini.csv").open()))
    cell = {(r["row"], r["condition"], r["metric"]): r for r in rows}
    found = cell["k1", "all", "recall@2"]
    values = [100 * metrics[name]["overall"]["recall"][2] for name in ("quick+k1", "quick+k1+s2")]
    assert float(found["mean"]) == pytest.approx(sum(values) / 2, rel=1e-5)
    assert (found["n"], found["seeds"], found["unit"]) == ("2", "1 2", "%")
    assert float(cell["quick", "all", "mapping_min"]["mean"]) > float(cell["quick", "all", "training_min"]["mean"]) > 0
    paper = cell["paper", "all", "recall@2"]
    assert (paper["mean"], paper["n"], paper["published"], paper["source"]) == ("", "0", "64.5", "Some Table 1")
    assert {r["condition"] for r in rows} == {"all", "day", "night"}

    text = (folder / "tables/mini.md").read_text()
    assert "# Tiny | table" in text and "a synthetic scene" in text and "[64.5]" in text
    assert "### Two hypotheses beat one" in text and "**" in text.split("### Two hypotheses")[1]
    assert r"k = 1 \& fewer" in (folder / "tables/mini.tex").read_text()

    # the paper's number changes: the table alone is written anew
    project.edit("config/papers/some.yaml", "64.5", "65.5")
    assert project.planned("results/tables/mini.md") == {"write_table": 1}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"claims": [], "rows": [{"id": "a", "label": "a", "method": "quik"}]}, "no method 'quik'"),
        ({"claims": [], "rows": [{"id": "a", "label": "a", "method": "quick", "over": {"hed": 1}}]}, "row a: key hed"),
        ({"scenes": ["tinny"]}, "no 'tinny'"),
        ({"metrics": ["recall"]}, "no metric 'recall'"),
        ({"claims": [{"id": "k", "claim": "x", "better": "quick", "worse": "nothing"}]}, "no row 'nothing'"),
    ],
)
def test_a_wrong_table_is_told_before_anything_runs(project: Project, change, says):
    with_table(project).write("config/tables/mini.yaml", {**TABLE, **change})
    with pytest.raises(ScrflowError, match=f"config/tables/mini.yaml: .*{says}"):
        Config(project.folder / "config")


def test_one_name_means_one_variant(project: Project):
    with_table(project)
    other = {**TABLE, "claims": [], "rows": [{**TABLE["rows"][1], "over": {"localize": {"hypotheses": 3}}}]}
    project.write("config/tables/other.yaml", other)
    with pytest.raises(ScrflowError, match=r"config/tables/other.yaml: row k1: .*give one of them another id"):
        Config(project.folder / "config")


def test_an_override_for_one_run_does_not_fail_for_a_table(project: Project):
    """A table with a row of the overridden method that it makes no sense for says so when it is asked for."""
    plain = {"global_encoding": {"name": None, "neighbour_share": 0}, "retrieval": None, "localize": {"hypotheses": 1}}
    rows = [TABLE["rows"][0], {"id": "plain", "label": "no global encoding", "method": "quick", "over": plain}]
    with_table(project).write("config/tables/mini.yaml", {**TABLE, "claims": [], "rows": rows})
    merged = ("--config", "methods={quick: {map: {merge: 0.9}}}")
    assert project.planned("results/tiny/poses.txt", *merged)["write_map"] == 1
    done = project.snakemake("-n", "results/tables/mini.md", *merged, check=False)
    assert done.returncode == 1 and "config/tables/mini.yaml: key map.merge" in done.stdout
