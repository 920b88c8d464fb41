"""The page of small real runs: what it says, and that it opens in a browser without network, without errors, and
without running an image's name as code."""

import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
from plane_map import CAMERA, pose
from report_run import IMAGE, MIXED, SCRIPT, Wall, nothing, photo

from scrflow.core.errors import ScrflowError
from scrflow.graph.covisibility import Graph
from scrflow.report.page.page import page, write_report
from scrflow.report.page.relocalize import Points, render_points
from scrflow.report.page.run import load_run
from scrflow.storage.artifact import read_json

SECTIONS = ["headline", "scene", "queries", "recall", "distance", "confidence", "training", "graph", "costs", "config"]
RUNS = {
    "mixed": MIXED,
    "without-references": {f"q/{i}.png": photo(0.1 * i, "all", known=False) for i in range(3)},
    "lost": {f"q/{i}.png": nothing("all") for i in range(3)},
    "lost-without-references": {f"q/{i}.png": nothing("all", known=False) for i in range(2)},
    "single": {"q/0.png": photo(0.0, "all")},
}


@pytest.fixture(scope="module")
def wall(tmp_path_factory, wall_map) -> Wall:
    return Wall(tmp_path_factory.mktemp("wall"), wall_map)


@pytest.fixture(scope="module")
def reports(wall) -> dict[str, Path]:
    """Pages of RUNS; that of the first with a covisibility graph."""
    made = {}
    for name, queries in RUNS.items():
        folder = wall.run(name, queries)
        made[name] = folder / "report.html"
        if name == "mixed":
            run = load_run(folder)
            made[name].write_text(str(page(replace(run, graph=ring(run)))), encoding="utf-8")
        else:
            write_report(folder, made[name])
    return made


def ring(run) -> Graph:
    """Each mapping photo sees the same as the next."""
    names = tuple(view.name for view in run.scene.mapping)
    i = np.arange(len(names))
    half = scipy.sparse.coo_array((np.linspace(0.2, 1, len(names)), (i, (i + 1) % len(names))), shape=2 * (len(names),))
    return Graph(scipy.sparse.csr_array(half + half.T), names)


class Outline(HTMLParser):
    """Ids of sections, addresses, names of elements, and the text that is seen."""

    def __init__(self, html: str):
        super().__init__()
        self.sections, self.addresses, self.elements, self.text, self._inside = [], [], set(), [], ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.elements.add(tag)
        self._inside = tag
        self.addresses += [given[key] for key in ("src", "href", "data", "action") if key in given]
        assert not [key for key in given if key.startswith("on")], given
        if tag == "section":
            self.sections.append(given["id"])

    def handle_data(self, data):
        if self._inside not in ("script", "style"):
            self.text.append(data)

    def seen(self) -> str:
        return " ".join(" ".join(self.text).split())


def test_page_holds_every_section_and_fetches_nothing(reports):
    for name, path in reports.items():
        found = Outline(path.read_text(encoding="utf-8"))
        assert found.sections == SECTIONS, name
        assert all(a.startswith(("#", "data:image/jpeg")) for a in found.addresses), name
        assert path.stat().st_size < 8e6


def test_page_says_what_the_metrics_say(reports):
    metrics = read_json(reports["mixed"].with_name("metrics.json"), "metrics")
    seen = Outline(reports["mixed"].read_text(encoding="utf-8")).seen()
    for share in metrics["overall"]["recall"]:
        assert f"{100 * share:.1f} %" in seen
    assert "1 of 15 queries were not localized at all" in seen
    assert "Worst condition: night" in seen and "best: day" in seen
    assert "14 of 15 queries have reference poses" in seen
    # astray by 3 m and dark: beyond the coarsest threshold
    assert "night/dark.png" in seen.split("are not within")[1][:60]
    assert "code " + metrics["provenance"]["code"] in seen and "pycolmap" in seen
    assert "benchmark" in seen.split("Time and memory")[1]  # none here: the page says so


def test_names_are_text_whatever_they_are(reports):
    html = reports["mixed"].read_text(encoding="utf-8")
    found = Outline(html)
    assert "img" in found.elements  # pictures, whose addresses the first test looks at
    assert SCRIPT in found.seen() and IMAGE in found.seen()
    data = re.findall(r'<script type="application/json">(.*?)</script>', html, re.S)
    assert data and not [text for text in data if "<" in text]
    # what is code: the library and the page's own script
    assert html.count("<script>") == 2


def test_same_run_same_bytes(reports, tmp_path):
    write_report(reports["single"].parent, tmp_path / "again.html")
    assert (tmp_path / "again.html").read_bytes() == reports["single"].read_bytes()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("without-references", "3 of the 3 query photos were localized. There are no reference poses here"),
        ("lost", "None of the 3 query photos could be localized: this map"),
        ("lost-without-references", "None of the 2 query photos"),
        ("single", "Half of the 1 query photos are placed within"),
        ("mixed", "Half of the 14 query photos are placed within"),
    ],
)
def test_words_of_runs_that_are_not_as_usual(reports, name, words):
    seen = Outline(reports[name].read_text(encoding="utf-8")).seen()
    assert words in seen and ("Where it fails" in seen) == (name != "without-references")


def test_worst_and_best(reports):
    run = load_run(reports["mixed"].parent)
    order = run.queries.sort_values("badness", ascending=False)
    assert list(order.index[:2]) == ["night/dark.png", "night/astray.png"]
    by = {band.label: list(band.queries.index) for band in run.bands}
    assert by["not localized"] == ["night/dark.png"] and by["no reference pose"] == ["day/unknown.png"]
    assert by["beyond 50 cm or 10°"] == ["night/astray.png"]
    assert sum(map(len, by.values())) == len(MIXED)
    near = run.queries.loc["night/astray.png"]
    # 3.2 m along the wall, where the mapping photos end at 0.3 m
    assert near["distance"] == pytest.approx(2.9, abs=0.2) and 0 <= near["angle"] < 45


def test_points_are_seen_where_the_camera_has_them():
    cam_from_world = pose(0.1, -0.05, 1.5, 0, 0)
    red = Points(np.array([[0.1, -0.05, 0.0], [0.1, -0.05, -9.0]]), np.array([[255, 0, 0], [0, 255, 0]], np.uint8), "")
    picture = render_points(red, CAMERA, cam_from_world, 320)
    assert picture.shape == (240, 320, 3)
    line, column = np.nonzero((picture == [255, 0, 0]).all(2))
    assert (line.mean(), column.mean()) == (120, 160)  # the principal point is the corner of four pixels: the next one
    assert not (picture == [0, 255, 0]).all(2).any()  # behind the camera


def test_files_that_do_not_belong_together(wall, reports, tmp_path):
    folder = tmp_path / "results/single/tiny"
    shutil.copytree(reports["single"].parents[1], tmp_path / "results/single")
    poses = folder / "poses.txt"
    poses.write_text(poses.read_text().replace(" 0.", " 0.1", 1))
    with pytest.raises(ScrflowError, match=r"metrics\.json: made from another poses") as caught:
        load_run(folder)
    assert "\n" not in str(caught.value)
    (folder / "metrics.json").unlink()
    with pytest.raises(ScrflowError, match=r"metrics\.json: metrics is missing"):
        load_run(folder)


def opened(browser, path: Path, bypass_csp: bool):
    """A tab with the page, all plots drawn; what the browser complained of or was made to say; what it asked for."""
    tab, told, asked = browser.new_page(bypass_csp=bypass_csp, viewport={"width": 1280, "height": 800}), [], []
    tab.on("console", lambda message: told.append(message.text) if message.type == "error" else None)
    tab.on("pageerror", lambda error: told.append(str(error)))
    tab.on("dialog", lambda dialog: (told.append(f"dialog {dialog.message}"), dialog.dismiss()))
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(path.as_uri())
    tab.wait_for_function(
        "() => { const d = document.body.dataset; return +d.plots > 0 && +d.drawn + +d.failed === +d.plots }",
        timeout=300_000,
    )
    return tab, told, [url for url in asked if not url.startswith(("data:", "blob:"))]


# also without the page's own policy, which forbids other scripts: the names are not to need it
@pytest.mark.parametrize(("name", "bypass_csp"), [*((name, False) for name in RUNS), ("mixed", True)])
def test_page_in_chromium(reports, browser, name, bypass_csp):
    tab, told, asked = opened(browser, reports[name], bypass_csp)
    drawn = tab.evaluate("() => ({...document.body.dataset})")
    assert drawn["failed"] == "0" and drawn["drawn"] == drawn["plots"]
    # every plot has a drawing of some size, and traces in it
    sizes = tab.evaluate(
        "() => [...document.querySelectorAll('figure.plot > div')].map(place => "
        "[place.querySelector('svg.main-svg')?.getBoundingClientRect().height ?? 0, place.data.length])"
    )
    assert len(sizes) == int(drawn["plots"]) and all(height > 100 and traces > 0 for height, traces in sizes)
    # in 3D, something is on the canvas: without WebGL there would be a sentence in its place
    assert tab.evaluate("() => document.querySelectorAll('#scene canvas').length") > 0
    assert "WebGL is not supported" not in tab.inner_text("#scene")
    # what stands over a mark is a name, and no element
    assert tab.evaluate("() => document.querySelectorAll('section img:not([src^=\"data:image/jpeg\"])').length") == 0
    assert tab.evaluate("() => document.documentElement.scrollWidth <= window.innerWidth")
    assert asked == [reports[name].as_uri()]
    assert told == []
    tab.close()
