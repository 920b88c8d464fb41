"""GLACE's 2D toy example of the position decoder (supplement C, Figure 8), as a table and a picture.

Photos lie side by side in one plane, in a grid; a head learns where in the plane a local descriptor was seen. Without
the decoder its output is an offset from the middle of all photos, as in ACE; with it, there is a cluster at the middle
of each photo besides (GLACE eq. 8). Of the head of maps (scrflow.training.head), two of three coordinates are used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

import matplotlib
import numpy as np
import torch
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from PIL import ImageOps
from torch import Tensor

from scrflow.config import HeadConfig, ToyConfig, ToyStage
from scrflow.core.errors import ScrflowError
from scrflow.core.images import read_rgb
from scrflow.core.progress import meter, track
from scrflow.core.seeds import derived_seed, torch_generator
from scrflow.features.encoders import build_encoder
from scrflow.features.networks import image_for
from scrflow.report.formats import pipe_table, tabular
from scrflow.report.published import Papers, Published, load_papers
from scrflow.report.table import Cell, to_csv
from scrflow.scene.model import load_scene
from scrflow.storage.artifact import atomic_path, write_text
from scrflow.training.head import Head

WITHOUT, WITH = "without-decoder", "with-decoder"
_LABELS = {WITHOUT: "without decoder", WITH: "with decoder"}
_PUBLISHED = {WITHOUT: "Without Decoder", WITH: "With Decoder"}  # rows of config/papers/glace.yaml
_WARMUP = 0.04  # share of the steps, as in training
_FAR_PX = 10.0


@dataclass(frozen=True)
class ToyData:
    """Descriptors and where they were seen. The plane's origin is the middle of the photos' middles."""

    descriptor: Tensor  # [N, D] float32, mean 0 and variance 1
    pixel: Tensor  # [N, 2] float32, px of the plane
    image: Tensor  # [N] int64
    centres: Tensor  # [photos, 2] float32, px of the plane


Known = dict[str, tuple[Published, int]]  # the paper's mean of each head, and of how many values
Grid = tuple[list[str], list[list[str]]]


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


def spread_photos(photos: list[list[Path]], count: int) -> list[Path]:
    """``count`` photos, equally many from each list and spread evenly over it; ScrflowError where one has too few."""
    shares = [len(part) for part in np.array_split(np.arange(count), len(photos))]
    chosen = []
    for listed, share in zip(photos, shares, strict=True):
        if len(listed) < share:
            some = listed[0].parent if listed else "a scene"
            raise ScrflowError(f"{some}: {len(listed)} mapping photos, and {share} are wanted; lower toy.photos")
        chosen += [listed[i] for i in np.linspace(0, len(listed) - 1, share).round().astype(int)]
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


def write_toy(
    config: ToyStage,
    scenes: list[Path],
    papers: Path,
    markdown: Path,
    table: Path,
    latex: Path,
    picture: Path,
    threads: int,
) -> None:
    """Run the toy example on photos of the scene artifacts ``scenes`` and write the four files.

    ScrflowError where a scene has too few photos, a photo changed since the scene was built, or weights are missing.
    """
    torch.set_num_threads(threads)
    loaded, toy = [load_scene(scene) for scene in scenes], config.toy
    photos = spread_photos([[s.image_path(v.name) for v in s.mapping] for s in loaded], toy.photos)
    owners = {s.image_path(v.name): (s, v.name) for s in loaded for v in s.mapping}
    for scene, name in (owners[path] for path in photos):
        scene.check_photos([name])
    data = toy_data(toy, photos)
    results: dict[str, list[ToyResult]] = {WITHOUT: [], WITH: []}
    with meter("toy example", 2 * len(toy.seeds) * toy.steps) as step:
        for seed in toy.seeds:
            for name, of in results.items():
                of.append(run_toy(toy, data, name == WITH, seed, step))
    known = {row: published_mean(load_papers(papers), name) for row, name in _PUBLISHED.items()}
    _draw(picture, toy, data, {name: of[0] for name, of in results.items()})
    write_text(table, to_csv("glace-figure-8", config.set, _cells(toy, results, known)))
    grid = _grid(toy, results, known)
    write_text(latex, tabular(*grid, [f"{known[WITH][0].source}: mean absolute error of a coordinate, px"]))
    write_text(markdown, _markdown(toy, len(data.pixel), results, known, grid, picture.name))


def published_mean(papers: Papers, row: str) -> tuple[Published, int]:
    """Mean of the values that the paper has of a row, and how many there are."""
    values = [papers.value("glace", "figure-8", row, f"value-{i}") for i in range(1, 20)]
    known = [v for v in values if v is not None]
    mean = fmean(v.value for v in known)
    return Published(float(f"{mean:.4g}"), "px", known[0].source, f"{mean:.2f}"), len(known)


def _with_spread(values: list[float]) -> str:
    return f"{fmean(values):.2f}" + (f" ± {stdev(values):.2f}" if len(values) > 1 else "")


def _cells(toy: ToyConfig, results: dict[str, list[ToyResult]], known: Known) -> list[Cell]:
    cells, scene = [], "+".join(toy.scenes)
    for name, of in results.items():
        measured = [("all", "mean_absolute_error", [r.mean for r in of], known[name][0])]
        measured += [("all", "median_absolute_error", [r.median for r in of], None)]
        for i in range(toy.photos):
            measured += [(f"photo {i + 1}", "mean_absolute_error", [float(r.by_image[i]) for r in of], None)]
        for condition, metric, values, published in measured:
            names = (name, _LABELS[name], scene, condition, metric, "px")
            cells.append(Cell(*names, tuple(values), toy.seeds, published=published))
    return cells


def _grid(toy: ToyConfig, results: dict[str, list[ToyResult]], known: Known) -> Grid:
    """Header and the two rows: ours, over photos and samples, and the paper's."""
    lines = []
    for name, of in results.items():
        by_image = torch.stack([r.by_image for r in of]).mean(0)
        ours = [_with_spread([r.mean for r in of]), f"{by_image.min():.2f} to {by_image.max():.2f}"]
        ours.append(_with_spread([r.median for r in of]))
        published, count = known[name]
        lines.append([_LABELS[name], *ours, f"{published.printed} (of {count})"])
    return ["", " + ".join(toy.scenes), "photos", "median sample", "paper's mean"], lines


def _markdown(
    toy: ToyConfig, samples: int, results: dict[str, list[ToyResult]], known: Known, grid: Grid, picture: str
) -> str:
    before, after = ([r.mean for r in results[name]] for name in (WITHOUT, WITH))
    lower = 100 * (1 - fmean(after) / fmean(before))
    change = f"{abs(lower):.0f} % {'lower' if lower > 0 else 'higher'}"
    times = sum(b < a for a, b in zip(before, after, strict=True))
    paper = 100 * (1 - known[WITH][0].value / known[WITHOUT][0].value)
    return f"""# {known[WITH][0].source}: the 2D toy example of the position decoder

Absolute error of a coordinate, px: mean over the photos, range of the photos, median of the samples; mean ± standard
deviation of seeds {", ".join(map(str, toy.seeds))}.

{pipe_table(*grid)}

With the decoder the mean error is {change}, and lower with {times} of {len(before)} seeds. In the paper it is
{paper:.0f} % lower.

![Samples where the head puts them]({picture})

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
