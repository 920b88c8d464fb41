"""Global encodings, read and scaled: of a photo's retrieval feature, of clusters of features, or of Node2Vec.

``global_encoding.name`` of a method is null (ACE, Brachmann et al., CVPR 2023), a retrieval feature (GLACE, Wang et
al., CVPR 2024, Table 6: "Diffusion" with noise 0.1, "Identity" with noise 0), an encoding of kind ``clusters`` (its
"Explicit Clustering") or of kind ``node2vec`` (R-SCoRe, CVPR 2025; a query takes those of retrieved images).
"""

import math
from pathlib import Path

import numpy as np
import torch

from scrflow.config import ClustersStage
from scrflow.core.errors import ScrflowError
from scrflow.core.progress import log
from scrflow.core.seeds import torch_generator
from scrflow.pipeline.stages import code_of
from scrflow.storage.artifact import Stamp, create_h5, open_h5, read_stamp, write_json

KIND = "global-encoding"


def kmeans(points_ND: torch.Tensor, clusters: int, generator: torch.Generator, iterations: int = 50) -> torch.Tensor:
    """Centres [K, D] by Lloyd's algorithm with k-means++ seeds (Arthur and Vassilvitskii 2007); ValueError for more
    clusters than points."""
    if clusters > len(points_ND):
        raise ValueError(f"{clusters} clusters of {len(points_ND)} points")
    x = points_ND.double()
    if clusters == 1:
        return x.mean(0, keepdim=True)
    first = torch.randint(len(x), (1,), generator=generator)
    centres = x[first]
    nearest = (x - centres).pow(2).sum(1)
    for _ in range(clusters - 1):
        # if every point is a centre already, any further seed will do
        weight = nearest if nearest.sum() > 0 else torch.ones_like(nearest)
        pick = torch.multinomial(weight, 1, generator=generator)
        centres = torch.cat([centres, x[pick]])
        nearest = torch.minimum(nearest, (x - x[pick]).pow(2).sum(1))
    for _ in range(iterations):
        label = torch.cdist(x, centres).argmin(1)
        count = torch.bincount(label, minlength=clusters)
        total = torch.zeros_like(centres).index_add_(0, label, x)
        moved = torch.where(count[:, None] > 0, total / count.clamp(min=1)[:, None], centres)
        if torch.equal(moved, centres):
            break
        centres = moved
    return centres


def nearest_centre(features_ND: torch.Tensor, centres_KD: torch.Tensor) -> torch.Tensor:
    """Index [N] int64 of the nearest centre; of equally near ones the first."""
    distance = torch.cdist(features_ND.float(), centres_KD.float(), compute_mode="donot_use_mm_for_euclid_dist")
    return distance.argmin(1)


def own_encoding(feature_D: torch.Tensor, centres_KD: torch.Tensor | None) -> torch.Tensor:
    """The encoding [D], unit length, of a photo: its retrieval feature, or the nearest of the ``centres``."""
    if centres_KD is not None:
        centres_KD = centres_KD.to(feature_D.device)
        feature_D = centres_KD[nearest_centre(feature_D[None], centres_KD)[0]]
    return unit_length(feature_D[None])[0]


def unit_length(rows_ND: torch.Tensor) -> torch.Tensor:
    """Rows scaled to unit length; zeros stay."""
    return torch.nn.functional.normalize(rows_ND.float(), dim=1, eps=1e-12)


def standardised(encoding: torch.Tensor, per_row: bool = False) -> torch.Tensor:
    """Encodings [N, D] scaled so that an entry has a mean square of 1, over all rows or in each."""
    norm = torch.linalg.vector_norm(encoding, dim=1, keepdim=True)
    scale = norm if per_row else norm.pow(2).mean().sqrt()
    return encoding / scale.clamp(min=1e-12) * math.sqrt(encoding.shape[1])


def read_global_encoding(path: Path, names: tuple[str, ...]) -> torch.Tensor:
    """Encodings [images, D] float32 of ``names``, in Node2Vec's or hloc's layout; ScrflowError where one is missing."""
    kind = read_stamp(path).kind
    with open_h5(path, kind) as f:
        if "encoding" in f and "names" in f:
            held = {n.decode() if isinstance(n, bytes) else n: i for i, n in enumerate(f["names"][:])}
            rows = f["encoding"][:]
            vectors = [rows[held[n]] if n in held else None for n in names]
        else:
            vectors = [f[n]["global_descriptor"][:] if n in f else None for n in names]
    for name, vector in zip(names, vectors, strict=True):
        if vector is None or not np.isfinite(vector).all():
            raise ScrflowError(f"{path}: no finite encoding of mapping image {name}; make the file again")
    return torch.from_numpy(np.stack(vectors)).float()


def read_centres(path: Path) -> torch.Tensor:
    """Centres [K, D] of an encoding of kind ``clusters``; ScrflowError where the file has none."""
    with open_h5(path, KIND) as f:
        if "centres" not in f:
            raise ScrflowError(f"{path}: no cluster centres; delete it and run again")
        return torch.from_numpy(f["centres"][:]).float()


def cluster_features(config: ClustersStage, scene: Path, features: Path, out: Path, metrics: Path) -> None:
    """Cluster the retrieval features (HDF5) of the mapping images, and write the encodings (GLACE sec. 3.2, Table 6).

    ``out`` (HDF5) gets ``names``, ``encoding`` [images, D], unit length, and ``centres`` [K, D] as K-means left them,
    ``metrics`` (JSON) the sizes of the clusters. ScrflowError for more clusters than images.
    """
    # training reads encodings without pycolmap
    from scrflow.interop import hloc_files
    from scrflow.scene.model import load_scene

    names = tuple(v.name for v in load_scene(scene).mapping)
    rows = torch.from_numpy(hloc_files.read_descriptors(features, names))
    count = config.clusters.clusters
    if count > len(names):
        raise ScrflowError(
            f"{features}: {count} clusters of {len(names)} mapping images; lower key clusters of the encoding"
        )
    centres = kmeans(rows, count, torch_generator(config.seed, "encoding.clusters")).float()
    label = nearest_centre(rows, centres)
    spread = float((rows - centres[label]).pow(2).sum(1).mean().sqrt())
    values = {
        "images": len(names),
        "clusters": count,
        "cluster_sizes": torch.bincount(label, minlength=count).tolist(),
        "rms_distance_to_centre": round(spread, 6),
        "rms_distance_to_mean": round(float((rows - rows.mean(0)).pow(2).sum(1).mean().sqrt()), 6),
    }
    inputs = {"scene": Path(scene) / "scene.json", "features": Path(features)}
    code = code_of("cluster_features", config)
    write_json(metrics, values, Stamp.make("clusters-metrics", config, code, **inputs))
    with create_h5(out, Stamp.make(KIND, config, code, **inputs)) as f:
        f.create_dataset("encoding", data=unit_length(centres)[label].numpy())
        f.create_dataset("centres", data=centres.numpy())
        f.create_dataset("names", data=np.array([n.encode() for n in names]))
    log.info("clusters: %d of %d images, sizes %s", count, len(names), values["cluster_sizes"])
