"""The point cloud of a map: scene coordinates of its mapping photos' keypoints, coloured, as PLY, COLMAP model or
nerfstudio dataset.

Photos and poses are read from the scene that the map was made of. A keypoint is used if its scene coordinate projects
back onto it. Coordinates of several photos in one voxel become one point if their mean still projects onto the
keypoints; points that too few photos agree on are dropped.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pycolmap

from scrflow.core.errors import ScrflowError
from scrflow.core.geometry import camera_points, invert_pose, pinhole_rays, pixels_from_rays, reprojection_error
from scrflow.core.parallel import mapped
from scrflow.core.progress import log, track
from scrflow.localize.localizer import Localizer
from scrflow.scene.colmap_model import View, model_of_views, write_binary_model
from scrflow.scene.model import Scene, load_scene
from scrflow.storage.artifact import atomic_dir, atomic_path, read_stamp

_VERTEX = np.dtype([("xyz", "<f4", 3), ("rgb", "u1", 3)])


@dataclass(frozen=True)
class ExportOptions:
    """Which points to keep. ``voxel`` in the scene's unit; None: the size of ``max_error_px`` at the median depth."""

    max_error_px: float = 2.0
    min_views: int = 2
    voxel: float | None = None


@dataclass(frozen=True)
class Observations:
    """Keypoints of mapping photos with their scene coordinates; O of them, ordered by photo."""

    image: np.ndarray  # [O] int64, row of the mapping photo
    xyz: np.ndarray  # [O, 3] scene coordinates by the head
    pixel: np.ndarray  # [O, 2] undistorted, in the encoded image
    photo_pixel: np.ndarray  # [O, 2] in the photo as it was taken
    rgb: np.ndarray  # [O, 3] uint8
    K: np.ndarray  # [images, 3, 3] of the encoded images
    cam_from_world: np.ndarray  # [images, 3, 4]

    def errors(self, rows_R: np.ndarray, xyz_R3: np.ndarray) -> np.ndarray:
        """Reprojection error [R] in px of a point for each of the keypoints ``rows``; infinite behind the camera."""
        image = self.image[rows_R]
        return reprojection_error(self.pixel[rows_R], xyz_R3, self.K[image], self.cam_from_world[image])


@dataclass(frozen=True)
class Cloud:
    """Points and the keypoints that they were made of."""

    xyz: np.ndarray  # [P, 3]
    rgb: np.ndarray  # [P, 3] uint8
    error_px: np.ndarray  # [P] mean over its keypoints
    observation: np.ndarray  # [T] int64, rows of the observations, ordered by point; no photo twice in a point
    point: np.ndarray  # [T] int64


def export_map(
    map_path: Path,
    scene: Path | None,
    ply: Path | None,
    colmap: Path | None,
    options: ExportOptions,
    device: str | None = None,
    threads: int = 1,
    nerfstudio: Path | None = None,
) -> int:
    """Write the points of a map as ``ply``, as ``colmap`` model, as ``nerfstudio`` dataset; returns their number.
    ``scene`` is the scene artifact that the map was made of (default: ``../scene`` from its folder); ScrflowError for
    another one."""
    if ply is None and colmap is None and nerfstudio is None:
        raise ScrflowError("nothing to write: give --ply FILE, --colmap FOLDER or --nerfstudio FOLDER")
    for folder in (colmap, nerfstudio):
        if folder is not None and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ScrflowError(f"{folder}: exists already and is not overwritten; remove it or name another folder")
    localizer = Localizer.open(map_path, device)
    loaded = _scene_of(map_path, scene)
    seen = observe(localizer, loaded, options.max_error_px, threads)
    cloud = merge(seen, options)
    if ply is not None:
        write_ply(ply, cloud)
    if colmap is not None:
        write_colmap(colmap, cloud, seen, loaded.mapping)
    if nerfstudio is not None:
        write_nerfstudio(nerfstudio, cloud, loaded)
    return len(cloud.xyz)


def _scene_of(map_path: Path, folder: Path | None) -> Scene:
    """The scene artifact in ``folder`` (default: beside the map); ScrflowError if the map was made of another one."""
    chosen = folder or map_path.resolve().parent.parent / "scene"
    if not (chosen / "scene.json").is_file():
        raise ScrflowError(
            f"{chosen}: no scene here, and the export needs its photos and poses; give --scene results/SCENE/scene"
        )
    scene = load_scene(chosen)
    if read_stamp(map_path, "map").inputs.get("scene") != scene.stamp.digest:
        raise ScrflowError(f"{chosen}: not the scene that {map_path} was made of, or built again since; give --scene")
    return scene


def observe(localizer: Localizer, scene: Scene, max_error_px: float, threads: int = 1) -> Observations:
    """All keypoints of the mapping photos whose scene coordinates project back onto them within ``max_error_px``."""

    def one(row: int) -> tuple[int, dict[str, np.ndarray]]:
        name, camera = scene.mapping[row].name, scene.mapping[row].camera
        photo = scene.photo(name)
        view, xyz = localizer.scene_coordinates(photo, camera, name)
        error = reprojection_error(view.pixels, xyz, view.K, scene.mapping[row].cam_from_world)
        good = np.flatnonzero(error < max_error_px)
        photo_pixel = pixels_from_rays(camera, pinhole_rays(view.pixels[good], view.K))
        column, line = np.clip(photo_pixel.astype(np.int64), 0, np.array(photo.size) - 1).T
        return len(error), {
            "image": np.full(len(good), row),
            "xyz": xyz[good],
            "pixel": view.pixels[good],
            "photo_pixel": photo_pixel,
            "rgb": np.asarray(photo)[line, column],
            "K": view.K[None],
        }

    count = len(scene.mapping)
    counts, parts = zip(*track(mapped(one, range(count), threads), "mapping photos", count), strict=True)
    found = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    log.info("%d of %d keypoints project back within %g px", len(found["xyz"]), sum(counts), max_error_px)
    return Observations(cam_from_world=np.stack([v.cam_from_world for v in scene.mapping]), **found)


def merge(seen: Observations, options: ExportOptions) -> Cloud:
    """Points of the observations by voxel; ScrflowError if none is left."""
    if len(seen.xyz) == 0:
        raise ScrflowError(
            f"no scene coordinate projects back within {options.max_error_px:g} px of its keypoint: check that this is "
            "the map's scene, or raise --max-error"
        )
    depth = camera_points(seen.xyz, seen.cam_from_world[seen.image])[:, 2]
    voxel = options.voxel or float(np.median(depth / seen.K[seen.image, 0, 0])) * options.max_error_px
    _, point = np.unique(np.floor(seen.xyz / voxel).astype(np.int64), axis=0, return_inverse=True)
    point = point.reshape(-1)
    # of a photo's keypoints in one voxel keep the one that fits best
    order = np.lexsort((seen.errors(np.arange(len(point)), seen.xyz), seen.image, point))
    first = np.ones(len(order), bool)
    first[1:] = (np.diff(point[order]) != 0) | (np.diff(seen.image[order]) != 0)
    rows = order[first]
    for _ in range(2):  # the mean moves when a keypoint that it misses is dropped
        mean = _means(seen.xyz[rows], point[rows])
        kept = seen.errors(rows, mean[point[rows]]) < options.max_error_px
        rows = rows[kept]
    views = np.bincount(point[rows], minlength=point.max() + 1)
    rows = rows[(views >= options.min_views)[point[rows]]]
    if len(rows) == 0:
        raise ScrflowError(
            f"no point is seen by {options.min_views} photos: lower --min-views, or raise --voxel ({voxel:.3g})"
        )
    _, point = np.unique(point[rows], return_inverse=True)
    xyz = _means(seen.xyz[rows], point)
    error = _means(seen.errors(rows, xyz[point])[:, None], point)[:, 0]
    rgb = np.round(_means(seen.rgb[rows].astype(np.float64), point)).astype(np.uint8)
    log.info("%d points of voxels of %.3g, seen by %.1f photos each", len(xyz), voxel, len(rows) / len(xyz))
    return Cloud(xyz, rgb, error, rows, point)


def _means(values_NC: np.ndarray, group_N: np.ndarray) -> np.ndarray:
    """Means [G, C] of the rows of each group; a group without rows has 0."""
    groups = int(group_N.max()) + 1
    count = np.maximum(np.bincount(group_N, minlength=groups), 1)
    return np.stack([np.bincount(group_N, column, groups) / count for column in values_NC.T], 1)


def write_ply(out: Path, cloud: Cloud) -> None:
    """Binary PLY (little-endian): x y z float, red green blue uchar."""
    vertices = np.zeros(len(cloud.xyz), _VERTEX)
    vertices["xyz"], vertices["rgb"] = cloud.xyz, cloud.rgb
    lines = ["ply", "format binary_little_endian 1.0", f"element vertex {len(vertices)}"]
    lines += [f"property float {axis}" for axis in "xyz"]
    lines += [f"property uchar {colour}" for colour in ("red", "green", "blue")]
    with atomic_path(out) as temporary:
        temporary.write_bytes("\n".join([*lines, "end_header", ""]).encode("ascii") + vertices.tobytes())


def write_colmap(out: Path, cloud: Cloud, seen: Observations, views: tuple[View, ...]) -> None:
    """COLMAP's binary model in the new folder ``out``: cameras, images with the keypoints used, points with tracks."""
    model = model_of_views(views)
    # images are numbered from 1 in the order of views, keypoints by their place in the image
    keypoints: list[list[pycolmap.Point2D]] = [[] for _ in views]
    tracks: list[list[pycolmap.TrackElement]] = [[] for _ in cloud.xyz]
    for row, point in zip(cloud.observation.tolist(), cloud.point.tolist(), strict=True):
        image = int(seen.image[row])
        tracks[point].append(pycolmap.TrackElement(image + 1, len(keypoints[image])))
        keypoints[image].append(pycolmap.Point2D(seen.photo_pixel[row]))
    for image, points in enumerate(keypoints):
        model.image(image + 1).points2D = pycolmap.Point2DList(points)
    for xyz, rgb, error, elements in zip(cloud.xyz, cloud.rgb, cloud.error_px.tolist(), tracks, strict=True):
        model.point3D(model.add_point3D(xyz, pycolmap.Track(elements), rgb)).error = error
    with atomic_dir(out) as temporary:
        write_binary_model(model, temporary)


def write_nerfstudio(out: Path, cloud: Cloud, scene: Scene) -> None:
    """nerfstudio's transforms.json in the new folder ``out``, a link to the photos' folder, and the points as
    sparse_pc.ply. ScrflowError for cameras that it does not know."""
    frames, kinds = [], set()
    for view in scene.mapping:
        kind, intrinsics = _nerfstudio_camera(view.camera, view.name)
        kinds.add(kind)
        world_from_cam = np.vstack([invert_pose(view.cam_from_world), [0, 0, 0, 1]])
        world_from_cam[:, 1:3] *= -1  # OpenGL's axes: y up, z backward
        frames.append({"file_path": f"images/{view.name}", **intrinsics, "transform_matrix": world_from_cam.tolist()})
    if len(kinds) > 1:
        raise ScrflowError("photos of fisheye and of other cameras, and nerfstudio takes one kind; use --colmap")
    values = {"camera_model": kinds.pop(), "ply_file_path": "sparse_pc.ply", "frames": frames}
    with atomic_dir(out) as temporary:
        (temporary / "transforms.json").write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
        (temporary / "images").symlink_to(scene.image_root.absolute())
        write_ply(temporary / "sparse_pc.ply", cloud)


def _nerfstudio_camera(camera: pycolmap.Camera, name: str) -> tuple[str, dict[str, float]]:
    """nerfstudio's camera_model and intrinsics of a COLMAP camera."""
    values = dict(zip(camera.params_info.split(", "), camera.params.tolist(), strict=True))
    distortion = {"k1" if key == "k" else key: value for key, value in values.items() if key[0] in "kp"}
    kind = "OPENCV_FISHEYE" if "FISHEYE" in camera.model.name else "OPENCV"
    known = {"OPENCV": ("k1", "k2", "k3", "p1", "p2"), "OPENCV_FISHEYE": ("k1", "k2", "k3", "k4")}[kind]
    rest = values.keys() - {"f", "fx", "fy", "cx", "cy", "k", *distortion}
    if rest or any(value for key, value in distortion.items() if key not in known):
        raise ScrflowError(f"{name}: nerfstudio has no camera {camera.model.name}; use --colmap")
    size = {"w": camera.width, "h": camera.height}
    focal = {"fl_x": camera.focal_length_x, "fl_y": camera.focal_length_y}
    centre = {"cx": camera.principal_point_x, "cy": camera.principal_point_y}
    return kind, {**size, **focal, **centre, **{key: distortion[key] for key in known if key in distortion}}
