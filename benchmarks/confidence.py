"""Fit and judge the confidence of a pose (src/scrflow/localize/confidence.py): localize queries of known pose, fit,
draw.

    snakemake --cores 2 results/redkitchen/rscore-cpu/poses.txt results/fox/rscore-cpu/poses.txt \\
        results/demo/rscore-cpu/poses.txt
    .venv/bin/python benchmarks/confidence.py collect build/confidence results/{redkitchen,fox,demo}/rscore-cpu
    .venv/bin/python benchmarks/confidence.py fit build/confidence head --figure docs/images/confidence.png
    .venv/bin/python benchmarks/confidence.py judge build/confidence head

``collect`` localizes with each map: the scene's own queries; the same photos made worse (one degradation a photo and
round, by name: blur, darkness with noise, a crop, covered parts, a roll, low resolution; the reference pose follows);
new views of the demo's renderer; and queries of the other scenes, which no pose in this one can be right for. ``fit``
writes the coefficients of one kind of pose (by a head, or by landmarks) with their provenance and prints the
leave-one-scene-out table; ``judge`` does so for the coefficients in the package.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pycolmap
import torch
import typer
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter
from scipy.optimize import minimize
from scipy.spatial.transform import Rotation
from scipy.stats import binomtest

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "demo")]

from scrflow.core.geometry import pose_error  # noqa: E402
from scrflow.core.images import read_rgb  # noqa: E402
from scrflow.core.progress import track  # noqa: E402
from scrflow.core.seeds import numpy_generator  # noqa: E402
from scrflow.evaluate.metrics import CONFIDENCE_EDGES as EDGES  # noqa: E402
from scrflow.evaluate.metrics import Reliability, reliability  # noqa: E402
from scrflow.localize.confidence import (  # noqa: E402
    FEATURES,
    ConfidenceModel,
    evidence,
    read_model,
    shipped_model,
)
from scrflow.localize.localizer import Localizer  # noqa: E402
from scrflow.pipeline.project import Project  # noqa: E402
from scrflow.scene.model import load_scene  # noqa: E402

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)
COEFFICIENTS = ROOT / "src/scrflow/localize/confidence.json"
# of the standardised weights, a share of the mean log-likelihood: leave-one-scene-out 0.0001 does alike, 0.01 worse
RIDGE = 1e-3
# share of the finest thresholds, which a map's confidence speaks of. With them alone the confidence of heads is 0.1 to
# 0.4 too low at the widest, with equal shares 0.12 too high at the demo's finest
FINEST = 0.85


@dataclass(frozen=True)
class Case:
    """A photo to localize, its camera and its true pose (None: no pose of this scene is right)."""

    kind: str  # plain, a degradation, rendered, foreign
    photo: Image.Image
    camera: pycolmap.Camera
    cam_from_world: np.ndarray | None


@app.command()
def collect(
    out: Annotated[Path, typer.Argument(help="Folder of the observations, one file a map.")],
    methods: Annotated[list[Path], typer.Argument(metavar="RESULTS/SCENE/METHOD...")],
    copies: Annotated[int, typer.Option(help="Degraded copies a scene, about; at least one a query.")] = 120,
    rendered: Annotated[int, typer.Option(help="New views of the demo, a third of them by night.")] = 120,
    foreign: Annotated[int, typer.Option(help="Queries of each other scene.")] = 10,
) -> None:
    """Localize and keep what came out, with the truth."""
    torch.set_num_threads(1)
    project = Project(ROOT / "config")
    out.mkdir(parents=True, exist_ok=True)
    scenes = {folder.parent.name: load_scene(folder.parent / "scene") for folder in methods}
    for folder in methods:
        scene, method = folder.parent.name, folder.name
        localizer = Localizer.open(folder / "map.safetensors")
        rounds = max(round(copies / len(scenes[scene].queries)), 1)
        cases = list(own_cases(scenes[scene], rounds))
        for other in sorted(scenes.keys() - {scene}):
            strangers = itertools.islice(own_cases(scenes[other], 0), foreign)
            cases += [Case("foreign", c.photo, c.camera, None) for c in strangers]
        cases += rendered_cases(rendered) if scene == "demo" else []
        records: dict[str, list[Any]] = {}
        for case in track(cases, f"{scene} {method}"):
            result = localizer.localize_photo(case.photo, case.camera)
            pose, truth, view = result.cam_from_world, case.cam_from_world, result.view
            by, agree, config = localizer.agreement(result)
            values = {
                "kind": case.kind,
                "count": len(view.pixels),
                "error": (np.inf, np.inf) if pose is None or truth is None else pose_error(pose, truth),
                "localized": pose is not None,
                "K": view.K,
                "pose": np.zeros((3, 4)) if pose is None else pose,
                "pixels": view.pixels,
                "xyz": result.xyz_world,
                "inliers": agree,
                "enough": agree.sum() >= config.min_inliers,
                "by": by,
            }
            for key, value in values.items():
                records.setdefault(key, []).append(value)
        arrays = {k: np.concatenate(records.pop(k)) for k in ("pixels", "xyz", "inliers")}
        arrays |= {k: np.array(v) for k, v in records.items()}
        arrays |= {"thresholds": np.array(project.scene(scene).thresholds)}
        np.savez_compressed(out / f"{scene}-{method}.npz", scene=scene, **arrays)


def own_cases(scene: Any, rounds: int) -> Iterator[Case]:
    """Every query of known pose, and ``rounds`` worse copies of it."""
    for query in scene.queries:
        pose = scene.query_poses.get(query.name)
        if pose is None:
            continue
        photo = read_rgb(scene.image_path(query.name))
        yield Case("plain", photo, query.camera, pose)
        for k in range(rounds):
            rng = numpy_generator(0, "confidence", query.name, k)
            kind = str(rng.choice(list(DEGRADATIONS)))
            yield Case(kind, *DEGRADATIONS[kind](photo, query.camera, pose, rng))


Degraded = tuple[Image.Image, pycolmap.Camera, np.ndarray]


def blurred(photo: Image.Image, camera: pycolmap.Camera, pose: np.ndarray, rng: np.random.Generator) -> Degraded:
    sigma = rng.uniform(0.002, 0.012) * min(photo.size)
    return photo.filter(ImageFilter.GaussianBlur(sigma)), camera, pose


def dark(photo: Image.Image, camera: pycolmap.Camera, pose: np.ndarray, rng: np.random.Generator) -> Degraded:
    light = np.asarray(photo, np.float32) / 255 * rng.uniform(0.05, 0.4)
    light = np.clip(light + rng.normal(0, 0.012, light.shape), 0, 1)
    return Image.fromarray(np.round(255 * light ** rng.uniform(0.6, 1)).astype(np.uint8)), camera, pose


def cropped(photo: Image.Image, camera: pycolmap.Camera, pose: np.ndarray, rng: np.random.Generator) -> Degraded:
    share = rng.uniform(0.25, 0.7)
    width, height = (round(side * share) for side in photo.size)
    x, y = camera.principal_point_x, camera.principal_point_y  # stays within: one outside or at the edge is refused
    left = int(np.clip(rng.integers(photo.width - width + 1), x - width + 1, x - 2))
    top = int(np.clip(rng.integers(photo.height - height + 1), y - height + 1, y - 2))
    moved = pycolmap.Camera(model=camera.model, width=width, height=height, params=np.array(camera.params))
    moved.principal_point_x -= left
    moved.principal_point_y -= top
    return photo.crop((left, top, left + width, top + height)), moved, pose


def covered(photo: Image.Image, camera: pycolmap.Camera, pose: np.ndarray, rng: np.random.Generator) -> Degraded:
    photo = photo.copy()
    draw = ImageDraw.Draw(photo)
    for _ in range(int(rng.integers(2, 7))):
        size = rng.uniform(0.3, 0.8, 2) * photo.size
        corner = rng.uniform(-0.2, 0.9, 2) * photo.size
        draw.rectangle((*corner, *(corner + size)), fill=tuple(int(v) for v in rng.integers(0, 255, 3)))
    return photo, camera, pose


def rolled(photo: Image.Image, camera: pycolmap.Camera, pose: np.ndarray, rng: np.random.Generator) -> Degraded:
    angle = rng.uniform(15, 75) * rng.choice([-1, 1])
    centre = (camera.principal_point_x, camera.principal_point_y)
    turned = photo.rotate(-angle, Image.Resampling.BICUBIC, center=centre)  # Pillow turns against the clock
    return turned, camera, Rotation.from_euler("z", angle, degrees=True).as_matrix() @ pose


def coarse(photo: Image.Image, camera: pycolmap.Camera, pose: np.ndarray, rng: np.random.Generator) -> Degraded:
    side = rng.uniform(60, 200)
    small = photo.resize([max(round(s * side / min(photo.size)), 1) for s in photo.size], Image.Resampling.BOX)
    return ImageEnhance.Color(small.resize(photo.size, Image.Resampling.BICUBIC)).enhance(0.5), camera, pose


DEGRADATIONS = {"blurred": blurred, "dark": dark, "cropped": cropped, "covered": covered, "rolled": rolled,
                "coarse": coarse}  # fmt: skip


def rendered_cases(count: int) -> Iterator[Case]:
    """Views of the demo's square that are among neither its mapping images nor its queries."""
    import make_demo
    from render import Sun, render
    from render import generator as named
    from scene import build_scene

    square = build_scene()
    poses = {n: p for n, p in make_demo.make_poses(square, count).items() if not n.startswith("mapping")}
    sun = Sun(square, make_demo.SUN)
    for name, (camera_id, R, centre, _) in poses.items():
        c = make_demo.CAMERAS[camera_id]
        noise = named("sensor", "confidence", name)
        pixels = render(square, sun, c, c.grid(), R, centre, name.startswith("night"), noise)
        camera = pycolmap.Camera(model=c.model, width=c.width, height=c.height, params=list(c.params))
        yield Case("rendered", Image.fromarray(pixels), camera, np.column_stack([R, -R @ centre]))


@dataclass(frozen=True)
class Observations:
    """Localized queries times thresholds. Those without a pose have confidence 0 by definition and are left out."""

    x: np.ndarray  # [N, F]
    right: np.ndarray  # [N] bool
    level: np.ndarray  # [N] 0: the scene's finest threshold
    scene: np.ndarray  # [N]
    kind: np.ndarray  # [N]
    enough: np.ndarray  # [N] bool: have the inliers that a confidence above 0 needs

    def __getitem__(self, rows: np.ndarray) -> Observations:
        return Observations(*(values[rows] for values in vars(self).values()))


def read_observations(folder: Path, pose: str) -> Observations:
    """Those under the folder of poses of a kind; how many queries are without a pose is printed."""
    rows, lost = [], Counter()
    for path in sorted(folder.glob("*.npz")):
        with np.load(path, allow_pickle=False) as f:
            ends = np.cumsum(f["count"])
            pixels, xyz, inliers = f["pixels"], f["xyz"], f["inliers"]
            for i, end in enumerate(ends):
                part = slice(end - f["count"][i], end)
                kind = str(f["kind"][i])
                if not f["localized"][i]:
                    lost[kind] += 1
                    continue
                if f["by"][i] != pose:
                    continue
                view = (pixels[part], xyz[part], inliers[part], f["K"][i], f["pose"][i])
                for level, within in enumerate(f["thresholds"]):
                    right = bool((f["error"][i] < within).all())
                    rows.append((evidence(*view, tuple(within)), right, level, str(f["scene"]), kind, f["enough"][i]))
    print(f"without a pose, confidence 0: {dict(lost)}")
    return Observations(*map(np.array, zip(*rows, strict=True)))


def fit_model(data: Observations) -> ConfidenceModel:
    """Ridge maximum likelihood; every scene has the same weight in all, and in each FINEST the finest threshold. More
    of a feature is never bad news: negative weights are held at 0."""
    names, counts = np.unique(data.scene, return_counts=True)
    finest = data.level == 0
    weight = np.where(finest, FINEST / finest.mean(), (1 - FINEST) / (1 - finest.mean()))
    weight /= len(names) * counts[np.searchsorted(names, data.scene)]
    mean, scale = np.average(data.x, 0, weight), np.sqrt(np.cov(data.x.T, aweights=weight).diagonal())

    def model(parameters: np.ndarray) -> ConfidenceModel:
        return ConfidenceModel(parameters[:2], parameters[2:], mean, scale)

    def loss(parameters: np.ndarray) -> float:
        p = np.clip(model(parameters).probability(data.x), 1e-9, 1 - 1e-9)
        return -weight @ np.where(data.right, np.log(p), np.log(1 - p)) + RIDGE / 2 * (parameters[2:] ** 2).sum()

    bounds = [(None, None)] * 2 + [(0.0, None)] * len(FEATURES)
    found = minimize(loss, [1.0, 0.0] + [1.0] * len(FEATURES), method="L-BFGS-B", bounds=bounds)
    if not found.success:
        raise RuntimeError(found.message)
    return model(found.x)


def said(model: ConfidenceModel, data: Observations) -> np.ndarray:
    """Confidences [N]."""
    return np.where(data.enough, model.probability(data.x), 0.0)


def report(title: str, p: np.ndarray, data: Observations) -> None:
    """Print the tables."""
    print(f"\n**{title}**\n\n| queries | n | right | mean confidence | ECE | Brier | Brier of the base rate |")
    print("|---|---|---|---|---|---|---|")
    finest = data.level == 0
    rows = [("finest threshold", finest), ("all thresholds", finest | True)]
    rows += [(f"{s}, finest", finest & (data.scene == s) & (data.kind != "foreign")) for s in np.unique(data.scene)]
    rows += [(f"{k}, finest", finest & (data.kind == k)) for k in np.unique(data.kind)]
    curves = {name: reliability(p[chosen], data.right[chosen]) for name, chosen in rows if chosen.any()}
    for name, chosen in rows:
        if chosen.any():
            share, curve = data.right[chosen].mean(), curves[name]
            print(f"| {name} | {chosen.sum()} | {share:.2f} | {p[chosen].mean():.2f} | {curve.calibration_error:.3f} "
                  f"| {curve.brier:.3f} | {share * (1 - share):.3f} |")  # fmt: skip
    print("\n| confidence | " + " | ".join(f"{a:g} to {b:g}" for a, b in itertools.pairwise(EDGES)) + " |")
    print("|---" * len(EDGES) + "|")
    for name in ("finest threshold", "all thresholds"):
        curve = curves[name]
        cells = [f"{r:.2f} of {n}" if n else "-" for r, n in zip(curve.right, curve.count, strict=True)]
        print(f"| right, {name} | " + " | ".join(cells) + " |")


def draw_reliability(out: Path, curves: dict[str, Reliability]) -> None:
    """Write the reliability curves: said against observed, with 90 % intervals (Wilson) and, below, the counts."""
    fig = Figure(figsize=(5.6, 6.4), dpi=120, layout="tight")
    ax, below = fig.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    ax.plot([0, 1], [0, 1], color="#9aa5ad", lw=1, ls="--")
    width = 0.8 / len(curves)
    for k, (name, curve) in enumerate(curves.items()):
        some = curve.count > 0
        n, share = curve.count[some], curve.right[some]
        hits = zip(np.round(share * n).astype(int).tolist(), n.tolist(), strict=True)
        low, high = np.array([binomtest(*pair).proportion_ci(0.9, "wilson") for pair in hits]).T
        style = {"fmt": "os^Dv"[k % 5] + "-", "ms": 5, "lw": 1.4, "elinewidth": 0.8, "capsize": 2}
        label = f"{name}: {n.sum()} poses, ECE {curve.calibration_error:.3f}, Brier {curve.brier:.3f}"
        drawn = ax.errorbar(curve.said[some], share, yerr=np.abs([share - low, high - share]), label=label, **style)
        span = np.diff(EDGES)
        left = EDGES[:-1] + span * (0.1 + width * k)
        below.bar(left, curve.count, span * width, align="edge", color=drawn[0].get_color())
    ax.set(ylabel="share of poses that are right", ylim=(-0.02, 1.02), xlim=(-0.02, 1.02))
    ax.set_title("Confidence, each scene by a model of the others", loc="left", fontsize=11, fontweight="bold")
    ax.legend(fontsize=8, loc="upper left", frameon=False)
    below.set(xlabel="confidence", ylabel="poses", yscale="log")
    fig.savefig(out)


@app.command()
def fit(
    folder: Annotated[Path, typer.Argument(help="What collect wrote.")],
    kind: Annotated[str, typer.Argument(help="Of poses: head or landmarks.")],
    out: Annotated[Path, typer.Option(help="Where the coefficients go.")] = COEFFICIENTS,
    figure: Annotated[Path | None, typer.Option(help="Reliability curve, leave-one-scene-out.")] = None,
) -> None:
    """Fit the coefficients to all observations, and print how a model of the other scenes does on each."""
    data = read_observations(folder, kind)
    model, p = fit_model(data), np.zeros(len(data.right))
    for scene in np.unique(data.scene):
        own = data.scene == scene
        p[own] = said(fit_model(data[~own]), data[own])
    values = json.loads(COEFFICIENTS.read_text(encoding="utf-8"))
    values[kind] = {
        "features": list(FEATURES),
        **{k: np.round(getattr(model, k), 5).tolist() for k in ("bias", "weights", "mean", "scale")},
        "provenance": {
            "made_by": "benchmarks/confidence.py fit",
            "maps": sorted(path.stem for path in folder.glob("*.npz")),
            "results": {str(s): int((data.scene[data.level == 0] == s).sum()) for s in np.unique(data.scene)},
            "right": round(float(data.right[data.level == 0].mean()), 4),
        },
    }
    out.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    print(f"written: {out}")
    for name, weight in zip(FEATURES, model.weights, strict=True):
        print(f"  {name:16s} {weight:+.3f}")
    report("Each scene by a model of the other scenes", p, data)
    report("The model of all scenes, on what it was fitted to", said(read_model(out, kind), data), data)
    if figure is not None:
        finest = data.level == 0
        chosen = {"all scenes": finest, **{str(s): finest & (data.scene == s) for s in np.unique(data.scene)}}
        draw_reliability(figure, {name: reliability(p[rows], data.right[rows]) for name, rows in chosen.items()})


@app.command()
def judge(
    folder: Annotated[Path, typer.Argument(help="What collect wrote.")],
    kind: Annotated[str, typer.Argument(help="Of poses: head or landmarks.")],
) -> None:
    """How the coefficients in the package do on observations."""
    data = read_observations(folder, kind)
    report("The coefficients in the package", said(shipped_model(kind), data), data)


if __name__ == "__main__":
    app()
