"""Run COLMAP on a database in a process of its own.

On a full disk COLMAP's threads and transactions abort the whole process; in a child that becomes an ordinary error.

``colmap`` starts the child, which runs this module. The child reads steps from standard input, each a line of JSON with
its arguments, and answers each with a line of JSON: ``null``, or the text of the error, after which it exits. Nothing
here imports torch, so a child starts in half a second.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pycolmap

from scrflow.core.errors import ScrflowError, full_disk_error, full_disk_reported

_ROOT = Path(__file__).resolve().parents[2]
_WARNING = 1


def quiet_pycolmap() -> None:
    """Let COLMAP log warnings and errors only; scrflow shows the progress itself."""
    pycolmap.logging.minloglevel = max(int(pycolmap.logging.minloglevel), _WARNING)


class Colmap:
    """A child process that runs COLMAP's steps on one database."""

    def __init__(self, database: Path, what: str, process: subprocess.Popen[bytes]):
        self.database, self.what, self.process = database, what, process

    def __call__(self, step: str, **arguments: object) -> None:
        """Run a step (``register``, ``extract``, ``match``, ``verify``) to its end."""
        request = json.dumps([step, {"database": os.fspath(self.database), **arguments}])
        answer = b""
        # a process that has exited has closed its side: its exit status tells more than the broken pipe
        with contextlib.suppress(BrokenPipeError):
            self._write(request.encode("ascii") + b"\n")
            answer = self.process.stdout.readline()
        if not answer:
            raise self._ended(self.process.wait())
        error = json.loads(answer)
        if error is not None:
            with full_disk_reported(self.database):
                raise RuntimeError(f"{self.what}: {error}")

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:  # an unbuffered pipe takes only as much as it has room for
            view = view[self.process.stdin.write(view) :]

    def _ended(self, status: int) -> Exception:
        full = full_disk_error(self.database) if status == -signal.SIGABRT else None
        if full is not None:
            return full
        if status < 0:
            return ScrflowError(
                f"{self.what}: a process of COLMAP ended by signal {-status} (9: often out of memory; COLMAP's own "
                "message is above); run again with more memory (mem_mb) or fewer threads"
            )
        return ScrflowError(f"{self.what}: a process of COLMAP ended with exit {status}; see the lines above")


@contextlib.contextmanager
def colmap(database: Path, what: str) -> Iterator[Colmap]:
    """Start a child process for the database; it ends with the block.

    A call raises ScrflowError when the child was killed, OSError (no space) when the disk is full, and RuntimeError
    with COLMAP's message when a step fails. Messages begin with ``what``.
    """
    path = os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    with subprocess.Popen(
        [sys.executable, "-m", __name__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,  # buffered data that a dead child did not take would be written again on close
        env={**os.environ, "PYTHONPATH": path},
    ) as process:
        try:
            yield Colmap(database, what, process)
        except BaseException:
            process.kill()
            raise


def register(
    database: str, image_root: str, names: Sequence[str], single_camera: bool, camera_model: str, focal_factor: float
) -> None:
    """Add images and their cameras, from EXIF, or with a focal length of ``focal_factor`` times the longer side."""
    mode = pycolmap.CameraMode.SINGLE if single_camera else pycolmap.CameraMode.PER_IMAGE
    reader = pycolmap.ImageReaderOptions(camera_model=camera_model, default_focal_length_factor=focal_factor)
    pycolmap.Database.open(Path(database)).close()
    pycolmap.import_images(Path(database), Path(image_root), mode, list(names), reader)


def extract(
    database: str, image_root: str, names: Sequence[str], max_features: int, max_image_size: int, threads: int
) -> None:
    """Extract SIFT features of images that are in the database."""
    options = pycolmap.FeatureExtractionOptions(use_gpu=False, num_threads=threads, max_image_size=max_image_size)
    options.sift.max_num_features = max_features
    pycolmap.extract_features(
        Path(database), Path(image_root), list(names), extraction_options=options, device=pycolmap.Device.cpu
    )


def match(database: str, listed: str, seed: int, verify: bool) -> None:
    """Match the pairs of a list by mutual nearest neighbours with the ratio test; with ``verify`` estimate their
    two-view geometries too, by RANSAC seeded for each pair.

    One thread: with two, COLMAP's matchers now and then corrupt each other's numbers (pycolmap 4.2.1: one pair of 400
    on two idle processors). A likely cause: faiss, which it searches by, brings an OpenBLAS built for one thread.
    """
    matching = pycolmap.FeatureMatchingOptions(use_gpu=False, num_threads=1, skip_geometric_verification=not verify)
    verification = pycolmap.TwoViewGeometryOptions()
    verification.ransac.random_seed = seed
    pairing = pycolmap.ImportedPairingOptions(match_list_path=listed)
    pycolmap.match_image_pairs(Path(database), matching, pairing, verification, pycolmap.Device.cpu)


def verify(database: str, listed: str, seed: int) -> None:
    """Estimate two-view geometries of the listed pairs from the matches in the database. RANSAC is seeded for each
    pair, so the result does not depend on the number of threads."""
    options = pycolmap.TwoViewGeometryOptions()
    options.ransac.random_seed = seed
    pycolmap.verify_matches(Path(database), Path(listed), options)


_STEPS = {step.__name__: step for step in (register, extract, match, verify)}


def main() -> int:
    """Serve steps until standard input ends, as it does when the parent exits or is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches this process too; the parent reports it
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # keep what libraries print out of the answers
    quiet_pycolmap()
    for line in sys.stdin.buffer:
        step, arguments = json.loads(line)
        error = None
        try:
            _STEPS[step](**arguments)
        except Exception as caught:  # the parent raises it
            error = f"{caught}" or type(caught).__name__
        print(json.dumps(error), file=answers, flush=True)
        if error is not None:
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
