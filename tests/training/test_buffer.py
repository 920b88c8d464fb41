"""The buffers of the papers' public code: which copies, how many samples, which keypoints."""

import math
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
from scenes import scene_of

from scrflow.config import BufferConfig, BufferStage, ExtractorConfig, PcaStage
from scrflow.core.images import read_rgb
from scrflow.core.seeds import numpy_generator
from scrflow.features.encoders import build_encoder
from scrflow.features.pca import fit_pca
from scrflow.features.views import Augmentation, PhotoCopy, encode_views
from scrflow.pipeline.project import Project
from scrflow.scene.colmap_model import read_model, views_of_model
from scrflow.training.buffer import copies_of, fill_shard

REPO = Path(__file__).resolve().parents[2]


def test_copies_and_samples_of_r_score():
    """Its code, on each of 4 devices: ceil(32 M / (images 5 000)) copies of 32 M / (copies images) samples."""
    for encoder, samples in (("dedode-128m", 5000), ("loftr-indoor-128m", 1500)):
        buffer = Project(REPO / "config").encoders[encoder].buffer
        for images in (1000, 4328, 25_000):
            each = math.ceil(32_000_000 / (images * samples))
            assert buffer.copies(images) == 4 * each
            assert buffer.samples(images) == 32_000_000 // (each * images)
    assert (buffer.copies(4328), Project(REPO / "config").encoders["dedode-128m"].buffer.samples(4328)) == (20, 3696)


def test_rooms_have_equal_shares_as_in_glace():
    """Against GLACE's WeightedRandomSampler: each image is drawn with the chance 1 / (rooms * images of its room)."""
    buffer = BufferConfig(
        plain_copies=0, augmented_copies=400, samples_per_copy=1000, max_samples=3_000_000, fill="rooms"
    )
    rooms = ["a"] * 100 + ["b"] * 1000 + ["c"] * 400
    names = [f"{i:04d}" for i in range(len(rooms))]
    views, parts = [SimpleNamespace(name=name) for name in names], dict(zip(names, rooms, strict=True))
    counts = np.array(copies_of(buffer, SimpleNamespace(mapping=views, parts=parts), 1))
    for room in "abc":
        own = np.array(rooms) == room
        chance = 1 / (3 * own.sum())
        assert counts[own].sum() == 1000 and abs(counts[own] - 3000 * chance).max() < 1
    alone = np.array(copies_of(buffer, SimpleNamespace(mapping=views, parts={}), 1))
    assert alone.sum() == 3000 and set(alone) == {2}


def test_samples_are_drawn_from_the_best_keypoints_in_the_photo(tmp_path):
    """R-SCoRe's code masks, takes the best, and draws; descriptors stay as they are (ACE, GLACE)."""
    views = [v for v in views_of_model(read_model(REPO / "demo/model")) if v.name.startswith("mapping/")][:3]
    scene = scene_of(tmp_path / "scene", REPO / "demo/images", views)
    extractor = {"name": "xfeat", "max_keypoints": 300, "short_side": 240, "resize": "bilinear", "multiple": 8}
    pca = PcaStage.model_validate({"extractor": extractor, "pca": {"kind": "none", "dim": 64}, "seed": 1})
    fit_pca(pca, scene, tmp_path / "pca.safetensors", 1)
    copies = {"plain_copies": 1, "augmented_copies": 1, "samples_per_copy": 120, "draw": "random"}
    copies |= {"augment": {"kind": "published"}}
    config = BufferStage.model_validate({"extractor": extractor, "buffer": copies, "shards": 1, "seed": 1})
    fill_shard(config, scene, tmp_path / "pca.safetensors", 0, tmp_path / "buffer-0.h5", 1)
    with h5py.File(tmp_path / "buffer-0.h5") as f:
        shard = {name: f[name][:] for name in ("descriptor", "pixel", "view", "K")}
    encoder = build_encoder(ExtractorConfig.model_validate({**extractor, "max_keypoints": 600}))
    for number, view in enumerate(views):
        photo = read_rgb(REPO / "demo/images" / view.name)
        a = Augmentation.draw(config.buffer.augment, numpy_generator(1, "buffer", view.name, 1))
        for copy, augmentation in enumerate((None, a)):
            made = PhotoCopy.resized_once(photo, view.camera, encoder, 240, augmentation)
            best = next(encode_views([made], encoder, 300))
            assert len(best.pixels) == 300
            rows = shard["view"] == 2 * number + copy
            assert rows.sum() == 120
            held = {tuple(pixel): i for i, pixel in enumerate(best.pixels.astype(np.float32).tolist())}
            found = [held[tuple(pixel)] for pixel in shard["pixel"][rows].tolist()]
            assert len(set(found)) == 120 and max(found) > 200  # not the best 120
            np.testing.assert_array_equal(shard["descriptor"][rows], best.descriptors.half().numpy()[found])
            np.testing.assert_array_equal(shard["K"][2 * number + copy], best.K)
