"""The check of a GPU machine, small and on the CPU, so that it works when a GPU is at hand."""

import json
import os
import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]


def test_from_photos_to_poses(tmp_path):
    out = tmp_path / "figures.json"
    command = [sys.executable, "benchmarks/check_gpu.py", "--small", "--device", "cpu", "--out", str(out)]
    env = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=REPO, env=env, text=True, capture_output=True, timeout=900)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("PASSED\n")
    figures = json.loads(out.read_text())
    for name in ("buffer filling", "training", "share of it in training", "kernel 5", "localization"):
        assert name in figures
    assert figures["keypoints within 0.1 px of the CPU's"] == 1.0


def test_without_a_gpu_it_says_so():
    command = [sys.executable, "benchmarks/check_gpu.py", "--device", "cpu"]
    done = subprocess.run(command, cwd=REPO, text=True, capture_output=True, timeout=600)
    assert done.returncode == 1
    assert done.stderr.endswith("FAILED: torch sees no GPU (--small runs on a CPU)\n")
