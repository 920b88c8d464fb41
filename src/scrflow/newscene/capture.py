"""Was the capture good enough? Blur, darkness, overlap and parallax of photos, before structure from motion and after.

Before it, SIFT of small pictures and retrieval give the overlap graph: a link joins two photos whose matches one
epipolar geometry explains. After it, a link joins two photos that see the same 3D points.
"""

import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pycolmap
import torch
from PIL import Image
from scipy.ndimage import uniform_filter1d

from scrflow.config import SceneConfig
from scrflow.core.errors import ScrflowError
from scrflow.core.images import opened
from scrflow.core.progress import track
from scrflow.features.encoders.sift import Sift
from scrflow.pipeline.project import Project
from scrflow.scene.checks import DEPTH_IMAGES, doubt, measured_range, observed_depths, some
from scrflow.scene.colmap_model import read_model
from scrflow.scene.photo_files import list_photos
from scrflow.scene.readers import read_source
from scrflow.sfm.colmap_process import quiet_pycolmap
from scrflow.sfm.matching import LEAST_PARALLAX, Pair, nearest_pairs, rotation_residuals, vlad_similarity
from scrflow.storage.artifact import read_json

FEW = 20  # mapping photos
MOST = 200  # photos looked at, each some 0.2 to 0.5 s of a core
_SHARP_SIDE, _MATCH_SIDE = 1600, 800  # px, longer side of the picture for blur, and for matches
_KEYPOINTS = 800
_NEIGHBOURS = 6
_BRIDGES = 30  # pairs to try between a set and the rest
_RATIO = 0.85
_MIN_MATCHES = 20
_MIN_POINTS = 15  # 3D points of a link after SfM
_BLURRED = 0.62  # Crete's measure: sharp photos have 0.2 to 0.45, a Gaussian of 2 px gives 0.61 to 0.7
_DARK = 40  # of 255, mean grey
_LEAST_ANGLE = 2.0  # degrees; under smaller ones depths are a guess


Link = tuple[str, str, Pair]  # two photos and their matching points


@dataclass(frozen=True)
class Capture:
    """Rows (what, found) about the photos, and advice on what would spoil the map."""

    rows: tuple[tuple[str, str], ...] = ()
    advice: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class _Picture:
    name: str
    blur: float  # 0 sharp to 1
    grey: float  # mean, of 255
    points: np.ndarray  # [N, 2], from the centre, over the longer side
    descriptors: torch.Tensor  # [N, 128]


def judge(scene: str, path: Path, project: Project) -> Capture:
    """The capture of a scene of the config, with its SfM model where there is one, or of the photos under ``path``."""
    if scene not in project.scenes:
        if not path.is_dir():
            raise ScrflowError(f"{scene}: neither a scene of {project.dir}/scenes nor a folder of photos; correct it")
        names = list_photos(path)
        found = look_at(path, names)
        few = (f"Photos: {len(names)} are few; rooms take {FEW} to 200.",) if len(names) < FEW else ()
        return Capture((("photos", str(len(names))), *found.rows), few + found.advice)
    source, root = project.scene(scene).source, project.scene_root(scene)
    if source.reader != "photos":
        found = read_source(source, root)
        before = look_at(found.image_root, sorted(image.name for image in found.images))
        return before if found.model is None else _joined(before, lengths(found.model, project.scene(scene)))
    names = list_photos(root / source.images)
    before, model = look_at(root / source.images, names), Path("results", scene, "sfm")
    if not (model / "sfm.json").is_file():
        return before
    made, aligned = read_model(model), read_json(model / "sfm.json", "sfm").get("alignment")
    return _joined(before, after_sfm(made, names), lengths(made, project.scene(scene), aligned))


def _joined(*parts: Capture) -> Capture:
    return Capture(tuple(row for part in parts for row in part.rows), tuple(a for part in parts for a in part.advice))


def look_at(folder: Path, names: Sequence[str], seed: int = 1) -> Capture:
    """Judge the photos, or MOST evenly chosen ones of more, in about a minute."""
    every = -(-len(names) // MOST)
    chosen = list(names)[::every]
    quiet_pycolmap()
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        found = pool.map(lambda name: _picture(folder / name, name), chosen)
        pictures = list(track(found, "keypoints of photos", total=len(chosen)))
    links = _links(pictures, seed)
    of = f" of {len(pictures)} chosen evenly" if every > 1 else f" of {len(pictures)}"
    blurred = [p.name for p in sorted(pictures, key=lambda p: -p.blur) if p.blur > _BLURRED]
    dark = [p.name for p in sorted(pictures, key=lambda p: p.grey) if p.grey < _DARK]
    median = float(np.median([p.blur for p in pictures]))
    rows = [
        ("sharpness", f"{len(blurred)}{of} photos blurred (blur over {_BLURRED:g}; median {median:.2f})"),
        ("brightness", f"{len(dark)}{of} photos dark (mean grey under {_DARK} of 255)"),
    ]
    advice = []
    if blurred:
        advice.append(f"Blur: {len(blurred)}{of} photos ({some(blurred, 3)}). Take them again, or leave them out.")
    if dark:
        advice.append(f"Darkness: {len(dark)}{of} photos ({some(dark, 3)}). Take them again with more light.")
    overlap, split = _overlap([p.name for p in pictures], links, "matches")
    rows.append(("overlap", overlap))
    advice += split if every == 1 else []
    residuals = rotation_residuals([pair for _, _, pair in links])
    best = {}
    for (a, b, _), residual in zip(links, residuals, strict=True):
        for name in (a, b):
            best[name] = max(best.get(name, 0.0), float(residual))
    moved = sum(r >= LEAST_PARALLAX for r in best.values())
    middle = 100 * float(np.median(list(best.values()))) if best else 0.0
    rows.append(("parallax", f"{moved} of {len(best)} photos; median {middle:.2g} % of the image's longer side"))
    if best and moved < len(best) / 2:
        advice.append(
            f"Parallax: the camera only turned between {len(best) - moved} of {len(best)} photos and their neighbours "
            f"(a rotation explains their matches within {100 * LEAST_PARALLAX:g} % of the longer side), so no depth "
            "can be measured. Walk sideways between photos."
        )
    return Capture(tuple(rows), tuple(advice))


def after_sfm(model: pycolmap.Reconstruction, names: Sequence[str]) -> Capture:
    """Judge the model that structure from motion made of the photos ``names``."""
    shared: Counter[tuple[int, int]] = Counter()
    for point in model.points3D.values():
        shared.update(combinations(sorted({e.image_id for e in point.track.elements}), 2))
    name = {i: model.image(i).name for i in model.reg_image_ids()}
    links = [(name[a], name[b]) for (a, b), count in shared.items() if count >= _MIN_POINTS]
    left = [n for n in names if n not in set(name.values())]
    angle = _median_angle(model)
    overlap, advice = _overlap(list(name.values()), links, f"{_MIN_POINTS} common 3D points")
    rows = [
        ("registered by SfM", f"{len(name)} of {len(names)}"),
        ("overlap after SfM", overlap),
        ("triangulation angle", f"median {angle:.2g}°"),
    ]
    if left:
        advice.insert(0, f"Not registered: {some(left)}. Add photos between them and the others, or leave them out.")
    if angle < _LEAST_ANGLE:
        advice.append(f"Parallax: points are seen under {angle:.2g}° (median). Walk sideways between photos.")
    return Capture(tuple(rows), tuple(advice))


def lengths(model: pycolmap.Reconstruction, scene: SceneConfig, alignment: dict[str, Any] | None = None) -> Capture:
    """Scale and depths of a model; advice where the config's ``depth_range`` misses the points."""
    depths = observed_depths(model, DEPTH_IMAGES)
    measured = measured_range(depths)
    rows, advice = [], []
    if alignment:
        told = (f"{key.replace('_', ' ')} {value}" for key, value in alignment.items() if key != "to")
        rows.append(("scale", f"by {alignment['to']}: {', '.join(told)}"))
    if measured:
        rows.append(("depths", f"98 % of the points are {measured[0]:g} to {measured[1]:g} {scene.unit} deep"))
    if scene.depth_range and (wrong := doubt(scene.depth_range, depths)):
        advice.append(f"Depths: {wrong}.")
    return Capture(tuple(rows), tuple(advice))


def _median_angle(model: pycolmap.Reconstruction) -> float:
    """Median over points of the angle between the rays of the first and the last photo that see it, degrees."""
    centres = {i: model.image(i).projection_center() for i in model.reg_image_ids()}
    angles = []
    for point in model.points3D.values():
        seen = sorted({e.image_id for e in point.track.elements})
        a, b = (centres[i] - point.xyz for i in (seen[0], seen[-1]))
        angles.append(np.degrees(np.arccos(np.clip(a @ b / np.linalg.norm(a) / np.linalg.norm(b), -1, 1))))
    return float(np.median(angles)) if angles else 0.0


def _overlap(names: list[str], links: Sequence[tuple], by: str) -> tuple[str, list[str]]:
    """A line about the graph of photos, and advice if it is not connected."""
    sets = _sets(names, links)
    degrees = Counter(name for link in links for name in link[:2])
    told = f"{len(links)} links by {by}, {np.median([degrees[n] for n in names]):g} a photo (median)"
    if len(sets) < 2:
        return f"{told}; all connected", []
    sizes = ", ".join(str(len(s)) for s in sets[:6]) + (" ..." if len(sets) > 6 else "")
    loose = sorted(name for s in sets[1:] for name in s)
    return f"{told}; {len(sets)} sets", [
        f"Overlap: the photos fall into {len(sets)} sets of {sizes} that share nothing ({some(loose, 3)} are not in "
        "the largest). Add photos between them; SfM keeps the largest set."
    ]


def _picture(path: Path, name: str) -> _Picture:
    with opened(path) as image:
        image.draft("L", (_SHARP_SIDE, _SHARP_SIDE))
        large = _shrunk(image.convert("L"), _SHARP_SIDE)
    small = _shrunk(large, _MATCH_SIDE)
    pixels = np.asarray(large, np.float32)
    # threads must not share an extractor
    sift = Sift(_KEYPOINTS, upright=True, first_octave=0)
    features = sift(torch.from_numpy(np.array(small)).float().div(255).expand(3, -1, -1))
    points = (features.keypoints_px.double().numpy() - np.array(small.size) / 2) / max(small.size)
    return _Picture(name, blur_of(pixels), float(pixels.mean()), points, features.descriptors)


def _shrunk(image: Image.Image, side: int) -> Image.Image:
    scale = side / max(image.size)
    size = (round(image.width * scale), round(image.height * scale))
    return image.resize(size, Image.Resampling.BOX) if scale < 1 else image


def blur_of(grey_HW: np.ndarray) -> float:
    """0 (sharp) to 1: the share of the variation that a further blur leaves (Crete et al., The blur effect, 2007)."""
    shares = []
    for axis in (0, 1):
        change = np.abs(np.diff(grey_HW, axis=axis))
        again = np.abs(np.diff(uniform_filter1d(grey_HW, 9, axis=axis), axis=axis))
        total = float(change.sum(dtype=np.float64))
        lost = float(np.maximum(0, change - again).sum(dtype=np.float64))
        shares.append(1 - lost / total if total else 1.0)
    return max(shares)


def _links(pictures: Sequence[_Picture], seed: int) -> list[Link]:
    """Links of each photo with the most similar ones; then of sets still apart with the photos most similar to them."""
    names = [p.name for p in pictures]
    by_name = dict(zip(names, pictures, strict=True))
    similarity = vlad_similarity([p.descriptors.numpy() for p in pictures], seed)
    np.fill_diagonal(similarity, -np.inf)
    options = pycolmap.RANSACOptions(
        max_error=3 / _MATCH_SIDE, random_seed=seed, min_num_trials=100, max_num_trials=500
    )
    tried = nearest_pairs(names, -similarity, _NEIGHBOURS)
    links = [link for a, b in track(tried, "matching") if (link := _link(by_name[a], by_name[b], options))]
    for part in _sets(names, links)[1:]:
        inside = np.isin(names, list(part))
        apart = np.where(inside[:, None] & ~inside, similarity, -np.inf)
        for at in np.argsort(-apart, axis=None)[:_BRIDGES]:
            a, b = (names[i] for i in np.unravel_index(at, apart.shape))
            if np.isfinite(apart.flat[at]) and (link := _link(by_name[a], by_name[b], options)):
                links.append(link)
    return links


def _sets(names: Sequence[str], links: Sequence[tuple]) -> list[set[str]]:
    """Photos that links join, the largest set first."""
    graph = nx.Graph()
    graph.add_nodes_from(names)
    graph.add_edges_from((a, b) for a, b, *_ in links)
    return sorted(nx.connected_components(graph), key=len, reverse=True)


def _link(one: _Picture, other: _Picture, options: pycolmap.RANSACOptions) -> Link | None:
    """The link of two photos, if an epipolar geometry explains their matches."""
    from kornia.feature import match_smnn

    if min(len(one.points), len(other.points)) < _MIN_MATCHES:
        return None
    _, pairs = match_smnn(one.descriptors, other.descriptors, _RATIO)
    if len(pairs) < _MIN_MATCHES:
        return None
    x, y = one.points[pairs[:, 0].numpy()], other.points[pairs[:, 1].numpy()]
    found = pycolmap.estimate_fundamental_matrix(x, y, options)
    if found is None or found["num_inliers"] < _MIN_MATCHES:
        return None
    inliers = found["inlier_mask"]
    return one.name, other.name, (x[inliers], y[inliers])
