"""Published numbers: what the registry returns, what it refuses, and the tables that cite it."""

import re
from pathlib import Path

import pytest

from scrflow.config.table import load_papers
from scrflow.core.errors import ScrflowError
from scrflow.pipeline.project import Project

ROOT = Path(__file__).resolve().parents[2]
PAPERS = load_papers(ROOT / "config/papers")
PROJECT = Project(ROOT / "config")

PAPER = """
name: P
title: t
authors: a
venue: v
read: r
tables:
  "1":
    name: Table 1
    about: a
    read: r
    columns:
      x: {unit: cm, meaning: m}
      y: {unit: "%", meaning: m}
    rows:
      A: [1, null]
      B: [~2, 3.5]
"""


def test_a_paper(tmp_path):
    (tmp_path / "p.yaml").write_text(PAPER)
    papers = load_papers(tmp_path)
    assert papers.value("p", "1", "A", "y") is None
    rough = papers.value("p", "1", "B", "x")
    assert (rough.value, rough.printed) == (2, "~2")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("      B: [~2, 3.5]", "      A: [~2, 3.5]", "key 'A' is there twice"),
        ("unit: cm", "unit: furlong", "columns.x.unit: input should be '%'"),
        ("[~2, 3.5]", "[~2]", "row 'B' has 1 cells for 2 columns; write null for empty ones"),
        ("3.5", "103.5", "row 'B', column 'y': 103.5 %"),
        ("3.5", "-3.5", "rows.B.1.value: input should be greater than or equal to 0"),
        ("3.5", "3.5/4", "'3.5/4' is no number; a rough one is written ~200, an empty cell null"),
        ("3.5", "yes", "True is no number"),
        ("rows:", "notes: {C: c}\n    rows:", "notes of C: no such row"),
        ("venue: v", "venue: [", "p.yaml: "),
    ],
)
def test_refused(tmp_path, old, new, said):
    assert PAPER.count(old) == 1
    (tmp_path / "p.yaml").write_text(PAPER.replace(old, new))
    with pytest.raises(ScrflowError, match=re.escape(said)) as error:
        load_papers(tmp_path)
    assert "p.yaml" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", [name for name, table in PROJECT.tables.items() if table.published])
def test_tables_cite_what_there_is_in_units_that_compare(name):
    """Every scene, metric, row and column that a table names for its published numbers exists, and in one unit."""
    table, published = PROJECT.tables[name], PROJECT.tables[name].published
    units = {"recall": "%", "map_mb": "MB", "median_t": "cm", "median_r": "deg", "mapping_min": "min"}
    columns = PAPERS.table(published.paper, published.table)[1].columns
    rows = [row.published for row in table.rows if row.published]
    assert rows and len(rows) == len(set(rows))
    for key, by_metric in published.columns.items():
        scene, _, condition = key.partition("/")
        assert scene in (*table.scenes, *(["mean"] if table.mean else [])), key
        assert not condition or (table.conditions and condition in PROJECT.scene(scene).split.queries), key
        assert set(by_metric) <= set(table.metrics), key
        for metric, column in by_metric.items():
            assert columns[column].unit == units[metric.partition("@")[0]], (key, metric)
            for row in rows:
                PAPERS.value(published.paper, published.table, row, column)
