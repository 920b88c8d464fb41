"""Matches of pairs by several processes: the same bytes as by one, and an end for all when one ends."""

from __future__ import annotations

import contextlib
import itertools
import os
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pycolmap
import pytest
from PIL import Image

from scrflow.core.errors import ScrflowError
from scrflow.sfm.colmap_process import Colmap, colmap, quiet_pycolmap
from scrflow.sfm.matching import PAIRS_A_STEP, extract_sift, match_pairs

DATA = Path(os.environ.get("SCRFLOW_DATA", "../shared/data")) / "herzjesu/images"
PHOTOS = 18


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """18 photos at 480 px, one of them with a blank in its name."""
    if not DATA.is_dir():
        pytest.skip(f"real photos are not at hand ({DATA})")
    folder = tmp_path_factory.mktemp("photos")
    for i, path in enumerate(sorted(DATA.glob("*.jpg"))[:PHOTOS]):
        with Image.open(path) as image:
            small = image.resize((480, round(image.height * 480 / image.width)), Image.Resampling.LANCZOS)
        small.save(folder / (f"{i:02d}.jpg" if i else "the first.jpg"), quality=95)
    return folder


@pytest.fixture(scope="module")
def features(photos, tmp_path_factory) -> Path:
    """A database with their features: above 512 of a photo COLMAP searches by a tree, which is what went wrong."""
    database = tmp_path_factory.mktemp("features") / "database.db"
    names = sorted(p.name for p in photos.iterdir())
    quiet_pycolmap()
    pycolmap.Database.open(database).close()
    reader = pycolmap.ImageReaderOptions(camera_model="SIMPLE_RADIAL")
    pycolmap.import_images(database, photos, pycolmap.CameraMode.SINGLE, names, reader)
    extract_sift(database, photos, names, 1024, 480, 2)
    return database


@pytest.fixture
def database(features, tmp_path) -> Path:
    path = tmp_path / "database.db"
    path.write_bytes(features.read_bytes())
    return path


def all_pairs(database: Path) -> list[tuple[str, str]]:
    with pycolmap.Database.open(database) as db:
        return list(itertools.combinations(sorted(image.name for image in db.read_all_images()), 2))


def tables(database: Path) -> list[list[tuple]]:
    connection = sqlite3.connect(database)
    found = [
        connection.execute(f"SELECT * FROM {t} ORDER BY 1").fetchall()
        for t in ("images", "matches", "two_view_geometries")
    ]
    connection.close()
    return found


def test_the_bytes_do_not_depend_on_the_number_of_processes(database, tmp_path):
    pairs = all_pairs(database)
    assert len(pairs) > 2 * PAIRS_A_STEP  # so three processes have one list or more each
    results = {}
    for threads in (1, 3):
        copy = tmp_path / f"{threads}.db"
        copy.write_bytes(database.read_bytes())
        match_pairs(copy, pairs, threads, 7, verify=True)
        results[threads] = tables(copy)
    images, matches, geometries = results[1]
    assert len(matches) == len(geometries) == len(pairs) and len(images) == PHOTOS
    assert results[1] == results[3]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1.db", "3.db", "database.db"]


@pytest.mark.parametrize("when", ["before it is asked", "at work"])
def test_a_killed_process_is_reported_and_ends_the_others(database, when, monkeypatch):
    started: list[Colmap] = []
    ask = Colmap.__call__

    @contextlib.contextmanager
    def watched(*arguments):
        with colmap(*arguments) as process:
            started.append(process)
            if when == "before it is asked" and len(started) == 1:
                process.process.kill()
            yield process

    def asked(process: Colmap, step: str, **arguments: object) -> None:
        if when == "at work" and process is started[0]:
            threading.Timer(0.05, process.process.kill).start()  # a step takes seconds
        ask(process, step, **arguments)

    monkeypatch.setattr("scrflow.sfm.matching.colmap", watched)
    monkeypatch.setattr(Colmap, "__call__", asked)
    with pytest.raises(ScrflowError, match=r"ended by signal 9 .*mem_mb") as caught:
        match_pairs(database, all_pairs(database), 3, 7, verify=True)
    assert str(database) in str(caught.value)
    assert len(started) == 3 and all(process.process.poll() is not None for process in started)
    assert tables(database)[1] == [], "a part of the matches was taken for the whole"
    assert [p.name for p in database.parent.iterdir()] == [database.name]


ASKING = """
import contextlib, itertools, sys
from pathlib import Path
import pycolmap
from scrflow.sfm import matching
colmap = matching.colmap

@contextlib.contextmanager
def told(*arguments):
    with colmap(*arguments) as process:
        print(process.process.pid, flush=True)
        yield process

matching.colmap = told
with pycolmap.Database.open(sys.argv[1]) as db:
    names = sorted(image.name for image in db.read_all_images())
matching.match_pairs(Path(sys.argv[1]), list(itertools.combinations(names, 2)), 3, 7, verify=True)
"""


def test_no_process_is_left_when_the_one_that_asked_is_killed(database):
    command = [sys.executable, "-c", ASKING, str(database)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as parent:
        started = [int(parent.stdout.readline()) for _ in range(3)]
        parent.kill()
    end = time.monotonic() + 300  # each finishes the step that it is at
    while any(map(runs, started)):
        assert time.monotonic() < end, "a process is left"
        time.sleep(0.05)


def runs(pid: int) -> bool:
    """Whether the process exists, and is no zombie that its new parent has not taken leave of."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
