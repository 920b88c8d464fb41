"""Artifacts: any change is refused, writing is atomic, and ``scrflow verify`` names what changed."""

import os
import subprocess
import sys
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from scrflow.cli.app import app
from scrflow.core.errors import ScrflowError, error_line
from scrflow.storage.artifact import (
    Stamp,
    atomic_path,
    create_h5,
    open_h5,
    read_json,
    read_safetensors,
    write_json,
    write_npz,
    write_safetensors,
    write_text,
)
from scrflow.storage.checksum import verify_checksum
from scrflow.storage.untrusted import read_arrays

STAMP = Stamp("thing", {"a": [1, 2]}, "code")


def write(path: Path, count: int = 300) -> None:
    """An artifact of so many numbers."""
    x = np.arange(count, dtype=np.float32)
    if path.suffix == ".h5":
        with create_h5(path, STAMP) as f:
            f["column"] = x
            f.attrs["names"] = ["a", "b"]
    elif path.suffix == ".npz":
        write_npz(path, {"x": x}, STAMP)
    elif path.suffix == ".json":
        write_json(path, {"x": x.tolist(), "content": "0" * 64}, STAMP)
    else:
        write_safetensors(path, {"x": torch.from_numpy(x)}, STAMP, {"names": '["a"]', "zz": "1"})


def read(path: Path) -> object:
    if path.suffix == ".h5":
        with open_h5(path, "thing") as f:
            return f["column"][:].tolist(), list(f.attrs["names"])
    reader = {".npz": read_arrays, ".json": read_json, ".safetensors": read_safetensors}[path.suffix]
    return {k: np.asarray(v).tolist() for k, v in reader(path, "thing").items()}


SUFFIXES = (".h5", ".npz", ".json", ".safetensors")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_full_disk(small_disk, suffix):
    """The earlier file stays, and no half-written one is left beside it."""
    path = small_disk / f"a{suffix}"
    write(path)
    before = path.read_bytes()
    with pytest.raises(Exception) as caught:
        write(path, 100_000)
    assert error_line(caught.value) == f"{path}: No space left on device; make room and run again"
    assert path.read_bytes() == before and [*small_disk.iterdir()] == [path]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_equal_content_is_equal_bytes_and_any_change_is_refused(suffix, tmp_path):
    path = tmp_path / f"a{suffix}"
    write(path)
    write(tmp_path / f"again{suffix}")
    assert read(path) and path.read_bytes() == (tmp_path / f"again{suffix}").read_bytes()
    whole, rng = path.read_bytes(), Random(1)
    for trial in range(90):
        place = rng.randrange(len(whole))
        bad = whole[:place] + bytes([whole[place] ^ (1 << rng.randrange(8))]) + whole[place + 1 :]
        damaged = tmp_path / f"{trial}{suffix}"
        damaged.write_bytes(bad if trial % 3 else whole[:place])
        with pytest.raises(ScrflowError, match=rf"{trial}{suffix}: ") as caught:
            read(damaged)
        assert "\n" not in str(caught.value)


def test_a_changed_file_is_checked_again(tmp_path):
    path = tmp_path / "a.json"
    write(path)
    verify_checksum(path)
    os.utime(path, ns=(0, 0))
    verify_checksum(path)
    path.write_bytes(path.read_bytes().replace(b"299.0", b"298.0"))
    with pytest.raises(ScrflowError, match="not what was written"):
        verify_checksum(path)


def python(code: str, *arguments: Path, **options) -> None:
    """Run code that imports everything of storage.artifact."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2] / "src")}
    code = f"import os, sys, torch\nfrom pathlib import Path\nfrom scrflow.storage.artifact import *\n{code}"
    subprocess.run([sys.executable, "-c", code, *map(str, arguments)], env=environment, **options)


def test_the_mode_is_that_of_the_umask(tmp_path):
    """safetensors makes its files readable by their owner only."""
    path = tmp_path / "a.safetensors"
    python("write_safetensors(Path(sys.argv[1]), {'x': torch.zeros(1)}, Stamp('s'))", path, check=True, umask=0o027)
    assert path.stat().st_mode & 0o777 == 0o640


def test_leftovers_of_a_killed_process_are_removed(tmp_path):
    target = tmp_path / "a.b.json"
    python("with atomic_path(Path(sys.argv[1])) as t:\n    t.write_text('half'); os.kill(os.getpid(), 9)", target)
    (left,) = tmp_path.iterdir()
    other = tmp_path / left.name.replace(left.name.split(".tmp")[0].rpartition("-")[2], str(os.getpid()))
    elsewhere = tmp_path / ".a.b.another-host-1.tmp.json"
    for path in (other, elsewhere):
        path.write_text("of a process that works")
    with atomic_path(target) as temporary:
        temporary.write_text("whole")
    # this process's own temporary file was the one just used
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([target.name, elsewhere.name])
    os.utime(elsewhere, (0, 0))
    write_text(target, "again")
    assert [p.name for p in tmp_path.iterdir()] == [target.name]


def verified(*paths: Path) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["verify", *map(str, paths)])
    return done.exit_code, done.output


def test_verify_names_what_changed(tmp_path):
    for name in ("a.json", "b.npz", "c.h5", "d.safetensors"):
        write(tmp_path / "r" / name)
    (tmp_path / "r/train.json").write_text("{}")
    (tmp_path / "r/notes.txt").write_text("no artifact")
    status, out = verified(tmp_path / "r")
    assert status == 0 and "4 artifacts" in out and "all as they were written" in out
    with open(tmp_path / "r/c.h5", "r+b") as f:
        f.seek(700)
        f.write(b"\xff")
    status, out = verified(tmp_path / "r")
    assert status == 1 and "c.h5: " in out and "1 faults" in out and "a.json" not in out
    (tmp_path / "empty").mkdir()
    done = CliRunner().invoke(app, ["verify", str(tmp_path / "empty")])
    assert isinstance(done.exception, ScrflowError) and "no artifact in it" in str(done.exception)
