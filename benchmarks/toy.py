"""GLACE's 2D toy example of the position decoder (supplement C, Figure 8), as a table and a picture.

    python benchmarks/toy.py                        # two CPU minutes, after results/demo/scene/scene.json is made
    python benchmarks/toy.py --config toy.yaml      # other keys of ToyConfig, e.g. scenes: [demo, redkitchen]

Writes glace-figure-8.md, .csv, .tex and .png into results/tables.

Photos lie side by side in one plane, in a grid; a head learns where in the plane a local descriptor was seen. Without
the decoder its output is an offset from the middle of all photos, as in ACE; with it, there is a cluster at the middle
of each photo besides (GLACE eq. 8). Of the head of maps (scrflow.training.head), two of three coordinates are used.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import matplotlib
import numpy as np
import torch
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from PIL import ImageOps
from pydantic import Field
from torch import Tensor

from scrflow.config import ExtractorConfig, HeadConfig, Strict
from scrflow.config.base import read_yaml, validate
from scrflow.config.table import Papers, Published, load_papers
from scrflow.core.errors import ScrflowError
from scrflow.core.images import read_rgb
from scrflow.core.progress import meter, track
from scrflow.core.seeds import derived_seed, torch_generator
from scrflow.features.encoders import build_encoder
from scrflow.features.networks import image_for
from scrflow.report.formats import pipe_table, tabular
from scrflow.report.table import Cell, to_csv
from scrflow.scene.model import Scene, load_scene
from scrflow.storage.artifact import atomic_path, write_text
from scrflow.training.head import Head

WITHOUT, WITH = "without-decoder", "with-decoder"
_LABELS = {WITHOUT: "without decoder", WITH: "with decoder"}
_PUBLISHED = {WITHOUT: "Without Decoder", WITH: "With Decoder"}  # rows of config/papers/glace.yaml
_WARMUP = 0.04  # share of the steps, as in training
_FAR_PX = 10.0


class ToyConfig(Strict):
    """Photos side by side in one plane; a head is to tell from a local descriptor where in the plane it was seen."""

    scenes: tuple[str, ...] = Field(("demo",), min_length=1, description="whose mapping photos are taken")
    photos: int = Field(19, ge=2)
    columns: int = Field(5, ge=1)
    size: tuple[int, int] = Field((640, 480), description="px, width and height that each photo is cropped to")
    extractor: ExtractorConfig = Field(
        ExtractorConfig(name="sift", max_keypoints=256),
        description="needs no weights; the paper's: ace, every cell of a photo (max_keypoints 4800)",
    )
    width: int = Field(128, ge=8)
    blocks: int = Field(1, ge=0)
    hidden_ratio: float = Field(1.0, gt=0)
    unit_px: float = Field(100.0, gt=0, description="length that the head's number 1 stands for: a metre of a room")
    steps: int = Field(2000, ge=1)
    batch_size: int = Field(512, ge=1)
    lr_max: float = Field(4e-3, gt=0)
    seeds: tuple[int, ...] = Field((1, 2, 3), min_length=1)


@dataclass(frozen=True)
class ToyData:
    """Descriptors and where they were seen. The plane's origin is the middle of the photos' middles."""

    descriptor: Tensor  # [N, D] float32, mean 0 and variance 1
    pixel: Tensor  # [N, 2] float32, px of the plane
    image: Tensor  # [N] int64
    centres: Tensor  # [photos, 2] float32, px of the plane


@dataclass(frozen=True)
class ToyResult:
    """What a trained head makes of the samples it was trained on."""

    found: Tensor  # [N, 2] px of the plane
    by_image: Tensor  # [photos] mean absolute error of a coordinate, px
    median: float  # over the samples, of the same

    @property
    def mean(self) -> float:
        """Over the photos, each counting alike."""
        return float(self.by_image.mean())


def spread_photos(scenes: list[Scene], count: int) -> list[Path]:
    """``count`` mapping photos, equally many of each scene and spread evenly over it.

    ScrflowError where a scene has too few, or a photo changed since the scene was built.
    """
    shares = [len(part) for part in np.array_split(np.arange(count), len(scenes))]
    chosen = []
    for scene, share in zip(scenes, shares, strict=True):
        names = [view.name for view in scene.mapping]
        if len(names) < share:
            where = f"{scene.image_root}: {len(names)} mapping photos"
            raise ScrflowError(f"{where}, and {share} are wanted; lower toy.photos")
        names = [names[i] for i in np.linspace(0, len(names) - 1, share).round().astype(int)]
        scene.check_photos(names)
        chosen += map(scene.image_path, names)
    return chosen


def toy_data(config: ToyConfig, photos: list[Path]) -> ToyData:
    """The samples of the photos, each resized and cropped to ``config.size``."""
    encoder = build_encoder(config.extractor)
    width, height = config.size
    parts: dict[str, list[Tensor]] = {key: [] for key in ("descriptor", "pixel", "image")}
    grid = [[width * (i % config.columns), height * (i // config.columns)] for i in range(len(photos))]
    corners = torch.tensor(grid).float()
    for i, path in enumerate(track(photos, "features of photos")):
        found = encoder(image_for(encoder, ImageOps.fit(read_rgb(path), config.size)))
        parts["descriptor"].append(found.descriptors.float())
        parts["pixel"].append(found.keypoints_px + corners[i])
        parts["image"].append(torch.full((len(found.scores),), i))
    joined = {key: torch.cat(values) for key, values in parts.items()}
    descriptor = joined["descriptor"] - joined["descriptor"].mean(0)
    centres = corners + torch.tensor([width / 2, height / 2])
    origin = centres.mean(0)
    return ToyData(descriptor / descriptor.std(), joined["pixel"] - origin, joined["image"], centres - origin)


def run_toy(
    config: ToyConfig, data: ToyData, decoder: bool, seed: int, step: Callable[[str], None] = lambda note: None
) -> ToyResult:
    """Train a head with a cluster at each photo's middle, the decoder, or with one at the plane's origin, by the mean
    absolute error, and predict every sample's place. With the same seed both draw the same batches."""
    centres = data.centres if decoder else data.centres.mean(0, keepdim=True)
    shape = {"width": config.width, "hidden_ratio": config.hidden_ratio, "blocks": config.blocks, "refine_blocks": 0}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(seed, "toy head"))
        flat = torch.nn.functional.pad(centres, (0, 1))  # in the plane z = 0
        head = Head(data.descriptor.shape[1], HeadConfig(clusters=len(centres), **shape), flat, config.unit_px)
    optimiser = torch.optim.AdamW(head.parameters(), config.lr_max, fused=True)
    shape = {"total_steps": config.steps, "pct_start": _WARMUP, "cycle_momentum": False}
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, config.lr_max, **shape)
    batches = torch_generator(seed, "toy batches")
    for _ in range(config.steps):
        rows = torch.randint(len(data.pixel), (config.batch_size,), generator=batches)
        error = head(data.descriptor[rows]).xyz_world[:, :2] - data.pixel[rows]
        loss = error.abs().mean() / config.unit_px
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        step("")
    with torch.inference_mode():
        found = head(data.descriptor).xyz_world[:, :2]
    error = (found - data.pixel).abs().mean(1)
    total = torch.zeros(len(data.centres)).index_add_(0, data.image, error)
    return ToyResult(found, total / torch.bincount(data.image, minlength=len(total)), float(error.median()))


def write_toy(toy: ToyConfig, scenes: list[Path], papers: Path, out: Path) -> None:
    """Run the toy example on photos of the scene artifacts ``scenes``, and write the four files into a folder.

    ScrflowError where a scene has too few photos, a photo changed since the scene was built, or weights are missing.
    """
    data = toy_data(toy, spread_photos([load_scene(scene) for scene in scenes], toy.photos))
    results: dict[str, list[ToyResult]] = {WITHOUT: [], WITH: []}
    with meter("toy example", 2 * len(toy.seeds) * toy.steps) as step:
        for seed in toy.seeds:
            for name, of in results.items():
                of.append(run_toy(toy, data, name == WITH, seed, step))
    published = {name: published_mean(load_papers(papers), row) for name, row in _PUBLISHED.items()}
    cells = [cell for name, of in results.items() for cell in _cells(toy, name, of, published[name])]
    file = out / "glace-figure-8"
    _draw(file.with_suffix(".png"), toy, data, {name: of[0] for name, of in results.items()})
    write_text(file.with_suffix(".csv"), to_csv(file.name, None, cells))
    grid = _grid(toy, cells)
    write_text(
        file.with_suffix(".tex"), tabular(*grid, [f"{published[WITH].source}: mean absolute error of a coordinate, px"])
    )
    write_text(file.with_suffix(".md"), _markdown(toy, len(data.pixel), cells, grid))


def published_mean(papers: Papers, row: str) -> Published:
    """Mean of the values that the paper has of a row, printed with their number."""
    found = [papers.value("glace", "figure-8", row, f"value-{i}") for i in range(1, 20)]
    known = [v for v in found if v is not None]
    mean = fmean(v.value for v in known)
    return Published(float(f"{mean:.4g}"), "px", known[0].source, f"{mean:.2f} (of {len(known)})")


def _cells(toy: ToyConfig, name: str, of: list[ToyResult], published: Published) -> list[Cell]:
    """Of a head: the mean over photos, the median of samples, and each photo."""

    def cell(condition: str, metric: str, values: list[float], published: Published | None = None) -> Cell:
        names = (name, _LABELS[name], "+".join(toy.scenes), condition, f"{metric}_absolute_error", "px")
        return Cell(*names, tuple(values), toy.seeds, published=published)

    photos = [cell(f"photo {i + 1}", "mean", [float(r.by_image[i]) for r in of]) for i in range(toy.photos)]
    mean = cell("all", "mean", [r.mean for r in of], published)
    return [mean, cell("all", "median", [r.median for r in of]), *photos]


def _of(cells: list[Cell], name: str) -> tuple[Cell, Cell, list[Cell]]:
    mean, median, *photos = (cell for cell in cells if cell.row == name)
    return mean, median, photos


def _grid(toy: ToyConfig, cells: list[Cell]) -> tuple[list[str], list[list[str]]]:
    """Header and the two rows: ours, over photos and samples, and the paper's."""
    lines = []
    for mean, median, photos in (_of(cells, name) for name in _LABELS):
        whole, middle = (f"{c.mean:.2f}" + (f" ± {c.spread:.2f}" if c.spread else "") for c in (mean, median))
        span = f"{min(c.mean for c in photos):.2f} to {max(c.mean for c in photos):.2f}"
        lines.append([mean.label, whole, span, middle, mean.published.printed])
    return ["", " + ".join(toy.scenes), "photos", "median sample", "paper's mean"], lines


def _markdown(toy: ToyConfig, samples: int, cells: list[Cell], grid: tuple[list[str], list]) -> str:
    before, after = (_of(cells, name)[0] for name in (WITHOUT, WITH))
    lower = 100 * (1 - after.mean / before.mean)
    change = f"{abs(lower):.0f} % {'lower' if lower > 0 else 'higher'}"
    times = sum(b < a for a, b in zip(before.values, after.values, strict=True))
    paper = 100 * (1 - after.published.value / before.published.value)
    return f"""# {after.published.source}: the 2D toy example of the position decoder

Absolute error of a coordinate, px: mean over the photos, range of the photos, median of the samples; mean ± standard
deviation of seeds {", ".join(map(str, toy.seeds))}.

{pipe_table(*grid)}

With the decoder the mean error is {change}, and lower with {times} of {len(before.values)} seeds. In the paper it is
{paper:.0f} % lower.

![Samples where the head puts them](glace-figure-8.png)

{toy.photos} photos of {toy.size[0]} x {toy.size[1]} px in {toy.columns} columns, {samples} samples of encoder
{toy.extractor.name}; {toy.steps} steps of {toy.batch_size} samples, width {toy.width}, AdamW to {toy.lr_max:g}.

The paper has 19 photos of 7-Scenes and 12-Scenes, the ACE encoder with every cell of 8 x 8 px, and does not say how
long it trains: compare how the two decoders stand, not pixels.
"""


def _draw(out: Path, toy: ToyConfig, data: ToyData, results: dict[str, ToyResult]) -> None:
    """The planes side by side: each sample in its photo's colour where the head puts it, with a line to its place where
    it is far off, and the error of each photo."""
    colours = [matplotlib.colormaps["tab20"].colors[i % 20] for i in data.image.tolist()]
    left, top = (data.centres.min(0).values - torch.tensor(toy.size) / 2).tolist()
    right, bottom = (data.centres.max(0).values + torch.tensor(toy.size) / 2).tolist()
    size = (13.0, 6.4 * (bottom - top) / (right - left) + 0.6)
    figure = Figure(size, dpi=130, layout="constrained")
    box = {"boxstyle": "round,pad=0.2", "fc": "white", "ec": "none", "alpha": 0.8}
    for axes, (name, result) in zip(figure.subplots(1, 2), results.items(), strict=True):
        axes.scatter(*result.found.T.tolist(), s=4, c=colours, linewidths=0)
        far = (result.found - data.pixel).norm(dim=1) > _FAR_PX
        lines = torch.stack([data.pixel, result.found], 1)[far].numpy()
        axes.add_collection(LineCollection(lines, colors="#303030", linewidths=0.7))
        for centre, error in zip(data.centres.tolist(), result.by_image.tolist(), strict=True):
            axes.text(*centre, f"{error:.1f}", ha="center", va="center", fontsize=11, bbox=box)
        axes.set(xlim=(left, right), ylim=(bottom, top), aspect="equal")
        axes.set_xticks((data.centres[: toy.columns, 0] + toy.size[0] / 2).tolist(), [])
        axes.set_yticks((data.centres[:: toy.columns, 1] + toy.size[1] / 2).tolist(), [])
        axes.grid(color="#d0d5da", lw=0.6)
        axes.tick_params(length=0)
        axes.set_title(f"{_LABELS[name]}: {result.mean:.1f} px", fontsize=12)
    with atomic_path(out) as temporary:
        figure.savefig(temporary, format="png")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, help="YAML of keys of ToyConfig")
    parser.add_argument("--results", type=Path, default=Path("results"))
    given = parser.parse_args()
    config = validate(ToyConfig, read_yaml(given.config) if given.config else {}, given.config)
    torch.set_num_threads(os.cpu_count() or 1)
    scene_folders = [given.results / name / "scene" for name in config.scenes]
    write_toy(config, scene_folders, Path("config/papers"), given.results / "tables")
