"""Where a result comes from: the artifacts upstream of it, and the code, packages and device that it ran on.

A stamp names its artifact's inputs by their digests; files of hloc and COLMAP have no stamp, and their edges are here.
"""

import functools
import hashlib
import importlib.metadata
import json
import platform
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scrflow import __version__
from scrflow.core.errors import ScrflowError
from scrflow.pipeline.configs import SHIPPED
from scrflow.pipeline.stages import STAGES
from scrflow.storage.artifact import FORMS, Stamp, read_stamp, write_text

PACKAGES = (
    "torch", "numpy", "scipy", "pycolmap", "poselib", "opencv-python-headless", "kornia", "h5py", "faiss-cpu",
    "safetensors", "snakemake",
)  # fmt: skip
RAN = "ran"  # the key of this_run in localization.json and in the last line of train.jsonl
_ROOT = Path(__file__).resolve().parents[3]
_SOURCES = ("Snakefile", "rules", "workflow", "src")  # the code that makes results; config is in the stamps

MAPS = ("map.safetensors", "map.h5")  # of a head, of feature matching
DETAILS = "localization.json"

# of two rules with the same output: a key of the stamp's config, or an input file, that only one of them has
_MARKS = {
    "embed_graph": "node2vec",
    "cluster_features": "clusters",
    "localize_queries": "map.safetensors",
    "localize_baseline": "map.h5",
}
# inputs in stamps that are digests of plain files and texts, not of artifacts
_PLAIN = (
    *("images", "content", "names", "shard", "maps", "model", "file"),
    *("hloc_features", "hloc_matches", "poses", "training"),
)
_MODELS = ("sfm/sfm.json", "triangulated/triangulation.json")  # reports of the models that a graph is built from
# file of hloc in the scene's folder -> the files that it was made from
_HLOC = {
    "hloc/matches.h5": ("hloc/features.h5", "hloc/pairs.txt"),
    "hloc/pairs.txt": ("hloc/images.json", "hloc/global-feats-*.h5"),
    "hloc/features.h5": ("hloc/images.json",),
    "hloc/global-feats-*.h5": ("hloc/images.json",),
}
_OUTPUTS = tuple((rule, pattern) for rule, stage in STAGES.items() for pattern in stage.made.split())


@dataclass(frozen=True)
class Artifact:
    """A file that a result came from."""

    path: str  # below results/: demo/covisibility.npz
    stamp: Stamp | None  # None: another tool wrote it
    inputs: dict[str, str] = field(default_factory=dict)  # name -> path of the artifact
    lost: tuple[str, ...] = ()  # inputs whose digest no file has any more

    @property
    def scene(self) -> str:
        return self.path.split("/")[0]

    @property
    def job(self) -> tuple[str, dict[str, str]] | None:
        """The rule that makes the file and its wildcards; None if no rule does."""
        config = {} if self.stamp is None else self.stamp.config
        marks = {*config, *(path.rpartition("/")[2] for path in self.inputs.values())}
        for rule, pattern in _OUTPUTS:
            found = _regex(pattern).fullmatch(self.path.partition("/")[2])
            if found and _MARKS.get(rule) in {None, *marks}:
                return rule, found.groupdict()
        return None


@functools.cache
def _regex(pattern: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^/]+?)", re.escape(pattern)))


def results_in(folder: Path) -> list[Path]:
    """The artifacts of results/SCENE/METHOD that all others are upstream of: map and localization, if they exist."""
    return [folder / name for name in (*MAPS, DETAILS) if (folder / name).exists()]


def upstream(roots: Sequence[Path]) -> dict[str, Artifact]:
    """Everything that the artifacts ``roots`` (results/SCENE/METHOD/FILE) came from, and they themselves: path below
    results/ -> artifact, inputs first. ScrflowError if a root is missing or has no stamp."""
    walk = _Walk([Path(root).absolute() for root in roots])
    for root, stamp in walk.roots.items():
        walk.visit(root, stamp)
    return walk.found


class _Walk:
    def __init__(self, roots: list[Path]):
        self.roots = {root: read_stamp(root, whole=False) for root in roots}
        self._results = roots[0].parents[2] if roots else Path()
        self._by_digest: dict[str, dict[str, list[Path]]] = {}  # scene -> digest -> files
        self.found: dict[str, Artifact] = {}

    def visit(self, path: Path, stamp: Stamp | None) -> str:
        """Add the artifact after all that it came from; its path below results/."""
        name = path.relative_to(self._results).as_posix()
        if name in self.found:
            return name
        inputs, lost = {}, []
        for key, digest in (stamp.inputs if stamp else {}).items():
            source = self._plain(path, stamp, key) if key in _PLAIN else self._artifact(path, key, digest)
            if source is not None:
                inputs[key] = self.visit(source, _stamp_of(source))
            elif key not in _PLAIN and re.fullmatch("[0-9a-f]{16}", digest):
                lost.append(key)
        if stamp is None:
            for i, source in enumerate(self._behind_hloc(path)):
                inputs[f"file{i}"] = self.visit(source, _stamp_of(source))
        self.found[name] = Artifact(name, stamp, inputs, tuple(lost))
        return name

    def _scene_folder(self, path: Path) -> Path:
        return self._results / path.relative_to(self._results).parts[0]

    def _artifact(self, path: Path, key: str, digest: str) -> Path | None:
        """The file with the digest: a root, or in the scene; a part of a combined scene is in the part's folder."""
        same = [root for root, stamp in self.roots.items() if stamp.digest == digest]
        for scene in (self._scene_folder(path).name, *([key.removeprefix("part_")] if key.startswith("part_") else [])):
            same += sorted(self._known(scene).get(digest, []), key=lambda file: file.parent != path.parent)
        return next(iter(same), None)

    def _known(self, scene: str) -> dict[str, list[Path]]:
        if scene not in self._by_digest:
            known = self._by_digest[scene] = {}
            for path in sorted(p for p in (self._results / scene).rglob("[!.]*") if p.suffix in FORMS):
                if (stamp := _stamp_of(path)) is not None:
                    known.setdefault(stamp.digest, []).append(path)
        return self._by_digest[scene]

    def _plain(self, path: Path, stamp: Stamp, key: str) -> Path | None:
        """The file in the scene's folder that an input without a stamp is, or belongs to."""
        folder = self._scene_folder(path)
        if (stamp.kind, key) == ("covisibility", "model"):
            files = [folder / name for name in _MODELS]
        else:  # hloc's files are named by the config
            named = [Path(value.format(scene=folder.name)) for value in _values(stamp.config, key)]
            files = [folder / "hloc" / file.name for file in named if file.parts[-3:-1] == (folder.name, "hloc")]
        return next((file for file in files if file.exists()), None)

    def _behind_hloc(self, path: Path) -> Iterator[Path]:
        folder = self._scene_folder(path)
        for made, sources in _HLOC.items():
            if path in folder.glob(made):
                for pattern in sources:
                    yield from sorted(folder.glob(pattern))


def _values(config: dict[str, Any], key: str) -> Iterator[str]:
    """The texts under a key of a config, at any depth."""
    for name, value in config.items():
        if isinstance(value, dict):
            yield from _values(value, key)
        elif name == key and isinstance(value, str):
            yield value


def _stamp_of(path: Path) -> Stamp | None:
    """None for a file without a stamp, or with one of another schema, which no artifact of this version came from."""
    try:
        return read_stamp(path, whole=False)
    except ScrflowError:
        return None


def this_run(threads: int, processes: int = 1) -> dict[str, Any]:
    """What this process runs on: code, packages (None: not installed), processor, GPU and the most memory that torch
    allocated on it (10^6 bytes)."""
    commit, clean = (None, None) if SHIPPED else git_state(_ROOT)
    torch = sys.modules.get("torch")
    gpu = torch is not None and torch.cuda.is_initialized()
    return {
        "scrflow": __version__,
        "commit": commit,
        "clean": clean,
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "cpu": cpu_name(),
        "threads": threads,
        "processes": processes,
        "gpu": torch.cuda.get_device_name() if gpu else None,
        "gpu_mb": round(torch.cuda.max_memory_allocated() / 1e6, 1) if gpu else None,
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


@functools.cache
def cpu_name() -> str:
    """Model of the processor, as the system calls it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(iter(names), platform.processor() or platform.machine())


def git_state(root: Path) -> tuple[str | None, bool | None]:
    """Commit of the checkout ``root``, and whether the sources are as committed; None if git does not know."""
    if not (root / ".git").exists():
        return None, None
    git = ["git", "--no-optional-locks", "-C", str(root)]  # an optional lock would disturb another git in this checkout
    run = functools.partial(subprocess.check_output, stderr=subprocess.DEVNULL, text=True, timeout=60)
    try:
        commit = run([*git, "rev-parse", "HEAD"]).strip()
        return commit, not run([*git, "status", "--porcelain", "--", *_SOURCES])
    except (OSError, subprocess.SubprocessError):
        return None, None


def note_run(history: Path, ran: dict[str, Any]) -> None:
    """Add ``ran`` to the last line of a training's history (JSON lines)."""
    *before, last = history.read_text(encoding="utf-8").splitlines()
    write_text(history, "".join(f"{line}\n" for line in (*before, json.dumps({**json.loads(last), RAN: ran}))))


def last_of_history(history: Path) -> dict[str, Any]:
    """The last line of a training's history: ``seconds`` of the whole training, and what it ran on under RAN."""
    try:
        last = json.loads(history.read_text(encoding="utf-8").splitlines()[-1])
        return {**last, "seconds": float(last["seconds"]), RAN: last.get(RAN)}
    except (IndexError, ValueError, AttributeError, KeyError, TypeError):
        raise ScrflowError(f"{history}: last line of the training log cannot be used; train again") from None


def gather(stamp: Stamp, map_path: Path, details: Path, history: Path | None) -> dict[str, Any]:
    """The provenance of a result whose metrics have this ``stamp``, as metrics.json holds it: digests of code, config
    and data; stamps of everything upstream (path below results/ -> stamp or None), inputs first; inputs that no longer
    exist; and what training, localization and evaluation ran on (None: unknown)."""
    found = upstream([map_path, details])
    stamps = {path: artifact.stamp for path, artifact in found.items()}
    made = [s for s in (*stamps.values(), stamp) if s is not None]
    data = [item for s in made if s.kind == "scene" for item in s.inputs.items() if item[0] in ("images", "content")]
    return {
        "code": _digest((s.kind, s.code) for s in made),
        "config": _digest((s.kind, s.config) for s in made),
        "data": _digest(data),
        "stages": {path: None if s is None else json.loads(s.to_json()) for path, s in stamps.items()},
        "lost": [f"{path}: {key}" for path, artifact in found.items() for key in artifact.lost],
        "training": None if history is None else last_of_history(history)[RAN],
        "localization": json.loads(details.read_text(encoding="utf-8")).get(RAN),
        "evaluation": this_run(1),
    }


def _digest(parts: Iterable[tuple[str, Any]]) -> str:
    texts = sorted(json.dumps(part, sort_keys=True) for part in parts)
    return hashlib.sha256("\n".join(dict.fromkeys(texts)).encode()).hexdigest()[:16]


def stages_of(metrics_path: Path, metrics: dict[str, Any]) -> dict[str, Stamp | None]:
    """Stamps of everything upstream of a result, and its own under its file's name."""
    if "provenance" not in metrics:
        raise ScrflowError(f"{metrics_path}: no provenance (older scrflow); evaluate again")
    stamps = {path: None if s is None else Stamp(**s) for path, s in metrics["provenance"]["stages"].items()}
    return {**stamps, metrics_path.name: read_stamp(metrics_path, "metrics")}


def ran_on(metrics: Mapping[str, Any], what: str) -> dict[str, Any]:
    """What training, localization or evaluation ran on, with each package's version; empty if unknown."""
    ran = metrics["provenance"][what] or {"packages": {}}
    return {key: value for key, value in ran.items() if key != "packages"} | ran["packages"]
