"""How costs grow where no real scene at hand is large enough, for src/scrflow/cli/plan/rates.yaml and docs/scaling.md.

    OMP_WAIT_POLICY=PASSIVE OMP_NUM_THREADS=1 .venv/bin/python benchmarks/scale.py photos
    ... benchmarks/scale.py model --images 10000 --images 100000
    ... benchmarks/scale.py index --images 100000 --images 1000000
    ... benchmarks/scale.py features --images 10000 --images 100000
    ... benchmarks/scale.py names --images 100000 --images 1000000
    ... benchmarks/scale.py dag --shards 2 --shards 100 --shards 1000

What is SYNTHETIC: the models (poses along streets, empty files for photos), descriptors (random numbers) and names.
What is not: the photos of ``photos`` (the demo's, enlarged), and the workflow of ``dag``.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

app = typer.Typer(help=__doc__, rich_markup_mode="markdown", add_completion=False)
Images = Annotated[list[int], typer.Option()]


def measured(work: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """What ``work`` returns, its CPU seconds and the most memory that it took, in a process of its own."""
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_timed, work, arguments).result()


def _timed(work: Callable[..., dict[str, Any]], arguments: tuple[Any, ...]) -> dict[str, Any]:
    from scrflow.pipeline.job import peak_kilobytes

    began, cpu = time.perf_counter(), time.process_time()
    values = work(*arguments)
    seconds = {"s": f"{time.perf_counter() - began:.2f}", "CPU s": f"{time.process_time() - cpu:.2f}"}
    return {**values, **seconds, "peak MB": peak_kilobytes(0) // 1024}


def table(rows: list[dict[str, Any]]) -> None:
    """Markdown."""
    print("| " + " | ".join(rows[0]) + " |\n|" + "---|" * len(rows[0]))
    for row in rows:
        print("| " + " | ".join(str(value) for value in row.values()) + " |")


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="scale-") as folder:
        yield Path(folder)


# -------------------------------------------------------------------------------------------------------------- photos


@app.command()
def photos(count: int = 60) -> None:
    """CPU time of a photo beside its encoding: checked by the scene stage; read and brought to 480 px."""
    table([_photos(size, count) for size in ((640, 480), (1280, 960), (2560, 1920))])


def _photos(size: tuple[int, int], count: int) -> dict[str, Any]:
    from PIL import Image

    from scrflow.core.images import read_rgb, resized_to_short_side
    from scrflow.scene.checks import check_image

    with scratch() as folder:
        paths = []
        for source in sorted((ROOT / "demo/images").rglob("*.jpg"))[:count]:
            paths.append(folder / f"{len(paths)}.jpg")
            Image.open(source).resize(size, Image.Resampling.BICUBIC).save(paths[-1], quality=92)
        took = {"photo": f"{size[0]}x{size[1]}, {sum(p.stat().st_size for p in paths) / len(paths) / 1e6:.2f} MB"}
        for name, work in (
            ("checked, ms", lambda p: check_image(p, None)),
            ("read and resized, ms", lambda p: resized_to_short_side(read_rgb(p), 480)),
        ):
            cpu = time.process_time()
            for path in paths:
                work(path)
            took[name] = f"{1000 * (time.process_time() - cpu) / len(paths):.2f}"
        return took


# --------------------------------------------------------------------------------------------------------------- model


@app.command()
def model(images: Images) -> None:
    """The scene artifact of a city: what every job that reads it pays."""
    rows = []
    for count in images:
        with scratch() as folder:
            wrote = measured(_write_scene, folder, count)
            rows += [{"images": count, "what": "written", **wrote}, {"images": count, **measured(_load_scene, folder)}]
    table(rows)


def _write_scene(folder: Path, count: int) -> dict[str, Any]:
    import pycolmap

    from scrflow.config import EvaluateStage
    from scrflow.scene.colmap_model import View
    from scrflow.scene.model import Query, write_scene

    camera = pycolmap.Camera(model="PINHOLE", width=640, height=480, params=[500, 500, 320, 240])
    names = [f"images/street-{i // 1000:04d}/{i:07d}.jpg" for i in range(count + 1)]
    for name in names:
        (folder / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "data" / name).touch()
    poses = np.tile(np.eye(3, 4), (count, 1, 1))
    poses[:, 0, 3] = np.arange(count)
    write_scene(
        folder / "scene",
        config=EvaluateStage(thresholds=((1, 1),), unit="m", synthetic=True),
        code="synthetic",
        image_root=folder / "data",
        unit="m",
        mapping=[View(name, camera, pose) for name, pose in zip(names[:count], poses, strict=True)],
        queries=[Query(names[count], camera, "all")],
        query_poses={},
        image_sha256=dict.fromkeys(names, "0" * 64),
    )
    size = sum(p.stat().st_size for p in (folder / "scene").rglob("*"))
    return {"MB on disk": f"{size / 1e6:.1f}"}


def _load_scene(folder: Path) -> dict[str, Any]:
    from scrflow.scene.model import load_scene

    size = (folder / "scene/scene.json").stat().st_size
    load_scene(folder / "scene")
    return {"what": "read", "MB on disk": f"{size / 1e6:.1f} (scene.json)"}


# ----------------------------------------------------------------------------------------------------------- retrieval


@app.command()
def index(images: Images, dim: int = 256, size: int = 64) -> None:
    """The flat scan over product-quantised descriptors that finds a query's ten mapping images."""
    table([{"images": count, **measured(_index, count, dim, size)} for count in images])


def _index(count: int, dim: int, size: int) -> dict[str, Any]:
    import torch

    from scrflow.features.retrieval.search import Retriever

    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    books = torch.randn(size, 256, dim // size, generator=generator).half()
    codes = torch.randint(0, 256, (count, size), generator=generator, dtype=torch.uint8)
    retriever = Retriever(tuple(map(str, range(count))), books, codes)
    took = []
    for _ in range(5):
        began = time.process_time()
        retriever.search(torch.randn(dim, generator=generator), 10)
        took.append(time.process_time() - began)
    return {"index MB": f"{codes.numel() / 1e6:.1f}", "ms a query": f"{1000 * min(took):.1f}"}


@app.command()
def features(images: Images, dim: int = 2048, kept: int = 128, size: int = 32) -> None:
    """Whitening and product quantiser of raw retrieval features (VLAD: 2 048 numbers)."""
    table([{"images": count, **measured(_features, count, dim, kept, size)} for count in images])


def _features(count: int, dim: int, kept: int, size: int) -> dict[str, Any]:
    import torch

    from scrflow.features.retrieval import pq
    from scrflow.features.retrieval.build import _whitened

    rng = np.random.default_rng(0)
    rows = np.stack([rng.standard_normal(dim, np.float32) for _ in range(count)])
    generated = time.process_time()
    white, _ = _whitened(rows, kept, 1)
    whitened = time.process_time()
    books = pq.learn_codebooks(white, size, 1)
    learnt = time.process_time()
    pq.encode(torch.from_numpy(white), books)
    laps = np.diff([generated, whitened, learnt, time.process_time()])
    return {
        f"{name}, CPU s": f"{lap:.1f}" for name, lap in zip(("whitened", "quantiser", "encoded"), laps, strict=True)
    }


@app.command()
def names(images: Images) -> None:
    """What names cost: those in every shard of a buffer, and hloc's layout with a group for every image."""
    table([{"images": count, **measured(_names, count)} for count in images])


def _names(count: int) -> dict[str, Any]:
    from scrflow.features.retrieval import hloc
    from scrflow.storage.artifact import Stamp, create_h5, open_h5

    listed = [f"images/street-{i // 1000:04d}/{i:07d}.jpg" for i in range(count)]
    row = np.zeros(128, np.float32)
    with scratch() as folder:
        with create_h5(folder / "shard.h5", Stamp("buffer")) as f:
            f.attrs["names"] = listed
        laps = [time.process_time()]
        with open_h5(folder / "shard.h5", "buffer") as f:
            tuple(f.attrs["names"])
        laps.append(time.process_time())
        with create_h5(folder / "feature.h5", Stamp("retrieval")) as f:
            hloc.write_descriptors(f, dict.fromkeys(listed, row))
        laps.append(time.process_time())
        hloc.read_descriptors(folder / "feature.h5", listed)
        laps.append(time.process_time())
        sizes = [f"{(folder / name).stat().st_size / 1e6:.1f}" for name in ("shard.h5", "feature.h5")]
    took = [f"{lap:.2f}" for lap in np.diff(laps)]
    return {
        "names in a shard, MB": sizes[0],
        "read, CPU s": took[0],
        "128 numbers an image, MB": sizes[1],
        "written, CPU s": took[1],
        "read, CPU s ": took[2],
    }


# ----------------------------------------------------------------------------------------------------------------- DAG


@app.command()
def dag(shards: Annotated[list[int], typer.Option()], scene: str = "demo") -> None:
    """Snakemake's own time before the first job, in an empty copy of the workflow."""
    rows = []
    with scratch() as folder:
        for name in ("rules", "workflow", "profiles", "envs", "src", "config", "demo"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        shutil.copy(ROOT / "Snakefile", folder)
        for count in shards:
            command = [sys.executable, "-m", "snakemake", "-n", "--quiet", "all", "--cores", "2"]
            command += [f"results/{scene}/poses.txt", "--config", f"buffer_shards={count}"]
            began = os.times()
            subprocess.run(command, cwd=folder, check=True, capture_output=True)
            ended = os.times()
            cpu = ended.children_user - began.children_user + ended.children_system - began.children_system
            rows.append({"shards": count, "s": f"{ended.elapsed - began.elapsed:.1f}", "CPU s": f"{cpu:.1f}"})
    table(rows)


if __name__ == "__main__":
    app()
