"""``scrflow view`` as it is started, in a browser: a result, and a training at its last checkpoint."""

import contextlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from report_run import IMAGE, MIXED, Wall
from tiny_project import REPO
from training_cases import job_of, stage, train_until_killed


@contextlib.contextmanager
def viewed(folder: Path) -> Iterator[str]:
    """The address of the page of a folder."""
    command = [sys.executable, "-m", "scrflow", "view", str(folder), "--threads", "1"]
    with subprocess.Popen(command, cwd=REPO, text=True, stdout=subprocess.PIPE) as process:
        try:
            yield re.match(r"view: (http://127\.0\.0\.1:\d+) ", process.stdout.readline())[1]
        finally:
            process.terminate()
        assert process.wait(120) == 0


def test_a_result(browser, wall_map, tmp_path):
    folder = Wall(tmp_path, wall_map).run("mixed", MIXED)
    with viewed(folder) as address:
        tab, asked, told = browser.new_page(), [], []
        tab.on("request", lambda request: asked.append(request.url))
        tab.on("dialog", lambda dialog: (told.append(dialog.message), dialog.dismiss()))
        tab.goto(address)
        tab.get_by_text("not localized: 1").wait_for(timeout=300_000)
        tab.get_by_role("combobox", name="query, worst first").click()
        tab.get_by_role("option", name="night/astray.png").click()
        tab.get_by_text(re.compile(r"off by 3 m")).wait_for(timeout=300_000)
        tab.locator("img[src^='blob:']").wait_for(timeout=300_000)  # the photo
        tab.get_by_role("combobox", name="query, worst first").click()
        tab.get_by_role("option", name=IMAGE).click()  # a name that is no element
        tab.get_by_text(IMAGE).first.wait_for(timeout=300_000)
        assert told == [] and all(url.startswith((address, "data:", "blob:")) for url in asked)


def test_a_training(browser, inputs, tmp_path, monkeypatch):
    train_until_killed(stage(), inputs, tmp_path / "tiny", 16, monkeypatch)
    (tmp_path / "tiny/train.json").write_text(job_of(stage(), inputs, tmp_path / "tiny").model_dump_json())
    with viewed(tmp_path / "tiny") as address:
        tab = browser.new_page()
        tab.goto(address)
        tab.get_by_text(re.compile(r"step 14 of 60: median reprojection error \d")).wait_for(timeout=300_000)
