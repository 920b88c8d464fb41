"""scrflow table: shows a table's CSV, and compares it with a stored one."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest
from typer.testing import CliRunner

from scrflow.cli.app import app
from scrflow.core.errors import ScrflowError
from scrflow.report.published import Published
from scrflow.report.tables.stored import parse_tolerances, read_table
from scrflow.report.tables.table import FIELDS, Cell, to_csv


def cell(metric: str = "recall@0", values: tuple[float, ...] = (60.0,), row: str = "a", **keys) -> Cell:
    """Of row ``a`` on scene ``s`` with 50 queries."""
    units = {"recall@0": "%", "median_t": "m", "map_mb": "MB", "query_ms": "ms", "mapping_min": "min"}
    queries = 50 if metric.startswith(("recall", "median")) else None
    given = {"label": row.upper(), "scene": "s", "condition": "all", "unit": units[metric], "queries": queries, **keys}
    return Cell(row=row, metric=metric, values=values, seeds=tuple(range(1, len(values) + 1)), **given)


def write(path: Path, *cells: Cell) -> Path:
    """As the table stage writes them."""
    path.write_text(to_csv("t", "demo", list(cells)))
    return path


def check(tmp_path: Path, new: list[Cell], stored: list[Cell], *options: str) -> tuple[int, list[str]]:
    """Exit status and lines of the command."""
    paths = [str(write(tmp_path / f"{name}.csv", *cells)) for name, cells in (("new", new), ("stored", stored))]
    done = CliRunner().invoke(app, ["table", paths[0], "--check", paths[1], *options])
    return done.exit_code, done.output.splitlines()


def test_a_table_agrees_with_itself(tmp_path):
    cells = [cell(values=(60, 64, 62)), cell("median_t", (0.011, math.inf)), cell("map_mb", (3.25,))]
    status, lines = check(tmp_path, cells, cells)
    assert (status, lines) == (0, [f"{tmp_path}/new.csv: 3 of 3 cells as in {tmp_path}/stored.csv"])


# standard deviations 2 over 4 seeds on both sides: 2 sqrt(1 + 1) = 2.83
FOUR = (58.0, 60.0, 60.0, 62.0)
SPREAD = math.sqrt(8 / 3)


@pytest.mark.parametrize(
    ("new", "stored", "status"),
    [
        pytest.param(2.0, 2.0, 0, id="equal"),
        pytest.param(2.0 + 1.99 * SPREAD / math.sqrt(2), 2.0, 0, id="just within two standard errors"),
        pytest.param(2.0 + 2.01 * SPREAD / math.sqrt(2), 2.0, 1, id="just outside"),
        pytest.param(2.0 - 2.01 * SPREAD / math.sqrt(2), 2.0, 1, id="on the other side"),
    ],
)
def test_two_standard_errors_of_the_difference(tmp_path, new, stored, status):
    def moved(by: float) -> Cell:
        return cell("map_mb", tuple(value - 58 + by for value in FOUR))

    assert check(tmp_path, [moved(new)], [moved(stored)])[0] == status


def test_a_cell_outside_is_printed_with_both_values(tmp_path):
    status, lines = check(tmp_path, [cell("map_mb", (9, 11))], [cell("map_mb", (30, 32), label="other")])
    assert status == 1
    # standard deviations of 1.41 over two seeds: 2 sqrt(1 + 1)
    assert lines[0] == (
        "a / s / all / map_mb: 10 ± 1.41 MB (n 2); stored 31 ± 1.41 MB (n 2); apart by 21, allowed 2.83"
    )
    assert lines[-1].endswith("new.csv: 0 of 1 cells as in " + f"{tmp_path}/stored.csv")


def test_one_seed_borrows_the_spread_of_the_other_side(tmp_path):
    """2 sqrt(sd^2 + sd^2 / 4) = 3.65."""
    stored = [cell("map_mb", FOUR)]
    assert check(tmp_path, [cell("map_mb", (63.6,))], stored)[0] == 0
    assert check(tmp_path, [cell("map_mb", (63.7,))], stored)[0] == 1


def test_without_any_spread_numbers_are_to_be_the_same(tmp_path):
    """To the digits of the CSV."""
    assert check(tmp_path, [cell("median_t", (0.0123456789,))], [cell("median_t", (0.0123456,))])[0] == 0
    assert check(tmp_path, [cell("median_t", (0.01235,))], [cell("median_t", (0.01234,))])[0] == 1
    assert check(tmp_path, [cell("median_t", (math.inf,))], [cell("median_t", (0.01,))], "--tolerance", "median_t=9")[0]


def test_recalls_one_query_apart_cannot_be_told_apart(tmp_path):
    assert check(tmp_path, [cell(values=(58.0,))], [cell(values=(60.0,))])[0] == 0
    assert check(tmp_path, [cell(values=(56.0,))], [cell(values=(60.0,))])[0] == 1
    # of a table that does not say how many queries there are
    assert check(tmp_path, [cell(values=(58.0,), queries=None)], [cell(values=(60.0,), queries=None)])[0] == 1
    # seeds that agree by chance have a spread of 0, and still one query is nothing
    assert check(tmp_path, [cell(values=(58.0, 58.0))], [cell(values=(60.0, 60.0))])[0] == 0


def test_in_a_mean_over_scenes_a_query_of_the_smallest_weighs_most(tmp_path):
    """Scenes of 50 and 10 queries: 100 / (2 * 10) = 5."""

    def table(mean: float) -> list[Cell]:
        scenes = [cell(scene="s"), cell(scene="small", queries=10)]
        return [*scenes, cell(scene="mean", values=(mean,), queries=60)]

    assert check(tmp_path, table(65.0), table(60.0))[0] == 0
    assert check(tmp_path, table(65.1), table(60.0))[0] == 1


@pytest.mark.parametrize(
    ("given", "status"), [("map_mb=0.5", 0), ("map_mb=0.49", 1), ("recall=100", 1), ("recall@0=100", 1)]
)
def test_tolerance(tmp_path, given, status):
    new, stored = ([cell("map_mb", (mb,)), cell()] for mb in (3.5, 3.0))
    assert check(tmp_path, new, stored, "--tolerance", given)[0] == status


def test_a_tolerance_takes_the_place_of_one_query(tmp_path):
    new, stored = [cell(values=(58.0,))], [cell(values=(60.0,))]
    assert check(tmp_path, new, stored, "--tolerance", "recall=0")[0] == 1
    assert check(tmp_path, [cell(values=(50.0,))], stored, "--tolerance", "recall=10")[0] == 0


def test_times_are_compared_only_where_asked_for(tmp_path):
    new, stored = ([cell(), cell("query_ms", (ms,)), cell("mapping_min", (ms,))] for ms in (100.0, 300.0))
    status, lines = check(tmp_path, new, stored)
    assert status == 0 and "not compared: mapping_min, query_ms" in lines[0]
    status, lines = check(tmp_path, new, stored, "--tolerance", "query_ms=50")
    assert status == 1 and lines[0].startswith("a / s / all / query_ms: 100 ms (n 1); stored 300 ms (n 1)")
    assert "not compared: mapping_min (" in lines[1]


def test_missing_and_new_cells_are_named(tmp_path):
    stored = [cell(), cell(row="b"), cell(row="c"), cell(row="d", values=())]
    new = [cell(), cell(row="b", values=()), cell(row="d"), cell(row="e")]
    status, lines = check(tmp_path, new, stored)
    assert status == 1
    assert lines[:2] == [f"{row} / s / all / recall@0: missing; stored 60 % (n 1)" for row in "bc"]
    assert lines[2:4] == [f"{row} / s / all / recall@0: measured, not in {tmp_path}/stored.csv" for row in "de"]
    assert "1 of 3 cells" in lines[4]
    # what only the new one has is no fault
    assert check(tmp_path, [cell(), cell(row="e")], [cell()])[0] == 0


def test_other_units_are_outside(tmp_path):
    new, stored = ([cell("median_t", (1.0,), unit=unit)] for unit in ("m", "units of SfM"))
    assert check(tmp_path, new, stored, "--tolerance", "median_t=5")[1][0].endswith("in m; stored in units of SfM")


# ------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("text", ["median_t", "=1", "median_t=x", "median_t=-1", "median_t=nan"])
def test_tolerances_are_checked(text):
    with pytest.raises(ScrflowError, match="expected METRIC=VALUE"):
        parse_tolerances([text])


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("table,set", "tabel,set", "no column table"),
        ("60,", "sixty,", "line 2: mean is 'sixty'"),
        ("\nt,demo,b", "\nt,demo,a", "line 3: a second cell a / s / all / recall@0"),
        (",1,1,50,", ",0,1,50,", "a mean over n = 0 runs"),
        (",1,1,50,", ",1,1,", "line 2"),
    ],
)
def test_damaged_tables(tmp_path, old, new, told):
    path = write(tmp_path / "t.csv", cell(), cell(row="b"))
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    for arguments in ([str(path)], [str(path), "--check", str(path)]):
        done = CliRunner().invoke(app, ["table", *arguments])
        assert done.exit_code == 2
        assert done.output.startswith(f"error: {path}") and told in done.output and done.output.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [["none.csv"], ["t.csv", "--check", "none.csv"], ["t.csv", "--tolerance", "map_mb=1"]]
    + [["t.csv", "--check", "t.csv", "--tolerance", given] for given in ("recal=1", "recall@7=1")],
    ids=lambda a: " ".join(a),
)
def test_wrong_use_has_status_2(tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    write(Path("t.csv"), cell())
    done = CliRunner().invoke(app, ["table", *arguments])
    assert done.exit_code == 2 and done.output.startswith("error: ") and done.output.count("\n") == 1


# -------------------------------------------------------------------------------------------------------------- print


def test_the_csv_is_read_as_it_is_written(tmp_path):
    path = write(tmp_path / "t.csv", cell(values=(60, 62)), cell("median_t", ()))
    with open(path, newline="") as f:
        assert next(csv.reader(f)) == list(FIELDS)
    table = read_table(path)
    recall = table.cells["a", "s", "all", "recall@0"]
    assert (recall.mean, recall.n, recall.queries, recall.unit) == (61, 2, 50, "%")
    assert recall.spread == pytest.approx(math.sqrt(2), rel=1e-5)
    assert table.cells["a", "s", "all", "median_t"].mean is None
    assert table.title == "t@demo"


def test_print(tmp_path):
    other = cell(row="b", label="[bold]b", published=Published(65.0, "%", "GLACE Table 1", "65.0"))
    cells = [cell(values=(60, 62)), cell("map_mb", (3.25,)), cell(condition="night", values=()), cell(scene="r"), other]
    done = CliRunner().invoke(app, ["table", str(write(tmp_path / "t.csv", *cells))])
    assert done.exit_code == 0
    lines = [line.rstrip() for line in done.output.splitlines()]
    assert [line for line in lines if line.startswith("t@demo")] == ["t@demo: s", "t@demo: r"]
    assert next(line for line in lines if "[bold]b" in line).split() == ["[bold]b", "60", "[65", "%]"]
    header = next(line for line in lines if "recall@0" in line)
    assert header.split("  ")[-1].strip() == "night recall@0 %" and "map_mb MB" in header
    row = next(line for line in lines if line.strip().startswith("A"))
    assert "61 ± 1.4 (n 2)" in row and "3.25" in row and row.endswith("-")
