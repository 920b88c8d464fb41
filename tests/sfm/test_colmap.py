"""COLMAP in processes of its own: the same bytes by several as by one; errors when one ends or a disk is full."""

import contextlib
import itertools
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pycolmap
import pytest
from exif_photos import real, some_photos

from scrflow.core.errors import ScrflowError, error_line
from scrflow.scene.colmap_model import write_binary_model
from scrflow.sfm.colmap_process import Colmap, colmap
from scrflow.sfm.matching import PAIRS_A_STEP, extract_sift, match_pairs

REPO = Path(__file__).resolve().parents[2]
DEMO = REPO / "demo/images/mapping"
NAMES = sorted(p.name for p in DEMO.iterdir())[:8]
FULL = "No space left on device; make room and run again"


def register(database: Path, photos: Path, names: list[str]) -> Path:
    with colmap(database, "cameras") as process:
        process("register", image_root=str(photos), names=names, single_camera=True, camera_model="SIMPLE_RADIAL",
                focal_factor=1.2)  # fmt: skip
    return database


@pytest.fixture(scope="module")
def features(tmp_path_factory) -> Path:
    """Features of 18 real photos, one with a blank in its name. Above 512 of a photo COLMAP searches by a tree, which
    is where its threads disturb each other."""
    photos = some_photos(real("herzjesu") / "images", tmp_path_factory.mktemp("photos"), 18, 480) / "images"
    (photos / "0000.jpg").rename(photos / "the first.jpg")
    names = sorted(p.name for p in photos.iterdir())
    database = register(tmp_path_factory.mktemp("features") / "database.db", photos, names)
    extract_sift(database, photos, names, 1024, 480, 2)
    return database


@pytest.fixture
def database(features, tmp_path) -> Path:
    return Path(shutil.copy(features, tmp_path))


def pairs_of(database: Path) -> list[tuple[str, str]]:
    with pycolmap.Database.open(database) as db:
        return list(itertools.combinations(sorted(image.name for image in db.read_all_images()), 2))


def tables(database: Path) -> list[list[tuple]]:
    with contextlib.closing(sqlite3.connect(database)) as connection:
        names = ("images", "matches", "two_view_geometries")
        return [connection.execute(f"SELECT * FROM {name} ORDER BY 1").fetchall() for name in names]


def test_the_bytes_do_not_depend_on_the_number_of_processes(database, tmp_path):
    pairs = pairs_of(database)
    assert len(pairs) > 2 * PAIRS_A_STEP  # so three processes have one list or more each
    other = Path(shutil.copy(database, tmp_path / "other.db"))
    match_pairs(database, pairs, 1, 7, verify=True)
    match_pairs(other, pairs, 3, 7, verify=True)
    images, matches, geometries = tables(database)
    assert len(matches) == len(geometries) == len(pairs) and len(images) == 18
    assert tables(other) == [images, matches, geometries]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["database.db", "other.db"]


@pytest.mark.parametrize("when", ["before it is asked", "while it is asked"])
def test_a_killed_process_is_reported_and_ends_the_others(database, when, monkeypatch):
    started: list[Colmap] = []
    ask = Colmap.__call__

    @contextlib.contextmanager
    def watched(*arguments):
        with colmap(*arguments) as process:
            started.append(process)
            if len(started) == 1 and when == "before it is asked":
                process.process.kill()
                os.waitid(os.P_PID, process.process.pid, os.WEXITED | os.WNOWAIT)  # its end of the pipe is closed
            yield process

    def asked(process: Colmap, step: str, **arguments: object) -> None:
        if process is started[0] and when == "while it is asked":
            process.process.send_signal(signal.SIGSTOP)  # so it does not end before it is killed
            threading.Timer(0.05, process.process.kill).start()
        ask(process, step, **arguments)

    monkeypatch.setattr("scrflow.sfm.matching.colmap", watched)
    monkeypatch.setattr(Colmap, "__call__", asked)
    with pytest.raises(ScrflowError, match=r"ended by signal 9 .*mem_mb") as caught:
        match_pairs(database, pairs_of(database), 3, 7, verify=True)
    assert str(database) in str(caught.value)
    assert len(started) == 3 and all(process.process.poll() is not None for process in started)
    assert tables(database)[1] == [], "a part of the matches was taken for the whole"
    assert [p.name for p in database.parent.iterdir()] == [database.name]


def test_an_error_of_colmap_is_raised_where_it_was_asked(tmp_path):
    listed, damaged = tmp_path / "pairs.txt", tmp_path / "copy.db"
    listed.write_text("a b\n")
    damaged.write_bytes(b"x" * 5000)
    with pytest.raises(RuntimeError, match=r"^a\.db: pairs: .*database"), colmap(damaged, "a.db: pairs") as process:
        process("match", listed=str(listed), seed=7, verify=True)
    whole = register(tmp_path / "whole.db", DEMO, NAMES)
    # without its list COLMAP aborts, and takes its process with it
    with pytest.raises(ScrflowError, match=r"^a: .*ended by signal 6 "), colmap(whole, "a") as process:
        process("match", listed=str(tmp_path / "nothing.txt"), seed=7, verify=True)


# On a full disk

SFM = """
import sys
from pathlib import Path
from scrflow.config import SfmConfig, SfmStage, Split
from scrflow.scene.readers.colmap import PhotosSource
from scrflow.core.errors import error_line
from scrflow.sfm.reconstruct import run_sfm
source = PhotosSource(reader="photos", images="photos of a place")
config = SfmStage(source=source, split=Split(every=5), sfm=SfmConfig(max_features=1024), seed=1)
try:
    run_sfm(config, Path(sys.argv[1]), Path(sys.argv[2]), 2)
except Exception as error:
    print(error_line(error))
"""


def resize(disk: Path, size: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", str(disk)], check=True)


def leave(disk: Path, room: int) -> None:
    """Give the disk so many free bytes."""
    state = os.statvfs(disk)
    resize(disk, (state.f_blocks - state.f_bfree) * state.f_frsize + room)


@pytest.mark.parametrize("kilobytes", [200, 400, 1000])
def test_structure_from_motion_on_a_full_disk(small_disk, tmp_path, kilobytes):
    """In a process of its own, as COLMAP might end it. Names with blanks are changed in the database for a while."""
    photos = tmp_path / "photos of a place"
    photos.mkdir()
    for name in NAMES:
        shutil.copy(DEMO / name, photos / f"a {name}")
    resize(small_disk, kilobytes * 1024)
    command = [sys.executable, "-c", SFM, str(tmp_path), str(small_disk / "sfm")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{small_disk / 'sfm'}: {FULL}\n"
    assert not list(small_disk.iterdir())


@pytest.mark.parametrize("threads", [1, 2])
def test_matches_on_a_full_disk(small_disk, threads):
    resize(small_disk, 1 << 26)
    database = register(small_disk / "database.db", DEMO, NAMES)
    extract_sift(database, DEMO, NAMES, 2048, 640, 2)
    leave(small_disk, 16384)
    with pytest.raises(Exception) as caught:
        match_pairs(database, list(itertools.combinations(NAMES, 2)) * 3, threads, 1, verify=True)
    assert error_line(caught.value).endswith(FULL)


@pytest.mark.parametrize("pages", [0, 2, 8])
def test_a_model_on_a_full_disk(small_disk, pages):
    """pycolmap says nothing, and leaves files that are cut off."""
    (small_disk / "other").write_bytes(bytes(4096))
    resize(small_disk, 4096 * (1 + pages))
    with pytest.raises(Exception) as caught:
        write_binary_model(pycolmap.Reconstruction(REPO / "demo/model"), small_disk)
    line = error_line(caught.value)
    assert line.endswith(FULL) and str(small_disk) in line
