"""The focal length of a photo from scene coordinates, together with its pose.

COLMAP's RANSAC with four points (P4Pf) finds it where depths vary. On a flat scene seen frontally a longer lens farther
away gives the same photo, so a log-normal prior of usual lenses decides. The estimate maximises the posterior
probability under a Cauchy loss; the optimisation starts from COLMAP's result and from the guess, and the better end
counts.
"""

from dataclasses import dataclass

import numpy as np
import pycolmap

from scrflow.core.geometry import camera_points
from scrflow.localize.confidence import linearised
from scrflow.localize.result import Localization

USUAL = 0.95  # focal length / longer side: phones have 0.7 to 0.85, videos 0.8 to 1, cameras with a zoom 0.7 to 3
PRIOR_SPREAD = 0.35  # standard deviation of its logarithm in the prior
_RANSAC_PX = 20.0  # wide, because a wrong focal length adds to the errors of scene coordinates
_LOSS_PX = 3.0
_TRUNCATED_PX = 30.0
# errors of neighbouring scene coordinates of a head are correlated, so a keypoint counts as 0.03 independent ones:
# errors of the logarithm are then 1.2 to 1.3 of the estimated standard deviations (redkitchen, demo), with landmarks
# 0.5 to 0.9 (also herzjesu)
_WEIGHTS = {"head": 0.003, "landmarks": 0.02}
_LENS = 0.01  # error by distortion and principal point, which are unknown too (fox: 1 %)
_STEPS = 60
_LEAST = 10  # scene coordinates that an estimate needs


@dataclass(frozen=True)
class Focal:
    """A focal length in px of the photo, and the standard deviation of its logarithm (0.02: 2 %)."""

    px: float
    spread: float


def guessed_camera(size: tuple[int, int], focal: float | None = None) -> pycolmap.Camera:
    """SIMPLE_PINHOLE of a photo of (width, height) with the usual focal length, or a given one, in px."""
    return pycolmap.Camera.create_from_model_name(0, "SIMPLE_PINHOLE", focal or USUAL * max(size), *size)


def estimated_focal(found: Localization, camera: pycolmap.Camera, seed: int = 0) -> Focal | None:
    """The focal length of the photo that gave ``found`` under the assumed ``camera``; None without a pose."""
    if found.cam_from_world is None:
        return None
    # landmarks near the pose's projections agree with the focal length that the pose was found under
    xyz, weight = found.xyz_world, _WEIGHTS["head" if found.similarity is None else "landmarks"]
    if found.by_descriptor is not None and np.isfinite(found.by_descriptor).all(1).sum() >= _LEAST:
        xyz = found.by_descriptor
    finite = np.isfinite(xyz).all(1)
    if finite.sum() < _LEAST:
        return None
    pixels, xyz, K = found.view.pixels[finite], xyz[finite], found.view.K
    scale = K[0, 0] / camera.mean_focal_length()  # encoded image / photo
    usual = USUAL * max(camera.width, camera.height) * scale
    problem = _Problem(pixels, xyz, K[:2, 2], np.log(usual), weight)
    starts = [(found.cam_from_world, K[0, 0])]
    if (start := _colmap(pixels, xyz, K, seed)) is not None:
        starts.append(start)
    _, focal, spread = min((problem.refined(*start) for start in starts), key=lambda result: result[0])
    return Focal(focal / scale, float(np.hypot(spread, _LENS)))


def _colmap(pixels: np.ndarray, xyz: np.ndarray, K: np.ndarray, seed: int) -> tuple[np.ndarray, float] | None:
    options = pycolmap.AbsolutePoseEstimationOptions(estimate_focal_length=True)
    options.ransac.max_error, options.ransac.random_seed = _RANSAC_PX, seed
    refinement = pycolmap.AbsolutePoseRefinementOptions(refine_focal_length=True, loss_function_scale=_LOSS_PX)
    size = (round(2 * K[0, 2]), round(2 * K[1, 2]))
    camera = pycolmap.Camera(model="SIMPLE_PINHOLE", width=size[0], height=size[1], params=[K[0, 0], K[0, 2], K[1, 2]])
    found = pycolmap.estimate_and_refine_absolute_pose(pixels, xyz, camera, options, refinement)
    if found is None or not (np.isfinite(camera.params).all() and camera.params[0] > 0):
        return None
    return found["cam_from_world"].matrix(), float(camera.params[0])


@dataclass(frozen=True)
class _Problem:
    """Pose and focal length from undistorted pixels [N, 2] and scene coordinates [N, 3], with a prior."""

    pixels: np.ndarray
    xyz: np.ndarray
    centre: np.ndarray  # [2] principal point
    log_usual: float
    weight: float  # of a keypoint

    def cost(self, pose: np.ndarray, focal: float) -> float:
        """Minus the log of the probability."""
        points = camera_points(self.xyz, pose)
        with np.errstate(divide="ignore", invalid="ignore"):
            errors = ((focal * points[:, :2] / points[:, 2:] + self.centre - self.pixels) ** 2).sum(1)
        errors = np.where(points[:, 2] > 0, np.minimum(errors, _TRUNCATED_PX**2), _TRUNCATED_PX**2)
        data = self.weight / 2 * _LOSS_PX**2 * np.log1p(errors / _LOSS_PX**2).sum()
        return float(data + ((np.log(focal) - self.log_usual) / PRIOR_SPREAD) ** 2 / 2)

    def refined(self, pose: np.ndarray, focal: float) -> tuple[float, float, float]:
        """(cost, focal length, spread) that Levenberg-Marquardt reaches from a pose [3, 4] and a focal length."""
        cost, damping, spread = self.cost(pose, focal), 1e-4, PRIOR_SPREAD
        for _ in range(_STEPS):
            hessian, gradient = self._normal_equations(pose, focal)
            spread = float(np.sqrt(np.linalg.pinv(hessian)[6, 6]))
            while damping < 1e4:
                step = np.linalg.lstsq(hessian + damping * np.diag(np.diag(hessian)), -gradient)[0]  # may be singular
                turn = pycolmap.Rotation3d(step[3:6]).matrix()
                moved = turn @ pose + np.column_stack([np.zeros((3, 3)), step[:3]])
                longer = focal * float(np.exp(np.clip(step[6], -1, 1)))
                if (lower := self.cost(moved, longer)) < cost:
                    break
                damping *= 10
            else:
                break
            done = cost - lower < 1e-6 * cost
            pose, focal, cost, damping = moved, longer, lower, damping / 10
            if done:
                break
        return cost, focal, spread

    def _normal_equations(self, pose: np.ndarray, focal: float) -> tuple[np.ndarray, np.ndarray]:
        """H [7, 7] and g [7] by motion of the camera (translation, rotation) and by the log of the focal length."""
        front = camera_points(self.xyz, pose)[:, 2] > 1e-9
        pixels, xyz = self.pixels[front], self.xyz[front]
        K = np.array([[focal, 0, self.centre[0]], [0, focal, self.centre[1]], [0, 0, 1]])
        residuals, by_motion = linearised(pixels, xyz, K, pose)
        by_focal = residuals + pixels - self.centre
        jacobians = np.concatenate([by_motion, by_focal[:, :, None]], 2)
        squared = (residuals**2).sum(1)
        weights = self.weight / (1 + squared / _LOSS_PX**2) * (squared < _TRUNCATED_PX**2)
        hessian = np.einsum("n,nij,nik->jk", weights, jacobians, jacobians)
        gradient = np.einsum("n,nij,ni->j", weights, jacobians, residuals)
        hessian[6, 6] += PRIOR_SPREAD**-2
        gradient[6] += (np.log(focal) - self.log_usual) / PRIOR_SPREAD**2
        return hessian, gradient
