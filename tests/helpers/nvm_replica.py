"""A few images of the demo scene written out as VisualSFM, Aachen and Cambridge have theirs, by formulas of its own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.spatial.transform import Rotation

from scrflow.scene.colmap_model import read_model, views_of_model

DEMO = Path(__file__).resolve().parents[2] / "demo"
WIDTH, HEIGHT = 512, 384


@dataclass(frozen=True)
class Replica:
    """Cameras of N demo images and P points before them; pixels are from the top-left corner (COLMAP's)."""

    photos: list[str]  # names of the demo's images
    poses: np.ndarray  # [N, 3, 4] cam_from_world
    focal: np.ndarray  # [N] px
    radial: np.ndarray  # [N] VisualSFM's
    xyz: np.ndarray  # [P, 3]
    seen: list[list[tuple[int, np.ndarray]]]  # of each point: (image, pixel from the principal point)

    def quaternions(self) -> np.ndarray:
        """[N, 4] w x y z, by SciPy."""
        return np.roll(Rotation.from_matrix(self.poses[:, :, :3]).as_quat(), 1, axis=1)

    def centres(self) -> np.ndarray:
        """[N, 3]"""
        return -np.einsum("nji,nj->ni", self.poses[:, :, :3], self.poses[:, :, 3])


def measured(ideal: np.ndarray, r: float) -> np.ndarray:
    """Distances d with d (1 + r d^2) = ideal, by Newton: where VisualSFM's camera sees what is at ``ideal`` / 1."""
    d = ideal.copy()
    for _ in range(20):
        d -= (d * (1 + r * d**2) - ideal) / (1 + 3 * r * d**2)
    return d


def replica(count: int, radial: float, every: int = 3, points: int = 40, vary_focal: bool = True) -> Replica:
    """``count`` of the demo's mapping images with ``points`` made-up points before each."""
    rng = np.random.default_rng(5)
    names = (DEMO / "mapping.txt").read_text().split()[: count * every : every]
    views = {v.name: v for v in views_of_model(read_model(DEMO / "model"))}
    poses = np.stack([views[name].cam_from_world for name in names])
    focal = views[names[0]].camera.focal_length_x * (1 + 0.01 * np.arange(count) * vary_focal)
    r = radial * np.linspace(-1, 1, count)
    depth = rng.uniform(4, 20, (count, points))
    rays = rng.uniform(-0.45, 0.45, (count, points, 2)) * (1, 0.75)
    local = np.concatenate([rays, np.ones_like(depth)[..., None]], 2) * depth[..., None]
    xyz = np.einsum("nji,npj->npi", poses[:, :, :3], local - poses[:, None, :, 3]).reshape(-1, 3)
    seen: list[list[tuple[int, np.ndarray]]] = [[] for _ in xyz]
    for i, pose in enumerate(poses):
        p = xyz @ pose[:, :3].T + pose[:, 3]
        for j in np.flatnonzero(p[:, 2] > 0.5):
            ideal = p[j, :2] / p[j, 2]
            norm = np.linalg.norm(ideal)
            if norm < 1:
                m = focal[i] * ideal / norm * measured(np.array([norm]), r[i])
                if (np.abs(m) < (WIDTH / 2 - 1, HEIGHT / 2 - 1)).all():
                    seen[j].append((i, m))
    kept = [j for j, views_of in enumerate(seen) if len(views_of) >= 2]
    return Replica(names, poses, focal, r, xyz[kept], [seen[j] for j in kept])


def write_nvm(path: Path, rep: Replica, names: list[str], colmap: bool = False) -> None:
    """As VisualSFM writes it, or as COLMAP exports it (other blanks, measurements from the top-left corner)."""
    separator = " " if colmap else "\t"
    lines = ["NVM_V3 ", " " if colmap else "", f"{len(names)}  " if colmap else f"{len(names)}"]
    for name, f, q, c, r in zip(names, rep.focal, rep.quaternions(), rep.centres(), rep.radial, strict=True):
        numbers = " ".join(f"{v:.12g}" for v in (f, *q, *c, r))
        lines.append(f"{name}{separator}{numbers} 0{'' if colmap else ' '}")
    lines += ["", str(len(rep.xyz))]
    shift = np.array([WIDTH / 2, HEIGHT / 2]) if colmap else np.zeros(2)
    for k, (p, seen) in enumerate(zip(rep.xyz, rep.seen, strict=True)):
        views = " ".join(f"{i} {k} {x:.8g} {y:.8g}" for i, (x, y) in ((i, m + shift) for i, m in seen))
        lines.append(f"{p[0]:.12g} {p[1]:.12g} {p[2]:.12g} {k % 256} 20 30 {len(seen)} {views}{'' if colmap else ' '}")
    if not colmap:  # VisualSFM ends with an empty model and a list of PLY files
        lines += ["", "", "0", "", "#the last part of NVM file points to the PLY files", "0", ""]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def copy_photo(name: str, to: Path) -> None:
    """A photo of the demo, in the format of the new name."""
    to.parent.mkdir(parents=True, exist_ok=True)
    if to.suffix == ".jpg":
        to.write_bytes((DEMO / "images" / name).read_bytes())
    else:
        with Image.open(DEMO / "images" / name) as image:
            image.save(to, compress_level=1)
