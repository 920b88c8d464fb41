"""The retrieval stage: describe the mapping images, quantise the descriptors, keep what describes a query."""

from __future__ import annotations

import logging
import zlib
from pathlib import Path

import numpy as np
import torch

from scrflow.artifacts import Stamp, create_h5, sha256_file, write_safetensors
from scrflow.codeversion import code_version
from scrflow.config import ExtractorConfig, RetrievalConfig, RetrievalStage
from scrflow.encoders import build_encoder, encoder_module
from scrflow.errors import ScrflowError
from scrflow.images import read_rgb
from scrflow.progress import meter
from scrflow.retrieval import hloc, pq, vlad
from scrflow.retrieval.search import KIND, Retriever
from scrflow.scene.model import Scene, View, load_scene
from scrflow.views import encode_view

_VOCABULARY_IMAGES = 256  # evenly spaced; their descriptors are held, so that no photo is encoded twice

log = logging.getLogger("scrflow")


def build(config: RetrievalStage, scene: Path, out: Path, model: Path, threads: int) -> None:
    """See scrflow.retrieval.build_retrieval."""
    import faiss

    torch.set_num_threads(threads)
    faiss.omp_set_num_threads(threads)
    loaded = load_scene(scene)
    names = [v.name for v in loaded.mapping]
    r = config.retrieval
    inputs: dict[str, Path | str] = {"scene": loaded.stamp.digest}
    tensors: dict[str, torch.Tensor] = {}
    modules = ["retrieval.build"]
    if r.kind == "vlad":
        if config.extractor is None:
            raise ScrflowError("retrieval of kind vlad needs the extractor of its encoder")
        modules.append(encoder_module(config.extractor.name))
        descriptors, tensors = _vlad(r, config.extractor, config.seed, loaded)
        described = dict(zip(names, descriptors, strict=True))
    else:
        # the stage's folder is results/SCENE/scene
        path = Path(str(r.file).replace("{scene}", Path(scene).resolve().parent.name))
        everything = names + [q.name for q in loaded.queries]
        rows = hloc.read_descriptors(path, everything)
        inputs["file"] = sha256_file(path)[:16]
        descriptors, described = rows[: len(names)], dict(zip(everything, rows, strict=True))
    codebooks = pq.learn_codebooks(descriptors, r.pq_bytes, _seed(config.seed, "pq"))
    codes = pq.encode(torch.from_numpy(descriptors), codebooks)
    retriever = Retriever(tuple(names), codebooks, codes, **tensors)

    stamp = Stamp.make(KIND, config, code_version(*modules), **inputs)
    with create_h5(out, stamp) as f:
        hloc.write_descriptors(f, described)
    metadata = {**retriever.metadata(), "keypoints": str(r.keypoints)}
    write_safetensors(model, retriever.tensors(), stamp, metadata)
    size = sum(t.numel() * t.element_size() for t in retriever.tensors().values())
    log.info("retrieval: %d images, %d dimensions, model of %.2f MB", len(names), descriptors.shape[1], size / 1e6)


def _vlad(
    r: RetrievalConfig, extractor: ExtractorConfig, seed: int, scene: Scene
) -> tuple[np.ndarray, dict[str, torch.Tensor]]:
    """Descriptors [images, dim] float32 of the mapping images, and the tensors that describe another photo."""
    encoder = build_encoder(extractor)

    def local(view: View) -> torch.Tensor:
        photo = read_rgb(scene.image_path(view.name))
        return encode_view(photo, view.camera, encoder, extractor.short_side, r.keypoints).descriptors

    views = scene.mapping
    sample = np.unique(np.linspace(0, len(views) - 1, min(len(views), _VOCABULARY_IMAGES)).round().astype(int))
    with meter("retrieval features", len(views)) as step:
        held = {}
        for i in sample:
            held[int(i)] = local(views[i])
            step("")
        pooled = torch.cat(list(held.values())).numpy()
        if len(pooled) == 0:
            raise ScrflowError(f"encoder {extractor.name} finds no keypoint in any of {len(sample)} mapping images")
        vocabulary = vlad.learn_vocabulary(pooled, r.clusters, _seed(seed, "vocabulary"))
        rows = []
        for i, view in enumerate(views):
            rows.append(vlad.aggregate(held.pop(i) if i in held else _stepped(local(view), step), vocabulary).numpy())
    vlads = np.stack(rows)
    mean, matrix = vlad.learn_whitening(vlads, r.dim, np.random.default_rng(_seed(seed, "whitening")))
    descriptors = vlad.whiten(torch.from_numpy(vlads), mean, matrix).numpy()
    return descriptors, {"vocabulary": vocabulary, "whitening_mean": mean, "whitening": matrix}


def _stepped(value, step):
    step("")
    return value


def _seed(seed: int, name: str) -> int:
    """A seed of its own for each use, within the 31 bits that faiss takes."""
    return (seed * 1_000_003 + zlib.crc32(f"retrieval.{name}".encode())) % (2**31 - 1)
