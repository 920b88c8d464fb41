"""Rotations, poses, and cameras: pinhole projection, and pycolmap's lens distortion and resizing.

Poses are cam_from_world (R | t) with OpenCV axes; quaternions are w x y z. A ray is a point (x, y) on the plane z = 1
of a camera. As in COLMAP, the centre of the top-left pixel is at (0.5, 0.5).

Two parts of the code project by themselves, as another order of operations would change results in their last digits:
``training.losses`` (torch, with gradients) and ``graph.frustum`` (compares pixels without dividing by the depth).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scrflow.core.errors import ScrflowError

if TYPE_CHECKING:  # quick commands use poses, without loading pycolmap
    import pycolmap


def rotation_from_quaternion(q_wxyz: np.ndarray) -> np.ndarray:
    """Rotation matrices [..., 3, 3] of quaternions [..., 4] (w x y z; normalised here; ValueError for a zero one)."""
    q = np.asarray(q_wxyz, np.float64)
    norm = np.linalg.norm(q, axis=-1, keepdims=True)
    if not np.all(norm > 1e-12):
        raise ValueError("quaternion of length zero")
    w, x, y, z = np.moveaxis(q / norm, -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.stack([np.stack(r, -1) for r in rows], -2)


def quaternion_from_rotation(R: np.ndarray) -> np.ndarray:
    """Quaternion [4] (w x y z, w >= 0) of a rotation matrix [3, 3]."""
    R = np.asarray(R, np.float64)
    # the largest of 4w^2, 4x^2, 4y^2, 4z^2 is at least 1: dividing by its root loses no digits (Shepperd 1978)
    trace = np.trace(R)
    squares = np.array([trace, *(2 * np.diag(R) - trace)]) + 1
    k = int(np.argmax(squares))
    off = [R[2, 1] - R[1, 2], R[0, 2] - R[2, 0], R[1, 0] - R[0, 1]]
    sums = [R[1, 0] + R[0, 1], R[0, 2] + R[2, 0], R[2, 1] + R[1, 2]]
    row = {
        0: [squares[0], *off],
        1: [off[0], squares[1], sums[0], sums[1]],
        2: [off[1], sums[0], squares[2], sums[2]],
        3: [off[2], sums[1], sums[2], squares[3]],
    }[k]
    q = np.array(row) / (2 * np.sqrt(squares[k]))
    q /= np.linalg.norm(q)
    return -q if q[0] < 0 else q


def invert_pose(pose: np.ndarray) -> np.ndarray:
    """Inverse of rigid poses [..., 3, 4]: world_from_cam of cam_from_world, and the other way round."""
    Rt = np.swapaxes(pose[..., :3], -1, -2)
    return np.concatenate([Rt, -Rt @ pose[..., 3:]], -1)


def compose(second: np.ndarray, first: np.ndarray) -> np.ndarray:
    """The pose [3, 4] that does ``first`` and then ``second``: sensor_from_world of sensor_from_rig and
    rig_from_world."""
    moved = second[:, :3] @ first
    return np.column_stack([moved[:, :3], moved[:, 3] + second[:, 3]])


def camera_centre(cam_from_world: np.ndarray) -> np.ndarray:
    """Centres [..., 3] in the world of poses [..., 3, 4]."""
    return invert_pose(cam_from_world)[..., 3]


def pose_numbers(cam_from_world: np.ndarray) -> list[float]:
    """qw qx qy qz tx ty tz of a pose [3, 4]: the numbers of a line of poses.txt."""
    values = (*quaternion_from_rotation(cam_from_world[:, :3]), *cam_from_world[:, 3])
    return [float(v) for v in values]


def pose_error(estimate: np.ndarray, reference: np.ndarray) -> tuple[float, float]:
    """Distance of the camera centres (scene units) and angle between the rotations (degrees) of two poses [3, 4]."""
    t_error = float(np.linalg.norm(camera_centre(estimate) - camera_centre(reference)))
    # atan2 form: arccos of the trace loses half the digits near zero
    relative = estimate[:, :3] @ reference[:, :3].T
    sine = 0.5 * np.linalg.norm(
        [relative[2, 1] - relative[1, 2], relative[0, 2] - relative[2, 0], relative[1, 0] - relative[0, 1]]
    )
    cosine = 0.5 * (np.trace(relative) - 1)
    return t_error, float(np.degrees(np.arctan2(sine, cosine)))


def camera_points(xyz_world_N3: np.ndarray, cam_from_world: np.ndarray) -> np.ndarray:
    """World points [N, 3] in the frame of one camera [3, 4], or each in the frame of its own [N, 3, 4]."""
    R, t = cam_from_world[..., :3], cam_from_world[..., 3]
    return xyz_world_N3 @ R.T + t if R.ndim == 2 else np.einsum("nij,nj->ni", R, xyz_world_N3) + t


def pinhole_rays(pixels_N2: np.ndarray, K: np.ndarray) -> np.ndarray:
    """Rays [N, 2] of undistorted pixels in the image of K [3, 3], or each in the image of its own [N, 3, 3]."""
    return (pixels_N2 - K[..., :2, 2]) / _focals(K)


def pinhole_pixels(rays_N2: np.ndarray, K: np.ndarray) -> np.ndarray:
    """Undistorted pixels [N, 2] of rays; the inverse of ``pinhole_rays``."""
    return rays_N2 * _focals(K) + K[..., :2, 2]


def project(xyz_world_N3: np.ndarray, K: np.ndarray, cam_from_world: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Undistorted pixels [N, 2] and depths [N] of world points; pixels are meaningless where the depth is not positive.
    K [3, 3] and cam_from_world [3, 4] are of one camera, or both have a row for each point."""
    xyz = camera_points(xyz_world_N3, cam_from_world)
    with np.errstate(divide="ignore", invalid="ignore"):
        return pinhole_pixels(xyz[:, :2] / xyz[:, 2:], K), xyz[:, 2]


def reprojection_error(
    pixels_N2: np.ndarray, xyz_world_N3: np.ndarray, K: np.ndarray, cam_from_world: np.ndarray
) -> np.ndarray:
    """Distance [N] in pixels between keypoints and projected points; infinite behind the camera or where not finite."""
    seen, depth = project(xyz_world_N3, K, cam_from_world)
    with np.errstate(invalid="ignore"):
        error = np.linalg.norm(seen - pixels_N2, axis=1)
    return np.where((depth > 0) & np.isfinite(error), error, np.inf)


def _focals(K: np.ndarray) -> np.ndarray:
    return np.stack([K[..., 0, 0], K[..., 1, 1]], -1)


_NEAREST = 1e-6  # scene units; nearer points have no usable pixel
# models with one focal length -> the one with two, and how many zeros its parameters end with
_TWO_FOCALS = {"SIMPLE_PINHOLE": ("PINHOLE", 0), "SIMPLE_RADIAL": ("OPENCV", 3), "RADIAL": ("OPENCV", 2)}


def pinhole_matrix(camera: pycolmap.Camera) -> np.ndarray:
    """K [3, 3] of the camera, without distortion."""
    return np.array(camera.calibration_matrix(), np.float64)


def rescaled_camera(camera: pycolmap.Camera, width: int, height: int) -> pycolmap.Camera:
    """The camera of the image resized to width x height pixels."""
    import pycolmap

    model, params = camera.model, np.array(camera.params)
    if abs(width / camera.width - height / camera.height) > 1e-9 and len(camera.focal_length_idxs()) == 1:
        # one focal length cannot follow an uneven resize (480/479, say)
        if model.name not in _TWO_FOCALS:
            raise ScrflowError(
                f"camera model {model.name} has one focal length, the resize two scales; use OPENCV or PINHOLE"
            )
        model, zeros = _TWO_FOCALS[model.name]
        params = np.array([params[0], *params, *[0.0] * zeros])
    scaled = pycolmap.Camera(model=model, width=camera.width, height=camera.height, params=params)
    scaled.rescale(new_width=width, new_height=height)
    return scaled


def rays_from_pixels(camera: pycolmap.Camera, pixels_N2: np.ndarray) -> np.ndarray:
    """Rays [N, 2] (points on the plane z = 1) of distorted pixels [N, 2]; NaN where the distortion has no inverse."""
    if len(pixels_N2) == 0:
        return np.zeros((0, 2))
    return np.asarray(camera.cam_from_img(np.asarray(pixels_N2, np.float64)), np.float64)


def pixels_from_rays(camera: pycolmap.Camera, rays_N2: np.ndarray) -> np.ndarray:
    """Distorted pixels [N, 2] of rays [N, 2]."""
    if len(rays_N2) == 0:
        return np.zeros((0, 2))
    homogeneous = np.concatenate([rays_N2, np.ones((len(rays_N2), 1))], 1)
    return np.asarray(camera.img_from_cam(homogeneous), np.float64)


def pixels_from_points(camera: pycolmap.Camera, xyz_cam_N3: np.ndarray) -> np.ndarray:
    """Distorted pixels [N, 2] of points [N, 3] in the camera's frame; NaN behind the camera."""
    pixels = np.full((len(xyz_cam_N3), 2), np.nan)
    front = xyz_cam_N3[:, 2] > _NEAREST
    pixels[front] = pixels_from_rays(camera, xyz_cam_N3[front, :2] / xyz_cam_N3[front, 2:])
    return pixels
