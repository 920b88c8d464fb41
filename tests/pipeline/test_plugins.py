"""A new encoder and a new reader: one file each, and one file of the config."""

from __future__ import annotations

import pytest
from tiny_project import ENCODER, METHOD, SCENE, Project

from scrflow.storage.artifact import read_stamp

NET = """
import torch

from scrflow.features.encoders import LocalFeatures


class Mine:
    dim = 64

    def __init__(self, max_keypoints: int):
        self.max_keypoints = max_keypoints

    def __call__(self, image_3HW: torch.Tensor) -> LocalFeatures:
        cells = torch.nn.functional.unfold(image_3HW.mean(0)[None, None], 8, stride=8)[0].T[: self.max_keypoints]
        across = image_3HW.shape[2] // 8
        index = torch.arange(len(cells))
        keypoints = torch.stack([index % across, index // across], 1) * 8.0 + 4
        return LocalFeatures(keypoints, torch.nn.functional.normalize(cells, dim=1), cells.std(1))


ENCODER = Mine
"""
READER = """
from pathlib import Path
from typing import Literal

from scrflow.config import Source
from scrflow.scene.readers import colmap
from scrflow.scene.readers import Collection


class MineSource(Source):
    reader: Literal["mine"]
    folder: str

    def files(self, root: Path) -> list[Path]:
        return [root / self.folder / "images.txt"]


SOURCE = MineSource


def read(source: MineSource, root: Path, sfm_model: Path | None = None) -> Collection:
    return colmap.read(colmap.ColmapSource(reader="colmap", model=source.folder), root)
"""


@pytest.mark.slow
def test_an_encoder_and_a_reader_are_one_file_each(project: Project):
    (project.folder / "src/scrflow/features/encoders/my_net.py").write_text(NET)
    project.write("config/encoders/mine.yaml", ENCODER | {"extractor": {"name": "my-net", "max_keypoints": 64}})
    (project.folder / "src/scrflow/scene/readers/mine.py").write_text(READER)
    project.write("config/scenes/room.yaml", SCENE | {"source": {"reader": "mine", "folder": "model"}})
    project.write("config/methods/mine.yaml", METHOD | {"encoder": "mine"})
    plan = project.planned("results/room/mine/poses.txt")
    assert plan["build_scene"] == plan["train_head"] == 1
    project.snakemake("results/room/local/mine/pca.safetensors")
    stamp = read_stamp(project.folder / "results/room/scene/scene.json", "scene")
    assert stamp.config["source"] == {"reader": "mine", "folder": "model"}
