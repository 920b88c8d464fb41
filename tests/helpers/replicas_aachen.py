"""Aachen Day-Night in its layout, of demo photos (SYNTHETIC)."""

from __future__ import annotations

from pathlib import Path

import pycolmap
from nvm_replica import DEMO, HEIGHT, WIDTH, Replica, copy_photo, write_nvm

from scrflow.scene.colmap_model import View, read_model, views_of_model

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
