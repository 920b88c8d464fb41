"""Local encoders whose weights are not at hand: checkpoints with random values in the published layout, loaded through
the registry as the true ones are. What a descriptor is worth these tests cannot tell; where it stands they can."""

import os

import pytest
import torch
import torch.nn.functional as F
from kornia.feature import LoFTR as KorniaLoftr
from kornia.feature.dedode.dedode_models import get_descriptor, get_detector
from kornia.feature.dedode.transformer import vit_large
from simulated_device import DEVICE, simulated_device

from scrflow.config import ExtractorConfig
from scrflow.core.errors import ScrflowError
from scrflow.features.encoders import build_encoder
from scrflow.features.encoders.dedode import _descriptor_g
from scrflow.features.encoders.superpoint import maxima, sample_cells
from scrflow.features.networks import encode_images
from scrflow.storage import weights

# name of a convolution in the published file: channels in, out, kernel
ACE = {
    "conv1": (1, 32, 3), "conv2": (32, 64, 3), "conv3": (64, 128, 3), "conv4": (128, 256, 3),
    "res1_conv1": (256, 256, 3), "res1_conv2": (256, 256, 1), "res1_conv3": (256, 256, 3),
    "res2_conv1": (256, 512, 3), "res2_conv2": (512, 512, 1), "res2_conv3": (512, 512, 3), "res2_skip": (256, 512, 1),
}  # fmt: skip
SUPERPOINT = {
    "conv1a": (1, 64, 3), "conv1b": (64, 64, 3), "conv2a": (64, 64, 3), "conv2b": (64, 64, 3),
    "conv3a": (64, 128, 3), "conv3b": (128, 128, 3), "conv4a": (128, 128, 3), "conv4b": (128, 128, 3),
    "convPa": (128, 256, 3), "convPb": (256, 65, 1), "convDa": (128, 256, 3), "convDb": (256, 256, 1),
}  # fmt: skip
# encoder and options, the weights it reads, descriptor size
ENCODERS = {
    "loftr-outdoor": ("loftr", {"model": "outdoor"}, ["loftr-outdoor"], 256),
    "superpoint": ("superpoint", {}, ["superpoint"], 256),
    "ace": ("ace", {}, ["ace"], 512),
    "dedode": ("dedode", {}, ["dedode-detector-l", "dedode-descriptor-b"], 256),
}
# half the receptive field (px) of a cell, by adding up the layers
HALF_FIELD = {"loftr-outdoor": 3 + 4 * 2 + 2 + 3 * 4 + 4 + 3 * 8, "ace": 1 + 1 + 2 + 4 + 4 * 8}


def convolutions(layers: dict[str, tuple[int, int, int]]) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    state = {}
    for name, (before, after, kernel) in layers.items():
        spread = (2 / (before * kernel**2)) ** 0.5  # keeps the size of activations through ReLUs
        state[f"{name}.weight"] = torch.randn(after, before, kernel, kernel, generator=generator) * spread
        state[f"{name}.bias"] = torch.randn(after, generator=generator) * 0.1
    return state


def kornias(build, *arguments) -> dict[str, torch.Tensor]:
    """Random values for one of kornia's networks, without the time that its own random values take."""
    generator = torch.Generator().manual_seed(2)
    with torch.device("meta"):
        state = build(*arguments).state_dict()
    values = {}
    for name, value in state.items():
        if not value.is_floating_point():
            values[name] = torch.zeros(value.shape, dtype=value.dtype)
        elif value.dim() > 1:
            spread = (2 / value[0].numel()) ** 0.5
            # small in the last layers, as a softmax over pixels follows, and the least of them should not be 0
            small = 0.05 if name.endswith("out_conv.weight") else 1
            values[name] = torch.randn(value.shape, generator=generator) * spread * small
        else:  # normalisation: scale and variance 1, shift and mean 0
            values[name] = torch.full(value.shape, float(name.endswith(("weight", "running_var"))))
    return values


def loftr() -> dict:
    """The whole matcher, as published."""
    matcher = KorniaLoftr(None)
    return {"state_dict": {f"matcher.{name}": value for name, value in matcher.state_dict().items()}}


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """data_root with a file for every entry of the registry that ENCODERS reads; the registry without digests."""
    data = tmp_path_factory.mktemp("data")
    entries = {
        name: entry.model_copy(update={"sha256": None, "bytes": None, "url": None, "mirror": None, "wheel": None})
        for name, entry in weights.registry().items()
    }
    (data / "weights").mkdir()
    torch.manual_seed(3)
    matcher = loftr()
    files = {
        "ace": convolutions(ACE),
        "superpoint": convolutions(SUPERPOINT),
        "loftr-outdoor": matcher,
        "dedode-detector-l": kornias(get_detector, "L"),
        "dedode-descriptor-b": kornias(get_descriptor, "B"),
    }
    for name, content in files.items():
        torch.save(content, data / "weights" / entries[name].file)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weights, "registry", lambda: entries)
        patch.setenv("SCRFLOW_DATA", str(data))
        patch.setenv("SCRFLOW_WEIGHTS", str(data / "cache"))
        yield data / "weights", entries


@pytest.fixture
def changed(published, monkeypatch, tmp_path):
    """Puts a changed copy of a file in the place of the published one: changed(name, function of its content)."""
    folder, entries = published
    monkeypatch.setenv("SCRFLOW_DATA", str(tmp_path))
    monkeypatch.setenv("SCRFLOW_WEIGHTS", str(tmp_path / "cache"))
    (tmp_path / "weights").mkdir()
    for path in folder.iterdir():
        os.link(path, tmp_path / "weights" / path.name)

    def change(name: str, edit) -> None:
        path = tmp_path / "weights" / entries[name].file
        content = torch.load(path, weights_only=True)
        edit(content)
        path.unlink()
        torch.save(content, path)

    return change


def encoder(name: str, max_keypoints: int = 300, **options):
    extractor, default, _, _ = ENCODERS[name]
    return build_encoder(ExtractorConfig(name=extractor, max_keypoints=max_keypoints, options={**default, **options}))


def picture(height: int, width: int) -> torch.Tensor:
    """Blobs and edges of many sizes, so that random networks have something to tell pixels apart by."""
    generator = torch.Generator().manual_seed(4)
    image = torch.zeros(3, height, width)
    for size in (2, 4, 8, 16):
        coarse = torch.rand(3, height // size + 2, width // size + 2, generator=generator)
        image += coarse.repeat_interleave(size, 1).repeat_interleave(size, 2)[:, :height, :width] / 4
    return image


@pytest.mark.parametrize("name", ENCODERS)
def test_shapes_order_and_repetition(published, name):
    """On an image whose sides are multiples of nothing: keypoints inside it, best first, twice the same bytes."""
    _, _, _, dim = ENCODERS[name]
    image = picture(99, 131)
    e = encoder(name, max_keypoints=100)
    first, second = e(image), encoder(name, max_keypoints=100)(image)
    assert e.dim == dim and len(first.keypoints_px) > 50
    assert first.descriptors.shape == (len(first.keypoints_px), dim)
    assert first.scores.shape == (len(first.keypoints_px),) and (first.scores.diff() <= 0).all()
    for values in (first.keypoints_px, first.descriptors, first.scores):
        assert values.dtype == torch.float32 and torch.isfinite(values).all()
    assert (first.keypoints_px >= 0.5).all() and (first.keypoints_px <= torch.tensor([130.5, 98.5])).all()
    assert len(torch.unique(first.keypoints_px, dim=0)) == len(first.keypoints_px)
    assert torch.equal(first.keypoints_px, second.keypoints_px) and torch.equal(first.descriptors, second.descriptors)


@pytest.mark.parametrize("name", ENCODERS)
def test_on_another_device(published, name):
    """Two images at once on a device that is not the CPU: the features of each alone, and all of them there."""
    images = [picture(64, 80), picture(64, 80).flip(2)]
    e = encoder(name, max_keypoints=50)
    alone = [e(image) for image in images]
    with simulated_device():
        together = encode_images(e.to(DEVICE), [image.to(DEVICE) for image in images])
        for one, features in zip(alone, together, strict=True):
            for part in ("keypoints_px", "descriptors", "scores"):
                assert getattr(features, part).device == DEVICE
                torch.testing.assert_close(getattr(features, part).cpu(), getattr(one, part), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["loftr-outdoor", "ace"])
def test_half_precision_stays_within_its_bound(published, name):
    e, images = encoder(name), picture(64, 80)[None]
    assert e.half_on_gpu
    with torch.inference_mode():
        (whole,) = e.maps(images)
        with torch.autocast("cpu", torch.float16):
            (half,) = e.maps(images)
    error = torch.linalg.vector_norm(half.float() - whole, dim=1) / torch.linalg.vector_norm(whole, dim=1)
    assert float(error.max()) < 0.002  # docs/encoders.md; measured: 0.0011


@pytest.mark.parametrize(("name", "origin"), [("loftr-outdoor", 0.5), ("ace", 4.0)])
def test_grid_and_receptive_field(published, changed, name, origin):
    """A cell sees as many pixels on its left as on its right, so the middle of what it sees is certain: the centre of
    its first pixel. With weights above zero nothing cancels, and the gradient is above zero wherever it sees."""
    _, _, (file,), _ = ENCODERS[name]
    changed(file, lambda content: [v.abs_() for v in content.get("state_dict", content).values()])
    e = encoder(name, max_keypoints=5000)
    image = torch.full((1, 1, 160, 168), 0.9, requires_grad=True)
    row, column = 11, 10
    e.map(image)[0, :, row, column].sum().backward()
    for axis, cell in ((2, row), (3, column)):
        seen = image.grad[0, 0].sum(3 - axis).nonzero().flatten().tolist()
        half = HALF_FIELD[name]
        assert seen == list(range(8 * cell - half, min(8 * cell + half + 1, image.shape[axis])))

    # where the features say that the cell stands
    features = e(image.detach()[0].expand(3, -1, -1))
    at = (features.keypoints_px == torch.tensor([8 * column, 8 * row]) + origin).all(1)
    assert at.sum() == 1
    torch.testing.assert_close(features.descriptors[at][0], e.map(image).detach()[0, :, row, column])


def test_superpoint_reads_pixels_of_cells_in_rows(published, changed):
    """The detector's channel 8 y + x is the pixel (x, y) of a cell (paper, sec. 3.2)."""

    def edit(content):
        content["convPb.weight"].zero_()
        content["convPb.bias"].zero_()
        content["convPb.bias"][8 * 2 + 5] = 9

    changed("superpoint", edit)
    keypoints = encoder("superpoint", border=0)(picture(64, 80)).keypoints_px
    assert len(keypoints) == 8 * 10
    assert torch.equal(torch.unique(keypoints % 8, dim=0), torch.tensor([[5.5, 2.5]]))


def test_superpoint_suppresses_nearly_as_one_by_one():
    heatmap = torch.rand(1, 1, 120, 160, generator=torch.Generator().manual_seed(0))
    kept, left = set(), heatmap[0, 0].numpy().copy()
    while left.max() > 0:
        row, column = divmod(int(left.argmax()), left.shape[1])
        kept.add((row, column))
        left[max(0, row - 4) : row + 5, max(0, column - 4) : column + 5] = 0
    found = set(map(tuple, maxima(heatmap, 4)[0, 0].nonzero().tolist()))
    once = set(map(tuple, (heatmap == F.max_pool2d(heatmap, 9, 1, 4))[0, 0].nonzero().tolist()))
    # measured: 505 one by one, 487 of them found and no others, 246 in one round
    assert once < found and len(found & kept) > 0.95 * len(kept) and len(found - kept) < 0.05 * len(kept)


def test_superpoint_descriptors_stand_in_the_middle_of_cells():
    """A map that holds each cell's own middle, read at pixels, gives the pixels back."""
    row, column = torch.meshgrid(torch.arange(10.0), torch.arange(12.0), indexing="ij")
    one = torch.full_like(row, 50.0)  # undoes the unit length
    keypoints = torch.rand(40, 2, generator=torch.Generator().manual_seed(5)) * torch.tensor([88.0, 72.0]) + 4
    read = sample_cells(torch.stack([8 * column + 4, 8 * row + 4, one])[None], keypoints)
    torch.testing.assert_close(read[:, :2] / read[:, 2:] * 50, keypoints, rtol=0, atol=1e-3)


def test_dedode_reads_descriptors_at_its_pixels(published):
    """Keypoints are centres of pixels: the dense map's value there is the descriptor."""
    image = picture(70, 84)
    e = encoder("dedode", max_keypoints=50)
    features = e(image)
    assert torch.equal(features.keypoints_px % 1, torch.full((50, 2), 0.5))
    with torch.inference_mode():
        dense = e._model.describe(image[None])[0]
    x, y = (features.keypoints_px - 0.5).long().unbind(1)
    torch.testing.assert_close(features.descriptors, dense[:, y, x].T, rtol=1e-3, atol=1e-3)


def test_dedode_g_takes_dinov2_from_the_registry(published, changed, monkeypatch, tmp_path):
    """All that is drawn or downloaded otherwise is refused; every tensor is one value, stored once."""
    monkeypatch.setenv("SCRFLOW_OFFLINE", "1")
    with pytest.raises(ScrflowError, match=r"weights dinov2-vitl14: no source has dinov2_vitl14_pretrain\.pth"):
        encoder("dedode", descriptor="G-upright")

    def refuse(*_, **__):
        raise AssertionError("a download behind the registry's back")

    monkeypatch.setattr("kornia.feature.dedode.encoder.load_state_dict_from_url", refuse)

    def save(state, file):
        one = {k: torch.full((), 0.01).to(v.dtype).expand(v.shape) for k, v in state.items()}
        torch.save(one, tmp_path / "weights" / file)

    dino = {"img_size": 518, "patch_size": 14, "init_values": 1.0, "ffn_layer": "mlp", "block_chunks": 0}
    save(vit_large(**dino).state_dict(), "dinov2_vitl14_pretrain.pth")
    g = _descriptor_g().state_dict()
    # what the published file weighs, 75 485 969 bytes, but for its names
    assert 0 < 75_485_969 - sum(v.numel() * v.element_size() for v in g.values()) < 300_000
    save(g, "dedode_descriptor_G.pth")
    features = encoder("dedode", max_keypoints=20, descriptor="G-upright")(picture(56, 70))
    assert features.descriptors.shape == (20, 256) and torch.isfinite(features.descriptors).all()


@pytest.mark.parametrize("name", ["loftr-outdoor", "superpoint", "ace", "dedode"])
@pytest.mark.parametrize(("renamed", "why"), [(True, "Missing key.*Unexpected key"), (False, "size mismatch")])
def test_other_tensors_are_refused(published, changed, name, renamed, why):
    def edit(content):
        state = content.get("state_dict", content)
        first = next(n for n in state if n.endswith(("conv1.weight", "conv1a.weight")) or "layers.0.w" in n)
        value = state.pop(first)
        state |= {first + "x": value} if renamed else {first: value[:-1].clone()}

    file = ENCODERS[name][2][0]
    changed(file, edit)
    with pytest.raises(ScrflowError, match=rf"not the weights of {file} \(.*{why}.*delete it") as error:
        encoder(name)
    assert "\n" not in str(error.value)
