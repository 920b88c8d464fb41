"""The stages that encode, on a simulated second device: nothing of them is left on the CPU, and they find the same."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scenes import scene_of
from simulated_device import DEVICE, OnDevice, simulated_device

from scrflow.config import BufferStage, ExtractorConfig, PcaStage, RetrievalStage
from scrflow.core import device
from scrflow.core.errors import ScrflowError
from scrflow.features.networks import NetworkEncoder
from scrflow.features.pca import fit_pca
from scrflow.features.retrieval_index import build_retrieval
from scrflow.interop.hloc_files import read_descriptors
from scrflow.scene.colmap_model import read_model, views_of_model
from scrflow.scene.model import load_scene
from scrflow.training.buffer import fill_shard

REPO = Path(__file__).resolve().parents[2]
XFEAT = {"name": "xfeat", "max_keypoints": 200, "short_side": 240}
PCA = PcaStage.model_validate({"extractor": XFEAT, "pca": {"dim": 8, "samples": 400}, "seed": 1})
COPIES = {"plain_copies": 1, "augmented_copies": 1, "samples_per_copy": 100}
BUFFER = BufferStage.model_validate({"extractor": XFEAT, "buffer": COPIES, "shards": 1, "seed": 1})
VLAD = {"kind": "vlad", "encoder": "xfeat", "clusters": 4, "keypoints": 100, "dim": 4, "pq_bytes": 4}
NETWORK = {"kind": "network", "network": "efficientnet-lite0", "options": {"short_side": 96}, "dim": 4, "pq_bytes": 4}


def run_stages(scene: Path, folder: Path) -> dict[str, np.ndarray]:
    """What the stages write."""
    folder.mkdir()
    pca, shard = folder / "pca.safetensors", folder / "buffer-0.h5"
    fit_pca(PCA, scene, pca, 1)
    fill_shard(BUFFER, scene, pca, 0, shard, 1)
    found = {f"pca {name}": tensor.numpy() for name, tensor in load_file(pca).items()}
    with h5py.File(shard) as f:
        found |= {name: f[name][:] for name in ("descriptor", "pixel", "view", "K")}
    for feature in (VLAD, NETWORK):
        config = RetrievalStage.model_validate({"retrieval": feature, "extractor": XFEAT, "near": 1.0, "seed": 1})
        out = folder / f"{feature['kind']}.h5"
        build_retrieval(config, scene, out, out.with_suffix(".safetensors"), out.with_suffix(".json"), 1)
        found[feature["kind"]] = read_descriptors(out, [view.name for view in load_scene(scene).mapping])
    return found


def test_stages_on_another_device(tmp_path, monkeypatch):
    views = [v for v in views_of_model(read_model(REPO / "demo/model")) if v.name.startswith("mapping/")][:8]
    scene = scene_of(tmp_path / "scene", REPO / "demo/images", views)
    here = run_stages(scene, tmp_path / "cpu")
    batches = []
    many = NetworkEncoder.many

    def counted(self: NetworkEncoder, images: torch.Tensor):
        assert isinstance(images, OnDevice) and self.device == DEVICE
        batches.append(len(images))
        return many(self, images)

    monkeypatch.setattr(NetworkEncoder, "many", counted)
    for module in ("core.device", "features.pca", "features.retrieval_index"):
        monkeypatch.setattr(f"scrflow.{module}.device_for", lambda: DEVICE)
    with simulated_device():
        there = run_stages(scene, tmp_path / "there")
    assert max(batches) == 8  # photos of one size, together
    for name, values in here.items():
        assert values.shape == there[name].shape, name
        np.testing.assert_allclose(there[name], values, rtol=1e-3, atol=4e-3, err_msg=name)


def test_devices_by_name(monkeypatch):
    monkeypatch.delenv("SCRFLOW_DEVICE", raising=False)
    assert device.device_for("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device.device_for() == device.device_for("cuda") == torch.device("cuda")
    monkeypatch.setenv("SCRFLOW_DEVICE", "cpu")
    assert device.device_for() == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ScrflowError, match="device cuda: torch sees no GPU; use auto or cpu"):
        device.device_for("cuda")
    with pytest.raises(ScrflowError, match="device gpu: unknown; use one of auto, cpu, cuda, mps"):
        device.device_for("gpu")


def test_sift_needs_no_gpu():
    assert not ExtractorConfig(name="opencv-sift").uses_gpu
    assert ExtractorConfig(name="xfeat").uses_gpu
