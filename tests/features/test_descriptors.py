"""The networks: EfficientNet-Lite0 with its published weights; NetVLAD and R2Former with checkpoints of the published
layout and random values, and their layers against independent computations."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from exif_photos import real, weights_at_hand
from PIL import Image
from scipy.io import savemat

from scrflow.core.errors import ScrflowError
from scrflow.core.images import read_rgb, to_tensor
from scrflow.features.descriptors import build_descriptor, efficientnet_lite0, netvlad, r2former
from scrflow.storage.weights import registry


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """An empty cache of weights, no data folder, no network."""
    monkeypatch.setenv("SCRFLOW_WEIGHTS", str(tmp_path / "cache"))
    monkeypatch.setenv("SCRFLOW_DATA", str(tmp_path / "none"))
    monkeypatch.setenv("SCRFLOW_OFFLINE", "1")
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache"


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 255, (height // 8, width // 8, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def values(rng: np.random.Generator, *shape: int, scale: float = 0.05) -> np.ndarray:
    return (scale * rng.standard_normal(shape, dtype=np.float32)).astype(np.float32)


def test_netvlad_reduces_photos_by_area():
    """As hloc does (cv2.INTER_AREA): each pixel is the mean of what it covers."""
    photo = np.random.default_rng(0).integers(0, 255, (96, 144, 3), dtype=np.uint8)
    image = netvlad.NetVlad.image(SimpleNamespace(_max_side=48), Image.fromarray(photo)).permute(1, 2, 0).numpy()
    means = photo.reshape(32, 3, 48, 3, 3).mean((1, 3)) / 255
    np.testing.assert_allclose(image, means, atol=1e-6)


def test_names_are_known():
    with pytest.raises(ScrflowError, match="no global descriptor 'dinosaur'; there are efficientnet-lite0, netvlad"):
        build_descriptor("dinosaur", {})
    with pytest.raises(ScrflowError, match="options"):
        build_descriptor("netvlad", {"colour": "red"})
    with pytest.raises(ScrflowError, match="multiples of 16"):
        build_descriptor("r2former", {"size": [480, 650]})


@pytest.mark.network
def test_efficientnet_knows_a_fox():
    """Ten photos of a stuffed fox: red fox or kit fox (277, 278) is among the ten best ImageNet classes of most.
    Measured: 6 of 10, where chance gives 0.2."""
    weights_at_hand("efficientnet-lite0")
    network = build_descriptor("efficientnet-lite0", {})
    photos = sorted((real("fox") / "images").glob("*"))[:50:5]
    with torch.inference_mode():
        logits = torch.cat([network._network(network.normalised(network.image(read_rgb(p))[None])) for p in photos])
    hits = sum(bool({277, 278} & set(row.tolist())) for row in logits.topk(10).indices)
    assert len(photos) == 10 and hits >= 5


def test_efficientnet_pooling_and_padding():
    torch.manual_seed(0)
    network = efficientnet_lite0.Network().eval()
    assert sum(p.numel() for p in network.parameters()) == 4_652_008  # 4.7 M, as published
    x = torch.randn(1, 3, 64, 96)
    assert network.features(x).shape == (1, 1280, 2, 3)
    # TensorFlow's SAME: of an even side at stride 2, one row is added below and none above
    conv = network._conv_stem
    by_hand = F.conv2d(F.pad(x, (0, 1, 0, 1)), conv.weight, stride=2)
    torch.testing.assert_close(conv(x), by_hand)


CHANNELS = [(3, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 256), (256, 512), (512, 512),
            (512, 512), (512, 512), (512, 512), (512, 512)]  # fmt: skip
AFTER = {1: "pool", 3: "pool", 6: "pool", 9: "pool"}  # convolutions with a pooling behind them
CLUSTERS, DIM = 64, 16


def published_layers(rng: np.random.Generator) -> list[dict]:
    """Layers as in the published file: 13 convolutions [h, w, in, out] with what is between them, the VLAD layer's
    assignment and (negative) centres, the whitening; only the latter's 4 096 outputs are 16 here."""
    layers = []
    for i, (n, m) in enumerate(CHANNELS):
        w = values(rng, 3, 3, n, m, scale=np.sqrt(2 / (9 * n)))
        layers.append(
            {"type": "conv", "name": f"conv{i}", "weights": cell(w, values(rng, 1, m)), "pad": 1, "stride": 1}
        )
        if i < len(CHANNELS) - 1:
            layers.append({"type": "relu", "name": f"relu{i}", "leak": 0})
        if i in AFTER:
            layers.append({"type": "pool", "name": f"pool{i}", "method": "max", "pool": [2, 2], "stride": 2, "pad": 0})
    layers.append({"type": "normalize", "name": "preL2", "param": [1024, 1e-12, 1, 0.5]})
    both = cell(values(rng, 512, CLUSTERS, scale=10), values(rng, 512, CLUSTERS))
    layers.append({"type": "custom", "name": "vlad:core", "K": CLUSTERS, "D": 512, "weights": both})
    layers.append({"type": "normalize", "name": "vlad:intranorm", "param": [1024, 1e-12, 1, 0.5]})
    layers.append({"type": "custom", "name": "postL2"})
    both = cell(values(rng, 1, 1, 512 * CLUSTERS, DIM), values(rng, 1, DIM))
    layers.append({"type": "conv", "name": "WPCA", "weights": both, "pad": 0, "stride": 1})
    layers.append({"type": "custom", "name": "finalL2"})
    return layers


def cell(*items) -> np.ndarray:
    """A MATLAB cell row."""
    out = np.empty((1, len(items)), object)
    for i, item in enumerate(items):
        out[0, i] = item
    return out


def write_mat(path: Path, layers: list[dict]) -> None:
    average = np.broadcast_to(np.float32([123.7, 116.8, 103.9]), (224, 224, 3)).copy()
    savemat(path, {"net": {"layers": cell(*layers), "meta": {"normalization": {"averageImage": average}}}})


@pytest.fixture(scope="module")
def layers() -> list[dict]:
    return published_layers(np.random.default_rng(0))


def netvlad_by_numpy(image: Image.Image, layers: list[dict]) -> np.ndarray:
    """The published network layer by layer, in float64: the trunk in torch, from the arrays of the file; VLAD in NumPy,
    in loops."""
    x = torch.from_numpy(np.asarray(image, np.float64) - [123.7, 116.8, 103.9]).permute(2, 0, 1)[None]
    for layer in layers[:29]:
        if layer["type"] == "conv":
            w, b = layer["weights"][0]
            x = F.conv2d(
                x,
                torch.from_numpy(w.astype(np.float64)).permute(3, 2, 0, 1),
                torch.from_numpy(b[0]).double(),
                padding=1,
            )
        else:
            x = x.clamp_min(0) if layer["type"] == "relu" else F.max_pool2d(x, 2)
    features = x[0].flatten(1).numpy().T  # [N, 512]
    features = features / np.linalg.norm(features, axis=1, keepdims=True)
    assignment, minus_centres = layers[30]["weights"][0]
    score = np.exp(features @ assignment - (features @ assignment).max(1, keepdims=True))
    score /= score.sum(1, keepdims=True)
    sums = np.zeros((512, CLUSTERS))
    for k in range(CLUSTERS):
        for feature, share in zip(features, score[:, k], strict=True):
            sums[:, k] += share * (feature + minus_centres[:, k])
        sums[:, k] /= np.linalg.norm(sums[:, k])
    vlad = sums.reshape(-1) / np.linalg.norm(sums)
    w, b = layers[33]["weights"][0]
    out = vlad @ w[0, 0] + b[0]
    return out / np.linalg.norm(out)


def test_netvlad_is_the_published_network(cache, layers):
    write_mat(cache / registry()["netvlad-pitts30k"].file, layers)
    network = build_descriptor("netvlad", {"max_side": 96})
    assert network.dim == DIM
    image = photo(96, 64)
    # float32 against float64: measured 7e-7
    np.testing.assert_allclose(network(image), netvlad_by_numpy(image, layers), atol=1e-5)
    large = image.resize((384, 256), Image.Resampling.BICUBIC)
    assert network(large) @ network(image) > 0.99, "larger photos are reduced to max_side"


def test_netvlad_file_must_fit(cache, layers):
    path = cache / registry()["netvlad-tokyotm"].file

    def refused(changed: list[dict], why: str):
        write_mat(path, changed)
        with pytest.raises(ScrflowError, match=why) as error:
            netvlad.read_mat(path) and build_descriptor("netvlad", {"trained_on": "tokyotm"})
        assert "\n" not in str(error.value) and path.name in str(error.value)
        path.with_name(f"{path.name}.sha256").unlink(missing_ok=True)

    w, b = layers[0]["weights"][0]
    refused([{**layers[0], "weights": cell(w[:2], b)}, *layers[1:]], r"size mismatch for trunk.0.weight.*64, 3, 2, 3")
    refused([{"type": "conv", "filters": w}, *layers[1:]], "published form")
    refused(layers[:30], "published form")
    path.write_bytes(b"MATLAB 5.0 MAT-file" + bytes(200))
    with pytest.raises(ScrflowError, match="not a MATLAB file"):
        netvlad.read_mat(path)
    with pytest.raises(ScrflowError, match="there are pitts30k, tokyotm"):
        build_descriptor("netvlad", {"trained_on": "mars"})


def published_r2former(rng: np.random.Generator) -> dict:
    """A checkpoint of the published layout: backbone, local head and reranker under ``model_state_dict``, and what else
    its training saved, recalls as NumPy values among it."""
    own = r2former.Network(256).state_dict()  # r2former_by_hand asks for each tensor by its published name
    state = {f"module.backbone.{k}": torch.from_numpy(values(rng, *v.shape)) for k, v in own.items()}
    state["module.local_head.weight"] = torch.zeros(128, 384)
    state["module.Reranker.cls_token"] = torch.zeros(1, 1, 32)
    return {
        "epoch_num": 3,
        "model_state_dict": state,
        "optimizer_state_dict": {"state": {}, "param_groups": []},
        "recalls": np.array([88.2, 95.1]),
        "best_r5": np.float64(95.1),
        "not_improved_num": 0,
    }


@pytest.fixture(scope="module")
def checkpoint() -> dict:
    return published_r2former(np.random.default_rng(0))


def r2former_by_hand(x: torch.Tensor, state: dict[str, torch.Tensor]) -> torch.Tensor:
    """The network written out, heads in a loop, in float64; ``x`` [3, 480, 640] normalised."""
    s = {k.removeprefix("module.backbone."): v.double() for k, v in state.items()}

    def norm(t, name):
        t = t - t.mean(1, keepdim=True)
        return t / (t.var(1, unbiased=False, keepdim=True) + 1e-6).sqrt() * s[f"{name}.weight"] + s[f"{name}.bias"]

    def linear(t, name):
        return t @ s[f"{name}.weight"].T + s[f"{name}.bias"]

    patches = x.double().unfold(1, 16, 16).unfold(2, 16, 16).permute(1, 2, 0, 3, 4).reshape(1200, -1)
    tokens = patches @ s["patch_embed.proj.weight"].reshape(384, -1).T + s["patch_embed.proj.bias"]
    t = torch.cat([s["cls_token"][0], s["dist_token"][0], tokens]) + s["pos_embed"][0]
    for i in range(12):
        q, k, v = linear(norm(t, f"blocks.{i}.norm1"), f"blocks.{i}.attn.qkv").split(384, 1)
        heads = []
        for h in range(6):
            part = slice(64 * h, 64 * h + 64)
            heads.append((q[:, part] @ k[:, part].T / 8).softmax(1) @ v[:, part])
        t = t + linear(torch.cat(heads, 1), f"blocks.{i}.attn.proj")
        hidden = linear(norm(t, f"blocks.{i}.norm2"), f"blocks.{i}.mlp.fc1")
        hidden = hidden * 0.5 * (1 + torch.erf(hidden / np.sqrt(2)))
        t = t + linear(hidden, f"blocks.{i}.mlp.fc2")
    t = norm(t, "norm")
    return F.normalize(linear(t[:1], "head") + linear(t[1:2], "head_dist"), dim=1)[0]


def test_r2former_is_the_published_network(cache, checkpoint):
    path = cache / registry()["r2former"].file
    torch.save(checkpoint, path, _use_new_zipfile_serialization=False)
    # NumPy 1, with which the published file was written, had its constructors elsewhere
    text = path.read_bytes()
    assert text.count(b"cnumpy._core.multiarray\n") >= 2
    path.write_bytes(text.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"))
    network = build_descriptor("r2former", {})
    image = photo(640, 480)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    by_hand = r2former_by_hand((to_tensor(image) - mean) / std, checkpoint["model_state_dict"])
    # float32 against float64: measured 4e-8
    torch.testing.assert_close(network(image).double(), by_hand, atol=1e-6, rtol=0)
    upright = network(photo(480, 640))
    assert upright.shape == (256,) and abs(float(upright.norm()) - 1) < 1e-5


def test_r2former_positions_are_interpolated():
    network = r2former.Network(256)
    with torch.no_grad():
        rows = torch.arange(30.0).repeat_interleave(40)
        network.pos_embed[0, 2:] = rows[:, None]
        network.pos_embed[0, :2] = -7
        assert network.positions(30, 40) is network.pos_embed
        other = network.positions(15, 20)
    assert other.shape == (1, 302, 384) and bool((other[0, :2] == -7).all())
    middle = other[0, 2:, 0].view(15, 20)[3:-3]
    torch.testing.assert_close(middle[:, 0], 2 * torch.arange(3.0, 12) + 0.5)  # half-pixel centres
