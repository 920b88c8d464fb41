"""The training job: inputs checked, the head trained and written."""

from __future__ import annotations

import json
import math
from pathlib import Path

import h5py
import numpy as np
import torch

from scrflow.config import TrainStage
from scrflow.core.errors import ScrflowError
from scrflow.core.kmeans import kmeans
from scrflow.core.progress import log
from scrflow.core.seeds import derived_seed, torch_generator
from scrflow.storage.artifact import Stamp, open_h5, read_stamp, write_safetensors, write_text
from scrflow.storage.codeversion import code_version
from scrflow.training.buffer import BufferFiles
from scrflow.training.columns import ColumnLayout, channel_scales
from scrflow.training.distributed import Processes
from scrflow.training.head import Head
from scrflow.training.holdout import HeldOut, held_out_views
from scrflow.training.samples import Samples
from scrflow.training.stream import BlockPlan, Stream
from scrflow.training.trainer import Trainer

_MEDIAN_ROWS = 1 << 22  # depths that a median is taken of


def train_head(
    config: TrainStage,
    shards: list[Path],
    out: Path,
    history: Path,
    checkpoint: Path,
    threads: int,
    graph: Path | None = None,
    encoding: Path | None = None,
    depth: Path | None = None,
    device: str | None = None,
) -> None:
    """Train, and write the head (fp16 safetensors) and its history (JSON lines).

    ``graph`` is needed where g is taken from neighbours, ``encoding`` where there is a g at all (HDF5 of
    ``encoding`` [images, D] by Node2Vec, or hloc's layout for a retrieval feature), ``depth`` for known depths and
    descriptor mixing. A ``checkpoint`` of the very same inputs and config is continued from, any other is discarded.
    Under torchrun the processes train together. Raises ScrflowError for missing or mismatched inputs, and when the loss
    is no longer finite.
    """
    torch.set_num_threads(threads)
    kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
    processes = Processes.join(kind)
    chosen = torch.device(kind, processes.local_rank) if kind == "cuda" else torch.device(kind)
    _train(config, shards, out, history, checkpoint, graph, encoding, depth, chosen, processes, threads)
    # a process that failed does not wait here for those that wait for it: it ends, and torchrun ends the others
    processes.leave()


def _train(
    config: TrainStage,
    shards: list[Path],
    out: Path,
    history: Path,
    checkpoint: Path,
    graph: Path | None,
    encoding: Path | None,
    depth: Path | None,
    device: torch.device,
    processes: Processes,
    threads: int,
) -> None:
    inputs = {f"shard{i}": read_stamp(p, "buffer").digest for i, p in enumerate(shards)}
    named = {"graph": graph, "encoding": encoding, "depth": depth}
    inputs |= {name: read_stamp(path).digest for name, path in named.items() if path is not None}
    stamp = Stamp.make("head", config, code_version("training.stage"), **inputs)

    t, files = config.training, BufferFiles.open(shards)
    samples = Samples.load(config, files, graph, encoding).to(device)
    layout = column_layout(config, files, depth)
    unit = output_unit(depth if t.loss.known_depth else None)
    torch.manual_seed(derived_seed(config.seed, "train.init"))
    head = Head(samples.dim_in, config.head, cluster_centres(files, config.head.clusters, config.seed), unit).to(device)
    scale = channel_scales(files) if t.buffer_dtype == "int8" else None
    held = held_out_views(config, files)
    streams = make_streams(config, files, depth, layout, processes.lanes(t.gpus), device, scale, held)
    held_out = None if held is None else HeldOut(config, files, held, samples, scale)
    _announce(config, files, head, streams, device, processes)
    trainer = Trainer(config, head, samples, streams, processes, threads, held_out)
    trainer.resume(checkpoint, stamp.digest)
    try:
        trainer.run(checkpoint, stamp.digest)
    finally:
        trainer.close()
    waited = sum(stream.waited_s for stream in streams.values())
    log.info("%.1f s of training, of which %.1f s waiting for samples", trainer.seconds, waited)
    if not processes.writes:
        return
    state = {
        k: v.half() if v.is_floating_point() and k != "decoder.centres" else v for k, v in head.state_dict().items()
    }
    write_text(history, "".join(json.dumps(line) + "\n" for line in trainer.history))
    write_safetensors(out, state, stamp, {"dim_in": str(samples.dim_in), "output_unit": repr(unit)})
    checkpoint.unlink(missing_ok=True)


def column_layout(config: TrainStage, files: BufferFiles, depth: Path | None) -> ColumnLayout:
    """Which columns training needs. ScrflowError where the depth file is missing or of another buffer."""
    t = config.training
    if not t.needs_depth:
        return ColumnLayout(files.dim, t.buffer_dtype, depth=False, matches=0)
    if depth is None:
        raise ScrflowError("known_depth, pull_to and mix_share need the samples' depths, which were not given")
    with open_h5(depth, "sample-depth") as f:
        if len(f["depth"]) != files.rows:
            raise ScrflowError(
                f"{depth}: for a buffer of {len(f['depth'])} samples, this one has {files.rows}; "
                "delete it and run again"
            )
        matches = f["matches"].shape[1] if t.mix_share > 0 else 0
    return ColumnLayout(files.dim, t.buffer_dtype, depth=True, matches=matches)


def make_streams(
    config: TrainStage,
    files: BufferFiles,
    depth: Path | None,
    layout: ColumnLayout,
    lanes: list[int],
    device: torch.device,
    scale: torch.Tensor | None,
    held: torch.Tensor | None,
) -> dict[int, Stream]:
    """A stream a lane: every ``gpus``-th shard. ScrflowError where there are fewer shards than lanes."""
    t = config.training
    if len(files.paths) < t.gpus:
        raise ScrflowError(
            f"training.gpus is {t.gpus}, and the buffer has {len(files.paths)} shards: set buffer_shards to {t.gpus}"
        )
    batch, memory = t.batch_size // t.gpus, int(t.buffer_memory) // len(lanes)
    held = None if held is None else held.to(device)
    plans = {}
    for lane in lanes:
        shards = [s for s in range(lane, len(files.paths), t.gpus) if files.first_row[s + 1] > files.first_row[s]]
        if not shards:
            raise ScrflowError(f"{files.paths[lane]}: no samples, and training.gpus is {t.gpus}; set it lower")
        plans[lane] = BlockPlan.make(files, shards, memory, layout, batch, config.seed, lane)
        if plans[lane].blocks > 1 and layout != layout.streamed():
            return make_streams(config, files, depth, layout.streamed(), lanes, device, scale, held)
    _check_memory(sum(plan.bytes(layout) for plan in plans.values()), device)
    return {
        lane: Stream(plan, files, depth, layout, batch, t.known_share, device, scale, held)
        for lane, plan in plans.items()
    }


def _check_memory(needed: int, device: torch.device) -> None:
    """ScrflowError where the device has less free memory than the samples take."""
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
    elif Path("/proc/meminfo").exists():
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        free = 1024 * int(lines["MemAvailable"].split()[0])
    else:
        return
    if needed > free:
        raise ScrflowError(
            f"the samples take {needed / 2**30:.1f} GiB on {device}, where {free / 2**30:.1f} GiB are free: set "
            "training.buffer_memory lower"
        )


def _announce(
    config: TrainStage,
    files: BufferFiles,
    head: Head,
    streams: dict[int, Stream],
    device: torch.device,
    processes: Processes,
) -> None:
    plans, layout = [stream.plan for stream in streams.values()], next(iter(streams.values())).layout
    held = sum(plan.bytes(layout) for plan in plans)
    log.info(
        "training on %s: %d samples of %d images, head of %.2f M parameters",
        device if processes.count == 1 else f"{processes.count} x {device.type}",
        files.rows,
        len(files.names),
        sum(p.numel() for p in head.parameters()) / 1e6,
    )
    if max(plan.blocks for plan in plans) == 1:
        log.info("the buffer takes %.2f GiB of memory", held / 2**30)
    else:
        log.info(
            "the buffer (%.2f GiB) is streamed through %.2f GiB: blocks of %d chunks of %d samples, %d a pass",
            files.rows * layout.row_bytes / 2**30,
            held / 2**30,
            plans[0].a_block,
            plans[0].chunk_rows,
            plans[0].blocks,
        )


def output_unit(depth: Path | None) -> float:
    """The length that the head's number 1 stands for: the median known depth, so that a fresh head speaks of distances
    of the scene's own size; 1 as in the papers where samples are not held to known depths."""
    if depth is None:
        return 1.0
    with open_h5(depth, "sample-depth") as f:
        return round(float(torch.from_numpy(_spread(f["depth"], _MEDIAN_ROWS)).nanmedian()), 3)


def _spread(column: h5py.Dataset, rows: int) -> np.ndarray:
    """All of a column, or evenly spread runs of it."""
    if len(column) <= rows:
        return column[:]
    run, step = 4096, math.ceil(len(column) / rows)
    return np.concatenate([column[a : a + run] for a in range(0, len(column), run * step)])


def cluster_centres(files: BufferFiles, clusters: int, seed: int) -> torch.Tensor:
    """k-means centres [K, 3] of the mapping cameras' positions (GLACE eq. 8); with one cluster their mean."""
    order = torch.argsort(files.image, stable=True)
    first = order[torch.searchsorted(files.image[order], torch.arange(len(files.names)))]
    positions = files.centres()[first]
    return kmeans(positions, min(clusters, len(positions)), torch_generator(seed, "train.clusters")).float()
