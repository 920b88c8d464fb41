"""Small datasets of noise images and made-up poses (SYNTHETIC), their scenes, and what is wrong with a broken one."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scrflow.config import SceneStage, Source, Split
from scrflow.config.scene import reader_named
from scrflow.core.errors import ScrflowError
from scrflow.core.geometry import invert_pose, quaternion_from_rotation
from scrflow.scene import Scene, load_scene
from scrflow.scene.build import build_scene

LISTS = Split(mapping="mapping.txt", queries={"day": "queries.txt"})
GONE = None  # in place of a pattern: the file or folder is removed


def source_for(reader: str, **keys) -> Source:
    return reader_named(reader)(reader=reader, **keys)


def stage_of(source, split: Split | None = None, unit: str = "m") -> SceneStage:
    return SceneStage(source=source, split=split or Split(), min_mapping_images=3, unit=unit)


def built(config: SceneStage, root: Path, out: Path, *inputs: Path) -> Scene:
    """The scene that is made in ``out``."""
    build_scene(config, root, out, *inputs)
    return load_scene(out)


def poses_of(scene: Scene) -> dict[str, np.ndarray]:
    """Poses of mapping images and queries by name."""
    return {view.name: view.cam_from_world for view in scene.mapping} | scene.query_poses


def change(path: Path, pattern: str | None, new: str) -> None:
    """Replace the first match of a regular expression in a text file."""
    if pattern is GONE:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        return
    text = path.read_text()
    changed = re.sub(pattern, new, text, count=1, flags=re.M)
    assert changed != text, (path, pattern)
    path.write_text(changed)


def check_refused(config: SceneStage, root: Path, out: Path, message: str) -> None:
    """The scene stage says what is wrong in one line and keeps what was there."""
    out.mkdir()
    (out / "scene.json").write_text("an earlier one")
    with pytest.raises(ScrflowError, match=message) as error:
        build_scene(config, root, out)
    assert "\n" not in str(error.value)
    assert [(p.name, p.read_text()) for p in out.iterdir()] == [("scene.json", "an earlier one")]


def pose(i: int) -> np.ndarray:
    """cam_from_world [3, 4] with a rotation of its own for each ``i``."""
    q, r = np.linalg.qr(np.random.default_rng(i).normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return np.column_stack([q if np.linalg.det(q) > 0 else -q, [0.1 * i, -0.2 * i, 1.0]])


def photo(path: Path, seed: int, size: tuple[int, int] = (64, 48)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def pose_text(name: str, cam_from_world: np.ndarray, focal: float) -> str:
    numbers = (*quaternion_from_rotation(cam_from_world[:, :3]), *cam_from_world[:, 3], focal)
    return " ".join([name, *(repr(float(n)) for n in numbers)]) + "\n"


def write_poselist(root: Path) -> None:
    """Four mapping images and two queries with a pose list."""
    names = [f"im/{i}.png" for i in range(6)]
    for i, name in enumerate(names):
        photo(root / name, i)
    (root / "poses.txt").write_text("".join(pose_text(n, pose(i), 50.0) for i, n in enumerate(names)))
    (root / "mapping.txt").write_text("\n".join(names[:4]) + "\n")
    (root / "queries.txt").write_text("\n".join(names[4:]) + "\n")


def write_nerfstudio(root: Path, **more) -> None:
    """Six frames; ``more`` are values of all of them."""
    frames = []
    for i in range(6):
        photo(root / f"images/{i}.png", i)
        gl = invert_pose(pose(i)) * np.array([1, -1, -1, 1.0])
        frames.append({"file_path": f"./images/{i}.png", "transform_matrix": np.vstack([gl, [0, 0, 0, 1]]).tolist()})
    values = {"fl_x": 50.0, "fl_y": 51.0, "cx": 31.0, "cy": 25.0, "w": 64.0, "h": 48.0, **more}
    (root / "transforms.json").write_text(json.dumps({**values, "frames": frames}))


def write_dsac(root: Path) -> None:
    for split, indices, calibration in (("train", range(4), "50 0 31\n0 51 25\n0 0 1"), ("test", (4, 5), "60.5")):
        for kind in ("poses", "calibration"):
            (root / split / kind).mkdir(parents=True)
        for i in indices:
            photo(root / split / f"rgb/s-{i}.color.png", i)
            np.savetxt(root / split / f"poses/s-{i}.pose.txt", np.vstack([invert_pose(pose(i)), [0, 0, 0, 1]]))
            (root / split / f"calibration/s-{i}.calibration.txt").write_text(calibration)
