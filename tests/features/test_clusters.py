"""Global encodings by kind: clusters of a retrieval feature, from the stage to the pose of a query."""

import json

import h5py
import numpy as np
import pytest
import torch
import yaml
from scenes import scene_of
from tiny_project import METHOD, Project

from scrflow.config import ClustersConfig, ClustersStage
from scrflow.core.errors import ScrflowError
from scrflow.features.global_encoding import (
    cluster_features,
    nearest_centre,
    own_encoding,
    read_centres,
    read_global_encoding,
)
from scrflow.interop import hloc_files as hloc
from scrflow.storage.artifact import Stamp, create_h5, read_json


def stage(count: int, seed: int = 1) -> ClustersStage:
    return ClustersStage(clusters=ClustersConfig(kind="clusters", retrieval="vlad", clusters=count), seed=seed)


@pytest.fixture()
def described(tmp_path, ring_views):
    """13 images and SYNTHETIC features about three directions, unit length."""
    scene = scene_of(tmp_path / "scene", tmp_path / "photos", ring_views)
    rng = np.random.default_rng(3)
    truth = np.arange(len(ring_views)) % 3
    rows = np.eye(8, dtype=np.float32)[truth] + 0.05 * rng.normal(size=(len(truth), 8)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    names = sorted(v.name for v in ring_views)
    with create_h5(tmp_path / "vlad.h5", Stamp("retrieval")) as f:
        hloc.write_descriptors(f, dict(zip(names, rows, strict=True)))
    return scene, tmp_path / "vlad.h5", tuple(names), rows, truth


def test_clusters_are_the_groups_and_their_centres(described, tmp_path):
    scene, features, names, rows, truth = described
    for name in ("a", "b"):
        cluster_features(stage(3), scene, features, tmp_path / f"{name}.h5", tmp_path / f"{name}.json")
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()
    encoding = read_global_encoding(tmp_path / "a.h5", names)  # as training reads it
    same = (encoding[:, None] == encoding[None]).all(2).numpy()
    np.testing.assert_array_equal(same, truth[:, None] == truth[None])
    np.testing.assert_allclose(encoding.norm(dim=1), 1, atol=1e-6)
    centres = read_centres(tmp_path / "a.h5")
    means = np.stack([rows[truth == k].mean(0) for k in range(3)])
    order = nearest_centre(torch.from_numpy(means), centres).numpy()
    np.testing.assert_allclose(centres.numpy()[order], means, atol=1e-6)
    metrics = read_json(tmp_path / "a.json", "clusters-metrics")
    assert sorted(metrics["cluster_sizes"]) == [4, 4, 5]
    assert metrics["rms_distance_to_centre"] < 0.3 * metrics["rms_distance_to_mean"]
    # a query's own encoding is that of the images like it, to the bit
    for i in range(3):
        torch.testing.assert_close(own_encoding(torch.from_numpy(rows[i]), centres), encoding[i], rtol=0, atol=0)


def test_more_clusters_than_images_and_a_file_without_centres_are_named(described, tmp_path):
    scene, features, *_ = described
    with pytest.raises(ScrflowError, match=r"vlad\.h5: 14 clusters of 13 mapping images"):
        cluster_features(stage(14), scene, features, tmp_path / "c.h5", tmp_path / "c.json")
    assert not (tmp_path / "c.h5").exists()
    with create_h5(tmp_path / "n.h5", Stamp("global-encoding")) as f:
        f["encoding"] = np.zeros((2, 2))
    with pytest.raises(ScrflowError, match=r"n\.h5: no cluster centres"):
        read_centres(tmp_path / "n.h5")


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Project:
    made = Project(tmp_path_factory.mktemp("clusters") / "project")
    config = yaml.safe_load(made.read("config/config.yaml"))
    config["encodings"]["clusters"] = {"kind": "clusters", "retrieval": "vlad", "clusters": 3}
    config["buffer_shards"] = 1
    made.write("config/config.yaml", config)
    method = {**METHOD, "global_encoding": {"name": "clusters"}, "localize": {**METHOD["localize"], "hypotheses": 1}}
    method["head"] = {**METHOD["head"], "refine_blocks": 0}
    method["training"] = {**METHOD["training"], "steps": 20, "loss": {}}
    made.write("config/methods/grouped.yaml", method)
    return made


@pytest.mark.long
def test_from_photos_to_poses(project: Project):
    """Training, map and localization; no graph is made, and the map holds the centres in place of images' encodings."""
    project.snakemake("results/tiny/grouped/poses.txt")
    results = project.folder / "results/tiny"
    assert not (results / "covisibility.npz").exists() and not (results / "encodings/node2vec.h5").exists()
    details = json.loads((results / "grouped/localization.json").read_text())["queries"]
    assert details and {q["hypothesis"] for q in details.values()} == {None}

    from scrflow.map.file import load_map

    made = load_map(results / "grouped/map.safetensors")
    assert made.encoding is None and made.centres.shape == (3, 8)
    with h5py.File(results / "encodings/clusters.h5") as f:
        np.testing.assert_array_equal(made.centres.numpy(), f["centres"][:])
