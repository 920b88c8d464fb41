"""What a run does not keep: the map localizes single queries once more, and shows its points."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pycolmap
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from scipy.spatial import cKDTree

from scrflow.baseline import mapping as matching_mapfile
from scrflow.baseline.localizer import MatchLocalizer
from scrflow.config import BaselineLocalizeStage, LocalizeStage
from scrflow.core.geometry import pinhole_matrix, project
from scrflow.core.parallel import one_thread_each
from scrflow.core.seeds import derived_seed
from scrflow.evaluate.figures import Reprojection, draw_keypoints, show_greyed
from scrflow.localize.localizer import Localizer
from scrflow.localize.pointcloud import Observations, observe
from scrflow.localize.result import AnyLocalizer, query_descriptors
from scrflow.map.file import load_map
from scrflow.report.page.run import Run
from scrflow.scene.model import Scene
from scrflow.storage.artifact import read_stamp

_SHOWN = 3  # of the best queries, and of the worst
_LISTED = 500
_WIDTH = 380  # px of a picture
_SCALE_PX = 10.0  # of the colours: the papers' inlier threshold
_CLOUD_PHOTOS = 60  # whose keypoints make the cloud: the walls of a room are seen, and thousands do not take hours
_CLOUD_ERROR_PX = 5.0  # of the encoded photo: half of the threshold by which poses are found
_NO_COLOUR = (140, 150, 160)
_BACKGROUND = 244


@dataclass(frozen=True)
class Points:
    """Coloured points in the world; ``note`` says what they are."""

    xyz: np.ndarray  # [P, 3]
    rgb: np.ndarray  # [P, 3] uint8
    note: str


def open_map(run: Run, threads: int = 1) -> tuple[AnyLocalizer, Points]:
    """The run's map, to localize as the run did, and its points; ScrflowError where the map or a photo is damaged."""
    stamp = read_stamp(run.folder / "localization.json", "localization")
    matches = run.folder / "map.h5"
    if matches.exists():
        config = BaselineLocalizeStage.model_validate(stamp.config)
        map_ = matching_mapfile.load_map(matches)
        rgb = np.tile(np.array(_NO_COLOUR, np.uint8), (len(map_.xyz), 1))
        points = Points(map_.xyz.astype(np.float64), rgb, f"{len(map_.xyz)} triangulated points")
        return MatchLocalizer(map_, config.localize, derived_seed(config.seed, "localize")), points
    config = LocalizeStage.model_validate(stamp.config)
    map_ = load_map(run.folder / "map.safetensors")
    localizer = Localizer(map_, config.localize, derived_seed(config.seed, "localize"))
    return localizer, _implied_points(localizer, run.scene, threads)


def _implied_points(localizer: Localizer, scene: Scene, threads: int) -> Points:
    """Where the map puts the keypoints of its mapping photos, or of an even choice of them."""
    step = -(-len(scene.mapping) // _CLOUD_PHOTOS)
    thinned = replace(scene, mapping=scene.mapping[::step])
    seen = observe(localizer, thinned, _CLOUD_ERROR_PX, threads)
    photos = f"all {len(scene.mapping)}" if step == 1 else f"{len(thinned.mapping)} of {len(scene.mapping)}"
    if localizer.map.head is None:
        return _landmark_points(localizer.map.landmarks.xyz, seen, photos)
    note = (
        f"{len(seen.xyz)} keypoints of {photos} mapping photos, where the map puts them in the world; those that do "
        f"not fall back within {_CLOUD_ERROR_PX:g} px are left out"
    )
    return Points(seen.xyz, seen.rgb, note)


def _landmark_points(xyz: np.ndarray, seen: Observations, photos: str) -> Points:
    """All landmarks [L, 3] of a map, in the colour of a keypoint that matches them."""
    rgb = np.tile(np.array(_NO_COLOUR, np.uint8), (len(xyz), 1))
    if len(seen.xyz):
        rgb[cKDTree(xyz).query(seen.xyz)[1]] = seen.rgb
    return Points(xyz, rgb, f"{len(xyz)} landmarks; grey are those that no keypoint of {photos} mapping photos matches")


def queries(run: Run, localizer: AnyLocalizer, points: Points) -> dict[str, Any]:
    """The best and the worst queries with their pictures, and the list of all, the worst first."""
    order = run.queries.sort_values("badness", kind="stable")
    shown = min(_SHOWN, len(order) // 2) if len(order) > 1 else 1
    groups = {"The worst": order[::-1][:shown], "The best": order[: min(shown, len(order) - shown)]}
    return {
        "groups": {
            title: [(row, _pictures(run, localizer, points, row)) for row in part.to_dict("records")]
            for title, part in groups.items()
        },
        "listed": order[::-1][:_LISTED].to_dict("records"),
    }


def _pictures(run: Run, localizer: AnyLocalizer, points: Points, row: dict[str, Any]) -> list[tuple[str, Image.Image]]:
    """Captions and pictures of a query; the localizer localizes it once more."""
    name = row["name"]
    camera = next(q.camera for q in run.scene.queries if q.name == name)
    photo = run.scene.photo(name)
    with one_thread_each():
        found = localizer.localize_photo(photo, camera, _descriptor(run, name))
    marks, marked = None, "no pose: too few keypoints agree"
    if found.cam_from_world is not None:
        marks = Reprojection(*found.photo_pixels(camera), found.inliers)
        marked = f"{int(marks.inlier.sum())} of {len(marks.inlier)} keypoints agree with the pose"
    pictures = [("the photo", _fitted(photo)), (marked, _marked(photo, marks))]
    if found.cam_from_world is not None and len(points.xyz):
        view = render_points(points, camera, found.cam_from_world, _WIDTH)
        pictures.append(("the map from the pose found", Image.fromarray(view)))
    if found.hypothesis is not None:
        pictures.append((f"taken to be near {found.hypothesis}", _fitted(run.scene.photo(found.hypothesis))))
    return pictures


def _descriptor(run: Run, name: str) -> torch.Tensor | None:
    """The query's global descriptor, where the run took it from a file."""
    for path, stamp in run.stages.items():
        retrieval = (stamp.config.get("retrieval") or {}) if stamp is not None else {}
        if path.endswith(".h5") and stamp.kind == "retrieval" and retrieval.get("kind") == "hloc":
            return query_descriptors(run.folder.absolute().parents[1] / path, [name])[name]
    return None


def _fitted(photo: Image.Image) -> Image.Image:
    return photo.resize((_WIDTH, max(1, round(photo.height * _WIDTH / photo.width))), Image.Resampling.LANCZOS)


def _marked(photo: Image.Image, points: Reprojection | None) -> Image.Image:
    """The photo, greyed, with its keypoints as in draw_keypoints."""
    fig = Figure(figsize=(7.6, 7.6 * photo.height / photo.width), dpi=79)  # 600 px wide: screens may be fine
    ax = fig.add_axes((0, 0, 1, 1))
    show_greyed(ax, photo)
    if points is not None:
        draw_keypoints(ax, points, _SCALE_PX, size=20)
    canvas = FigureCanvasAgg(fig)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])


def render_points(points: Points, camera: pycolmap.Camera, cam_from_world: np.ndarray, width: int) -> np.ndarray:
    """What a camera at this pose would see of the points: [height, width, 3] uint8, without the lens' distortion."""
    scale = width / camera.width
    height = max(1, round(camera.height * scale))
    K = pinhole_matrix(camera) * np.array([[scale], [scale], [1]])
    picture = np.full((height, width, 3), _BACKGROUND, np.uint8)
    pixels, depth = project(points.xyz, K, cam_from_world)
    front = np.flatnonzero(depth > 1e-6)
    front = front[np.argsort(-depth[front], kind="stable")]  # far ones first, to be painted over
    at = np.floor(pixels[front])
    radius = max(1, width // 200)
    near = (at > -radius - 1).all(1) & (at < np.array([width, height]) + radius).all(1)
    at, rgb = at[near].astype(np.int64), points.rgb[front[near]]
    splat = np.stack(np.meshgrid(*2 * [np.arange(-radius, radius + 1)]), -1).reshape(-1, 2)
    column, line = (at[:, None] + splat).reshape(-1, 2).T
    inside = (column >= 0) & (column < width) & (line >= 0) & (line < height)
    picture[line[inside], column[inside]] = np.repeat(rgb, len(splat), 0)[inside]
    return picture
