"""Train heads of the papers' sizes without known depths, and record accuracy against steps and CPU minutes: the curves
of docs/training.md.

    snakemake --cores 2 results/redkitchen/poses.txt      # buffer, graph, encodings, retrieval
    export OMP_WAIT_POLICY=PASSIVE
    .venv/bin/python benchmarks/curves.py run rscore redkitchen --steps 3072
    .venv/bin/python benchmarks/curves.py collect --known redkitchen=0.0086 --known demo=0.45

``run`` trains with one thread and evaluates the head on all queries at 1/16 and 1/4 of the steps and at the
end. Stopped, the same command continues. Only the last line is of a head whose learning rate has fallen, so several
lengths tell more than one. Minutes are the processor's, of training alone. ``collect`` writes all lines to a CSV and
draws them.
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pandas as pd
import torch
import typer
import yaml
from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

from scrflow.config import MethodConfig  # noqa: E402
from scrflow.config.base import deep_merge, validate  # noqa: E402
from scrflow.core.geometry import pose_error, reprojection_error  # noqa: E402
from scrflow.core.seeds import derived_seed  # noqa: E402
from scrflow.localize.localizer import Localizer, QueryFeatures  # noqa: E402
from scrflow.map.file import load_map, write_map  # noqa: E402
from scrflow.pipeline.configs import Variant  # noqa: E402
from scrflow.pipeline.project import Project  # noqa: E402
from scrflow.scene.model import load_scene  # noqa: E402
from scrflow.storage.artifact import Stamp, write_safetensors  # noqa: E402
from scrflow.training.head import Head  # noqa: E402
from scrflow.training.job import output_unit  # noqa: E402
from scrflow.training.optimizer import Precision, use_bf16_backward  # noqa: E402
from scrflow.training.samples import Samples  # noqa: E402
from scrflow.training.trainer import Trainer  # noqa: E402

app = typer.Typer(help=__doc__, rich_markup_mode="markdown", add_completion=False)

# Queries are localized as rscore-cpu and ace-cpu do it.
_NODE2VEC = {"encoder": "xfeat", "retrieval": "fusion", "global_encoding": {"name": "node2vec", "scale": True}}
_QUERIES = {"max_keypoints": 2048, "iterations": 1000, "min_iterations": 100, "refine_px": 1.5}
_SMALL_BATCH = {"batch_size": 512, "accumulate": 1, "buffer_memory": "2 GiB", "buffer_dtype": "float16"}
# of a run with precision bf16; in the rest, where centimetres count, only the backward pass is in bf16
FORWARD_BF16 = 0.75
_KNOWN = {"mix_share": 0.5, "known_share": 0.9, "loss": {"known_depth": True}}
# name -> method, and keys of it that are set
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "rscore": (
        "rscore",
        {
            **_NODE2VEC,
            "training": {**_SMALL_BATCH, "precision": "bf16", "lr_max": 1.5e-3, "loss": {"depth_bias": None}},
            "localize": {**_QUERIES, "halving": {}},
        },
    ),
    "ace": ("ace", {"encoder": "xfeat", "training": _SMALL_BATCH, "localize": _QUERIES}),
    "glace": (
        "glace",
        {
            **{"encoder": "xfeat", "retrieval": "vlad", "global_encoding": {"name": "vlad", "scale": True}},
            **{"training": _SMALL_BATCH, "localize": _QUERIES},
        },
    ),
    "rscore-cpu": ("rscore-cpu", {}),
    "rscore-cpu-implicit": ("rscore-cpu-implicit", {}),
}
_NO_GLOBAL = {"global_encoding": {"name": None, "neighbour_share": 0}, "retrieval": None, "localize": {"hypotheses": 1}}
RUNS["implicit-no-global"] = ("rscore-cpu-implicit", _NO_GLOBAL)
RUNS["implicit-no-adjustment"] = ("rscore-cpu-implicit", {"training": {"loss": {"depth_adjusted": False}}})
RUNS["rscore-known"] = ("rscore", deep_merge(RUNS["rscore"][1], {"training": _KNOWN}))


def variant(project: Project, method: str, keys: dict[str, Any]) -> Variant:
    """The method with other values of these keys."""
    where = project.dir / f"methods/{method}.yaml"
    values = deep_merge(project.method_keys(method, where), keys)
    return Variant(method, validate(MethodConfig, values, where), where)


class Run:
    """A training of a run's artifacts, and the evaluation of its head."""

    def __init__(self, project: Project, results: Path, scene: str, method: str):
        self.root, self.method = results / scene, project.method(method)
        self.config, self.map_stage = project.train_stage(scene, method), project.map_stage(scene, method)
        self.thresholds, self.scene = project.scene(scene).thresholds, load_scene(self.root / "scene")
        local, name = self.root / "local" / self.method.encoder, self.method.global_encoding.name
        self.pca = local / "pca.safetensors"
        folder = "encodings" if name in project.config.encodings else "retrieval"
        self.encoding = self.root / folder / f"{name}.h5" if name else None
        self.retrieval = self.root / f"retrieval/{self.method.retrieval}.safetensors" if self.method.retrieval else None
        t = self.config.training
        depth = local / "depth-matched.h5" if t.needs_depth else None
        graph = self.root / "covisibility.npz" if self.config.global_encoding.neighbour_share > 0 else None
        shards = sorted(local.glob("buffer-*.h5"))
        if not shards:
            sys.exit(f"error: {local}: no buffer-*.h5; run the workflow first")
        samples = Samples.open(self.config, shards, graph, self.encoding, depth)
        self.unit = output_unit(depth) if t.loss.known_depth else 1.0
        torch.manual_seed(derived_seed(self.config.seed, "train.init"))
        centres = samples.cluster_centres(self.config.head.clusters, self.config.seed)
        self.head = Head(samples.dim_in, self.config.head, centres, self.unit)
        bias = self.config.depth_bias if t.loss.depth_bias is None else t.loss.depth_bias
        self.trainer = Trainer(self.head, samples, t, self.config.seed, bias, torch.get_num_threads())
        self._features: dict[str, QueryFeatures] = {}

    def localizer(self) -> Localizer:
        """With a map of the head as it is now."""
        state = {k: v if k == "decoder.centres" else v.half() for k, v in self.head.state_dict().items()}
        metadata = {"dim_in": str(self.trainer.samples.dim_in), "output_unit": repr(self.unit)}
        with tempfile.TemporaryDirectory(prefix="scrflow-curves-") as temporary:
            head, map_ = Path(temporary, "head.safetensors"), Path(temporary, "map.safetensors")
            write_safetensors(head, state, Stamp("head"), metadata)
            write_map(self.map_stage, self.root / "scene", head, self.pca, self.encoding, self.retrieval, map_)
            return Localizer(load_map(map_))

    def evaluate(self) -> dict[str, Any]:
        """Errors of the queries of known pose: median, recall, and the median reprojection error of their scene
        coordinates under the true pose, in pixels of the resized photo."""
        localizer, errors, pixels = self.localizer(), [], []
        for query in self.scene.queries:
            if query.name not in self.scene.query_poses:
                continue
            if query.name not in self._features:
                self._features[query.name] = localizer.features(self.scene.photo(query.name), query.camera)
            found, truth = localizer.localize_features(self._features[query.name]), self.scene.query_poses[query.name]
            pose = found.cam_from_world
            errors.append((np.inf, np.inf) if pose is None else pose_error(pose, truth))
            pixels.append(reprojection_error(found.view.pixels, found.xyz_world, found.view.K, truth))
        t, r = np.array(errors).T
        return {
            "median_t": float(np.median(t)),
            "median_r": float(np.median(r)),
            "recall": [float(np.mean((t < least) & (r < turn))) for least, turn in self.thresholds],
            "query_px": float(np.median(np.concatenate(pixels))),
        }

    def train(self, checkpoint: Path, out: Path, facts: dict[str, Any], looks: int, pause_s: float) -> None:
        """Train to the end; ``out`` gets a line for each evaluation."""
        trainer, steps = self.trainer, self.config.training.steps
        digest = f"{self.config.model_dump_json()}"
        trainer.resume(checkpoint, digest)
        due = {step for i in range(looks) if (step := max(1, steps >> 2 * i)) >= trainer.step}
        due -= {json.loads(line)["step"] for line in out.read_text().splitlines()} if out.exists() else set()
        saved = time.monotonic()
        self.head.train()
        try:
            while trainer.step < steps or due:
                if trainer.step in due:
                    trainer.save(checkpoint, digest)
                    self.head.eval()
                    line = {**facts, "steps": steps, "step": trainer.step, "cpu_s": round(trainer.seconds, 3)}
                    line |= {"train_px": float(np.median(trainer.history)), **self.evaluate()}
                    self.head.train()
                    with open(out, "a", encoding="utf-8") as f:
                        f.write(json.dumps(line) + "\n")
                    print(json.dumps(line), flush=True)
                    due.remove(trainer.step)
                    continue
                if trainer.step >= FORWARD_BF16 * steps and trainer.precision.autocast is torch.bfloat16:
                    trainer.precision = Precision(backward_bf16=True)
                    use_bf16_backward(self.head)
                began = time.process_time()
                _, error_px = trainer.one_step()
                trainer.step += 1
                trainer.seconds += time.process_time() - began
                trainer.history = [*trainer.history[-19:], float(error_px.median())]
                if time.monotonic() - saved > pause_s:
                    trainer.save(checkpoint, digest)
                    saved = time.monotonic()
        finally:
            trainer.close()
        checkpoint.unlink()


Folder = Annotated[Path, typer.Option(help="of the lines and checkpoints")]


@app.command()
def run(
    name: Annotated[str, typer.Argument(help=f"{', '.join(RUNS)}, or another method as it stands")],
    scene: str,
    steps: int = 4000,
    seed: int = 1,
    over: Annotated[str, typer.Option(help="YAML of keys of the method on top")] = "{}",
    label: Annotated[str | None, typer.Option(help="name of the curve; default: NAME")] = None,
    results: Annotated[Path, typer.Option(help="folder that the workflow wrote")] = ROOT / "results",
    config: Annotated[Path, typer.Option(help="folder config/ of the workflow")] = ROOT / "config",
    out: Folder = ROOT / "results" / "curves",
    looks: Annotated[int, typer.Option(help="evaluations: at the end, at 1/4 of the steps, at 1/16, ...")] = 3,
    pause_s: Annotated[float, typer.Option(help="seconds between checkpoints")] = 120,
) -> None:
    """Train one head, evaluating it on the way."""
    torch.set_num_threads(1)
    method, keys = RUNS.get(name, (name, {}))
    keys = deep_merge(deep_merge(keys, {"training": {"steps": steps}, "seed": seed}), yaml.safe_load(over))
    project, label = Project(config), label or name
    project.variants[label] = variant(project, method, keys)
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{label}-{scene}-{steps}-{seed}"
    if path.with_suffix(".jsonl").exists() and not path.with_suffix(".checkpoint").exists():
        path.with_suffix(".jsonl").unlink()
    facts = {"run": label, "scene": scene, "seed": seed}
    Run(project, results, scene, label).train(
        path.with_suffix(".checkpoint"), path.with_suffix(".jsonl"), facts, looks, pause_s
    )


@app.command()
def collect(
    folder: Folder = ROOT / "results" / "curves",
    csv: Annotated[Path | None, typer.Option(help="default: curves.csv in the folder")] = None,
    plot: Annotated[Path | None, typer.Option(help="default: curves.png in the folder")] = None,
    known: Annotated[list[str], typer.Option(help="SCENE=METRES: median error of rscore-cpu, drawn as a line")] = [],  # noqa: B006
) -> None:
    """Write the CSV and the picture of all lines."""
    found = [json.loads(line) for path in sorted(folder.glob("*.jsonl")) for line in path.read_text().splitlines()]
    table = pd.DataFrame(found)
    for i in range(3):
        table[f"recall@{i}"] = [recall[i] for recall in table["recall"]]
    table["cpu_min"] = table.pop("cpu_s") / 60
    table = table.drop(columns="recall").drop_duplicates(["run", "scene", "seed", "steps", "step"], keep="last")
    table.to_csv(csv or folder / "curves.csv", index=False, lineterminator="\n", float_format="%.5g")
    lines = {scene: float(metres) for scene, metres in (item.split("=") for item in known)}
    draw(table, lines, plot or folder / "curves.png")


def draw(table: pd.DataFrame, known: dict[str, float], path: Path) -> None:
    """A panel for each scene: the median error of finished trainings against CPU minutes (dots, joined), and within
    the longest of each (thin)."""
    scenes = sorted(table["scene"].unique(), reverse=True)
    figure = Figure(figsize=(4 * len(scenes) + 2.5, 3.6), layout="constrained")
    names = list(dict.fromkeys(table["run"]))
    for axes, scene in zip(figure.subplots(1, len(scenes), squeeze=False)[0], scenes, strict=True):
        for i, name in enumerate(names):
            some = table[(table["run"] == name) & (table["scene"] == scene)].sort_values("step")
            if some.empty:
                continue
            ends = some[some["step"] == some["steps"]].groupby("steps")[["cpu_min", "median_t"]].mean()
            longest = some[(some["steps"] == some["steps"].max()) & (some["seed"] == some["seed"].min())]
            axes.plot(longest["cpu_min"], longest["median_t"], color=f"C{i}", lw=0.8, ls=":", marker=".", ms=4)
            axes.plot(ends["cpu_min"], ends["median_t"], "o-", color=f"C{i}", label=name)
        if scene in known:
            axes.axhline(known[scene], color="0.4", ls="--", lw=1, label="rscore-cpu, known depths")
        axes.set(xscale="log", yscale="log", title=scene, xlabel="CPU minutes of training", ylabel="median error, m")
        axes.grid(which="both", alpha=0.3)
    shown = {label: line for a in figure.axes for line, label in zip(*a.get_legend_handles_labels(), strict=True)}
    figure.legend(shown.values(), shown, loc="outside right center")
    figure.savefig(path, dpi=90)


if __name__ == "__main__":
    app()
