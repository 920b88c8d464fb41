"""Smaller maps: fewer images, shorter features, an index with fewer bytes an image."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse
import torch
import torch.nn.functional as F

from scrflow.config import (
    ExtractorConfig,
    GlobalEncodingUse,
    HeadConfig,
    LocalizeConfig,
    MapConfig,
    MapStage,
    RetrievalConfig,
    RetrievalPart,
)
from scrflow.core.errors import ScrflowError
from scrflow.features import retrieval
from scrflow.features.retrieval import Whitening, joined
from scrflow.map.file import merge_images, shrink
from scrflow.map.format import dequantise, pack, quantise, unpack

SIFT = ExtractorConfig(name="sift")


def stage(retrieval: RetrievalConfig, parts: tuple[RetrievalPart, ...] = (), **settings) -> MapStage:
    return MapStage(
        extractor=SIFT,
        global_encoding=GlobalEncodingUse(name="node2vec"),
        head=HeadConfig(width=32, blocks=0, clusters=1, refine_blocks=0),
        retrieval=retrieval,
        retrieval_extractor=None,
        retrieval_parts=parts,
        own_encoding=False,
        map=MapConfig(**settings),
        localize=LocalizeConfig(),
        thresholds=((0.05, 5.0),),
        unit="m",
        seed=1,
    )


def decoded(tensors: dict[str, torch.Tensor], dim: int) -> torch.Tensor:
    """Features [N, dim] decoded from an index, entry by entry."""
    books, codes = tensors["retrieval.codebooks"].float(), tensors["retrieval.codes"]
    rows = [torch.cat([books[m, int(c)] for m, c in enumerate(row)]) for row in codes]
    return torch.stack(rows)[:, :dim]


@pytest.mark.parametrize("least", [0.3, 0.6, 0.9])
def test_every_image_is_overlapped_by_one_that_stays(least):
    rng = np.random.default_rng(4)
    upper = np.triu(np.where(rng.random((60, 60)) < 0.1, rng.random((60, 60)), 0), 1)
    overlap = upper + upper.T
    kept = merge_images(scipy.sparse.csr_array(overlap), least).numpy()
    assert (np.diff(kept) > 0).all()
    near = (overlap >= least) | np.eye(60, dtype=bool)
    assert near[kept].any(0).all()
    # images without a near one are kept, and a lower threshold merges more
    assert set(np.flatnonzero(near.sum(0) == 1)) <= set(kept)
    assert len(kept) < 60 and len(kept) >= len(merge_images(scipy.sparse.csr_array(overlap), least - 0.2))


def test_the_image_that_overlaps_most_stays():
    overlap = np.zeros((5, 5))
    overlap[2, [0, 1, 3]] = overlap[[0, 1, 3], 2] = 0.9
    assert merge_images(scipy.sparse.csr_array(overlap), 0.8).tolist() == [2, 4]
    assert merge_images(scipy.sparse.csr_array(overlap), 0.95).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("weights", [(), (1.0, 0.5)])
def test_a_fusion_is_cut_as_its_describer_cuts(weights):
    """The index after the cut holds what a photo's shortened description would be."""
    rng = torch.Generator().manual_seed(0)
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


def test_fewer_bytes_for_many_images_find_most_of_the_same():
    """400 images in 40 groups: features of 16 bytes, reduced to 4, still find their group."""
    rng = np.random.default_rng(1)
    centres = rng.normal(size=(40, 32)).repeat(10, axis=0)
    rows = torch.from_numpy(centres + 0.3 * rng.normal(size=(400, 32))).float()
    rows = F.normalize(rows, dim=1)
    books = retrieval.learn_codebooks(rows.numpy(), 16, 0)
    tensors = {"retrieval.codebooks": books, "retrieval.codes": retrieval.quantised(rows, books)}
    r = RetrievalConfig(kind="hloc", file="f.h5", dim=None)
    names = tuple(map(str, range(400)))
    made, _ = shrink(stage(r, pq_bytes=4), tensors, names, None)
    assert made["retrieval.codes"].shape == (400, 4) and made["retrieval.codebooks"].shape == (4, 256, 8)
    again, _ = shrink(stage(r, pq_bytes=4), tensors, names, None)
    assert all(torch.equal(again[k], made[k]) for k in made)
    distance = torch.cdist(rows, decoded(made, 32))
    nearest = distance.argmin(1) // 10
    share = float((nearest == torch.arange(400) // 10).float().mean())
    assert share > 0.95  # measured: 1.0


def test_features_without_whitening_cannot_be_cut():
    rows = F.normalize(torch.randn(9, 16, generator=torch.Generator().manual_seed(2)), dim=1)
    books = retrieval.learn_codebooks(rows.numpy(), 8, 0)
    tensors = {"retrieval.codebooks": books, "retrieval.codes": retrieval.quantised(rows, books)}
    names = tuple("abcdefghi")
    with pytest.raises(ScrflowError, match="the hloc feature has no whitening to cut"):
        shrink(stage(RetrievalConfig(kind="hloc", file="f.h5", dim=None), retrieval_dim=4), tensors, names, None)
    with pytest.raises(ScrflowError, match="need a map with an index of images"):
        shrink(stage(RetrievalConfig(kind="hloc", file="f.h5"), pq_bytes=4), {}, names, None)


def test_int8_is_off_by_half_a_step_at_most():
    rows = torch.randn(20, 3, 7, generator=torch.Generator().manual_seed(6)) * torch.logspace(-6, 3, 20)[:, None, None]
    rows[4] = 0
    whole, scale = quantise(rows)
    assert whole.dtype is torch.int8 and scale.shape == (20,) and whole.abs().max() == 127
    error = (dequantise(whole, scale) - rows).abs().flatten(1).amax(1)
    assert (error <= 0.5001 * scale).all() and not dequantise(whole, scale)[4].any()


def test_layers_of_positions_stay_fp16():
    kept = ("decoder.out.weight", "refiner.out.weight", "decoder.layers.1.weight", "decoder.out.bias")
    tensors = {f"head.{k}": torch.randn(4, 6).half() for k in ("input.skip.weight", *kept)}
    packed = pack(tensors, MapConfig(head="int8"))
    assert packed["head.input.skip.weight"].dtype is torch.int8
    assert {packed[f"head.{k}"].dtype for k in kept} == {torch.float16}
    assert set(unpack(packed)) == set(tensors)
    with pytest.raises(
        ScrflowError, match=r"pca\.mean has numbers that are not finite in torch\.float16; leave its format out"
    ):
        pack({"pca.mean": torch.tensor([1e6])}, MapConfig(pca="fp16"))
