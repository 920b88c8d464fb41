"""Global encodings by clusters of a retrieval feature (GLACE, section 3.2, Explicit Clustering; Table 6)."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import torch

from scrflow.config import ClustersStage
from scrflow.core.errors import ScrflowError
from scrflow.core.kmeans import kmeans
from scrflow.core.seeds import torch_generator
from scrflow.features.global_encoding import nearest_centre, unit_length
from scrflow.interop import hloc_descriptors
from scrflow.pipeline.stages import code_of
from scrflow.scene.model import load_scene
from scrflow.storage.artifact import Stamp, create_h5, write_json

KIND = "global-encoding"
METRICS_KIND = "clusters-metrics"

log = logging.getLogger("scrflow")


def cluster_features(config: ClustersStage, scene: Path, features: Path, out: Path, metrics: Path) -> None:
    """Cluster the retrieval features of the mapping images of a scene artifact, and write their encodings.

    ``features`` is the HDF5 that build_retrieval made. ``out`` (HDF5) holds ``names``, ``encoding`` [images, D], the
    centre of each image's cluster, unit length, and ``centres`` [K, D], as K-means left them; ``metrics`` (JSON) the
    sizes of the clusters. ScrflowError for more clusters than images.
    """
    names = tuple(v.name for v in load_scene(scene).mapping)
    rows = torch.from_numpy(hloc_descriptors.read_descriptors(features, names))
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
    write_json(metrics, values, Stamp.make(METRICS_KIND, config, code, **inputs))
    with create_h5(out, Stamp.make(KIND, config, code, **inputs)) as f:
        f.create_dataset("encoding", data=unit_length(centres)[label].numpy())
        f.create_dataset("centres", data=centres.numpy())
        f.create_dataset("names", data=np.array([n.encode() for n in names]))
    log.info("clusters: %d of %d images, sizes %s", count, len(names), values["cluster_sizes"])
