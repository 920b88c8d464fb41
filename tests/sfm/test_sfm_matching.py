"""Matches of pairs by several processes: the same bytes as by one, and an end for all when one ends."""

from __future__ import annotations

import itertools
import os
import signal
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
from scrflow.sfm.colmap_process import quiet_pycolmap
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


def workers(parent: int) -> list[int]:
    """The processes that match for this one."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            of = int(folder.joinpath("stat").read_text().rpartition(")")[2].split()[1])
            if of == parent and b"colmap_worker" in folder.joinpath("cmdline").read_bytes():
                found.append(int(folder.name))
        except (FileNotFoundError, ProcessLookupError):  # over since
            continue
    return found


def until(condition, seconds: float = 30.0):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)
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


@pytest.mark.parametrize("seconds", [0.0, 0.02, 1.0])
def test_a_killed_process_is_told_and_ends_the_others(database, seconds):
    """Before it is asked for anything, about then, and at work."""
    caught: list[BaseException] = []

    def match() -> None:
        try:
            match_pairs(database, all_pairs(database), 3, 7, verify=True)
        except BaseException as error:
            caught.append(error)

    thread = threading.Thread(target=match)
    thread.start()
    found = until(lambda: workers(os.getpid()))
    time.sleep(seconds)
    os.kill(found[0], signal.SIGKILL)
    thread.join(60)
    assert not thread.is_alive() and not workers(os.getpid())
    assert isinstance(caught[0], ScrflowError) and "ended by signal 9 " in str(caught[0])
    assert "mem_mb" in str(caught[0]) and str(database) in str(caught[0])
    assert tables(database)[1] == [], "a part of the matches was taken for the whole"
    assert [p.name for p in database.parent.iterdir()] == [database.name]


ASKING = """
import itertools, sys
from pathlib import Path
import pycolmap
with pycolmap.Database.open(sys.argv[1]) as db:
    names = sorted(image.name for image in db.read_all_images())
match_pairs(Path(sys.argv[1]), list(itertools.combinations(names, 2)), 3, 7, verify=True)
"""


def test_no_process_is_left_when_the_one_that_asked_is_killed(database):
    parent = subprocess.Popen([sys.executable, "-c", ASKING, str(database)], stderr=subprocess.DEVNULL)
    started = until(lambda: len(found := workers(parent.pid)) == 3 and found)
    parent.kill()
    parent.wait()
    # what is under way is matched to its end: 64 pairs of 1 500 features take a second or two
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in started))
