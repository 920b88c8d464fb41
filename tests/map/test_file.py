"""The map file: a round trip, smaller maps, and one-line errors for files that are crafted or of another version."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pycolmap
import pytest
import scipy.sparse
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from safetensors.torch import save_file as save
from scenes import scene_of, write_graph
from sound_files import HEAD
from sound_files import MAP_STAGE as STAGE

from scrflow.config import GlobalEncodingUse, MapConfig, MapStage, RetrievalConfig
from scrflow.core.errors import ScrflowError
from scrflow.features import retrieval
from scrflow.features.global_encoding import read_global_encoding
from scrflow.features.retrieval import Retriever, Whitening, joined
from scrflow.localize.localizer import Localizer
from scrflow.map.file import Map, load_map, shrink, write_map
from scrflow.map.format import MAP_FORMAT, pack, sizes, unpack
from scrflow.scene.colmap_model import View
from scrflow.storage.artifact import Stamp, create_h5, read_safetensors_metadata, read_stamp, write_safetensors
from scrflow.storage.checksum import write_checksum
from scrflow.training.head import Head

IMAGES, LOCAL, GLOBAL = 6, 16, 8
WORDS, DIM = STAGE.retrieval.clusters, STAGE.retrieval.dim
NAMES = tuple(f"db/{i}.png" for i in range(IMAGES))


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> dict[str, Path]:
    """Artifacts of a SYNTHETIC scene: random numbers of the right shapes."""
    folder = tmp_path_factory.mktemp("parts")
    rng = np.random.default_rng(3)
    torch.manual_seed(2)
    camera = pycolmap.Camera(model="PINHOLE", width=32, height=24, params=[30, 30, 16, 12])
    views = [View(name, camera, np.c_[np.eye(3), [i, 0, 0]]) for i, name in enumerate(NAMES)]
    scene_of(folder / "scene", folder / "photos", views)
    state = Head(LOCAL + GLOBAL, HEAD, torch.randn(3, 3), 2.5).state_dict()
    state = {k: v if k == "decoder.centres" else v.half() for k, v in state.items()}
    write_safetensors(folder / "head.safetensors", state, Stamp("head"), {"output_unit": "2.5"})
    pca = {"mean": torch.randn(128), "components": torch.randn(128, LOCAL)}
    write_safetensors(folder / "pca.safetensors", pca, Stamp("pca"))
    with create_h5(folder / "node2vec.h5", Stamp("global-encoding")) as f:
        f["encoding"] = rng.normal(size=(IMAGES, GLOBAL)).astype(np.float32)
        f["names"] = list(NAMES)
    features = torch.nn.functional.normalize(torch.randn(IMAGES, DIM), dim=1)
    books = retrieval.learn_codebooks(features.numpy(), 3, 1)
    described = {
        "vocabulary": torch.randn(WORDS, 128),
        "whitening_mean": torch.randn(WORDS * 128),
        "whitening": torch.randn(DIM, WORDS * 128).half(),
    }
    retriever = Retriever(NAMES, books, retrieval.quantised(features, books), described)
    write_safetensors(
        folder / "retrieval.safetensors", retriever.tensors(), Stamp("retrieval"),
        {**retriever.metadata(), "keypoints": "40"},
    )  # fmt: skip
    # 0 and 1 nearly the same, 4 nearly the same as 3 and 5
    overlap = np.zeros((IMAGES, IMAGES))
    overlap[0, 1] = overlap[3, 4] = overlap[4, 5] = 0.9
    overlap[1, 2] = 0.5
    write_graph(folder / "covisibility.npz", scipy.sparse.csr_array(overlap + overlap.T), NAMES)
    return {"folder": folder}


def written(parts: dict[str, Path], out: Path, **settings) -> Path:
    """A map with these settings."""
    folder = parts["folder"]
    stage = STAGE.model_copy(update={"map": MapConfig(**settings)})
    files = [folder / f for f in ("head.safetensors", "pca.safetensors", "node2vec.h5", "retrieval.safetensors")]
    write_map(stage, folder / "scene", *files, out, folder / "covisibility.npz" if "merge" in settings else None)
    return out


@pytest.fixture(scope="module")
def map_path(parts) -> Path:
    return written(parts, parts["folder"] / "map.safetensors")


def coordinates(made: Map) -> torch.Tensor:
    """What the head says to random descriptors, [64, 3]."""
    x = torch.randn(64, LOCAL + GLOBAL, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        return made.head(x).xyz_world


def test_all_that_a_query_needs_is_in_the_file(parts, map_path, tmp_path):
    made = load_map(map_path)
    assert made.config.localize == STAGE.localize and made.config.thresholds == STAGE.thresholds
    assert (made.config.unit, made.config.seed, made.names, made.retrieval_keypoints) == ("m", 1, NAMES, 40)
    assert made.weights == {}  # SIFT has none
    assert made.encoding.shape == (IMAGES, GLOBAL) and made.pca.components.shape == (128, LOCAL)
    assert float(made.encoding.pow(2).mean()) == pytest.approx(1, abs=1e-3)
    for i in range(IMAGES):  # an image finds itself
        feature = made.retriever.codebooks[torch.arange(3), made.retriever.codes[i].long()].flatten()[:DIM]
        assert int(made.retriever.search(feature, 1)[0]) == i
    assert read_safetensors_metadata(map_path)["format"] == str(MAP_FORMAT)
    again = written(parts, tmp_path / "map.safetensors")
    assert again.read_bytes() == map_path.read_bytes()
    found = sizes(map_path)
    assert sum(found.values()) == map_path.stat().st_size and "unknown" not in found
    assert found["encodings"] == 2 * IMAGES * GLOBAL
    Localizer(made, made.config.localize)  # is all it takes


def test_descriptors_as_they_are_and_a_raw_table(parts, tmp_path):
    """ACE's and GLACE's descriptors are not projected, R-SCoRe's table is not scaled: what a query needs is kept."""
    folder = parts["folder"]
    state = {k: v.half() for k, v in Head(128 + GLOBAL, HEAD, torch.randn(3, 3), 2.5).state_dict().items()}
    state["decoder.centres"] = state["decoder.centres"].float()
    write_safetensors(tmp_path / "head.safetensors", state, Stamp("head"), {"output_unit": "2.5"})
    none = {"mean": torch.zeros(128), "components": torch.zeros(128, 0)}
    write_safetensors(tmp_path / "pca.safetensors", none, Stamp("pca"))
    stage = STAGE.model_copy(update={"global_encoding": GlobalEncodingUse(name="scrstudio", scale=False)})
    files = [tmp_path / "head.safetensors", tmp_path / "pca.safetensors"]
    files += [folder / "node2vec.h5", folder / "retrieval.safetensors"]
    write_map(stage, folder / "scene", *files, tmp_path / "map.safetensors")
    made = load_map(tmp_path / "map.safetensors")
    descriptors = torch.randn(5, 128)
    assert torch.equal(made.pca(descriptors), descriptors)
    table = read_global_encoding(folder / "node2vec.h5", NAMES)
    torch.testing.assert_close(made.encoding.float(), table, rtol=1e-3, atol=1e-3)  # float16
    Localizer(made, made.config.localize)


def test_int8_is_smaller_and_nearly_the_same(parts, map_path, tmp_path):
    whole = load_map(map_path)
    path = written(parts, tmp_path / "m.safetensors", head="int8", encodings="int8", pca="fp16", retrieval="int8")
    made = load_map(path)
    before, after = (sizes(p) for p in (map_path, path))
    for part in ("head", "encodings", "PCA", "retrieval describer"):
        assert after[part] < before[part], part
    # measured: 1.2 % of the spread of the coordinates, 0.5 % of an encoding, 0.02 % of the PCA, 0.8 % of the whitening
    difference = (coordinates(made) - coordinates(whole)).norm() / coordinates(whole).std(0).norm() / 64**0.5
    assert 0 < difference < 0.03
    for a, b, most in (
        (made.encoding, whole.encoding, 0.01),
        (made.pca.components, whole.pca.components, 1e-3),
        (made.retriever.description["whitening"], whole.retriever.description["whitening"], 0.02),
    ):
        assert 0 < float((a - b).norm() / b.norm()) < most
    for tensor in (made.encoding, *made.head.state_dict().values(), *made.retriever.description.values()):
        assert tensor.dtype is torch.float32


def test_merged_images_leave_their_representatives(parts, tmp_path):
    made = load_map(written(parts, tmp_path / "m.safetensors", merge=0.8))
    assert made.names == (NAMES[0], NAMES[2], NAMES[4])
    whole = load_map(written(parts, tmp_path / "w.safetensors"))
    torch.testing.assert_close(made.encoding, whole.encoding[[0, 2, 4]], rtol=0, atol=0)
    # the index holds these three alone, each as it was but for a second rounding
    books = made.retriever.codebooks
    assert books.shape[1] == 3 and made.retriever.codes.shape == (3, 3)
    rows = books[torch.arange(3), made.retriever.codes.long()].flatten(1)
    old = whole.retriever.codebooks[torch.arange(3), whole.retriever.codes.long()].flatten(1)
    torch.testing.assert_close(rows, old[[0, 2, 4]], rtol=1e-3, atol=1e-4)
    assert load_map(written(parts, tmp_path / "n.safetensors", merge=0.95)).names == NAMES


def test_merging_needs_the_graph_of_these_images(parts, tmp_path):
    folder = parts["folder"]
    files = [folder / f for f in ("head.safetensors", "pca.safetensors", "node2vec.h5", "retrieval.safetensors")]
    stage = STAGE.model_copy(update={"map": MapConfig(merge=0.8)})
    with pytest.raises(ScrflowError, match="and their covisibility graph"):
        write_map(stage, folder / "scene", *files, tmp_path / "m.safetensors")
    other = write_graph(folder / "other.npz", scipy.sparse.eye_array(2, format="csr"), "ab")
    with pytest.raises(ScrflowError, match=r"other\.npz: of other mapping images"):
        write_map(stage, folder / "scene", *files, tmp_path / "m.safetensors", other)
    assert not (tmp_path / "m.safetensors").exists()


def test_a_map_that_searches_no_image_has_no_index(parts, tmp_path):
    """GLACE: the encoding is the photo's own feature."""
    folder = parts["folder"]
    state = Head(LOCAL + DIM, HEAD, torch.randn(3, 3), 2.5).state_dict()
    write_safetensors(tmp_path / "head.safetensors", state, Stamp("head"), {"output_unit": "2.5"})
    stage = STAGE.model_copy(update={"own_encoding": True})
    files = [tmp_path / "head.safetensors", folder / "pca.safetensors", None, folder / "retrieval.safetensors"]
    out = tmp_path / "m.safetensors"
    write_map(stage, folder / "scene", *files, out)
    made = load_map(out)
    assert made.encoding is None and set(made.retriever.description) == {"vocabulary", "whitening", "whitening_mean"}
    assert "retrieval index" not in sizes(out)
    codes = {"retrieval.codes": torch.zeros(IMAGES, 3, dtype=torch.uint8)}
    assert_one_line(crafted(out, tmp_path / "map.safetensors", codes), "tensor retrieval.codes is not known")


def crafted(source: Path, out: Path, tensors=None, metadata=None, config=None, drop=()) -> Path:
    """A copy with other tensors, metadata or config (a function of the old one)."""
    held = {k: v for k, v in load_file(source).items() if k not in drop} | (tensors or {})
    said = {k: v for k, v in read_safetensors_metadata(source).items() if k not in drop} | (metadata or {})
    if config is not None:
        said["scrflow"] = dataclasses.replace(read_stamp(source), config=config(read_stamp(source).config)).to_json()
    save(held, out, said)
    if "content" in said:
        write_checksum(out)  # a crafted map comes with the right digest of what is in it
    return out


def nan(shape: tuple[int, ...], dtype=torch.float16) -> torch.Tensor:
    x = torch.zeros(shape, dtype=dtype)
    x.view(-1)[-1] = torch.nan
    return x


WRONG_TENSORS = {
    "a name that nothing has": ({"head.extra": torch.zeros(2)}, "tensor head.extra is not known"),
    "encodings of fewer images": ({"encoding": torch.zeros(5, GLOBAL).half()}, "encoding is 5 x 8, not 6 x ?"),
    "NaN": ({"encoding": nan((6, 8))}, "encoding has numbers that are not finite"),
    "double precision": ({"pca.mean": torch.zeros(128).double()}, "pca.mean is float64; float16, float32"),
    "int8 without a scale": ({"encoding": torch.zeros(6, 8, dtype=torch.int8)}, "needs encoding.scale"),
    "a scale below zero": (
        {"encoding": torch.zeros(6, 8, dtype=torch.int8), "encoding.scale": -torch.ones(6)},
        "encoding.scale is not float32, finite, and 0 or more",
    ),
    "a code past the codebook": ({"retrieval.codes": torch.full((6, 3), 6, dtype=torch.uint8)}, "has entry 6 of 6"),
    "codebooks of other features": (
        {"retrieval.codebooks": torch.zeros(3, 6, 9).half()},
        "codebooks of 3 x 9 numbers do not fit features of 5",
    ),
    "a layer of another width": ({"head.blocks.0.layers.1.weight": torch.zeros(32, 31).half()}, "not 32 x 32"),
    "a number for a matrix": ({"head.input.layers.0.weight": torch.zeros(()).half()}, "missing, or no matrix"),
}


@pytest.mark.parametrize("case", WRONG_TENSORS)
def test_crafted_tensors(map_path, tmp_path, case):
    tensors, why = WRONG_TENSORS[case]
    path = crafted(map_path, tmp_path / "map.safetensors", tensors)
    assert_one_line(path, why)


@pytest.mark.parametrize("name", ["encoding", "head.refiner.out.bias", "names"])
def test_what_is_missing_is_named(map_path, tmp_path, name):
    assert_one_line(crafted(map_path, tmp_path / "map.safetensors", drop=[name]), f"{name}.* is missing")


def with_head(**values):
    return lambda config: {**config, "head": {**config["head"], **values}}


WRONG_SAYINGS = {
    "an unknown setting": (None, lambda c: {**c, "telepathy": 1}, "key telepathy: extra inputs are not permitted"),
    "no config": (None, lambda c: [], "its config is not one of this scrflow"),
    "a width beyond all memory": (None, with_head(width=1 << 40), "is 32 x 24, not|such a head cannot be built"),
    "a million blocks": (None, with_head(blocks=1_000_000), "more blocks of the head than its"),
    "a unit of nothing": ({"output_unit": "nan"}, None, "output_unit is nan"),
    "the same name twice": ({"names": json.dumps(["a"] * IMAGES)}, None, "names are not distinct"),
    "a stamp within a stamp": ({"scrflow": '{"a":' * 100_000}, None, "map.safetensors: "),
    "parts of no fusion": (
        None,
        lambda c: {**c, "retrieval": {**c["retrieval"], "kind": "fusion", "parts": ["a", "b"]}},
        "0 retrieval_parts of 2",
    ),
}


@pytest.mark.parametrize("case", WRONG_SAYINGS)
def test_crafted_metadata(map_path, tmp_path, case):
    metadata, config, why = WRONG_SAYINGS[case]
    assert_one_line(crafted(map_path, tmp_path / "map.safetensors", metadata=metadata, config=config), why)


def assert_one_line(path: Path, why: str) -> None:
    with pytest.raises(ScrflowError, match=why) as caught:
        load_map(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message and len(message) < 600
    assert "again" in message or "expected" in message or "rebuild" in message  # the fix


def stage(feature: RetrievalConfig, **settings) -> MapStage:
    return STAGE.model_copy(update={"retrieval": feature, "map": MapConfig(**settings)})


def decoded(tensors: dict[str, torch.Tensor], dim: int) -> torch.Tensor:
    """Features [N, dim] decoded from an index, entry by entry."""
    books, codes = tensors["retrieval.codebooks"].float(), tensors["retrieval.codes"]
    rows = [torch.cat([books[m, int(c)] for m, c in enumerate(row)]) for row in codes]
    return torch.stack(rows)[:, :dim]


def test_a_fusion_is_cut_as_its_describer_cuts():
    """The index after the cut holds what a photo's shortened description would be."""
    rng, weights = torch.Generator().manual_seed(0), (1.0, 0.5)
    raw = [torch.randn(40, 20, generator=rng), torch.randn(40, 12, generator=rng)]
    whitenings = [Whitening(torch.randn(n, generator=rng), torch.randn(8, n, generator=rng).half()) for n in (20, 12)]
    full = joined([w(x) for w, x in zip(whitenings, raw, strict=True)], weights)
    books = retrieval.learn_codebooks(full.numpy(), 16, 0)
    tensors = {"retrieval.codebooks": books, "retrieval.codes": retrieval.quantised(full, books)}
    for i, w in enumerate(whitenings):
        tensors |= {f"retrieval.part{i}.{k}": v for k, v in w.tensors().items()}
    fusion = RetrievalConfig(kind="fusion", parts=("a", "b"), weights=weights, dim=None)
    names = tuple(map(str, range(40)))
    made, kept = shrink(stage(fusion, retrieval_dim=5, pq_bytes=4), tensors, names, None)
    assert kept == names and made["retrieval.codes"].shape == (40, 4)
    short = [
        Whitening(made[f"retrieval.part{i}.whitening_mean"], made[f"retrieval.part{i}.whitening"])(x)
        for i, x in enumerate(raw)
    ]
    assert [s.shape[1] for s in short] == [5, 5]
    # twice rounded to float16: measured 3.2e-4 at most
    torch.testing.assert_close(decoded(made, 10), joined(short, weights), rtol=0, atol=1e-3)
    assert tensors["retrieval.part0.whitening"].shape == (8, 20)  # the caller's are as they were


def test_features_without_whitening_cannot_be_cut():
    rows = F.normalize(torch.randn(9, 16, generator=torch.Generator().manual_seed(2)), dim=1)
    books = retrieval.learn_codebooks(rows.numpy(), 8, 0)
    tensors = {"retrieval.codebooks": books, "retrieval.codes": retrieval.quantised(rows, books)}
    names = tuple("abcdefghi")
    with pytest.raises(ScrflowError, match="the hloc feature has no whitening to cut"):
        shrink(stage(RetrievalConfig(kind="hloc", file="f.h5", dim=None), retrieval_dim=4), tensors, names, None)
    with pytest.raises(ScrflowError, match="need a map with an index of images"):
        shrink(stage(RetrievalConfig(kind="hloc", file="f.h5"), pq_bytes=4), {}, names, None)


def test_layers_of_positions_stay_fp16():
    kept = ("decoder.out.weight", "refiner.out.weight", "decoder.layers.1.weight", "decoder.out.bias")
    tensors = {f"head.{k}": torch.randn(4, 6).half() for k in ("input.skip.weight", *kept)}
    packed = pack(tensors, MapConfig(head="int8"))
    assert packed["head.input.skip.weight"].dtype is torch.int8
    assert {packed[f"head.{k}"].dtype for k in kept} == {torch.float16}
    assert set(unpack(packed)) == set(tensors)
    with pytest.raises(ScrflowError, match=r"pca\.mean has numbers that are not finite in torch\.float16; leave"):
        pack({"pca.mean": torch.tensor([1e6])}, MapConfig(pca="fp16"))
