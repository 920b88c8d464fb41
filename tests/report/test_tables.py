"""Cells, claims and forms of tables, on runs made up for the test."""

import csv
import io
import math

import numpy as np
import pandas as pd
import pytest

from scrflow.config.table import TableConfig, TableRun, TableScene, TableStage
from scrflow.report.claims import bootstrap, judge
from scrflow.report.formats import escape_latex, format_value
from scrflow.report.table import FIELDS, collect, latex, markdown, to_csv
from scrflow.storage.artifact import Stamp, write_json

THRESHOLDS = ((0.01, 1.0), (0.05, 5.0))


def table(**changes) -> TableConfig:
    rows = [{"id": "a", "label": "A | one", "method": "m"}, {"id": "b", "label": "B", "method": "n"}]
    values = {"title": "T", "scenes": ["s"], "seeds": [1, 2], "metrics": ["recall@0", "median_t"], "rows": rows}
    return TableConfig.model_validate({**values, **changes})


def stage(config: TableConfig, scenes=("s",)) -> TableStage:
    told = tuple(
        TableScene(name=name, unit="m", thresholds=THRESHOLDS, conditions=("day", "night"), synthetic=False)
        for name in scenes
    )
    runs = tuple(
        TableRun(row=row.id, scene=scene, seed=seed, folder=f"{row.method}+s{seed}")
        for row in config.rows
        if row.method
        for scene in scenes
        for seed in config.seeds
    )
    return TableStage(name="t", set=None, table=config, scenes=told, runs=runs)


def write_run(results, run, recall, median, errors=None):
    """The files that a run leaves; ``errors`` [queries] in metres."""
    folder = results / run.scene / run.folder
    folder.mkdir(parents=True, exist_ok=True)
    group = {**dict.fromkeys(("queries", "with_reference", "localized"), 4), "ms": {"total": 100.0}}
    group |= {"recall": [recall, 1.0], "median_t_err": median, "median_r_err": None if median is None else 0.5}
    conditions = {"day": group, "night": {**group, "recall": [0.0, 0.5]}}
    training = {"seconds": 90.0, "step": 10}
    metrics = {"overall": group, "conditions": conditions, "map_mb": 2.5, "training": training}
    write_json(folder / "metrics.json", metrics, Stamp("metrics"))
    if errors is not None:
        frame = pd.DataFrame({"name": [f"q{i}" for i in range(len(errors))], "t_err": errors, "r_err": 0.1})
        frame.to_csv(folder / "queries.csv", index=False)


def test_mean_and_spread_over_seeds(tmp_path):
    config = stage(table())
    for run, recall in zip(config.runs, (0.5, 0.6, 0.2, 0.3), strict=True):
        write_run(tmp_path, run, recall, 0.02)
    cells = {(c.row, c.metric): c for c in collect(config, tmp_path, None)}
    found = cells["a", "recall@0"]
    assert found.mean == pytest.approx(55) and found.spread == pytest.approx(math.sqrt(50))
    assert (found.seeds, found.queries, found.unit) == ((1, 2), 4, "%")
    assert cells["b", "median_t"].mean == pytest.approx(0.02)
    text = markdown(config, list(cells.values()))
    assert "55.0 ± 7.1 (2)" in text and "2.00 ± 0.00 cm (2)" in text and r"A \| one" in text and "1 cm 1°" in text


def test_half_lost_is_infinite_not_missing(tmp_path):
    config = stage(table(seeds=[1]))
    for run in config.runs:
        write_run(tmp_path, run, 0.5, None if run.row == "a" else 0.1)
    cells = collect(config, tmp_path, None)
    assert "∞" in markdown(config, cells)
    rows = list(csv.DictReader(io.StringIO(to_csv("t", None, cells))))
    assert tuple(rows[0]) == FIELDS
    assert next(r for r in rows if (r["row"], r["metric"]) == ("a", "median_t"))["mean"] == "inf"
    assert all(r["spread"] == "" for r in rows)


def test_conditions_and_the_mean_over_scenes(tmp_path):
    config = stage(table(conditions=True, mean=True, seeds=[1]), scenes=("s", "z"))
    for run in config.runs:
        write_run(tmp_path, run, 0.4 if run.scene == "s" else 0.8, 0.02)
    cells = {(c.row, c.scene, c.condition, c.metric): c for c in collect(config, tmp_path, None)}
    assert cells["a", "mean", "all", "recall@0"].mean == pytest.approx(60)
    assert cells["a", "mean", "all", "recall@0"].queries == 8
    assert cells["a", "s", "night", "recall@0"].mean == 0
    assert ("a", "mean", "night", "recall@0") not in cells


def claim_on(tmp_path, a, b):
    """The judgement of "a beats b" for errors [seeds, queries]."""
    config = stage(table(claims=[{"id": "c", "claim": "A beats B", "better": "a", "worse": "b"}]))
    errors = {"a": a, "b": b}
    for run in config.runs:
        write_run(tmp_path, run, 0.5, 0.02, errors[run.row][run.seed - 1])
    return next(judge(config, tmp_path))


def test_verdicts(tmp_path):
    rng = np.random.default_rng(0)
    good, bad = rng.uniform(0, 0.012, (2, 60)), rng.uniform(0.02, 0.1, (2, 60))
    assert claim_on(tmp_path / "1", good, bad).verdict == "holds"
    assert claim_on(tmp_path / "2", bad, good).verdict == "does not hold"
    same = np.full((2, 60), 0.02)  # within the second threshold of two
    assert claim_on(tmp_path / "3", same, same).verdict == "does not hold"  # no difference to speak of
    lost = np.full((2, 60), 3.0)
    assert claim_on(tmp_path / "5", lost, lost).verdict == "cannot tell"  # nothing was localized by either
    mixed = rng.uniform(0, 0.02, (2, 60)), rng.uniform(0, 0.02, (2, 60))
    assert claim_on(tmp_path / "4", *mixed).verdict == "cannot tell"


def test_a_score_is_the_share_of_the_thresholds(tmp_path):
    found = claim_on(tmp_path, np.full((2, 4), 0.03), np.array([[0.005, 0.03, 1, np.inf]] * 2))
    assert found.better == (0.5, 0.5)  # within the second of two
    assert found.worse == (0.375, 0.375)
    assert found.difference == pytest.approx(0.125)


def test_the_interval_covers_seeds_and_queries():
    """Against the normal approximation: 200 queries of independent scores, and seeds that shift all of them."""
    rng = np.random.default_rng(1)
    scores = rng.binomial(1, 0.5, (1, 200)).astype(float)
    low, high = bootstrap(scores, np.zeros((1, 200)), seed=3)
    assert (high - low) / 2 == pytest.approx(1.96 * math.sqrt(0.25 / 200), rel=0.1)
    # seeds go in pairs: a variant of the same head differs from it by what it changes, not by the seed
    both = rng.binomial(1, 0.5, (3, 200)).astype(float)
    assert bootstrap(both, both, seed=3) == (0, 0)
    shifted = np.concatenate([scores * 0, scores * 0 + 1])
    assert bootstrap(shifted, np.zeros((1, 200)), seed=3) == (0, 1)


def test_forms(tmp_path):
    assert format_value("median_t", 0.0086, "m") == "0.86 cm"
    assert format_value("median_t", 14.8, "m", 0.31) == "14.8 ± 0.3 m"
    assert format_value("recall@1", 66.66, "%") == "66.7"
    assert escape_latex(r"a_b & 5 % \x ±") == r"a\_b \& 5 \% \textbackslash{}x $\pm$"
    config = stage(table())
    for run in config.runs:
        write_run(tmp_path, run, 0.5, 0.02)
    lines = latex(config, collect(config, tmp_path, None)).splitlines()
    assert lines[-1] == r"\end{tabular}" and sum(line.endswith(r"\\") for line in lines) == 3
