"""VLAD against a plain loop, product quantisation against faiss, hloc's form, and the stage on synthetic photos."""

import h5py
import numpy as np
import pycolmap
import pytest
import torch
from PIL import Image, ImageFilter
from scenes import scene_of

from scrflow.config import ExtractorConfig, RetrievalConfig, RetrievalPart, RetrievalStage
from scrflow.core.errors import ScrflowError
from scrflow.core.images import read_rgb
from scrflow.features import retrieval
from scrflow.features.encoders import build_encoder
from scrflow.features.retrieval import Retriever, build_describer
from scrflow.features.retrieval_index import build_retrieval, measure
from scrflow.features.views import encode_view
from scrflow.interop import hloc_files as hloc
from scrflow.scene.colmap_model import View
from scrflow.scene.model import Query, load_scene
from scrflow.storage.artifact import read_json, read_safetensors_metadata


def unit(rows, dim, seed=0):
    x = np.random.default_rng(seed).normal(size=(rows, dim)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def test_vlad_is_the_plain_loop():
    words, x = unit(6, 8, 1), unit(50, 8, 2)
    sums = np.zeros((6, 8))
    for d in x:
        k = int(np.argmin([np.linalg.norm(d - w) for w in words]))
        sums[k] += d - words[k]
    for k in range(6):
        length = np.linalg.norm(sums[k])
        if length > 0:
            sums[k] /= length
    expected = sums.ravel() / np.linalg.norm(sums)
    np.testing.assert_allclose(retrieval.aggregate(torch.from_numpy(x), torch.from_numpy(words)), expected, atol=1e-5)


def test_whitening_evens_variances_and_is_capped():
    x = unit(40, 30) * np.linspace(3, 0.1, 30, dtype=np.float32)
    mean, matrix = retrieval.learn_whitening(x, 256, np.random.default_rng(0))
    assert matrix.shape == (30, 30)
    assert retrieval.learn_whitening(x[:9], 256, np.random.default_rng(0))[1].shape == (8, 30)
    y = (x - mean.numpy()) @ matrix.float().numpy().T
    before, after = (np.linalg.svd(v - v.mean(0))[1] for v in (x, y))
    assert after[0] / after[-1] < before[0] / before[-1]
    z = retrieval.Whitening(mean, matrix)(torch.from_numpy(x))
    torch.testing.assert_close(z.norm(dim=1), torch.ones(40))


@pytest.mark.parametrize(("count", "dim", "parts"), [(600, 32, 8), (600, 30, 8), (100, 32, 8), (3, 5, 64)])
def test_search_is_faiss(count, dim, parts):
    import faiss

    x, query = unit(count, dim), unit(5, dim, 9)
    books = retrieval.learn_codebooks(x, parts, 1)
    codes = retrieval.quantised(torch.from_numpy(x), books)
    m, entries, size = books.shape
    retriever = Retriever(tuple(map(str, range(count))), books, codes)

    index = faiss.IndexPQ(m * size, m, 8)
    centroids = np.full((m, 256, size), 1e3, np.float32)
    centroids[:, :entries] = books.float().numpy()
    faiss.copy_array_to_vector(centroids.ravel(), index.pq.centroids)
    faiss.copy_array_to_vector(codes.numpy().ravel(), index.codes)
    index.ntotal, index.is_trained = count, True
    k = min(10, count)
    padded = np.pad(query, ((0, 0), (0, m * size - dim)))
    distance, nearest = index.search(padded, k)
    for row, q in enumerate(query):
        found, scores = retriever.search(torch.from_numpy(q), 10)
        assert found.dtype == torch.int64
        np.testing.assert_array_equal(found, nearest[row])
        np.testing.assert_allclose(-scores, distance[row], atol=1e-5)
    assert np.array_equal(books, retrieval.learn_codebooks(x, parts, 1))


def write_as_hloc(path, names, rows):
    for name, row in zip(names, rows, strict=True):
        with h5py.File(path, "a", libver="latest") as f:
            group = f.create_group(name)
            group.create_dataset("global_descriptor", data=row.astype(np.float16))
            group.create_dataset("image_size", data=np.array([640, 480]))


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """Synthetic: 16 overlapping crops of a strip of blobs are mapped, 5 crops between them are queries."""
    folder = tmp_path_factory.mktemp("strip") / "s"
    rng = np.random.default_rng(4)
    strip = Image.fromarray(rng.integers(0, 256, (60, 900, 3), np.uint8)).resize((2700, 180), Image.Resampling.BICUBIC)
    strip = strip.filter(ImageFilter.GaussianBlur(1.5))
    cam = pycolmap.Camera(model="SIMPLE_PINHOLE", width=240, height=180, params=[240, 120, 90])
    root = folder / "photos"
    (root / "db/x").mkdir(parents=True)
    mapping, queries = [], []
    for i in range(16):
        name = f"db/x/{i:02d}.png"
        strip.crop((150 * i, 0, 150 * i + 240, 180)).save(root / name)
        pose = np.column_stack([np.eye(3), [-float(i), 0, 0]])
        mapping.append(View(name, cam, pose))
    for i in range(5):
        strip.crop((450 * i + 20, 0, 450 * i + 260, 180)).save(root / f"q{i}.png")
        queries.append(Query(f"q{i}.png", cam, "all"))
    return scene_of(folder / "scene", root, mapping, queries)


EXTRACTOR = ExtractorConfig(name="sift", short_side=180, max_keypoints=300)


def vlad_stage():
    r = RetrievalConfig(kind="vlad", encoder="sift", clusters=8, keypoints=200, dim=32, pq_bytes=16)
    return RetrievalStage(retrieval=r, extractor=EXTRACTOR, near=1.5, seed=1)


def build(config, scene, stem, parts=()):
    """The stage's three files, named by ``stem``."""
    build_retrieval(
        config,
        scene,
        *(stem.with_suffix(s) for s in (".h5", ".safetensors", ".json")),
        1,
        *(zip(*parts, strict=True) if parts else ()),
    )


def test_vlad_stage_finds_the_right_crops(scene, tmp_path):
    for name in ("a", "b"):
        build(vlad_stage(), scene, tmp_path / name)
    for suffix in ("h5", "safetensors", "json"):
        assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()
    loaded = load_scene(scene)
    names = [v.name for v in loaded.mapping]
    descriptors = hloc.read_descriptors(tmp_path / "a.h5", names)
    assert descriptors.shape == (16, 15)
    np.testing.assert_allclose(np.linalg.norm(descriptors, axis=1), 1, atol=1e-5)

    path = tmp_path / "a.safetensors"
    metadata = read_safetensors_metadata(path)
    retriever = Retriever.open(path)
    assert retriever.names == tuple(names) and metadata["keypoints"] == "200"
    again = Retriever.from_tensors(retriever.tensors(), retriever.metadata())
    feature = RetrievalPart(retrieval=vlad_stage().retrieval, extractor=EXTRACTOR)
    describer = build_describer(feature, again.description)
    for i, query in enumerate(loaded.queries):
        found, _ = again.search(described(describer, loaded, query), 3)
        assert 3 * i in found.tolist()[:2]
    # a mapping photo, described as a query is, gets its own descriptor
    np.testing.assert_allclose(described(describer, loaded, loaded.mapping[7]), descriptors[7], atol=1e-5)


def described(describer, loaded, view):
    """As the localizer describes a photo."""
    photo = read_rgb(loaded.image_path(view.name))

    def local(extractor, keypoints):
        return encode_view(photo, view.camera, build_encoder(extractor), extractor.short_side, keypoints).descriptors

    return describer(photo, local)


def test_fusion_joins_its_parts(scene, tmp_path):
    """Two VLADs of other vocabularies: the descriptor is that of the weighted parts, and a photo described from the
    model alone gets the one of the file."""
    loaded = load_scene(scene)
    names = [v.name for v in loaded.mapping]
    first = vlad_stage()
    small = first.retrieval.model_copy(update={"clusters": 4, "dim": None})
    second = first.model_copy(update={"retrieval": small})
    files = []
    for name, config in (("one", first), ("two", second)):
        build(config, scene, tmp_path / name)
        files.append((tmp_path / f"{name}.h5", tmp_path / f"{name}.safetensors"))
    rows = [hloc.read_descriptors(h5, names) for h5, _ in files]
    assert [r.shape[1] for r in rows] == [15, 4 * 128]
    parts = [RetrievalPart(retrieval=c.retrieval, extractor=EXTRACTOR) for c in (first, second)]
    for dim in (None, 12):
        r = RetrievalConfig(kind="fusion", parts=("one", "two"), weights=(2.0, 1.0), dim=dim, pq_bytes=8)
        build(RetrievalStage(retrieval=r, extractor=None, near=1.5, seed=1), scene, tmp_path / "f", files)
        fused = hloc.read_descriptors(tmp_path / "f.h5", names)
        if dim is None:
            np.testing.assert_allclose(fused, np.hstack([2 * rows[0], rows[1]]) / np.sqrt(5), atol=1e-6)
        assert fused.shape == (16, dim or 15 + 512)
        path = tmp_path / "f.safetensors"
        retriever = Retriever.open(path)
        feature = RetrievalPart(retrieval=r, extractor=None)
        describer = build_describer(feature, retriever.description, parts)
        np.testing.assert_allclose(described(describer, loaded, loaded.mapping[7]), fused[7], atol=1e-5)
    assert read_safetensors_metadata(path)["keypoints"] == "200"
    assert read_json(tmp_path / "f.json", "retrieval")["dim"] == 12
    with pytest.raises(ScrflowError, match="1 parts were given"):
        build(RetrievalStage(retrieval=r, extractor=None, near=1.5, seed=1), scene, tmp_path / "g", files[:1])


def test_hloc_stage(scene, tmp_path):
    loaded = load_scene(scene)
    names = [v.name for v in loaded.mapping] + [q.name for q in loaded.queries]
    rows = unit(len(names), 48)
    write_as_hloc(tmp_path / "s.h5", names, rows)
    r = RetrievalConfig(kind="hloc", file=str(tmp_path / "{scene}.h5"), pq_bytes=8)
    config = RetrievalStage(retrieval=r, extractor=None, near=1.5, seed=1)
    build(config, scene, tmp_path / "out")
    np.testing.assert_allclose(hloc.read_descriptors(tmp_path / "out.h5", names), rows, atol=1e-3)
    path = tmp_path / "out.safetensors"
    retriever = Retriever.open(path)
    assert retriever.search(torch.from_numpy(rows[3]), 1)[0].tolist() == [3]
    assert build_describer(RetrievalPart(retrieval=r, extractor=None), retriever.description) is None
    assert read_json(tmp_path / "out.json", "retrieval")["quantised_vs_exact"]["queries"]["count"] == 5


COUNT = 40


def ring(count=COUNT, turn=0.0):
    """Cameras on a circle of radius 10 that look outwards; descriptors fall off with the angle between them."""
    angle = 2 * np.pi * np.arange(count) / count + turn
    c, s, o = np.cos(angle), np.sin(angle), np.zeros(count)
    R = np.stack([np.stack([-s, o, c], 1), np.stack([o, o + 1, o], 1), np.stack([-c, o, -s], 1)], 1)
    centre = 10 * np.stack([c, o, s], 1)
    poses = np.concatenate([R, -np.einsum("nij,nj->ni", R, centre)[:, :, None]], 2)
    bumps = 2 * np.pi * np.arange(16) / 16
    vectors = np.exp(4 * np.cos(angle[:, None] - bumps)).astype(np.float32)
    return poses, vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def model(vectors, parts=8):
    books = retrieval.learn_codebooks(vectors, parts, 1)
    return Retriever(
        tuple(f"{i:03d}" for i in range(len(vectors))), books, retrieval.quantised(torch.from_numpy(vectors), books)
    )


def test_a_good_feature_finds_its_neighbours():
    poses, vectors = ring()
    queries = dict(zip("abcde", ring(5, turn=0.05)[1], strict=True))
    query_poses = dict(zip("abcd", ring(5, turn=0.05)[0], strict=False))
    result = measure(model(vectors), vectors, poses, 5.0, queries, query_poses)
    assert (result["images"], result["dim"], result["bytes_per_image"]) == (COUNT, 16, 8)
    assert result["quantised_vs_exact"]["queries"]["count"] == 5
    found = result["by_pose"]
    # three cameras on each side are within 5 units, of which the two nearest are no candidates; but the first and the
    # last two of the names, next to each other on the ring, are: 6 more
    assert found["mapping"] == {
        "count": 40,
        "without": 0,
        "recall@1": 1.0,
        "recall@10": 1.0,
        "precision@10": 86 / 400,
        "skipped": 2,
    }
    assert found["queries"]["count"] == 4 and found["queries"]["recall@1"] == 1.0
    assert found["queries"]["precision@10"] == pytest.approx(0.6, abs=0.1)
    shuffled = vectors[np.random.default_rng(0).permutation(COUNT)]
    found = measure(model(shuffled), shuffled, poses, 5.0)["by_pose"]
    assert found["mapping"]["recall@1"] < 0.3 and found["mapping"]["precision@10"] < 0.15 and "queries" not in found
    # an image without a near one is no miss
    found = measure(model(vectors), vectors, poses, 0.1)["by_pose"]["mapping"]
    assert (found["count"], found["without"], found["recall@1"]) == (0, COUNT, None)
