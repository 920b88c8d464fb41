"""docs/extending.md: its encoder and its reader work in a copy of the project, as they stand on the page."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
from tiny_project import REPO

from scrflow.core.geometry import invert_pose, pose_numbers
from scrflow.scene.colmap_model import read_model, views_of_model
from scrflow.scene.model import load_scene

SCENE = """\
description: mapping photos of the demo with a TUM trajectory
licence: Apache-2.0
root: demo
in_project: true
source: {reader: named-trajectory, camera: PINHOLE 512 384 400 400 256 192}
split: {every: 8}
depth_range: [0.1, 50]
depth_bias: 3
thresholds: [[0.25, 2]]
method: rscore-cpu
"""


def test_the_encoder_and_the_reader_of_the_page(tmp_path: Path):
    for name in ("Snakefile", "config", "envs", "rules", "src", "workflow", "profiles"):
        copy = shutil.copytree if (REPO / name).is_dir() else shutil.copy
        copy(REPO / name, tmp_path / name)
    (tmp_path / "demo").mkdir()
    for path in (REPO / "demo").iterdir():
        (tmp_path / "demo" / path.name).symlink_to(path)

    prose, *blocks = re.split(r"```(?:\w+\n)?", (REPO / "docs/extending.md").read_text(encoding="utf-8"))
    written = []
    for block, after in zip(blocks[::2], blocks[1::2], strict=True):
        for path in re.findall(r"`((?:src|config)/[\w/]+\.(?:py|yaml))`", prose):
            if not (tmp_path / path).exists():
                (tmp_path / path).write_text(block, encoding="utf-8")
                written.append(Path(path).name)
        prose = after
    assert written == ["patches.py", "patches.yaml", "named_trajectory.py"]

    (tmp_path / "config/scenes/tum.yaml").write_text(SCENE, encoding="utf-8")
    views = {v.name: v for v in views_of_model(read_model(REPO / "demo/model")) if v.name.startswith("mapping/")}
    with (tmp_path / "demo/trajectory.txt").open("w", encoding="utf-8") as f:
        for name, view in views.items():
            qw, qx, qy, qz, *t = pose_numbers(invert_pose(view.cam_from_world))
            print(name, *t, qx, qy, qz, qw, file=f)

    command = [sys.executable, "-m", "snakemake", "--cores", "1", "results/tum/local/patches/pca.safetensors"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "src")}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "64 to 32 dimensions" in done.stderr

    scene = load_scene(tmp_path / "results/tum/scene")
    assert len(scene.mapping) == 122
    for view in scene.mapping:
        np.testing.assert_allclose(view.cam_from_world, views[view.name].cam_from_world, atol=1e-6)
