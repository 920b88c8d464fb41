"""A scene cut into overlapping regions, a map each, and queries routed between them: the table of docs/scaling.md.

.venv/bin/python benchmarks/regions.py make demo --regions 2 --overlap 4     # config/scenes/demo-region-1.yaml, -2
.venv/bin/snakemake --cores 2 results/demo{,-region-1,-region-2}/rscore-cpu/map.safetensors
.venv/bin/python benchmarks/regions.py compare demo --regions 2 --method rscore-cpu
rm config/scenes/demo-region-*.yaml                                          # a bare snakemake would map them too
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

from scrflow.core.geometry import camera_centre, pose_error  # noqa: E402
from scrflow.pipeline.project import Project  # noqa: E402

app = typer.Typer(help=__doc__, rich_markup_mode="markdown", add_completion=False)
Regions = Annotated[int, typer.Option(min=2)]
Error = tuple[float, float] | None  # distance and degrees; None: no pose


def region_name(scene: str, number: int) -> str:
    return f"{scene}-region-{number}"


@app.command()
def make(
    scene: str, regions: Regions = 2, overlap: float = 4.0, by: str = "bisect", config: Path = Path("config")
) -> None:
    """Write the config of every region of a scene."""
    base = yaml.safe_load((config / f"scenes/{scene}.yaml").read_text("utf-8"))
    kept = {key: value for key, value in base.items() if key not in ("source", "split", "root", "download")}
    for number in range(1, regions + 1):
        source = {
            "reader": "region",
            "scene": scene,
            "regions": regions,
            "region": number,
            "overlap": overlap,
            "by": by,
        }
        about = f"Region {number} of {regions} of {scene}, overlap {overlap:g}"
        values = {**kept, "description": about, "root": ".", "in_project": True, "source": source}
        path = config / f"scenes/{region_name(scene, number)}.yaml"
        path.write_text(yaml.safe_dump(values, sort_keys=False), "utf-8")
        print(path)


@dataclass(frozen=True)
class Tried:
    """A query in every map."""

    nearest: list[float]  # distance of its true place from a camera of each region
    similar: list[list[float]]  # of its ten most similar images in each
    errors: list[Error]
    confidence: list[float]
    inliers: list[int]
    single: Error
    cpu_ms: dict[str, float]


@app.command()
def compare(
    scene: str,
    regions: Regions = 2,
    method: str = "rscore-cpu",
    results: Path = Path("results"),
    config: Path = Path("config"),
    details: Path | None = None,
) -> None:
    """Print recall of the single map and of the regions' maps, by every rule of choosing between them."""
    import torch

    from scrflow.localize.localizer import Localizer
    from scrflow.localize.router import Router
    from scrflow.scene.model import load_scene

    torch.set_num_threads(1)
    thresholds = Project(config).scene(scene).thresholds
    whole = load_scene(results / scene / "scene")
    folders = [results / region_name(scene, number) for number in range(1, regions + 1)]
    cameras = [_centres(load_scene(folder / "scene")) for folder in folders]
    paths = [folder / method / "map.safetensors" for folder in folders]
    router, single = Router.open(paths), Localizer.open(results / scene / method / "map.safetensors")
    tried = [
        _tried(whole, query, router, single, cameras) for query in whole.queries if query.name in whole.query_poses
    ]
    sizes = [path.stat().st_size / 1e6 for path in paths]
    own = (results / scene / method / "map.safetensors").stat().st_size / 1e6
    print(f"{scene}, {method}: {len(whole.mapping)} mapping images, regions of {[len(c) for c in cameras]}")
    print(f"{len(tried)} queries; map {own:.2f} MB, maps of regions {', '.join(f'{s:.2f}' for s in sizes)} MB\n")
    _print(tried, thresholds)
    print("\nCPU ms a query, median, one thread: "
          + ", ".join(f"{k} {np.median([t.cpu_ms[k] for t in tried]):.0f}" for k in tried[0].cpu_ms))  # fmt: skip
    if details is not None:
        details.write_text(json.dumps([vars(t) for t in tried]), "utf-8")


def _centres(scene: Any) -> np.ndarray:
    return camera_centre(np.stack([v.cam_from_world for v in scene.mapping]))


def _tried(whole: Any, query: Any, router: Any, single: Any, cameras: list[np.ndarray]) -> Tried:
    from scrflow.localize.query import query_photo

    truth = whole.query_poses[query.name]
    place = camera_centre(truth)
    photo, camera = query_photo(whole.image_path(query.name), query.camera)
    clock = [time.process_time()]
    alone = single.localize(photo.copy(), camera)
    clock.append(time.process_time())
    looks = router.features(photo, camera)
    similar = [localizer.similarity(looks[name], 10).tolist() for name, localizer in router.maps.items()]
    clock.append(time.process_time())
    found = [localizer.localize_features(looks[name]) for name, localizer in router.maps.items()]
    clock.append(time.process_time())
    laps = dict(
        zip(("single map", "regions: encode and route", "regions: localize with all"), np.diff(clock), strict=True)
    )

    def error(pose: np.ndarray | None) -> Error:
        return None if pose is None else pose_error(pose, truth)

    return Tried(
        [float(np.linalg.norm(c - place, axis=1).min()) for c in cameras],
        similar,
        [error(f.cam_from_world) for f in found],
        [f.confidence or 0.0 for f in found],
        [int(f.inliers.sum()) for f in found],
        error(alone.cam_from_world),
        {name: 1000 * float(lap) for name, lap in laps.items()},
    )


def _print(tried: Sequence[Tried], thresholds: Sequence[tuple[float, float]]) -> None:
    def row(label: str, errors: Sequence[Error], chosen: Sequence[int] | None = None) -> None:
        recall = [np.mean([e is not None and e[0] <= t and e[1] <= r for e in errors]) for t, r in thresholds]
        medians = [np.median([np.inf if e is None else e[i] for e in errors]) for i in (0, 1)]
        agree = ""
        if chosen is not None:
            agree = (
                f"{100 * np.mean([t.nearest[c] == min(t.nearest) for t, c in zip(tried, chosen, strict=True)]):.0f} %"
            )
        shown = " / ".join(f"{100 * share:.1f}" for share in recall)
        print(f"| {label} | {shown} | {medians[0]:.2f}, {medians[1]:.1f}° | {agree} |")

    def rule(label: str, key: Any) -> None:
        chosen = [max(range(len(t.errors)), key=lambda i, t=t: key(t, i)) for t in tried]
        row(label, [t.errors[c] for t, c in zip(tried, chosen, strict=True)], chosen)

    limits = " / ".join(f"{t:g} {r:g}°" for t, r in thresholds)
    print(f"| which map | recall, %: {limits} | median | of the nearest cameras |\n|---|---|---|---|")
    row("the single map", [t.single for t in tried])
    for best in (1, 3, 5, 10):
        rule(f"retrieval: mean similarity of the best {best}", lambda t, i, best=best: np.mean(t.similar[i][:best]))
    rule("all tried: most confident", lambda t, i: (t.errors[i] is not None, t.confidence[i], t.inliers[i]))
    rule("all tried: most inliers", lambda t, i: (t.errors[i] is not None, t.inliers[i]))
    rule("the truth: nearest cameras", lambda t, i: -t.nearest[i])
    rule("the truth: smallest error", lambda t, i: -np.inf if t.errors[i] is None else -t.errors[i][0])
    for number in range(len(tried[0].errors)):
        row(f"region {number + 1} alone", [t.errors[number] for t in tried])


if __name__ == "__main__":
    app()
