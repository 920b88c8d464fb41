"""The toy example as a table (Markdown, CSV, LaTeX) with the paper's numbers, and as a picture."""

from __future__ import annotations

import csv
import io
import time
from pathlib import Path
from statistics import fmean, stdev

import matplotlib
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from scrflow.config import ToyConfig, ToyStage
from scrflow.core.progress import log, meter
from scrflow.report.published import Papers, load_papers
from scrflow.report.tables.cells import FIELDS
from scrflow.report.tables.render import pipe_table, tabular
from scrflow.report.toy import WITH, WITHOUT, ToyData, ToyResult, run_toy, spread_photos, toy_data
from scrflow.scene.model import load_scene
from scrflow.storage.artifact import atomic_path, write_text

TABLE = "glace-figure-8"
MEAN_ERROR, MEDIAN_ERROR = "mean_absolute_error", "median_absolute_error"
COLOURS = matplotlib.colormaps["tab20"].colors
_LABELS = {WITHOUT: "without decoder", WITH: "with decoder"}
_PUBLISHED = {WITHOUT: "Without Decoder", WITH: "With Decoder"}  # rows of config/papers/glace.yaml
_DPI = 130
_FAR_PX = 10.0


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

    ``papers``: the folder of published numbers. ScrflowError where a scene has too few photos, one of them is no longer
    that of the scene, or weights are missing.
    """
    torch.set_num_threads(threads)
    loaded = [load_scene(scene) for scene in scenes]
    photos = spread_photos([[s.image_path(v.name) for v in s.mapping] for s in loaded], config.toy.photos)
    owners = {s.image_path(v.name): (s, v.name) for s in loaded for v in s.mapping}
    for scene, name in (owners[path] for path in photos):
        scene.check_photos([name])
    data = toy_data(config.toy, photos)
    began = time.process_time()
    results = run_all(config.toy, data)
    log.info("toy example: %.0f s of CPU time for training", time.process_time() - began)
    for name, of in results.items():
        log.info("%s: %s px", _LABELS[name], told([r.mean for r in of]))
    known = {row: published_mean(load_papers(papers), name) for row, name in _PUBLISHED.items()}
    draw(picture, config.toy, data, {name: of[0] for name, of in results.items()})
    write_text(table, to_csv(config, results, known))
    title = f"{known[WITH][2]}: mean absolute error of a coordinate, px"
    write_text(latex, tabular(*grid(config.toy, results, known), [title]))
    write_text(markdown, to_markdown(config, data, results, known, picture.name))


def run_all(config: ToyConfig, data: ToyData) -> dict[str, list[ToyResult]]:
    """Results without and with the decoder, a seed each."""
    runs = [(name, seed) for seed in config.seeds for name in (WITHOUT, WITH)]
    results: dict[str, list[ToyResult]] = {WITHOUT: [], WITH: []}
    with meter("toy example", len(runs) * config.steps) as step:
        for name, seed in runs:
            results[name].append(run_toy(config, data, name == WITH, seed, step))
    return results


def published_mean(papers: Papers, row: str) -> tuple[float, int, str]:
    """Mean of the values that the paper has of a row, how many, and their source."""
    values = [papers.value("glace", "figure-8", row, f"value-{i}") for i in range(1, 20)]
    known = [v for v in values if v is not None]
    return fmean(v.value for v in known), len(known), known[0].source


def told(values: list[float]) -> str:
    """Mean and standard deviation."""
    return f"{fmean(values):.2f}" + (f" ± {stdev(values):.2f}" if len(values) > 1 else "")


def to_csv(config: ToyStage, results: dict[str, list[ToyResult]], known: dict[str, tuple[float, int, str]]) -> str:
    """Tidy, in the form of all tables: a line a decoder and measure, then a line a decoder and photo."""
    out = io.StringIO()
    writer = csv.DictWriter(out, FIELDS, restval="", lineterminator="\n")
    writer.writeheader()
    scene, seeds = "+".join(config.toy.scenes), " ".join(map(str, config.toy.seeds))
    for name, of in results.items():
        cells = {("all", MEAN_ERROR): [r.mean for r in of], ("all", MEDIAN_ERROR): [r.median for r in of]}
        for i in range(len(of[0].by_image)):
            cells[f"photo {i + 1}", MEAN_ERROR] = [float(r.by_image[i]) for r in of]
        for (condition, metric), values in cells.items():
            line = {"table": TABLE, "set": config.set or "", "row": name, "label": _LABELS[name], "scene": scene}
            line |= {"condition": condition, "metric": metric, "unit": "px", "n": len(values), "seeds": seeds}
            line |= {"mean": f"{fmean(values):.6g}", "min": f"{min(values):.6g}", "max": f"{max(values):.6g}"}
            line["spread"] = f"{stdev(values):.6g}" if len(values) > 1 else ""
            if (condition, metric) == ("all", MEAN_ERROR):
                line |= {"published": f"{known[name][0]:.4g}", "published_unit": "px", "source": known[name][2]}
            writer.writerow(line)
    return out.getvalue()


def grid(
    config: ToyConfig, results: dict[str, list[ToyResult]], known: dict[str, tuple[float, int, str]]
) -> tuple[list[str], list[list[str]]]:
    """Header and the two rows: ours, over photos and samples, and the paper's."""
    lines = []
    for name, of in results.items():
        by_image = torch.stack([r.by_image for r in of]).mean(0)
        mean, count, _ = known[name]
        photos = f"{by_image.min():.2f} to {by_image.max():.2f}"
        ours = [told([r.mean for r in of]), photos, told([r.median for r in of])]
        lines.append([_LABELS[name], *ours, f"{mean:.2f} (of {count})"])
    return ["", " + ".join(config.scenes), "photos", "median sample", "paper's mean"], lines


def to_markdown(
    config: ToyStage,
    data: ToyData,
    results: dict[str, list[ToyResult]],
    known: dict[str, tuple[float, int, str]],
    picture: str,
) -> str:
    """The two rows, ours and the paper's, and what differs between the two experiments."""
    toy = config.toy
    before, after = ([r.mean for r in results[name]] for name in (WITHOUT, WITH))
    lower = 100 * (1 - fmean(after) / fmean(before))
    change = f"{abs(lower):.0f} % {'lower' if lower > 0 else 'higher'}"
    times = sum(b < a for a, b in zip(before, after, strict=True))
    paper = 100 * (1 - known[WITH][0] / known[WITHOUT][0])
    seeds = ", ".join(map(str, toy.seeds))
    return f"""# {known[WITH][2]}: the 2D toy example of the position decoder

Absolute error of a coordinate, px: mean over the photos, range of the photos, median of the samples; mean ± standard
deviation of seeds {seeds}.

{pipe_table(*grid(toy, results, known))}

With the decoder the mean error is {change}, and lower with {times} of {len(before)} seeds. In the paper it is
{paper:.0f} % lower.

![Samples where the head tells them to be]({picture})

{toy.photos} photos of {toy.size[0]} x {toy.size[1]} px in {toy.columns} columns, {len(data.pixel)} samples of encoder
{toy.extractor.name}; {toy.steps} steps of {toy.batch_size} samples, width {toy.width}, AdamW to {toy.lr_max:g}.

The paper has 19 photos of 7-Scenes and 12-Scenes, the ACE encoder with every cell of 8 x 8 px, and does not say how
long it trains: pixels are not to be compared, but how the two decoders stand.
"""


def draw(out: Path, config: ToyConfig, data: ToyData, results: dict[str, ToyResult]) -> None:
    """Write the planes side by side: each sample in its photo's colour where the head tells it to be, with a line to
    its place where it is far off, and the error of each photo."""
    colours = [COLOURS[i % len(COLOURS)] for i in data.image.tolist()]
    left, top = (data.centres.min(0).values - torch.tensor(config.size) / 2).tolist()
    right, bottom = (data.centres.max(0).values + torch.tensor(config.size) / 2).tolist()
    wide = 6.4
    figure = Figure((2 * wide + 0.2, wide * (bottom - top) / (right - left) + 0.6), dpi=_DPI, layout="constrained")
    for axes, (name, result) in zip(figure.subplots(1, 2), results.items(), strict=True):
        axes.scatter(*result.found.T.tolist(), s=4, c=colours, linewidths=0)
        far = (result.found - data.pixel).norm(dim=1) > _FAR_PX
        lines = torch.stack([data.pixel, result.found], 1)[far].numpy()
        axes.add_collection(LineCollection(lines, colors="#303030", linewidths=0.7))
        for centre, error in zip(data.centres.tolist(), result.by_image.tolist(), strict=True):
            axes.text(
                centre[0], centre[1], f"{error:.1f}", ha="center", va="center", fontsize=11,
                bbox={"boxstyle": "round,pad=0.2", "fc": "white", "ec": "none", "alpha": 0.8},
            )  # fmt: skip
        axes.set(xlim=(left, right), ylim=(bottom, top), aspect="equal")
        axes.set_xticks((data.centres[: config.columns, 0] + config.size[0] / 2).tolist(), [])
        axes.set_yticks((data.centres[:: config.columns, 1] + config.size[1] / 2).tolist(), [])
        axes.grid(color="#d0d5da", lw=0.6)
        axes.tick_params(length=0)
        axes.set_title(f"{_LABELS[name]}: {result.mean:.1f} px", fontsize=12)
    with atomic_path(out) as temporary:
        FigureCanvasAgg(figure).print_png(temporary)
