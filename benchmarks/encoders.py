"""Time every local encoder of config/encoders on one image, and print the table of docs/encoders.md.

    OMP_NUM_THREADS=2 .venv/bin/python benchmarks/encoders.py

An encoder whose weights are not at hand runs with random ones, which the table says: the time of a network does not
depend on its values, what it finds does. Nothing is downloaded.
"""

import contextlib
import importlib
import os
import pkgutil
import time
from pathlib import Path
from typing import Annotated
from unittest import mock

import torch
import typer
from PIL import Image
from torch import nn

from scrflow.config import EncoderConfig
from scrflow.core.errors import ScrflowError
from scrflow.core.images import read_rgb, to_tensor
from scrflow.features import encoders, networks
from scrflow.features.encoders import build_encoder
from scrflow.pipeline.project import Project
from scrflow.storage import weights

ROOT = Path(__file__).resolve().parents[1]
MIN_RUNS = 3


class Loader:
    """Stands in for load_published: notes what is loaded, and draws values where there is no file."""

    def __init__(self):
        self.megabytes, self.exact, self.random = 0.0, True, False

    def __call__(self, network: nn.Module, name: str, **options) -> None:
        entry = weights.registry()[name]
        own = sum(v.numel() * v.element_size() for v in network.state_dict().values())
        self.megabytes += (entry.bytes or own) / 1e6
        self.exact &= entry.bytes is not None
        try:
            networks.load_published(network, name, **options)
        except ScrflowError as error:
            if "no source has" not in str(error):
                raise
            self.random = True
            draw(network)


def draw(network: nn.Module) -> None:
    """Random values that keep activations finite."""
    generator = torch.Generator().manual_seed(0)
    if any(p.is_meta for p in network.parameters()):
        network.to_empty(device="cpu")
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if not value.is_floating_point():
                value.zero_()
            elif value.dim() > 1:
                value.normal_(0, (2 / value[0].numel()) ** 0.5, generator=generator)
            else:
                value.fill_(float(name.endswith(("weight", "running_var"))))
    network.eval()


def measure(name: str, config: EncoderConfig, image: torch.Tensor, seconds: float) -> dict:
    """One row: the shortest of at least three runs, by the clock and by the processor time of all threads."""
    loader = Loader()
    modules = [
        importlib.import_module(m.name) for m in pkgutil.iter_modules(encoders.__path__, "scrflow.features.encoders.")
    ]
    loading = [m for m in modules if hasattr(m, "load_published")]
    with contextlib.ExitStack() as stack:
        for module in loading:
            stack.enter_context(mock.patch.object(module, "load_published", loader))
        encoder = build_encoder(config.extractor)
    clock: list[float] = []
    processor: list[float] = []
    while len(clock) < MIN_RUNS or sum(clock) < seconds:
        start = time.perf_counter(), time.process_time()
        features = encoder(image)
        clock.append(time.perf_counter() - start[0])
        processor.append(time.process_time() - start[1])
    needed = "random here" if loader.random else "at hand"
    return {
        "encoder": f"`{name}`",
        "dimension": encoder.dim,
        "weights, MB": ("" if loader.exact else "about ") + f"{loader.megabytes:.1f}" if loader.megabytes else "none",
        "ms": 1000 * min(clock),
        "processor ms": 1000 * min(processor),
        "keypoints": "" if loader.random else len(features.keypoints_px),
        "licence": config.licence,
        "commercial use": config.commercial_use,
        "weights": needed if loader.megabytes else "none needed",
    }


def distinct(project: Project) -> list[str]:
    """Encoders that differ in more than their buffer."""
    seen: dict[str, str] = {}
    for name in sorted(project.encoders, key=len):
        extractor = project.encoders[name].extractor
        if not name.endswith("-full"):
            seen.setdefault(f"{extractor.name} {sorted(extractor.options.items())}", name)
    return list(seen.values())


def main(
    image: Annotated[Path | None, typer.Option(help="photo to encode; default: one of the demo scene")] = None,
    width: Annotated[int, typer.Option(help="px it is resized to")] = 640,
    height: Annotated[int, typer.Option(help="px it is resized to")] = 480,
    threads: Annotated[int, typer.Option(help="threads of torch")] = 2,
    seconds: Annotated[float, typer.Option(help="for an encoder; three runs at least")] = 5,
    only: Annotated[list[str] | None, typer.Option(help="encoder to run; default: all but the -full ones")] = None,
) -> None:
    """Time local encoders on this machine and print a table. Nothing is downloaded: weights not at hand are random."""
    os.environ["SCRFLOW_OFFLINE"] = "1"
    torch.set_num_threads(threads)
    path = image or sorted((ROOT / "demo/images/mapping").glob("*.jpg"))[10]
    picture = to_tensor(read_rgb(path).resize((width, height), Image.Resampling.LANCZOS))
    project = Project(ROOT / "config")
    names = only or distinct(project)
    try:
        unknown = [n for n in names if n not in project.encoders]
        if unknown:
            raise ScrflowError(f"no encoder {', '.join(unknown)} in config/encoders")
        rows = []
        for name in names:
            typer.echo(f"{name} ...", err=True)
            rows.append(measure(name, project.encoders[name], picture, seconds))
    except ScrflowError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None
    rows.sort(key=lambda row: row["processor ms"])
    for row in rows:
        row["x the fastest"] = f"{row['processor ms'] / rows[0]['processor ms']:.1f}"
    typer.echo(f"{width}x{height}, {threads} threads, {torch.__version__}; load {os.getloadavg()[0]:.1f}")
    typer.echo(f"| {' | '.join(rows[0])} |\n|{'---|' * len(rows[0])}")
    for row in rows:
        typer.echo(f"| {' | '.join(f'{v:.0f}' if isinstance(v, float) else str(v) for v in row.values())} |")


if __name__ == "__main__":
    typer.run(main)
