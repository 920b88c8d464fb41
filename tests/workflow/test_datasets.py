"""Every dataset from its published layout to poses.txt: the project's own configs on replicas of demo photos
(SYNTHETIC), with a tiny method and one call of Snakemake for all of them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from replicas import (
    COUNT,
    DAY,
    NIGHT,
    SEQUENCES,
    replica,
    seven_replica,
    twelve_replica,
    write_cambridge,
    write_hyundai,
    write_mapfree,
    write_v10,
    write_wayspots,
)
from tiny_project import ENCODER, METHOD, REPO, Project

from scrflow.config import deep_merge
from scrflow.scene.lists import read_poses

pytestmark = pytest.mark.long

# as ACE: no graph, no retrieval; these have tests of their own (test_methods.py)
PLAIN = {
    "retrieval": None,
    "global_encoding": {"name": None, "neighbour_share": 0.0},
    "head": {"clusters": 1, "refine_blocks": 0},
    "training": {"loss": {"coarse": False, "depth_adjusted": False, "pull": False}},
    "localize": {"hypotheses": 1},
}
ROOMS = ("12scenes-apt1-kitchen-dslam", "7scenes-chess-dslam")  # of i19-dslam, as the replicas have only these


CHESS = [f"seq-03/frame-{i:06d}.color.png" for i in range(3)]
KITCHEN = [f"data/frame-{i:06d}.color.jpg" for i in (0, 2)]  # the second has no pose
# the queries' names in results/SCENE/poses.txt; by condition, where a scene tells them apart, how many queries there
# are and how many of them have a public reference pose
DATASETS: dict[str, tuple[list[str], dict[str, tuple[int, int]]]] = {
    "7scenes-chess": (CHESS, {}),
    "12scenes-apt1-kitchen": (KITCHEN, {}),
    "i19-dslam": (
        [*(f"12scenes/apt1/kitchen/{name}" for name in KITCHEN), *(f"7scenes/chess/{name}" for name in CHESS)],
        {ROOMS[0]: (2, 2), ROOMS[1]: (3, 3)},
    ),
    "cambridge-shopfacade": ([f"seq3/frame{i:05d}.png" for i in (7, 8, 9)], {}),
    "wayspots-bears": ([f"wayspots_bears/test/rgb/frame_{i:05d}.jpg" for i in range(6)], {}),
    "mapfree-s00000": ([f"seq1/frame_{i:05d}.jpg" for i in (0, 10)], {}),
    "aachen": ([name.rsplit("/", 1)[1] for name in (*DAY, *NIGHT)], {"day": (3, 0), "night": (2, 0)}),
    "hyundai-1f": (
        [
            *(f"validation/sensors/records_data/S9phone_{1566545000 + i}.jpg" for i in range(2)),
            "test/sensors/records_data/S9phone_1566545000.jpg",
        ],
        {"validation": (2, 2), "test": (1, 0)},
    ),
}
TARGETS = [f"results/{name}/poses.txt" for name in DATASETS]


def write_replicas(data: Path) -> None:
    """Each dataset where its config has it under data_root."""
    seven_replica(data)
    twelve_replica(data)
    write_cambridge(data / "cambridge/ShopFacade/ShopFacade", replica(COUNT, radial=0.06))
    write_wayspots(data / "wayspots", "bears", SEQUENCES)
    write_mapfree(data / "mapfree/train/s00000", SEQUENCES)
    write_v10(data / "aachen", replica(count=8, radial=0.0, vary_focal=False))
    write_hyundai(data / "hyundai-1f")


def data_root(project: Project) -> Path:
    return (project.folder / yaml.safe_load(project.read("config/config.yaml"))["data_root"]).resolve()


@pytest.fixture(scope="module")
def localized(tmp_path_factory) -> Project:
    """The project's own config, but for the scenes' method, one buffer job in place of two, and two rooms of 19."""
    project = Project(tmp_path_factory.mktemp("datasets") / "project")
    shutil.copytree(REPO / "config", project.folder / "config", dirs_exist_ok=True)
    project.edit("config/config.yaml", "buffer_shards: 2", "buffer_shards: 1")
    project.write("config/encoders/small.yaml", ENCODER)
    project.write("config/methods/quick.yaml", deep_merge(METHOD, PLAIN))
    for name in DATASETS:
        path = f"config/scenes/{name}.yaml"
        scene = yaml.safe_load(project.read(path)) | {"method": "quick"}
        if name == "i19-dslam":
            scene["source"]["scenes"] = [room for room in scene["source"]["scenes"] if room in ROOMS]
            scene["source"]["centres"] = {room: scene["source"]["centres"][room] for room in ROOMS}
        project.write(path, scene)
    write_replicas(data_root(project))
    # jobs this small are start-up above all: one thread each, two side by side
    project.snakemake(*TARGETS, "--set-threads", "fit_pca=1", "train_head=1", "localize_queries=1")
    return project


@pytest.mark.parametrize("name", DATASETS)
def test_every_query_has_a_pose_or_a_reason(localized: Project, name: str):
    names, conditions = DATASETS[name]
    folder = localized.folder / f"results/{name}"
    written, own = read_poses(folder / "poses.txt"), read_poses(folder / "quick/poses.txt")
    metrics = json.loads((folder / "quick/metrics.json").read_text())
    lost = metrics["queries_without_pose"]
    assert own and not set(own) & set(lost) and all(lost.values())
    base = name == "aachen"  # visuallocalization.net takes its names without folders
    as_written = {query: query.rsplit("/", 1)[1] if base else query for query in (*own, *lost)}
    assert sorted(as_written.values()) == sorted(names)
    assert set(written) == {as_written[query] for query in own}
    for query, pose in own.items():
        np.testing.assert_array_equal(written[as_written[query]], pose)
    found = {c: (values["queries"], values["with_reference"]) for c, values in metrics["conditions"].items()}
    assert found == conditions
    for values in (metrics["overall"], *metrics["conditions"].values()):
        assert (values["recall"] is None) == (values["with_reference"] == 0)
