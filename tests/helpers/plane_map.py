"""A real little map: photos of a painted wall, the scene artifact of them, and a map file whose head has learnt it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pycolmap
import scipy.sparse
import torch
from PIL import Image
from scenes import scene_of, write_graph
from scipy.spatial.transform import Rotation

from scrflow.config import (
    ExtractorConfig,
    GlobalEncodingUse,
    HeadConfig,
    LandmarksConfig,
    LandmarksPart,
    LocalizeConfig,
    MapStage,
    MatchFeaturesConfig,
    RetrievalConfig,
    RetrievalStage,
    TracksConfig,
    TracksStage,
)
from scrflow.features.encoders import build_encoder
from scrflow.features.global_encoding import read_global_encoding, standardised
from scrflow.features.retrieval_index import build_retrieval
from scrflow.features.views import encode_view
from scrflow.landmarks.tracks import build_tracks
from scrflow.map.file import write_map
from scrflow.scene.colmap_model import View
from scrflow.scene.model import Query
from scrflow.storage.artifact import Stamp, create_h5, write_safetensors
from scrflow.training.head import Head

SIZE, FOCAL = (320, 240), 280.0
CAMERA = pycolmap.Camera(model="PINHOLE", width=320, height=240, params=[FOCAL, FOCAL, 160.0, 120.0])
CAMERA_LINE = "PINHOLE 320 240 280 280 160 120"
K = np.array([[FOCAL, 0, 160], [0, FOCAL, 120], [0, 0, 1]])
TEXELS = 300.0  # a metre of the wall, which is the plane z = 0 from (-2, -1.5) to (2, 1.5)
WITHIN = (0.05, 2.0)
EXTRACTOR = ExtractorConfig(name="sift", short_side=240, max_keypoints=150)
VLAD = RetrievalConfig(kind="vlad", encoder="sift", clusters=4, keypoints=150, dim=8, pq_bytes=4)
MATCHED = MatchFeaturesConfig(name="opencv-sift", max_keypoints=600, descriptors="uint8")
LANDMARKS = LandmarksConfig(count=300, dim=16, code_bytes=8)
SCALE = 10.0  # of the descriptors, unit vectors: numbers near 1 are learnt faster


@dataclass(frozen=True)
class PlaneMap:
    map: Path
    scene: Path
    queries: dict[str, np.ndarray]  # name under ``photos`` -> cam_from_world [3, 4]
    photos: Path

    @classmethod
    def at(cls, root: Path) -> PlaneMap:
        """What ``build`` left under ``root``."""
        folder = root / "results/wall"
        return cls(folder / "tiny/map.safetensors", folder / "scene", poses()[1], root / "photos")


def wall() -> Image.Image:
    """1200 x 900 texels of coloured noise of several scales: every place looks different."""
    rng = np.random.default_rng(7)
    picture = np.zeros((900, 1200, 3))
    for cells in (12, 40, 120):
        noise = rng.integers(0, 255, (cells * 3 // 4, cells, 3), dtype=np.uint8)
        picture += np.asarray(Image.fromarray(noise).resize((1200, 900), Image.Resampling.BICUBIC), float) / 3
    return Image.fromarray(np.clip(2 * (picture - 127) + 127, 0, 255).astype(np.uint8))


def pose(x: float, y: float, distance: float, yaw: float, roll: float) -> np.ndarray:
    R = Rotation.from_euler("yz", [yaw, roll], degrees=True).as_matrix()
    return np.column_stack([R, -R @ [x, y, -distance]])


def photograph(texture: Image.Image, cam_from_world: np.ndarray) -> Image.Image:
    """What CAMERA sees of the wall."""
    to_photo = K @ cam_from_world[:, [0, 1, 3]] @ np.array([[1 / TEXELS, 0, -2], [0, 1 / TEXELS, -1.5], [0, 0, 1]])
    back = np.linalg.inv(to_photo)
    coefficients = (back / back[2, 2]).ravel()[:8].tolist()
    return texture.transform(SIZE, Image.Transform.PERSPECTIVE, coefficients, Image.Resampling.BICUBIC)


def on_wall(pixels: np.ndarray, cam_from_world: np.ndarray) -> np.ndarray:
    """World points [N, 3] of the wall under pixels [N, 2] of CAMERA."""
    rays = np.column_stack([(pixels - K[:2, 2]) / FOCAL, np.ones(len(pixels))]) @ cam_from_world[:, :3]
    centre = -cam_from_world[:, :3].T @ cam_from_world[:, 3]
    return centre - rays * (centre[2] / rays[:, 2:])


def poses() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Poses of the mapping photos and of the queries, by name."""
    rng, mapping, queries = np.random.default_rng(3), {}, {}
    for kind, found, count in (("mapping", mapping, 12), ("query", queries, 3)):
        for i in range(count):
            x, y = (-0.3 + 0.2 * (i % 4), -0.2 + 0.2 * (i // 4)) if kind == "mapping" else (-0.2 + 0.2 * i, 0.1)
            found[f"{kind}/{i:02d}.png"] = pose(x, y, rng.uniform(1.4, 1.6), rng.uniform(-6, 6), rng.uniform(-3, 3))
    return mapping, queries


def build_scene(root: Path) -> tuple[Path, dict[str, np.ndarray]]:
    """Photos and the scene artifact under ``root``, laid out as the workflow does it: its folder, poses of queries."""
    mapping, queries = poses()
    return _scene(root / "results/wall/scene", _photos(root), mapping, queries), queries


def _photos(root: Path) -> Path:
    texture = wall()
    for name, cam_from_world in (poses()[0] | poses()[1]).items():
        (root / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        photograph(texture, cam_from_world).save(root / "photos" / name)
    return root / "photos"


def _scene(folder: Path, photos: Path, mapping: dict[str, np.ndarray], queries: dict[str, np.ndarray]) -> Path:
    views = [View(name, CAMERA, p) for name, p in mapping.items()]
    return scene_of(folder, photos, views, [Query(name, CAMERA, "all") for name in queries], queries)


def build(root: Path) -> PlaneMap:
    """Photos, scene and map under ``root`` (some 10 s of one core)."""
    scene, _ = build_scene(root)
    _map(root / "results/wall/tiny", scene, root / "photos", poses()[0])
    return PlaneMap.at(root)


def build_landmarks(root: Path, threads: int = 1) -> PlaneMap:
    """Photos, scene, graph, tracks and a map of landmarks alone under ``root`` (some 3 s of one core)."""
    scene, _ = build_scene(root)
    write_graph(root / "graph.npz", scipy.sparse.csr_array(1.0 - np.eye(12)), poses()[0])
    stage = TracksStage(tracks=TracksConfig(features=MATCHED), seed=1)
    build_tracks(stage, scene, root / "graph.npz", root / "tracks.h5", threads)
    made = PlaneMap.at(root)
    made.map.parent.mkdir()
    write_map(landmark_stage(), scene, None, None, None, None, made.map, tracks=root / "tracks.h5")
    return made


def landmark_stage() -> MapStage:
    return MapStage(
        extractor=None,
        global_encoding=GlobalEncodingUse(),
        head=None,
        landmarks=LandmarksPart(features=MATCHED, landmarks=LANDMARKS),
        retrieval=None,
        retrieval_extractor=None,
        own_encoding=False,
        localize=LocalizeConfig(hypotheses=1),
        thresholds=(WITHIN, (0.5, 10.0)),
        unit="m",
        seed=1,
    )


def build_halves(root: Path) -> tuple[list[Path], list[Path]]:
    """Maps of the photos in the left and in the right three of four columns, with retrieval by VLAD and an encoding for
    each image; and the three photos that only the first map holds, then those of the second."""
    photos, mapping, maps, only = _photos(root), poses()[0], [], []
    for columns, own in (((0, 1, 2), 0), ((1, 2, 3), 3)):
        folder = root / f"results/half-{own}"
        part = {name: p for i, (name, p) in enumerate(mapping.items()) if i % 4 in columns}
        scene = _scene(folder / "scene", photos, part, {})
        files = [folder / f"retrieval.{suffix}" for suffix in ("h5", "safetensors", "json")]
        build_retrieval(RetrievalStage(retrieval=VLAD, extractor=EXTRACTOR, near=0.5, seed=1), scene, *files, 1)
        with create_h5(folder / "node2vec.h5", Stamp("global-encoding")) as f:
            f["encoding"] = np.random.default_rng(1).normal(size=(len(part), 4)).astype(np.float32)
            f["names"] = list(part)
        maps.append(_map(folder, scene, photos, part, folder / "node2vec.h5", files[1]))
        only += [photos / name for i, name in enumerate(mapping) if i % 4 == own]
    return maps, only


def _map(
    folder: Path,
    scene: Path,
    photos: Path,
    mapping: dict[str, np.ndarray],
    encoding: Path | None = None,
    retrieval: Path | None = None,
) -> Path:
    stage = MapStage(
        extractor=EXTRACTOR,
        global_encoding=GlobalEncodingUse(name=None if encoding is None else "node2vec"),
        head=HeadConfig(width=128, blocks=1, clusters=1, refine_blocks=0),
        retrieval=None if retrieval is None else VLAD,
        retrieval_extractor=None if retrieval is None else EXTRACTOR,
        own_encoding=False,
        localize=LocalizeConfig(hypotheses=1 if encoding is None else 2, max_keypoints=150, iterations=500),
        thresholds=(WITHIN, (0.5, 10.0)),
        unit="m",
        seed=1,
    )
    head, pca = folder / "head.safetensors", folder / "pca.safetensors"
    g = torch.zeros(len(mapping), 0)
    if encoding is not None:
        g = standardised(read_global_encoding(encoding, tuple(mapping)))
    state = _learnt(stage, photos, mapping, g).state_dict()
    write_safetensors(
        head, {k: v.half() for k, v in state.items()}, Stamp("head"), {"dim_in": "128", "output_unit": "1.0"}
    )
    write_safetensors(pca, {"mean": torch.zeros(128), "components": SCALE * torch.eye(128)}, Stamp("pca"))
    write_map(stage, scene, head, pca, encoding, retrieval, folder / "map.safetensors")
    return folder / "map.safetensors"


def _learnt(stage: MapStage, photos: Path, mapping: dict[str, np.ndarray], encodings: torch.Tensor) -> Head:
    """A head trained on points of the wall: the supervision is of no interest here, the map is."""
    encoder = build_encoder(stage.extractor)
    views = [encode_view(Image.open(photos / n).convert("RGB"), CAMERA, encoder, 240, 150) for n in mapping]
    rows = zip(encodings.float(), views, strict=True)
    x = torch.cat([torch.cat([g.expand(len(v.pixels), -1), SCALE * v.descriptors], 1) for g, v in rows])
    y = torch.from_numpy(np.concatenate([on_wall(v.pixels, p) for v, p in zip(views, mapping.values(), strict=True)]))
    torch.manual_seed(0)
    head = Head(x.shape[1], stage.head, torch.zeros(1, 3))
    optimiser = torch.optim.AdamW(head.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, 400)
    for _ in range(400):
        rows = torch.randint(len(x), (512,))
        loss = (head(x[rows]).xyz_world - y[rows].float()).norm(dim=1).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return head
