"""Matches of image pairs by COLMAP, in a process of its own: see sfm_matching.

It reads paths of pair lists from standard input, one a line, and answers each with a line of JSON: ``null``, or the
text of the error, after which it ends. Nothing here imports torch: a process starts in half a second.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import pycolmap

from scrflow.colmaplog import quiet_pycolmap


def match_listed(database: Path, listed: Path, seed: int, verify: bool) -> None:
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
    pycolmap.match_image_pairs(database, matching, pairing, verification, pycolmap.Device.cpu)


def main(database: str, seed: str, verify: str) -> int:
    """Serve until standard input ends, which it does when whoever asked is gone, however that came."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches this process too; the one that asked tells of it
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints is no answer
    quiet_pycolmap()
    for line in sys.stdin.buffer:
        error = None
        try:
            match_listed(Path(database), Path(os.fsdecode(line.removesuffix(b"\n"))), int(seed), verify == "True")
        except Exception as caught:  # told by the process that asked, as it would be told there
            error = f"{caught}" or type(caught).__name__
        print(json.dumps(error), file=answers, flush=True)
        if error is not None:
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
