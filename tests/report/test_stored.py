"""scrflow table: shows a table's CSV, and compares it with a stored one."""

import math
from pathlib import Path

import pytest
from typer.testing import CliRunner

from scrflow.cli.app import app
from scrflow.config.table import Published
from scrflow.report.table import Cell, to_csv

UNITS = {"recall@0": "%", "median_t": "m", "map_mb": "MB", "query_ms": "ms", "mapping_min": "min"}


def cell(metric: str = "recall@0", *values: float, row: str = "a", **keys) -> Cell:
    """Of row ``a`` on scene ``s`` with 50 queries."""
    queries = 50 if metric.startswith(("recall", "median")) else None
    given = {"label": row.upper(), "scene": "s", "condition": "all", "unit": UNITS[metric], "queries": queries, **keys}
    return Cell(row=row, metric=metric, values=values, seeds=tuple(range(1, len(values) + 1)), **given)


def recall(*values: float, **keys) -> Cell:
    return cell("recall@0", *values, **keys)


def write(path: Path, *cells: Cell) -> Path:
    """As the table stage writes them."""
    path.write_text(to_csv("t", "demo", list(cells)))
    return path


def check(tmp_path: Path, new: list[Cell], stored: list[Cell], *options: str) -> tuple[int, list[str]]:
    """Exit status and lines of the command."""
    paths = [str(write(tmp_path / f"{name}.csv", *cells)) for name, cells in (("new", new), ("stored", stored))]
    done = CliRunner().invoke(app, ["table", paths[0], "--check", paths[1], *options])
    return done.exit_code, done.output.splitlines()


# standard deviations of 1.63 over 4 seeds: two standard errors are 2 sqrt(2 * 1.63^2 / 4) = 2.31 against another such
# side, and 2 sqrt(1.63^2 + 1.63^2 / 4) = 3.65 against one seed, which borrows the spread
def four(mean: float) -> Cell:
    return cell("map_mb", *(mean + by for by in (-2, 0, 0, 2)))


SAME = [recall(60, 64, 62), cell("median_t", 0.01, math.inf)]


@pytest.mark.parametrize(
    ("new", "stored", "options", "agree"),
    [
        (SAME, SAME, [], True),
        ([four(62.3)], [four(60)], [], True),
        ([four(62.32)], [four(60)], [], False),
        ([cell("map_mb", 63.6)], [four(60)], [], True),
        ([cell("map_mb", 63.7)], [four(60)], [], False),
        # without any spread numbers are the same to the digits of the CSV
        ([cell("median_t", 0.0123456789)], [cell("median_t", 0.0123456)], [], True),
        ([cell("median_t", 0.01235)], [cell("median_t", 0.01234)], [], False),
        ([cell("median_t", math.inf)], [cell("median_t", 0.01)], ["median_t=9"], False),
        # recalls one query apart cannot be told apart, also where seeds agree by chance
        ([recall(58)], [recall(60)], [], True),
        ([recall(56)], [recall(60)], [], False),
        ([recall(58, queries=None)], [recall(60, queries=None)], [], False),
        ([recall(58, 58)], [recall(60, 60)], [], True),
        # a tolerance takes the place of one query
        ([recall(58)], [recall(60)], ["recall=0"], False),
        ([recall(50)], [recall(60)], ["recall@0=10"], True),
        ([cell("map_mb", 3.5)], [cell("map_mb", 3.0)], ["map_mb=0.5"], True),
        ([cell("map_mb", 3.5)], [cell("map_mb", 3.0)], ["map_mb=0.49"], False),
        ([cell("median_t", 1, unit="m")], [cell("median_t", 1, unit="units of SfM")], ["median_t=5"], False),
        # what only the new one has is no fault
        ([recall(60), recall(60, row="e")], [recall(60)], [], True),
    ],
)  # fmt: skip
def test_agreement(tmp_path, new, stored, options, agree):
    options = [part for option in options for part in ("--tolerance", option)]
    assert (check(tmp_path, new, stored, *options)[0] == 0) == agree


def test_in_a_mean_over_scenes_a_query_of_the_smallest_weighs_most(tmp_path):
    """Scenes of 50 and 10 queries: 100 / (2 * 10) = 5."""

    def table(mean: float) -> list[Cell]:
        return [recall(60), recall(60, scene="small", queries=10), recall(mean, scene="mean", queries=60)]

    assert check(tmp_path, table(65.0), table(60.0))[0] == 0
    assert check(tmp_path, table(65.1), table(60.0))[0] == 1


def test_cells_that_differ_are_named(tmp_path):
    stored = [recall(60), recall(60, row="b"), cell("map_mb", 30, 32, row="c"), recall(row="d")]
    new = [recall(60), recall(row="b"), cell("map_mb", 9, 11, row="c"), recall(60, row="d")]
    status, lines = check(tmp_path, new, stored)
    assert status == 1 and "1 of 3 cells" in lines[-1]
    # standard deviations of 1.41 over two seeds: 2 sqrt(1 + 1)
    assert "c / s / all / map_mb: 10 ± 1.41 MB (n 2); stored 31 ± 1.41 MB (n 2); apart by 21, allowed 2.83" in lines
    assert "b / s / all / recall@0: missing; stored 60 % (n 1)" in lines
    assert f"d / s / all / recall@0: measured, not in {tmp_path}/stored.csv" in lines


def test_times_are_compared_only_on_request(tmp_path):
    new, stored = ([recall(60), cell("query_ms", ms), cell("mapping_min", ms)] for ms in (100.0, 300.0))
    status, lines = check(tmp_path, new, stored)
    assert status == 0 and "not compared: mapping_min, query_ms" in lines[0]
    status, lines = check(tmp_path, new, stored, "--tolerance", "query_ms=50")
    assert status == 1 and lines[0].startswith("a / s / all / query_ms: 100 ms (n 1); stored 300 ms (n 1)")
    assert "not compared: mapping_min (" in lines[1]


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("table,set", "tabel,set", "no column table"),
        ("60,", "sixty,", "line 2: column mean: Input should be a valid number"),
        ("\nt,demo,b", "\nt,demo,a", "line 3: a second cell a / s / all / recall@0"),
        (",1,1,50,", ",1,1,", "line 2"),
    ],
)
def test_damaged_tables(tmp_path, old, new, told):
    path = write(tmp_path / "t.csv", recall(60), recall(60, row="b"))
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    for arguments in ([str(path)], [str(path), "--check", str(path)]):
        done = CliRunner().invoke(app, ["table", *arguments])
        assert done.exit_code == 2
        assert done.output.startswith(f"error: {path}") and told in done.output and done.output.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        *("none.csv", "t.csv --check none.csv", "t.csv --tolerance map_mb=1"),
        *(f"t.csv --check t.csv --tolerance {text}" for text in ("recal=1", "map_mb", "=1", "map_mb=-1", "map_mb=nan")),
    ],
)
def test_wrong_use_has_status_2(tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    write(Path("t.csv"), recall(60))
    done = CliRunner().invoke(app, ["table", *arguments.split()])
    assert done.exit_code == 2 and done.output.startswith("error: ") and done.output.count("\n") == 1


def test_print(tmp_path):
    other = recall(60, row="b", label="[bold]b", published=Published(65.0, "%", "GLACE Table 1", "65.0"))
    cells = [recall(60, 62), cell("map_mb", 3.25), recall(condition="night"), recall(60, scene="r"), other]
    done = CliRunner().invoke(app, ["table", str(write(tmp_path / "t.csv", *cells))])
    assert done.exit_code == 0
    lines = [line.rstrip() for line in done.output.splitlines()]
    assert [line for line in lines if line.startswith("t@demo")] == ["t@demo: s", "t@demo: r"]
    assert next(line for line in lines if "[bold]b" in line).split() == ["[bold]b", "60", "[65", "%]"]
    header = next(line for line in lines if "recall@0" in line)
    assert header.split("  ")[-1].strip() == "night recall@0 %" and "map_mb MB" in header
    row = next(line for line in lines if line.strip().startswith("A"))
    assert "61 ± 1.4 (n 2)" in row and "3.25" in row and row.endswith("-")
