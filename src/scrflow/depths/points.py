"""Depth of buffer samples from an SfM model: that of the observed point that projects nearest to the sample.

The sigma of the depth adds in quadrature what 1 px of noise in the point's other observations does to its depth, and 2
d / f for a sample d pixels off the point (the depth of a surface seen under 63 degrees from its normal).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import pycolmap
import torch

from scrflow.config import PointDepthConfig, PointDepthStage
from scrflow.core.errors import ScrflowError
from scrflow.core.geometry import camera_points, project
from scrflow.core.progress import log, track
from scrflow.depths.matched import SampleDepth, write_sample_depth
from scrflow.scene.colmap_model import read_model
from scrflow.training.buffer import Buffer, load_buffer

_SLANT = 2.0  # relative change of depth for a ray that moves by one unit of the plane z = 1: tan 63 degrees
_STOP_SHARE = 0.001  # of samples with a depth; redkitchen has 0.42


def depths_from_points(config: PointDepthStage, points: Path, shards: list[Path], out: Path) -> None:
    """Write the depths of a buffer's samples by ``points``, a scene's scene.json or the triangulation.json beside a
    model. ScrflowError when the model lacks points or an image, or hardly any sample gets a depth."""
    model = points.parent / "mapping" if points.name == "scene.json" else points.parent
    buffer = load_buffer(shards)
    observed = ObservedPoints.of_model(read_model(model), buffer.names, model)
    result = depths_of_samples(buffer, observed, config.points)
    share = float(torch.isfinite(result.depth).float().mean())
    log.info("%d points are observed by the mapping images", len(observed.xyz))
    if share < _STOP_SHARE:
        raise ScrflowError(
            f"{model}: only {100 * share:.2f} % of the samples lie within {config.points.radius_px} px of a 3D point; "
            "enlarge point_depth.radius_px, or give a model with more points"
        )
    write_sample_depth(out, result, "find_point_depths", config, shards, points=points)


@dataclass(frozen=True)
class ObservedPoints:
    """Points of a model and which mapping images observe them."""

    xyz: np.ndarray  # [P, 3] in the world
    point: np.ndarray  # [O] int64, point of each observation, images in order
    image: np.ndarray  # [O] int64, row of the mapping image

    @classmethod
    def of_model(cls, model: pycolmap.Reconstruction, names: tuple[str, ...], where: Path) -> Self:
        """The points that the images ``names`` observe. ScrflowError when there are none, or an image is missing."""
        by_name = {model.image(i).name: model.image(i) for i in model.reg_image_ids()}
        per_image = []
        for name in names:
            if name not in by_name:
                raise ScrflowError(f"{where}: mapping image {name} is not in the model; make it of the scene's images")
            ids = [p.point3D_id for p in by_name[name].get_observation_points2D()]
            per_image.append(np.unique(np.array(ids, np.int64)))
        image = np.repeat(np.arange(len(names)), [len(ids) for ids in per_image])
        if not len(image):
            raise ScrflowError(
                f"{where}: the model has no 3D points of the mapping images; take depth_source matched, or a scene "
                "whose model has points"
            )
        ids, point = np.unique(np.concatenate(per_image), return_inverse=True)
        return cls(np.array([model.points3D[int(i)].xyz for i in ids], np.float64), point, image)

    def by_image(self, images: int) -> list[np.ndarray]:
        """Points that each of ``images`` images observes."""
        return np.split(self.point, np.searchsorted(self.image, np.arange(1, images)))

    def by_point(self) -> tuple[np.ndarray, np.ndarray]:
        """Images [O] of the observations, ordered by point, and where each point's begin [P + 1]."""
        order = np.argsort(self.point, kind="stable")
        return self.image[order], np.searchsorted(self.point[order], np.arange(len(self.xyz) + 1))


def depths_of_samples(buffer: Buffer, observed: ObservedPoints, config: PointDepthConfig) -> SampleDepth:
    """Depths of a buffer's samples by the points; no matches."""
    from scipy.spatial import cKDTree

    K, pose = buffer.K.numpy(), buffer.cam_from_world.numpy()
    pixel = buffer.pixel.numpy()
    depth = np.full(len(pixel), np.nan, np.float32)
    sigma = np.full(len(pixel), np.nan, np.float32)
    first_view = np.zeros(len(buffer.names), np.int64)
    first_view[buffer.image.numpy()[::-1]] = np.arange(len(buffer.image))[::-1]  # the plain one, where there is one
    start = np.searchsorted(buffer.view.numpy(), np.arange(len(buffer.image) + 1))
    seen_by = observed.by_point()
    for image, points in enumerate(track(observed.by_image(len(buffer.names)), "depths of points")):
        if not len(points):
            continue
        point_sigma = _relative_sigma(observed.xyz[points], points, seen_by, image, K[first_view], pose[first_view])
        for v in np.flatnonzero(buffer.image.numpy() == image):
            projected, z = project(observed.xyz[points], K[v], pose[v])
            front = np.flatnonzero(z > 0)
            rows = slice(start[v], start[v + 1])
            if not len(front) or start[v] == start[v + 1]:
                continue
            distance, nearest = cKDTree(projected[front]).query(pixel[rows], distance_upper_bound=config.radius_px)
            near = np.isfinite(distance)
            chosen = front[nearest[near]]
            spread = np.hypot(point_sigma[chosen], _SLANT * distance[near] / K[v, 0, 0])
            kept = spread < config.max_relative_sigma
            target = np.arange(start[v], start[v + 1])[near][kept]
            depth[target], sigma[target] = z[chosen[kept]], spread[kept]
    none = torch.full((len(pixel), 1), -1, dtype=torch.int64)
    return SampleDepth(torch.from_numpy(depth), torch.from_numpy(sigma), none)


def _relative_sigma(
    xyz: np.ndarray,
    points: np.ndarray,
    seen_by: tuple[np.ndarray, np.ndarray],
    image: int,
    K: np.ndarray,
    pose: np.ndarray,
) -> np.ndarray:
    """Relative sigma [P'] of the depth of ``points`` [P'] at ``xyz`` in ``image``, for 1 px noise in the other images
    that observe them; ``K`` [images, 3, 3] and ``pose`` [images, 3, 4]."""
    images, start = seen_by
    count = start[points + 1] - start[points]
    which = np.repeat(np.arange(len(points)), count)
    other = images[np.arange(len(which)) + np.repeat(start[points] - np.cumsum(count) + count, count)]
    which, other = which[other != image], other[other != image]
    centre = -pose[image, :, :3].T @ pose[image, :, 3]
    along = np.einsum("nij,nj->ni", pose[other, :, :3], xyz[which] - centre)  # how the point moves in the other camera
    seen = camera_points(xyz[which], pose[other])
    z = np.maximum(seen[:, 2:], 1e-9)
    shift_px = (along[:, :2] - seen[:, :2] / z * along[:, 2:]) / z * K[other, 0, 0][:, None]
    information = np.bincount(which, (shift_px**2).sum(1), minlength=len(points))
    return 1 / np.sqrt(np.maximum(information, 1e-12))
