"""Steps of COLMAP on a database, in a process of its own: see colmap_process.

It reads steps from standard input, each a line of JSON with its arguments, and answers each with a line of JSON:
``null``, or the text of the error, after which it ends. Nothing here imports torch: a process starts in half a second.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import pycolmap

from scrflow.sfm.colmap_log import quiet_pycolmap


def register(
    database: str, image_root: str, names: Sequence[str], single_camera: bool, camera_model: str, focal_factor: float
) -> None:
    """Images and their cameras, by EXIF, or a focal length of ``focal_factor`` times the longer side."""
    mode = pycolmap.CameraMode.SINGLE if single_camera else pycolmap.CameraMode.PER_IMAGE
    reader = pycolmap.ImageReaderOptions(camera_model=camera_model, default_focal_length_factor=focal_factor)
    pycolmap.Database.open(Path(database)).close()
    pycolmap.import_images(Path(database), Path(image_root), mode, list(names), reader)


def extract(
    database: str, image_root: str, names: Sequence[str], max_features: int, max_image_size: int, threads: int
) -> None:
    """SIFT features of images that the database knows by name."""
    options = pycolmap.FeatureExtractionOptions(use_gpu=False, num_threads=threads, max_image_size=max_image_size)
    options.sift.max_num_features = max_features
    pycolmap.extract_features(
        Path(database), Path(image_root), list(names), extraction_options=options, device=pycolmap.Device.cpu
    )


def match(database: str, listed: str, seed: int, verify: bool) -> None:
    """Match the pairs of a list by mutual nearest neighbours with the ratio test, and with ``verify`` estimate their
    two-view geometries, with a RANSAC that is seeded for each pair.

    One thread: two of COLMAP's matcher spoil each other's numbers now and then (pycolmap 4.2.1, measured: one pair of
    400 on two free processors). It searches by faiss, whose matrix products there are those of an OpenBLAS that was
    built for one thread, which would explain it.
    """
    matching = pycolmap.FeatureMatchingOptions(use_gpu=False, num_threads=1, skip_geometric_verification=not verify)
    verification = pycolmap.TwoViewGeometryOptions()
    verification.ransac.random_seed = seed
    pairing = pycolmap.ImportedPairingOptions(match_list_path=listed)
    pycolmap.match_image_pairs(Path(database), matching, pairing, verification, pycolmap.Device.cpu)


def verify(database: str, listed: str, seed: int) -> None:
    """Estimate two-view geometries of the listed pairs, whose matches the database has; seeded for each pair, so the
    result does not depend on the number of threads."""
    options = pycolmap.TwoViewGeometryOptions()
    options.ransac.random_seed = seed
    pycolmap.verify_matches(Path(database), Path(listed), options)


_STEPS = {step.__name__: step for step in (register, extract, match, verify)}


def main() -> int:
    """Serve until standard input ends, which it does when whoever asked is gone, however that came."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches this process too; the one that asked tells of it
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints is no answer
    quiet_pycolmap()
    for line in sys.stdin.buffer:
        step, arguments = json.loads(line)
        error = None
        try:
            _STEPS[step](**arguments)
        except Exception as caught:  # told by the process that asked, as it would be told there
            error = f"{caught}" or type(caught).__name__
        print(json.dumps(error), file=answers, flush=True)
        if error is not None:
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
