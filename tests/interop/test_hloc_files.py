"""hloc's files: what is written here is read by a reader of hloc's kind, and the other way round.

The reader and the writer of hloc's kind are written here, with h5py alone, after the layout of hloc 1.5.
"""

import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image, ImageDraw

from scrflow.baseline import hloc_run as run
from scrflow.baseline.hloc_export import stored_features
from scrflow.config import ExtractorConfig
from scrflow.core.errors import ScrflowError
from scrflow.evaluate.submission import read_results
from scrflow.features.encoders import build_encoder
from scrflow.interop.hloc_files import StoredFeatures, read_keypoints, read_matches, write_features, write_matches

A, B, C = "db/1/a.jpg", "db/b.jpg", "c_1.jpg"


def hloc_keypoints(path: Path, name: str) -> tuple[np.ndarray, float | None]:
    with h5py.File(path, "r", libver="latest") as f:
        stored = f[name]["keypoints"]
        return stored.__array__(), stored.attrs.get("uncertainty")


def hloc_matches(path: Path, name0: str, name1: str) -> tuple[np.ndarray, np.ndarray]:
    """By the four names that a pair may go by, in hloc's order; indices in name0 and name1, and scores."""
    plain = [n.replace("/", "-") for n in (name0, name1)]
    with h5py.File(path, "r", libver="latest") as f:
        for separator in "/_":
            for turned in (False, True):
                key = separator.join(plain[::-1] if turned else plain)
                if key in f:
                    matches0 = f[key]["matches0"].__array__()
                    scores = f[key]["matching_scores0"].__array__()
                    index = np.where(matches0 != -1)[0]
                    found = np.stack([index, matches0[index]], -1)
                    return (found[:, ::-1] if turned else found), scores[index]
    raise ValueError(f"no pair {name0} {name1}")


def features(count: int, seed: int = 0) -> StoredFeatures:
    rng = np.random.default_rng(seed)
    pixels = rng.uniform(0, 4000, (count, 2)).astype(np.float32)
    return StoredFeatures(pixels, rng.normal(size=(count, 8)), rng.uniform(size=count), (4000, 3000), 1.5)


def test_features_are_readable_by_hloc_and_come_back(tmp_path):
    path = tmp_path / "f.h5"
    with h5py.File(path, "w") as f:
        for i, name in enumerate((A, B)):
            write_features(f, name, features(20 + i, i))
    pixels, uncertainty = hloc_keypoints(path, A)
    np.testing.assert_allclose(pixels, features(20).keypoints_px - 0.5, atol=3e-4)  # float32 at 4 000 px
    assert uncertainty == 1.5
    with h5py.File(path) as f:  # what its matchers take: all datasets are numbers, descriptors [D, N], width first
        assert set(f[A]) == {"keypoints", "descriptors", "scores", "image_size"}
        assert f[B]["descriptors"].shape == (8, 21) and f[B]["scores"].shape == (21,)
        assert list(f[A]["image_size"]) == [4000, 3000]
    np.testing.assert_allclose(read_keypoints(path, [B])[B], features(21, 1).keypoints_px, atol=3e-4)


def test_half_precision_as_hloc_writes_it_is_read(tmp_path):
    path = tmp_path / "f.h5"
    with h5py.File(path, "a", libver="latest") as f:
        group = f.create_group(A)
        group.create_dataset("keypoints", data=np.array([[0, 0], [101.5, 63.25]], np.float16))
    np.testing.assert_array_equal(read_keypoints(path, [A])[A], [[0.5, 0.5], [102, 63.75]])
    with pytest.raises(ScrflowError, match=r"f\.h5: no keypoints of db/b\.jpg \(1 of 2"):
        read_keypoints(path, [A, B])


MATCHES = {(A, B): [[0, 4], [3, 1], [9, 0]], (C, A): [[2, 7]], (B, C): []}
COUNTS = {A: 10, B: 5, C: 3}


def test_matches_are_readable_by_hloc_in_both_orders(tmp_path):
    path = tmp_path / "m.h5"
    with h5py.File(path, "w") as f:
        for (a, b), found in MATCHES.items():
            write_matches(f, a, b, np.array(found, int), COUNTS[a])
        with pytest.raises(ValueError, match="matched twice"):
            write_matches(f, B, B, np.array([[1, 1], [1, 2]]), 5)
    for (a, b), expected in MATCHES.items():
        found, scores = hloc_matches(path, a, b)
        np.testing.assert_array_equal(found, np.reshape(expected, (-1, 2)))
        assert scores.dtype == np.float16 and (scores == 1).all()
        np.testing.assert_array_equal(hloc_matches(path, b, a)[0], np.reshape(expected, (-1, 2))[:, ::-1])


@pytest.mark.parametrize("separator", ["/", "_"])
def test_matches_by_hloc_are_read_in_both_forms(tmp_path, separator):
    path = tmp_path / "m.h5"
    for (a, b), found in MATCHES.items():
        matches0 = np.full(COUNTS[a], -1, np.int16)
        for i, j in found:
            matches0[i] = j
        with h5py.File(path, "a", libver="latest") as f:
            group = f.create_group(separator.join(n.replace("/", "-") for n in (a, b)))
            group.create_dataset("matches0", data=matches0)
            group.create_dataset("matching_scores0", data=(matches0 >= 0).astype(np.float16))
    everything = read_matches(path, COUNTS)
    assert everything.keys() == MATCHES.keys()
    for pair, expected in MATCHES.items():
        np.testing.assert_array_equal(everything[pair], np.reshape(expected, (-1, 2)))
        np.testing.assert_array_equal(everything[pair], hloc_matches(path, *pair)[0])
    # a subset of the images: their pairs alone
    assert read_matches(path, {A: 10, B: 5}).keys() == {(A, B)}
    with pytest.raises(ScrflowError, match=r"m\.h5: db/1/a\.jpg|m\.h5: .*match these features again"):
        read_matches(path, {**COUNTS, A: 9})
    with pytest.raises(ScrflowError, match="no pair of these 2 images"):
        read_matches(path, {"x.jpg": 4, "y.jpg": 4})
    with pytest.raises(ScrflowError, match=r"the same name in hloc's matches"):
        read_matches(path, {**COUNTS, "db-1/a.jpg": 4})


def test_results_of_hloc(tmp_path):
    queries = ["day/x/1.jpg", "day/y/1.jpg", "night/2.jpg"]
    path = tmp_path / "results.txt"
    path.write_text("2.jpg 1 0 0 0 1 2 3\ny/1.jpg 0 1 0 0 0 0 0\nday/x/1.jpg 1 0 0 0 0 0 5\n")
    found = read_results(path, queries)
    assert found.keys() == set(queries)
    assert found["night/2.jpg"][:, 3].tolist() == [1, 2, 3] and found["day/x/1.jpg"][2, 3] == 5
    path.write_text("1.jpg 1 0 0 0 1 2 3\n")
    with pytest.raises(ScrflowError, match=r"the end of 2 queries, first day/x/1\.jpg"):
        read_results(path, queries)
    path.write_text("3.jpg 1 0 0 0 1 2 3\n")
    with pytest.raises(ScrflowError, match=r"3\.jpg is no query"):
        read_results(path, queries)


def test_exported_keypoints_are_pixels_of_the_stored_photo(tmp_path):
    """SYNTHETIC: bright squares on dark, centred on known pixels of a photo of twice the size at which it is encoded.

    Measured with SIFT: within 0.11 px of the centre, and beyond 0.6 px with an origin that is half a pixel off.
    """
    centres = np.array([[121.5, 141.5], [381.5, 101.5], [251.5, 331.5], [521.5, 381.5]])  # COLMAP's pixels
    photo = Image.new("RGB", (640, 480), (20, 20, 20))
    draw = ImageDraw.Draw(photo)
    for x, y in centres:
        draw.rectangle([x - 10.5, y - 10.5, x + 9.5, y + 9.5], fill=(230, 230, 230))
    photo.save(tmp_path / "p.png")
    config = ExtractorConfig(name="sift", short_side=240, max_keypoints=200)
    found = stored_features(tmp_path / "p.png", build_encoder(config), 240, 200)
    assert found.image_size == (640, 480) and found.uncertainty_px == pytest.approx(2)
    gap = np.linalg.norm(found.keypoints_px[:, None] - centres[None], axis=-1).min(0)
    assert gap.max() < 0.25, gap


def test_hloc_that_is_not_there_and_damaged_lists_are_one_line(tmp_path):
    if any(name == "hloc" or name.startswith("hloc.") for name in sys.modules):
        pytest.skip("hloc is installed here")
    (tmp_path / "images.json").write_text('{"image_root": "x", "mapping": ["a"], "queries": []}')
    with pytest.raises(ScrflowError, match=r"hloc is not installed: .*--sdm conda"):
        run.extract_features(tmp_path / "images.json", "netvlad", tmp_path / "o.h5")
    (tmp_path / "images.json").write_text('{"image_root": "x"}')
    with pytest.raises(ScrflowError, match=r"images\.json: not a list of images"):
        run.pairs_from_retrieval(tmp_path / "images.json", tmp_path / "d.h5", 3, tmp_path / "o.txt")
