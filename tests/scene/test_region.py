"""Regions of a scene: which photos they hold, that nothing moves, what is told, and that the workflow makes them."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from small_datasets import built, source_for, stage_of

from scrflow.config import Split
from scrflow.core.errors import ScrflowError
from scrflow.core.geometry import camera_centre
from scrflow.pipeline.project import Project
from scrflow.scene import load_scene
from scrflow.scene.build import build_scene
from scrflow.scene.readers.scenes import bisected

REPO = Path(__file__).resolve().parents[2]


SPLIT = Split(mapping="mapping.txt", queries={"day": "day.txt", "night": "night.txt"})


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """The scene artifact of every fourth photo of the demo, 35 to be mapped, and five queries."""
    root = tmp_path_factory.mktemp("scenes") / "base"
    root.mkdir()
    for name in ("images", "model"):
        (root / name).symlink_to(REPO / "demo" / name)
    for out, source, step in (("mapping", "mapping", 4), ("day", "queries_day", 14), ("night", "queries_night", 10)):
        lines = (REPO / f"demo/{source}.txt").read_text().splitlines()
        (root / f"{out}.txt").write_text("\n".join(lines[::step]) + "\n")
    build_scene(stage_of(source_for("colmap"), SPLIT), root, root / "scene")
    return root / "scene"


def region(base: Path, out: Path, **keys):
    stage = stage_of(source_for("region", scene="base", **keys))
    return built(stage, Path("."), out, None, [base])


def centres(views) -> np.ndarray:
    return camera_centre(np.stack([v.cam_from_world for v in views]))


@pytest.mark.parametrize("by", ["bisect", "kmeans"])
def test_regions_hold_every_photo_where_it_was(base, tmp_path, by):
    whole = load_scene(base)
    poses = {v.name: v.cam_from_world for v in whole.mapping}
    parts = [region(base, tmp_path / str(i), regions=3, region=i, by=by) for i in (1, 2, 3)]
    names = [v.name for part in parts for v in part.mapping]
    assert sorted(names) == sorted(poses)  # without overlap each photo is in one region
    for part in parts:
        for view in part.mapping:  # COLMAP's files hold quaternions: the last digits
            np.testing.assert_allclose(view.cam_from_world, poses[view.name], atol=1e-12)
        assert [(q.name, q.condition) for q in part.queries] == [(q.name, q.condition) for q in whole.queries]
        for name, pose in whole.query_poses.items():
            np.testing.assert_allclose(part.query_poses[name], pose, atol=1e-12)
        assert part.image_root == whole.image_root and part.stamp.inputs["part_base"] == whole.stamp.digest
        assert part.image_path(part.mapping[0].name).is_file()


def test_overlap_is_the_distance_to_the_region_next_door(base, tmp_path):
    whole = load_scene(base)
    cores = [region(base, tmp_path / f"core{i}", regions=2, region=i) for i in (1, 2)]
    wide = [region(base, tmp_path / f"wide{i}", regions=2, region=i, overlap=6.0) for i in (1, 2)]
    for core, grown in zip(cores, wide, strict=True):
        inside = {v.name for v in grown.mapping}
        distance = np.linalg.norm(centres(whole.mapping)[:, None] - centres(core.mapping)[None], axis=2).min(1)
        assert inside == {v.name for v, d in zip(whole.mapping, distance, strict=True) if d <= 6.0}
    both = set.intersection(*({v.name for v in part.mapping} for part in wide))
    assert 0 < len(both) < len(whole.mapping)


def test_bisecting_gives_equal_numbers_of_neighbours():
    rng = np.random.default_rng(0)
    points = rng.uniform(0, 1, (103, 3)) * [40, 10, 1]
    labels = bisected(points, 5)
    counts = np.bincount(labels)
    assert len(counts) == 5 and counts.max() - counts.min() <= 2
    # the first cut is across the longest side: no region reaches over it
    low = points[labels < 2, 0].max()
    assert low < 20 and (points[labels >= 2, 0] >= low).mean() > 0.95
    order = rng.permutation(len(points))
    assert np.array_equal(bisected(points[order], 5), labels[order])  # the order of the photos says nothing


def test_what_cannot_be_cut_is_told(base, tmp_path):
    with pytest.raises(ScrflowError, match="36 regions of base, which has 35 mapping images"):
        region(base, tmp_path / "x", regions=36, region=1)
    with pytest.raises(ScrflowError, match="2 mapping images, expected at least 3"):
        region(base, tmp_path / "x", regions=15, region=1)
    assert not (tmp_path / "x").exists()
    stage = stage_of(source_for("region", scene="base", regions=2, region=1))
    with pytest.raises(ScrflowError, match="no scene artifact of base given"):
        build_scene(stage, Path("."), tmp_path / "x")
    with pytest.raises(ValueError, match="region 3 of 2"):
        source_for("region", scene="base", regions=2, region=3)


def half(number: int, **keys) -> dict:
    source = {"reader": "region", "scene": "tiny", "regions": 2, "region": number, "overlap": 4.0}
    return {
        "description": "half of tiny", "licence": "Apache-2.0", "root": ".", "in_project": True, "synthetic": True,
        "source": source, "depth_range": [0.1, 50], "method": "quick", **keys,
    }  # fmt: skip


def test_the_workflow_makes_regions_of_its_scene(copied):
    for number in (1, 2):
        copied.write(f"config/scenes/half-{number}.yaml", half(number))
    config = Project(copied.folder / "config")
    assert config.parts("half-1") == ("tiny",)
    copied.snakemake("results/half-1/scene/scene.json", "results/half-2/scene/scene.json")
    listed = [yaml.safe_load(copied.read(f"results/half-{i}/scene/scene.json"))["mapping_images"] for i in (1, 2)]
    whole = yaml.safe_load(copied.read("results/tiny/scene/scene.json"))["mapping_images"]
    assert max(listed) < whole < sum(listed)
    assert copied.planned("results/half-1/scene/scene.json") == {}
