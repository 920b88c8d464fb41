"""map.safetensors: one file with all that localizing a query needs, written, made smaller (key ``map``), and loaded."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import scipy.sparse
import torch
import torch.nn.functional as F

from scrflow.config import MapStage
from scrflow.core.errors import ScrflowError
from scrflow.core.progress import log
from scrflow.core.seeds import derived_seed
from scrflow.features import retrieval
from scrflow.features.encoders import build_encoder
from scrflow.features.global_encoding import read_centres, read_global_encoding, standardised
from scrflow.features.pca import Pca, load_pca
from scrflow.features.retrieval import PhotoDescriber, Retriever, decoded
from scrflow.graph.covisibility import load_graph
from scrflow.landmarks.codes import Landmarks, decode, encode
from scrflow.landmarks.tracks import load_tracks
from scrflow.map.format import (
    BOOKS,
    CODES,
    LANDMARK,
    MAP_FORMAT,
    VIEW,
    Tensors,
    check,
    pack,
    read_map,
    retrieval_features,
    unpack,
)
from scrflow.map.views import Views, reach_of
from scrflow.pipeline.stages import code_of
from scrflow.scene.model import load_scene
from scrflow.storage.artifact import Stamp, read_safetensors, read_safetensors_metadata, write_safetensors
from scrflow.storage.weights import located
from scrflow.training.head import Head


@dataclass(frozen=True)
class Map:
    """A map in memory, in float32. ``config`` also says how to localize: ``localize``, ``thresholds``, ``seed``."""

    config: MapStage
    names: tuple[str, ...]  # mapping images, in the order of the rows; of merged ones only those kept
    head: Head | None  # None: landmarks alone
    pca: Pca | None  # of the head's descriptors
    encoding: torch.Tensor | None  # [images, D]
    retriever: Retriever | None
    retrieval_keypoints: int  # how many local descriptors of a photo its retrieval feature aggregates
    centres: torch.Tensor | None = None  # [K, D]: cluster centres; a query's encoding is one of them
    weights: Mapping[str, str] = field(default_factory=dict)  # SHA-256 of the published weights that made it
    landmarks: Landmarks | None = None
    views: Views | None = None  # where the mapping images were taken; None in maps of older scrflow


def write_map(
    config: MapStage,
    scene: Path,
    head: Path | None,
    pca: Path | None,
    encoding: Path | None,
    retrieval: Path | None,
    out: Path,
    graph: Path | None = None,
    tracks: Path | None = None,
) -> None:
    """Gather the parts of a map into one file, reduced as ``config.map`` says (``graph`` only for ``map.merge``).
    ScrflowError if they are of different mapping images or do not fit together."""
    mapping = load_scene(scene).mapping
    names = tuple(v.name for v in mapping)
    inputs: dict[str, Path] = {"scene": scene / "scene.json"}
    optional = {"head": head, "pca": pca, "encoding": encoding, "retrieval": retrieval, "graph": graph}
    inputs |= {name: path for name, path in {**optional, "tracks": tracks}.items() if path is not None}
    tensors = _gathered(config, names, head, pca, encoding, retrieval) if config.head is not None else {}
    overlap, kept = None if graph is None else load_graph(graph, names).csr, names
    if config.head is not None:
        tensors, kept = shrink(config, tensors, names, overlap)
        tensors = pack(tensors, config.map)
    found = None
    if config.landmarks is not None:
        found = load_tracks(tracks)
        if found.names != names:
            raise ScrflowError(f"{tracks}: of other mapping images than the scene; delete it and run again")
        landmarks = encode(found, config.landmarks.landmarks, config.seed)
        tensors |= {LANDMARK + k: v for k, v in landmarks.items()}
    poses, reach = np.stack([v.cam_from_world for v in mapping]), None
    if found is not None:
        seen = np.split(found.xyz[found.point], found.start[1:-1])
        reach = np.array([reach_of(pose, xyz) for pose, xyz in zip(poses, seen, strict=True)])
    views = Views.of(poses, reach).only(np.flatnonzero(np.isin(names, kept)))
    tensors |= {VIEW + k: v for k, v in views.tensors().items()}
    try:
        check(config, unpack(tensors), len(kept))
    except ValueError as error:
        raise ScrflowError(
            f"{head or tracks}: does not fit the other parts of the map: {error}; delete what is not of {scene}, run "
            "again"
        ) from None
    metadata = {
        "format": str(MAP_FORMAT),
        "names": json.dumps(kept, ensure_ascii=False, separators=(",", ":")),
        "output_unit": "1.0" if head is None else read_safetensors_metadata(head)["output_unit"],
        "weights": json.dumps(_weights(config, tensors), sort_keys=True),
    }
    write_safetensors(out, tensors, Stamp.make("map", config, code_of("write_map", config), **inputs), metadata)
    log.info("map: %.2f MB", out.stat().st_size / 1e6)


def load_map(path: Path) -> Map:
    """The map of a file; nothing in it is executed. ScrflowError if it is damaged, of another version, or no map."""
    config, names, tensors, unit, weights = read_map(path)

    def part(prefix: str) -> Tensors:
        return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

    landmarks = None if config.landmarks is None else decode(part(LANDMARK))
    views = Views.from_tensors(part(VIEW))
    if config.head is None:
        return Map(config, names, None, None, None, None, 0, None, weights, landmarks, views)
    state = part("head.")
    head = Head(state["input.layers.0.weight"].shape[1], config.head, state["decoder.centres"], unit)
    head.load_state_dict(state, strict=True)
    retriever = None
    if config.retrieval is not None:
        described = part("retrieval.")
        # a map whose global encoding is the photo's own has no index
        books = described.pop("codebooks", torch.zeros(0, 0, 0))
        codes = described.pop("codes", torch.zeros(0, 0, dtype=torch.uint8))
        retriever = Retriever(names, books, codes, described)
    keypoints = max((f.retrieval.keypoints for f in retrieval_features(config) if f.extractor is not None), default=0)
    none = torch.zeros(len(tensors["pca.mean"]), 0)
    projection = Pca(tensors["pca.mean"], tensors.get("pca.components", none))
    encoding, centres, head = tensors.get("encoding"), tensors.get("centres"), head.eval()
    return Map(config, names, head, projection, encoding, retriever, keypoints, centres, weights, landmarks, views)


def _gathered(
    config: MapStage, names: tuple[str, ...], head: Path, pca: Path, encoding: Path | None, retrieval: Path | None
) -> Tensors:
    """All tensors of the map, in the stages' own number formats."""
    projection = load_pca(pca)
    tensors = {f"head.{k}": v for k, v in read_safetensors(head, "head").items()}
    tensors |= {"pca.mean": projection.mean}
    if projection.components.shape[1]:
        tensors |= {"pca.components": projection.components}
    if encoding is not None and config.clustered:
        tensors["centres"] = read_centres(encoding)
    elif encoding is not None and not config.own_encoding:
        g = read_global_encoding(encoding, names)
        tensors["encoding"] = standardised(g) if config.global_encoding.scale else g
    if retrieval is not None:
        retriever = Retriever.open(retrieval, names)
        searched = {} if config.own_encoding else {BOOKS: retriever.codebooks, CODES: retriever.codes}
        tensors |= searched | {f"retrieval.{k}": v for k, v in retriever.description.items()}
    return tensors


def _weights(config: MapStage, tensors: Tensors) -> dict[str, str]:
    """Published weights of the networks that a query needs, name to SHA-256: recorded while the networks are built."""
    features = retrieval_features(config)
    with located() as found:
        if config.landmarks is not None:
            build_encoder(config.landmarks.features.extractor)
        if config.extractor is not None:
            build_encoder(config.extractor)
        if features:
            described = {k.removeprefix("retrieval."): v for k, v in tensors.items() if k.startswith("retrieval.")}
            PhotoDescriber(features, described, shared=config.extractor)
    return found


def shrink(
    config: MapStage, tensors: Tensors, names: tuple[str, ...], overlap: scipy.sparse.csr_array | None
) -> tuple[Tensors, tuple[str, ...]]:
    """Tensors and image names of a map, reduced as ``config.map`` says; ``overlap`` [images, images] is the
    covisibility graph. Features are decoded from the quantised index. ScrflowError if the map has nothing to reduce."""
    wish = config.map
    if wish.merge is None and wish.retrieval_dim is None and wish.pq_bytes is None:
        return tensors, names
    if BOOKS not in tensors:
        raise ScrflowError("map.merge, retrieval_dim and pq_bytes need a map with an index of images; leave them out")
    tensors = dict(tensors)
    features = decoded(Retriever(names, tensors[BOOKS], tensors[CODES]))
    relearn = wish.pq_bytes is not None
    if wish.retrieval_dim is not None:
        features, changed = _cut(config, tensors, features, wish.retrieval_dim)
        relearn |= changed
    if wish.merge is not None:
        if overlap is None or "encoding" not in tensors:
            raise ScrflowError("map.merge needs encodings of images and their covisibility graph; leave it out")
        kept = merge_images(overlap, wish.merge)
        tensors["encoding"] = tensors["encoding"][kept]
        features = features[kept]
        # codebooks of so few images are the images' own features: only new ones are smaller
        relearn |= len(kept) <= retrieval.ENTRIES
        tensors[CODES] = tensors[CODES][kept].contiguous()
        log.info("map: %d of %d images kept, the others overlap one of them by %g", len(kept), len(names), wish.merge)
        names = tuple(names[i] for i in kept.tolist())
    if relearn:
        parts = wish.pq_bytes or tensors[CODES].shape[1]
        books = retrieval.learn_codebooks(features.numpy(), parts, derived_seed(config.seed, "map.pq") % (1 << 31))
        tensors |= {BOOKS: books, CODES: retrieval.quantised(features, books)}
    return tensors, names


def merge_images(overlap: scipy.sparse.csr_array, least: float) -> torch.Tensor:
    """Rows [R], ascending, of images to keep: each other image is overlapped by one of them by ``least`` or more.
    Greedy: the next is the image that overlaps the most images not yet overlapped; of equals the first."""
    graph = scipy.sparse.csr_array(overlap)
    near = [set(graph.indices[a:b][graph.data[a:b] >= least].tolist()) | {i}
            for i, (a, b) in enumerate(zip(graph.indptr[:-1], graph.indptr[1:], strict=True))]  # fmt: skip
    count = np.array([len(n) for n in near])
    covered = np.zeros(len(near), bool)
    kept = []
    while count.max(initial=0) > 0:
        best = int(count.argmax())
        kept.append(best)
        for i in near[best]:
            if not covered[i]:
                covered[i] = True
                count[list(near[i])] -= 1  # the graph is symmetric
    return torch.tensor(sorted(kept))


def _cut(config: MapStage, tensors: Tensors, features: torch.Tensor, dim: int) -> tuple[torch.Tensor, bool]:
    """Features [N, d] of the first ``dim`` directions of each whitening (its rows are sorted by falling variance), and
    whether that changed anything. The matrices in ``tensors`` are cut too."""
    r = config.retrieval
    if r.dim is not None:
        return _cut_one(tensors, "retrieval.", features, dim)
    if r.kind != "fusion":
        raise ScrflowError(
            f"map.retrieval_dim: the {r.kind} feature has no whitening to cut; set its dim, or leave it out"
        )
    # a fusion without its own whitening: unit vectors side by side, each times its weight
    slices, first, changed = [], 0, False
    for i in range(len(r.parts)):
        matrix = tensors.get(f"retrieval.part{i}.whitening")
        if matrix is None:
            raise ScrflowError(
                f"map.retrieval_dim: part {r.parts[i]} of the fusion has no whitening to cut; set its dim"
            )
        piece, cut = _cut_one(tensors, f"retrieval.part{i}.", features[:, first : first + len(matrix)], dim)
        slices.append((r.weights[i] if r.weights else 1.0) * piece)
        first, changed = first + len(matrix), changed or cut
    return F.normalize(torch.cat(slices, 1), dim=1), changed


def _cut_one(tensors: Tensors, prefix: str, features: torch.Tensor, dim: int) -> tuple[torch.Tensor, bool]:
    matrix = tensors[f"{prefix}whitening"]
    features = features[:, : len(matrix)]  # without the zeros that pad the index's last part
    if dim >= len(matrix):
        return features, False
    tensors[f"{prefix}whitening"] = matrix[:dim].contiguous()
    return F.normalize(features[:, :dim], dim=1), True
