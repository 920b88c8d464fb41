"""A few images of the demo scene as VisualSFM, Aachen Day-Night and Cambridge Landmarks have theirs (SYNTHETIC)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pycolmap
from PIL import Image
from scipy.spatial.transform import Rotation

from scrflow.scene.colmap_model import View, read_model, views_of_model

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


DAY = [f"query/day/milestone/2010-10-30_17-47-{i}.jpg" for i in (25, 33, 46)]
NIGHT = [f"query/night/nexus5x/IMG_20161227_16{i}.jpg" for i in (2334, 2404)]
FOCAL = 400.0  # of the demo's mapping images, which have no distortion; its queries' camera is its second


def db(i: int) -> str:
    return f"db/{1000 + i}.jpg"


def demo_queries() -> dict[str, View]:
    """Aachen's names -> the demo's queries under them."""
    views = {v.name: v for v in views_of_model(read_model(DEMO / "model"))}
    names = [*(DEMO / "queries_day.txt").read_text().split()[:3], *(DEMO / "queries_night.txt").read_text().split()[:2]]
    return dict(zip([*DAY, *NIGHT], [views[n] for n in names], strict=True))


def list_line(name: str, camera: pycolmap.Camera) -> str:
    if camera.model.name == "PINHOLE":
        f, _, x, y = camera.params
        k = 0.0
    else:
        f, x, y, k = camera.params
    return f"{name} SIMPLE_RADIAL {camera.width} {camera.height} {f:.9g} {x:.9g} {y:.9g} {k:.9g}\n"


def write_queries(root: Path, images: str, night: list[str] = NIGHT) -> None:
    queries = demo_queries()
    (root / "queries").mkdir(parents=True)
    for condition, names in (("day", DAY), ("night", night)):
        text = "".join(list_line(n, queries[n].camera) for n in names)
        (root / f"queries/{condition}_time_queries_with_intrinsics.txt").write_text(text)
    for name, view in queries.items():
        copy_photo(view.name, root / images / name)


def write_v10(root: Path, rep: Replica, colmap: bool = True) -> Path:
    for i, photo in enumerate(rep.photos):
        copy_photo(photo, root / "images/images_upright" / db(i))
    write_nvm(root / "3D-models/aachen_cvpr2018_db.nvm", rep, [db(i) for i in range(len(rep.photos))], colmap=colmap)
    lines = [
        f"{db(i)} SIMPLE_RADIAL {WIDTH} {HEIGHT} {FOCAL} {WIDTH / 2} {HEIGHT / 2} 0\n" for i in range(len(rep.photos))
    ]
    (root / "3D-models/database_intrinsics.txt").write_text("".join(lines[::-1]))  # in another order
    write_queries(root, "images/images_upright")
    return root


COUNT, MAPPING = 9, 6


def name(i: int) -> str:
    return f"seq{1 if i < MAPPING else 3}/frame{i + 1:05d}.png"


def write_list(path: Path, rep: Replica, images: range | list[int], digits: int = 6) -> None:
    lines = ["Visual Landmark Dataset V1", "ImageFile, Camera Position [X Y Z W P Q R]", ""]
    for i in images:
        values = [*rep.centres()[i], *rep.quaternions()[i]]
        lines.append(f"{name(i)} " + " ".join(f"{v:.{digits}f}" for v in values))
    path.write_text("\n".join(lines) + "\n")


def write_cambridge(folder: Path, rep: Replica) -> None:
    """``folder`` as an archive has it, of the first COUNT images of ``rep``."""
    for i, photo in enumerate(rep.photos):
        copy_photo(photo, folder / name(i))
    write_nvm(folder / "reconstruction.nvm", rep, [name(i).replace(".png", ".jpg") for i in range(COUNT)])
    write_list(folder / "dataset_train.txt", rep, range(MAPPING))
    write_list(folder / "dataset_test.txt", rep, range(MAPPING, COUNT))
