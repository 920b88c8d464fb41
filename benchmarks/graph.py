"""Time the graph stages on synthetic cities of growing size, and print the tables of docs/performance.md.

    OMP_WAIT_POLICY=PASSIVE OMP_NUM_THREADS=1 .venv/bin/python benchmarks/graph.py \
        --images 1000 --images 5000 --images 20000 --images 50000

The scenes are SYNTHETIC: photos along the streets of a square grid (every 60 m), one every 1.5 m of street, in one of
the four directions of the grid give or take 15 degrees, by three cameras. A larger scene is a larger city of the same
density. Every size and stage runs in a process of its own, so that its peak memory is its own. CPU seconds tell what
the work costs where other jobs share the machine.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
import pycolmap
import scipy.sparse
import typer

from scrflow.config import Node2VecConfig
from scrflow.graph.covisibility import point_weights
from scrflow.graph.frustum import Frusta, frustum_graph, visible_shares
from scrflow.scene.colmap_model import View

SAMPLES, DEPTHS, MIN_OVERLAP, MIN_POINTS = 1024, (0.1, 50.0), 0.2, 15
BLOCK_M, SPACING_M = 60.0, 1.5
OBSERVATIONS, TRACK = 1000, 8  # 3D points an image sees, images a point is seen from (points graph)
CAMERAS = ((1600, 1200, 1400.0), (1200, 1600, 1400.0), (1600, 1067, 1250.0))  # width, height, focal length


def city(images: int, seed: int = 0) -> list[View]:
    """Views of the synthetic city described above, y down."""
    rng = np.random.default_rng(seed)
    streets = 2  # each way
    while 2 * streets * (streets - 1) * BLOCK_M < images * SPACING_M:
        streets += 1
    side = (streets - 1) * BLOCK_M
    street, along = np.divmod(np.arange(images) * (2 * streets * side / images), side)
    across = street // 2 * BLOCK_M + rng.uniform(-3, 3, images)
    vertical = street % 2 == 1
    centre = np.column_stack([np.where(vertical, across, along), rng.normal(-1.6, 0.1, images),
                              np.where(vertical, along, across)])  # fmt: skip
    heading = rng.integers(0, 4, images) * np.pi / 2 + rng.normal(0, np.radians(15), images)
    pitch = rng.normal(np.radians(5), np.radians(5), images)  # upwards
    forward = np.column_stack([np.sin(heading) * np.cos(pitch), -np.sin(pitch), np.cos(heading) * np.cos(pitch)])
    right = np.column_stack([np.cos(heading), np.zeros(images), -np.sin(heading)])
    R = np.stack([right, np.cross(forward, right), forward], 1)
    poses = np.concatenate([R, -R @ centre[..., None]], 2)
    sizes = [{"width": w, "height": h, "params": [f, w / 2, h / 2]} for w, h, f in CAMERAS]
    cameras = [pycolmap.Camera(model="SIMPLE_PINHOLE", **size) for size in sizes]
    chosen = rng.integers(0, len(cameras), images)
    return [View(f"{i:06d}.jpg", cameras[c], pose) for i, (c, pose) in enumerate(zip(chosen, poses, strict=True))]


def clock(work: Callable) -> tuple[object, dict[str, float]]:
    """The result, and what it cost this process."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    cost = {"s": time.perf_counter() - wall, "CPU s": time.process_time() - cpu}
    return result, cost | {"peak MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def frustum(images: int, folder: Path) -> dict:
    """The frustum graph."""
    views, rng = city(images), np.random.default_rng(1)
    csr, cost = clock(lambda: frustum_graph(views, SAMPLES, DEPTHS, MIN_OVERLAP, rng))
    scipy.sparse.save_npz(folder / f"{images}.npz", csr)
    edges = csr.nnz // 2
    floor = 2 * edges * SAMPLES / projection_rate(views) / cost["CPU s"]
    return {"images": images, "edges": edges, **cost, "floor": floor}


def projection_rate(views: list[View]) -> float:
    """Samples a second (CPU) that ``visible_shares`` projects, of one image into 64 others at a time."""
    frusta = Frusta.of(views[:65], SAMPLES, DEPTHS, np.random.default_rng(1))
    world, others = frusta.world_samples(0), np.arange(1, 65)
    rates = []
    for _ in range(20):
        begin = time.process_time()
        visible_shares(frusta, world, 0, others)
        rates.append(len(others) * SAMPLES / (time.process_time() - begin))
    return float(np.median(rates))


def points(images: int, folder: Path) -> dict:
    """The graph of shared points: each image sees 1 000 points, each seen from 8 images along the same street."""
    rng = np.random.default_rng(0)
    count = images * OBSERVATIONS // TRACK
    first = rng.integers(0, images, count)
    seen_from = (first[:, None] + rng.integers(0, 40, (count, TRACK))) % images
    sees = scipy.sparse.csr_array(
        (np.ones(seen_from.size, np.int32), (seen_from.ravel(), np.repeat(np.arange(count), TRACK))),
        shape=(images, count),
    )
    sees.data[:] = 1
    csr, cost = clock(lambda: point_weights(sees, MIN_POINTS))
    return {"images": images, "observations": sees.nnz, "edges": csr.nnz // 2, **cost}


def node2vec(images: int, folder: Path, threads: int, counted: bool, device: str) -> dict:
    """One embedding of the frustum graph without a tenth of its edges, which it is then asked to tell from others."""
    import torch

    from scrflow.graph.node2vec import held_out_average_precision, hold_out_edges, node_vectors, normalised, separation

    torch.set_num_threads(threads)
    csr = scipy.sparse.csr_array(scipy.sparse.load_npz(folder / f"{images}.npz"))
    rest, edges = hold_out_edges(csr, 0.1, np.random.default_rng(1))
    limit = images if counted else 0
    vectors, cost = clock(lambda: node_vectors(Node2VecConfig(), rest, 1, device, counted_nodes=limit))
    encoding = normalised(vectors)
    return {
        "images": images,
        "path": "counted" if counted else "sampled",
        **cost,
        "average precision": separation(encoding, csr, np.random.default_rng(2))["average_precision"],
        "of held-out edges": held_out_average_precision(encoding, csr, edges, np.random.default_rng(2)),
    }


STAGES = {"frustum": frustum, "points": points, "node2vec": node2vec}


def apart(**job: object) -> dict:
    """The row of a stage, run in a process of its own."""
    command = [sys.executable, __file__, "--job", json.dumps(job)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def growth(rows: list[dict]) -> str:
    """Exponent of CPU time in the number of images, of the first and the last row."""
    if len(rows) < 2:
        return ""
    a, b = rows[0], rows[-1]
    exponent = np.log(b["CPU s"] / a["CPU s"]) / np.log(b["images"] / a["images"])
    return f"\nCPU time grows as images^{exponent:.2f} from {a['images']} to {b['images']} images.\n"


def main(
    images: Annotated[list[int], typer.Option(help="sizes of the city; give it several times")] = (1000, 5000),
    stages: Annotated[str, typer.Option(help="of frustum, points, node2vec")] = "frustum,points,node2vec",
    threads: Annotated[int, typer.Option(help="of Node2Vec")] = 1,
    counted: Annotated[int, typer.Option(help="images up to which Node2Vec by counts runs too")] = 5000,
    device: Annotated[str, typer.Option(help="of Node2Vec: cpu or cuda")] = "cpu",
    folder: Annotated[Path | None, typer.Option(help="where the graphs go; default: a temporary folder")] = None,
    job: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Time the graph stages on synthetic cities and print a table for each."""
    if job:
        values = json.loads(job)
        print(json.dumps(STAGES[values.pop("stage")](**{**values, "folder": Path(values["folder"])})))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for stage in (name for name in STAGES if name in stages.split(",")):
            rows: list[dict] = []
            for n in images:
                variants: list[dict] = [{}]
                if stage == "node2vec":
                    variants = [{"counted": c, "device": device, "threads": threads} for c in (True, False)]
                for variant in variants:
                    if not variant.get("counted") or n <= counted:
                        rows.append(row := apart(stage=stage, images=n, folder=str(folder), **variant))
                        if len(rows) == 1:
                            print(f"| {' | '.join(row)} |\n|{'---|' * len(row)}")
                        print(f"| {' | '.join(f'{v:.4g}' if isinstance(v, float) else str(v) for v in row.values())} |",
                              flush=True)  # fmt: skip
            print(growth([row for row in rows if row.get("path") != "counted"]))


if __name__ == "__main__":
    typer.run(main)
