"""COLMAP in a process of its own: its end is reported, above all on a full disk."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pycolmap
import pytest

from scrflow.core.errors import ScrflowError, error_line
from scrflow.scene.colmap_model import write_binary_model
from scrflow.sfm.colmap_process import colmap, quiet_pycolmap
from scrflow.sfm.matching import extract_sift, match_pairs

REPO = Path(__file__).resolve().parents[2]
PHOTOS = REPO / "demo/images/mapping"
NAMES = sorted(p.name for p in PHOTOS.iterdir())[:8]
FULL = "No space left on device; make room and run again"


@pytest.fixture
def database(tmp_path) -> Path:
    return imported(tmp_path / "database.db")


@pytest.fixture
def disk(small_disk):
    """A file system of a megabyte, and what gives it another size."""

    def resize(size: int) -> None:
        subprocess.run(["mount", "-o", f"remount,size={size}", str(small_disk)], check=True)

    resize(1 << 20)
    return small_disk, resize


def imported(database: Path) -> Path:
    """A database of eight photos."""
    quiet_pycolmap()
    pycolmap.Database.open(database).close()
    pycolmap.import_images(database, PHOTOS, pycolmap.CameraMode.SINGLE, NAMES)
    return database


def test_a_process_that_is_gone_before_it_is_asked(database):
    with (
        pytest.raises(ScrflowError, match=r"^a\.db: pairs: .*ended by signal 9 .*mem_mb"),
        colmap(database, "a.db: pairs") as process,
    ):
        process.process.kill()
        os.waitid(os.P_PID, process.process.pid, os.WEXITED | os.WNOWAIT)  # its end of the pipe is closed
        process("match", listed="pairs.txt", seed=7, verify=True)


def test_an_error_of_colmap_is_raised_where_it_was_asked(database, tmp_path):
    listed = tmp_path / "pairs.txt"
    listed.write_text("a b\n")
    damaged = tmp_path / "copy.db"
    damaged.write_bytes(b"x" * 5000)
    with pytest.raises(RuntimeError, match=r"^a\.db: pairs: .*database"), colmap(damaged, "a.db: pairs") as process:
        process("match", listed=str(listed), seed=7, verify=True)
    # without its list COLMAP aborts, and takes its process with it
    with (
        pytest.raises(ScrflowError, match=r"^a\.db: pairs: .*ended by signal 6 "),
        colmap(database, "a.db: pairs") as process,
    ):
        process("match", listed=str(tmp_path / "nothing.txt"), seed=7, verify=True)


REGISTER = {
    "image_root": str(PHOTOS),
    "names": NAMES,
    "single_camera": True,
    "camera_model": "SIMPLE_RADIAL",
    "focal_factor": 1.2,
}


@pytest.mark.parametrize("pages", [1, 40, 76])
def test_cameras_on_a_full_disk(disk, pages):
    """The database cannot be opened in up to 66 pages; up to 90, the end of COLMAP's transaction ends the process."""
    folder, resize = disk
    resize(4096 * pages)
    with pytest.raises(OSError) as caught, colmap(folder / "database.db", "cameras") as process:
        process("register", **REGISTER)
    assert error_line(caught.value).endswith(FULL)


def test_the_same_database_as_in_this_process(database, tmp_path):
    other = tmp_path / "other.db"
    with colmap(other, "cameras") as process:
        process("register", **REGISTER)
    with pycolmap.Database.open(database) as a, pycolmap.Database.open(other) as b:
        assert a.num_images() == b.num_images() == len(NAMES)
        assert [i.name for i in a.read_all_images()] == [i.name for i in b.read_all_images()] == NAMES
        (one,), (two,) = a.read_all_cameras(), b.read_all_cameras()
        assert one.model == two.model and list(one.params) == list(two.params)


SFM = """
import sys
from pathlib import Path
from scrflow.config import SfmConfig, SfmStage, Split
from scrflow.scene.readers.photos import PhotosSource
from scrflow.core.errors import error_line
from scrflow.sfm.reconstruct import run_sfm
source = PhotosSource(reader="photos", images="photos of a place")
config = SfmStage(source=source, split=Split(every=5), sfm=SfmConfig(max_features=1024), seed=1)
try:
    run_sfm(config, Path(sys.argv[1]), Path(sys.argv[2]), 2)
except Exception as error:
    print(error_line(error))
"""


@pytest.mark.parametrize("kilobytes", [200, 400, 1000])
def test_structure_from_motion_on_a_full_disk(disk, tmp_path, kilobytes):
    """In a process of its own, which would be ended. Names with blanks are changed in the database for a while.

    Measured on six photos of herzjesu, with SIFT and with hloc's files, and for triangulation: 122 sizes from nothing
    to 16 MB, of which every one was told or gave the same bytes.
    """
    folder, resize = disk
    photos = tmp_path / "photos of a place"
    photos.mkdir()
    for name in NAMES:
        shutil.copy(PHOTOS / name, photos / f"a {name}")
    resize(kilobytes * 1024)
    done = subprocess.run(
        [sys.executable, "-c", SFM, str(tmp_path), str(folder / "sfm")], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{folder / 'sfm'}: {FULL}\n"
    assert not list(folder.iterdir())


@pytest.mark.parametrize("room", [0, 65536, 262144])
def test_features_on_a_full_disk(disk, room):
    """The database cannot be opened in up to 32 kB; in more, COLMAP's thread that writes to it ends its process."""
    folder, resize = disk
    database = imported(folder / "database.db")
    state = os.statvfs(folder)
    resize((state.f_blocks - state.f_bfree) * state.f_frsize + room)
    with pytest.raises(Exception) as caught:
        extract_sift(database, PHOTOS, NAMES, 2048, 640, 2)
    assert error_line(caught.value).endswith(FULL)


@pytest.mark.parametrize("threads", [1, 2])
def test_matches_on_a_full_disk(disk, threads):
    folder, resize = disk
    resize(1 << 26)
    database = imported(folder / "database.db")
    extract_sift(database, PHOTOS, NAMES, 2048, 640, 2)
    state = os.statvfs(folder)
    resize((state.f_blocks - state.f_bfree) * state.f_frsize + 16384)
    pairs = [(a, b) for a in NAMES for b in NAMES if a < b] * 3
    with pytest.raises(Exception) as caught:
        match_pairs(database, pairs, threads, 1, verify=True)
    assert error_line(caught.value).endswith(FULL)


@pytest.mark.parametrize("pages", [0, 2, 8])
def test_a_model_on_a_full_disk(disk, pages):
    """pycolmap says nothing, and leaves files that are cut off."""
    folder, resize = disk
    model = pycolmap.Reconstruction(REPO / "demo/model")
    write_binary_model(model, folder)
    sizes = {p.name: p.stat().st_size for p in folder.iterdir()}
    assert sum(-(-size // 4096) for size in sizes.values()) > 8
    for path in folder.iterdir():
        path.unlink()
    (folder / "other").write_bytes(bytes(4096))
    resize(4096 * (1 + pages))
    with pytest.raises(Exception) as caught:
        write_binary_model(model, folder)
    line = error_line(caught.value)
    assert line.endswith(FULL) and str(folder) in line
