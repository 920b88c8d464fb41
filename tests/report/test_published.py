"""Published numbers: the registry against the texts it was taken from, what it refuses, and the tables that cite it.

The texts lie beside the repository (../shared), not in it: where they are not, those tests are skipped. They are parsed
here anew, so a slip of the pen in config/papers fails.
"""

import re
from pathlib import Path

import pytest
import yaml

from scrflow.core.errors import ScrflowError
from scrflow.pipeline.project import Project
from scrflow.report.published import load_papers

ROOT = Path(__file__).resolve().parents[2]
PAPERS = load_papers(ROOT / "config/papers")
PROJECT = Project(ROOT / "config")
GLACE_TEXT = ROOT.parent / "shared/papers/glace.txt"
RSCORE_TEXT = ROOT.parent / "shared/papers/rscore-summary.txt"
COLLECTED = ROOT.parent / "shared/published.md"

# words of the texts -> of the registry
SAME = {
    "GLACE (Ours)": "GLACE",
    "GLACE (ours)": "GLACE",
    "GLACE (Ours, SuperPoint)": "GLACE (SuperPoint)",
    "ESAC (x50)": "ESAC × 50",
    "ACE (x50)": "ACE × 50",
}


def text_of(path):
    if not path.is_file():
        pytest.skip(f"{path.name} is not at hand: the texts of the papers are no part of the repository")
    return path.read_text(encoding="utf-8")


def printed(cell):
    """A cell as the texts print it -> its numbers; None where it has none (N/A, empty)."""
    cell = re.sub(r"</?u>|[*%]", "", cell).strip()
    if cell in ("", "N/A"):
        return None
    if match := re.fullmatch(r"(~?)([\d/]+)(MB|GB)", cell):
        factor = 1000 if match[3] == "GB" else 1
        return [factor * float(part) for part in match[2].split("/")]
    if match := re.fullmatch(r"(?:(\d+) h )?(\d+) min", cell):
        return [60 * int(match[1] or 0) + int(match[2])]
    return [float(part) for part in cell.split("/")]


def name_of(cell):
    """A name as printed, without references to the literature."""
    name = re.sub(r"\s*\[[\d, ]+\]", "", cell.replace(r"\times", "×")).strip()
    name = re.sub(r"\s+", " ", name)
    return SAME.get(name, name)


def glace_lines(number):
    """Lines of cells above the caption of a table, of GLACE's text: tabs between cells, a heading is not a line."""
    lines = text_of(GLACE_TEXT).split("\n")
    caption = next(i for i, line in enumerate(lines) if re.match(rf"Table {number}\. ", line))
    first = caption - 1
    while lines[first - 1].count("\t") or not lines[first]:
        first -= 1
    return [line.split("\t") for line in lines[first:caption] if line.count("\t")]


def values_of(paper, table, row):
    """Numbers of a row of the registry, None where empty."""
    columns = PAPERS.table(paper, table).columns
    found = [PAPERS.value(paper, table, row, column) for column in columns]
    return [None if f is None else f.value for f in found]


def flat(cells, widths):
    """Numbers of printed cells in one list; an empty cell counts as many as its column would hold."""
    out = []
    for cell, width in zip(cells, widths, strict=True):
        numbers = printed(cell)
        out += [None] * width if numbers is None else numbers
    return out


@pytest.mark.parametrize(("table", "widths"), [("1", [1] * 5), ("4", [1] + [2] * 6)])
def test_glace_tables_with_groups(table, widths):
    """Tables 1 and 4: a group, name, depth, map size, then the results; two groups may name one method."""
    seen = {}
    group = None
    for cells in glace_lines(table):
        group = cells[0] or group
        if not re.search("MB|GB", cells[3]):
            continue
        name = name_of(cells[1])
        twice = name.startswith("DSAC*") and "Depth" in group
        name = f"{name}, with depth" if twice else name
        rough = cells[3].startswith("~")
        seen[name] = flat(cells[3:], widths)
        size = PAPERS.value("glace", table, name, "map_mb")
        assert size.approximate == rough, name
    assert seen == {row: values_of("glace", table, row) for row in PAPERS.table("glace", table).rows}


@pytest.mark.parametrize("table", ["2", "3", "5"])
def test_glace_tables_by_method(table):
    """Tables 2, 3 and 5: name, perhaps depth, map size, results."""
    seen = {}
    for cells in glace_lines(table)[1:]:
        results = [c for c in cells[1:] if c not in ("Yes", "No")]
        sizes, recall = printed(results[0]), flat(results[1:], [1] * (len(results) - 1))
        if table == "2":  # recall first, and a size for each scene
            seen[name_of(cells[0])] = recall + (sizes if len(sizes) == 2 else 2 * sizes)
        else:
            seen[name_of(cells[0])] = recall + sizes if table == "3" else sizes + recall
    assert seen == {row: values_of("glace", table, row) for row in PAPERS.table("glace", table).rows}


def test_glace_table_6():
    """A line a scene in the text, a row a method in the registry."""
    lines = glace_lines("6")
    methods = [name_of(c) for c in lines[0][1:3]] + [c.strip() for c in lines[1] if c.strip()]
    scenes = dict(
        GreatCourt="court", KingsCollege="kings", OldHospital="hospital", ShopFacade="shop", StMarysChurch="marys",
        Average="average",
    )  # fmt: skip
    assert [line[0] for line in lines[2:]] == list(scenes) and methods == list(PAPERS.table("glace", "6").rows)
    for line in lines[2:]:
        for method, cell in zip(methods, line[1:], strict=True):
            ours = [PAPERS.value("glace", "6", method, f"{scenes[line[0]]}_{part}").value for part in "tr"]
            assert ours == printed(cell), (line[0], method)


def test_glace_table_7():
    seen = {name_of(c[0]): [float(c[1]), *printed(c[2])] for c in glace_lines("7")[1:]}
    assert seen == {row: values_of("glace", "7", row) for row in PAPERS.table("glace", "7").rows}


def test_glace_figure_8_and_words():
    text = text_of(GLACE_TEXT)
    block = text[text.index("Without Decoder") : text.index("Figure 8. ")].split("\n")[1:]
    halves = {"Without Decoder": [], "With Decoder": []}
    for line in block:
        cells = line.split("\t")
        if len(cells) > 1:
            halves["Without Decoder"] += [float(c) for c in cells[:5] if c]
            halves["With Decoder"] += [float(c) for c in cells[5:] if c]
    halves["With Decoder"].append(None)  # 18 of the 19 are in the text
    assert {len(values) for values in halves.values()} == {19}
    assert halves == {row: values_of("glace", "figure-8", row) for row in PAPERS.table("glace", "figure-8").rows}
    assert "smallest map size (3.2 MB)" in text and "map size is 16.0 MB" in text
    assert values_of("glace", "figure-1", "GLACE, smallest") == [3.2]
    assert values_of("glace", "figure-1", "Poker (ACE × 4)") == [16.0]
    assert "17% lower median position error than Poker" in text
    assert values_of("glace", "abstract", "GLACE") == [17]
    # the abstract's figure is that of Table 4's averages, to a percent
    glace, poker = (PAPERS.value("glace", "4", row, "average_t").value for row in ("GLACE", "Poker (ACE × 4)"))
    assert 100 * (1 - glace / poker) == pytest.approx(17, abs=1)


def test_rscore_words():
    text = text_of(RSCORE_TEXT)
    assert "achieves 64.3% accuracy under the (0.25m, 2°) threshold for nighttime" in text and "only 47MB" in text
    assert values_of("rscore", "figure-1", "R-SCoRe") == [47, None, None, None, 64.3, None, None]
    assert re.search(r"are 10\S* more accurate", text) and re.search(r"at least 5\S* smaller map sizes", text)
    assert values_of("rscore", "abstract", "R-SCoRe") == [10, 5]
    text = text_of(COLLECTED)
    assert "about 4 h on 4 RTX 4090 (authors); 5 to 6 h on one 3090 or 4090" in text
    assert "about 271 ms a step and 600 K samples/s" in text
    assert values_of("rscore", "training", "authors, RTX 4090") == [4, 4, 4, None, None]
    assert values_of("rscore", "training", "users, RTX 3090 or 4090") == [1, 5, 6, None, None]
    assert values_of("rscore", "training", "a user's log") == [None, None, None, 271, 600_000]


def markdown_rows(heading):
    """Rows of the Markdown table under a heading: name -> [MB, recall ...]."""
    section = text_of(COLLECTED).split(f"## {heading}", 1)[1].split("\n## ", 1)[0]
    lines = [line.strip("| ").split("|") for line in section.split("\n") if line.startswith("|")][2:]
    rows = {}
    for name, size, *recall in lines:
        numbers = [float(n) for cell in recall for n in cell.split("/")]
        rows[name_of(name)] = [float(size) if size.strip() else None, *numbers]
    return rows


@pytest.mark.parametrize(("heading", "table"), [("Aachen Day-Night (v1.0)", "aachen"), ("Hyundai", "hyundai")])
def test_collected_tables(heading, table):
    """What the list holds, the registry holds; it has more rows, of the same script, and sizes of its own."""
    found = markdown_rows(heading)
    assert len(found) > 8
    for row, numbers in found.items():
        assert values_of("robust-scr", table, row) == numbers, row


def test_collected_aachen_v11():
    line = next(line for line in text_of(COLLECTED).split("\n") if line.startswith("Aachen v1.1:"))
    for part, row in zip(line.split(";"), ("hLoc (SP+SG)", "R-SCoRe", "Robust SCR"), strict=True):
        numbers = [float(n) for n in re.findall(r"\d+\.\d(?!\w)", part.removeprefix("Aachen v1.1:"))]
        assert values_of("robust-scr", "aachen-v11", row) == numbers, row


def test_sources_that_report_the_same():
    """GLACE's Table 5 and the list of the authors of Robust SCR have three methods in common, by day."""
    for row in ("ESAC × 50", "ACE × 50", "GLACE"):
        for column in PAPERS.table("glace", "5").columns:
            own, other = (PAPERS.value(p, t, row, column) for p, t in (("glace", "5"), ("robust-scr", "aachen")))
            assert own.value == other.value and own.unit == other.unit and own.source != other.source


def test_a_value_knows_its_source():
    found = PAPERS.value("glace", "4", "GLACE", "court_t")
    assert (found.value, found.unit, found.source, found.approximate) == (19, "cm", "GLACE Table 4", False)
    assert (found.printed, PAPERS.value("glace", "5", "GLACE", "day-5m-10deg").printed) == ("19", "64.0")
    assert found.to("m") == pytest.approx(0.19) and found.to("cm") == 19
    hours = PAPERS.value("rscore", "training", "users, RTX 3090 or 4090", "longest_h")
    assert hours.to("min") == 360 and hours.source == "R-SCoRe training cost"
    with pytest.raises(ScrflowError, match="GLACE Table 4: a value in cm cannot be said in min"):
        found.to("min")
    assert PAPERS.value("glace", "1", "pixLoc", "12scenes-sfm") is None


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("acme", "1", "GLACE", "map_mb"), "papers: no paper 'acme'; there are glace, robust-scr, rscore"),
        (("glace", "9", "GLACE", "map_mb"), r"glace.yaml: no table '9'; there are 1, 2, 3"),
        (("glace", "5", "Poker", "map_mb"), "glace.yaml: table 5: no row 'Poker'; there are ESAC × 50"),
        (("glace", "5", "GLACE", "night"), "glace.yaml: table 5: no column 'night'; there are map_mb"),
    ],
)
def test_unknown_names(names, said):
    with pytest.raises(ScrflowError, match=said):
        PAPERS.value(*names)


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
    assert (rough.value, rough.approximate, rough.printed) == (2, True, "~2")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("      B: [~2, 3.5]", "      A: [~2, 3.5]", "key 'A' is there twice"),
        ("      y: {", "      x: {", "key 'x' is there twice"),
        ("unit: cm", "unit: furlong", "columns.x.unit: input should be '%'"),
        ("[~2, 3.5]", "[~2]", "row 'B' has 1 cells for 2 columns; empty ones are null"),
        ("3.5", "103.5", "row 'B', column 'y': 103.5 %"),
        ("3.5", "-3.5", "rows.B.1.value: input should be greater than or equal to 0"),
        ("3.5", ".nan", "rows.B.1.value: input should be a finite number"),
        ("3.5", "3.5/4", "'3.5/4' is no number; a rough one is written ~200, an empty cell null"),
        ("3.5", "yes", "True is no number"),
        ("read: r\ntables", "tables", "key read: field required"),
        ("    about: a\n", "", "about: field required"),
        ("rows:", "notes: {C: c}\n    rows:", "notes of C: no such row"),
        ("venue: v", "venue: [", "p.yaml: "),
        ("venue: v", "year: 2024", "key year: extra inputs are not permitted"),
    ],
)
def test_refused(tmp_path, old, new, said):
    assert PAPER.count(old) == 1
    (tmp_path / "p.yaml").write_text(PAPER.replace(old, new))
    with pytest.raises(ScrflowError, match=re.escape(said)) as error:
        load_papers(tmp_path)
    assert "p.yaml" in str(error.value) and "\n" not in str(error.value)


def test_no_folder(tmp_path):
    with pytest.raises(ScrflowError, match="no such folder of published numbers"):
        load_papers(tmp_path / "papers")


@pytest.mark.parametrize("name", PROJECT.tables)
def test_tables_cite_what_there_is(name):
    """Every scene, condition, metric, row and column that a table names for its published numbers is there."""
    table = PROJECT.tables[name]
    rows = [row.published for row in table.rows if row.published]
    assert bool(rows) == (table.published is not None)
    assert len(rows) == len(set(rows))
    if table.published is None:
        return
    columns = table.published.columns
    for key, by_metric in columns.items():
        scene, _, condition = key.partition("/")
        assert scene in (*table.scenes, "mean"), key
        assert not condition or condition in PROJECT.scene(scene).split.queries, key
        assert not condition or table.conditions
        assert scene != "mean" or table.mean
        assert set(by_metric) <= set(table.metrics), key
    # rows that are nothing but the paper's have a number somewhere
    for row in table.rows:
        if row.published is None:
            continue
        values = [
            PAPERS.value(table.published.paper, table.published.table, row.published, column)
            for by_metric in columns.values()
            for column in by_metric.values()
        ]
        assert any(v is not None for v in values), row.id


@pytest.mark.parametrize("name", PROJECT.tables)
def test_tables_of_units_that_compare(name):
    """A published column is of the metric's kind: recall in percent, map size in MB, a median in cm or degrees."""
    table = PROJECT.tables[name]
    if table.published is None:
        return
    kinds = {"recall": "%", "map_mb": "MB", "median_t": "cm", "median_r": "deg", "mapping_min": "min"}
    published = PAPERS.table(table.published.paper, table.published.table)
    for key, by_metric in table.published.columns.items():
        for metric, column in by_metric.items():
            assert published.columns[column].unit == kinds[metric.partition("@")[0]], (key, metric)
            if not metric.startswith("recall@") or key == "mean":
                continue
            # the threshold of the column is the scene's of that index: "recall at 5 cm 5°", "0.25 m 2°"
            told = re.search(r"recall at ([\d.]+) (cm|m) (\d+)°", published.columns[column].meaning)
            metres = float(told[1]) * (0.01 if told[2] == "cm" else 1)
            scene = PROJECT.scene(key.partition("/")[0])
            assert scene.thresholds[int(metric.removeprefix("recall@"))] == pytest.approx((metres, float(told[3])))


def test_yaml_keeps_no_second_key():
    """What the loader is there for: YAML's own takes the last of two rows."""
    assert yaml.safe_load("{A: 1, A: 2}") == {"A": 2}
