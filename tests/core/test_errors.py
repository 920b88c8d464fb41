"""Errors of the machine (full disk, permissions, memory) become one line that names the file and the fix."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from scrflow.core.errors import error_line
from scrflow.storage.artifact import Stamp, write_npz

WRITE_H5 = """
import sys
from pathlib import Path
import numpy as np
from scrflow.storage.artifact import Stamp, create_h5
from scrflow.core.errors import error_line
try:
    with create_h5(Path(sys.argv[1]), Stamp("s")) as f:
        for name in "abcdefgh":
            values = np.random.default_rng(0).random(1000 if sys.argv[2] == "small" else 40_000)
            f.create_dataset(name, data=values, chunks=(500,) if sys.argv[2] == "chunked" else None)
except Exception as error:
    print(error_line(error))
"""


@pytest.mark.parametrize(("kind", "kilobytes"), [("small", 4), ("large", 32), ("chunked", 32)])
def test_hdf5_on_a_full_disk_ends_well(small_disk, kind, kilobytes):
    """HDF5 buffers small datasets and chunks until they are closed: a failure was printed then, not raised, and the
    process crashed at its end."""
    subprocess.run(["mount", "-o", f"remount,size={kilobytes}k", str(small_disk)], check=True)
    path = small_disk / "a.h5"
    done = subprocess.run(
        [sys.executable, "-c", WRITE_H5, str(path), kind], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout == f"{path}: No space left on device; make room and run again\n"
    assert not list(small_disk.iterdir())


def test_files_are_named():
    with pytest.raises(OSError) as caught:
        Path("/proc/none/of/these").write_text("")
    assert error_line(caught.value) is None, "a missing folder is a bug"
    error = PermissionError(13, os.strerror(13), "results/a.h5")
    assert error_line(error) == "results/a.h5: Permission denied; fix the permissions and run again"
    error = RuntimeError("a library: No space left on device (os error 28)")
    error.add_note("while writing r/b.h5")
    assert error_line(error) == "r/b.h5: No space left on device; make room and run again"
    # a file in a folder that is being written: name the folder; an unreadable input: name the input
    error = OSError(28, os.strerror(28), "r/.sfm.host-1.tmp/.sfm.host-1.tmp.json")
    error.add_note("while writing r/.sfm.host-1.tmp/sfm.json")
    error.add_note("while writing r/sfm")
    assert error_line(error) == "r/sfm: No space left on device; make room and run again"
    error = PermissionError(13, os.strerror(13), "photos/a.jpg")
    error.add_note("while writing r/sfm")
    assert error_line(error) == "photos/a.jpg: Permission denied; fix the permissions and run again"


def test_memory_and_bugs():
    assert error_line(ValueError("no")) is None and error_line(KeyError("x")) is None
    with pytest.raises(MemoryError) as caught:
        np.empty(1 << 55)
    assert error_line(caught.value).startswith("memory ran out (Unable to allocate")
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 55)
    assert "give the job more" in error_line(caught.value)


def test_an_unreadable_artifact_is_a_matter_of_permissions(tmp_path):
    """In a process without root's privileges, which no permission holds."""
    path = tmp_path / "a.npz"
    write_npz(path, {"x": np.zeros(3)}, Stamp("s"))
    path.chmod(0)
    code = "import ctypes, sys; from pathlib import Path\n"
    code += "assert all(ctypes.CDLL(None).prctl(24, c, 0, 0, 0) in (0, -1) for c in (1, 2))\n"
    code += "import os; os.execv(sys.executable, [sys.executable, '-m', 'scrflow', 'verify', sys.argv[1]])"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2] / "src")}
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and "Permission denied" in done.stderr, done.stderr
    assert "delete" not in done.stderr and "Traceback" not in done.stderr
