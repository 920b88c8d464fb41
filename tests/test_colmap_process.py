"""COLMAP in a process of its own: what becomes of it is told, and a full disk above all."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pycolmap
import pytest

from scrflow.colmap_process import colmap
from scrflow.colmaplog import quiet_pycolmap
from scrflow.errors import ScrflowError
from scrflow.machine_errors import told_in_a_line
from scrflow.scene.colmap_file import write_binary_model
from scrflow.sfm_features import extract_sift
from scrflow.sfm_matching import match_pairs

REPO = Path(__file__).resolve().parents[1]
PHOTOS = REPO / "demo/images/mapping"
NAMES = sorted(p.name for p in PHOTOS.iterdir())[:8]
FULL = "No space left on device; make room and run again"


@pytest.fixture
def database(tmp_path) -> Path:
    return imported(tmp_path / "database.db")


@pytest.fixture
def disk(tmp_path):
    """A file system of a megabyte, and what gives it another size."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")

    def resize(size: int) -> None:
        subprocess.run(["mount", "-o", f"remount,size={size}", str(folder)], check=True)

    yield folder, resize
    subprocess.run(["umount", "-l", str(folder)], check=True)


def imported(database: Path) -> Path:
    """A database of eight photos."""
    quiet_pycolmap()
    pycolmap.Database.open(database).close()
    pycolmap.import_images(database, PHOTOS, pycolmap.CameraMode.SINGLE, NAMES)
    return database


def child() -> int:
    (pid,) = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return int(pid)


def test_a_process_that_is_gone_before_it_is_asked(database):
    with (
        pytest.raises(ScrflowError, match=r"^a\.db: pairs: .*ended by signal 9 .*mem_mb"),
        colmap(database, "a.db: pairs") as process,
    ):
        pid = child()
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # its end of the pipe is closed
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


@pytest.mark.parametrize("room", [0, 8192, 65536, 262144])
def test_features_on_a_full_disk(disk, room):
    """The database cannot be opened in up to 32 kB; in more, COLMAP's thread that writes to it ends its process."""
    folder, resize = disk
    database = imported(folder / "database.db")
    state = os.statvfs(folder)
    resize((state.f_blocks - state.f_bfree) * state.f_frsize + room)
    with pytest.raises(Exception) as caught:
        extract_sift(database, PHOTOS, NAMES, 2048, 640, 2)
    assert told_in_a_line(caught.value).endswith(FULL)


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
    assert told_in_a_line(caught.value).endswith(FULL)


@pytest.mark.parametrize("pages", [0, 1, 2, 3, 5, 8])
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
    line = told_in_a_line(caught.value)
    assert line.endswith(FULL) and str(folder) in line
