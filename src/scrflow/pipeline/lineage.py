"""What a result came from: the artifacts upstream of it, by the digests in their stamps, and the job that made each.

A stamp names the inputs of its artifact by their digests, so the chain from a map back to the photos needs neither the
config nor Snakemake. Where an input is of another tool's making and bears no stamp, the edge is in this module.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from string import Formatter
from typing import Any

from scrflow.core.errors import ScrflowError
from scrflow.storage.artifact import Stamp, read_stamp


@dataclass(frozen=True)
class Job:
    """A rule of the workflow, by what it makes. Files are below results/, wildcards in braces."""

    rule: str
    makes: tuple[str, ...]
    of: str | None = None  # key of the stamp's config, or name of an input file, where two rules make the same file
    last: bool = False  # nothing but localization is made from it: looked for beside the result alone

    def wildcards(self, path: str) -> dict[str, str] | None:
        """The wildcards with which the rule makes ``path``; None where it does not."""
        for pattern in self.makes:
            found = _regex(pattern).fullmatch(path)
            if found:
                return found.groupdict()
        return None


@functools.cache
def _regex(pattern: str) -> re.Pattern[str]:
    parts = []
    for text, name, _, _ in Formatter().parse(pattern):
        parts.append(re.escape(text) + (f"(?P<{name}>[^/]+?)" if name else ""))
    return re.compile("".join(parts))


# every rule whose job a map can need, or that localizes with it; tests/core/test_costs.py holds it against rules/*.smk
JOBS = (
    Job("reconstruct_scene", ("{scene}/sfm/sfm.json",)),
    Job("build_scene", ("{scene}/scene/scene.json",)),
    Job("triangulate_points", ("{scene}/triangulated/triangulation.json",)),
    Job("build_graph", ("{scene}/covisibility.npz",)),
    Job("build_named_graph", ("{scene}/graphs/{graph}.npz",)),
    Job("embed_graph", ("{scene}/encodings/{encoding}.h5",), of="node2vec"),
    Job("cluster_features", ("{scene}/encodings/{encoding}.h5",), of="clusters"),
    Job("build_retrieval", ("{scene}/retrieval/{feature}.h5", "{scene}/retrieval/{feature}.safetensors")),
    Job("list_hloc_images", ("{scene}/hloc/images.json",)),
    Job("hloc_global_features", ("{scene}/hloc/global-feats-{configuration}.h5",)),
    Job("hloc_local_features", ("{scene}/hloc/features.h5",)),
    Job("hloc_pairs", ("{scene}/hloc/pairs.txt",)),
    Job("hloc_match", ("{scene}/hloc/matches.h5",)),
    Job("fit_pca", ("{scene}/local/{encoder}/pca.safetensors",)),
    Job("fill_buffer", ("{scene}/local/{encoder}/buffer-{shard}.h5",)),
    Job("triangulate_samples", ("{scene}/local/{encoder}/depth-matched.h5",)),
    Job("find_point_depths", ("{scene}/local/{encoder}/depth-points.h5",)),
    Job("read_depth_maps", ("{scene}/local/{encoder}/depth-maps.h5",)),
    Job("train_head", ("{scene}/{method}/head.safetensors",)),
    Job("write_map", ("{scene}/{method}/map.safetensors",), last=True),
    Job("map_baseline", ("{scene}/{baseline}/map.h5",), last=True),
    Job("localize_queries", ("{scene}/{method}/localization.json",), of="map.safetensors", last=True),
    Job("localize_baseline", ("{scene}/{baseline}/localization.json",), of="map.h5", last=True),
)
# rules that no map needs: what follows localization, the fetching of photos, tables, reports, targets by name
OTHER_RULES = frozenset(
    {
        *("all", "demo", "tables", "tables_demo", "tables_real"),
        *("download_dataset", "hloc_triangulate"),
        *("evaluate_poses", "evaluate_baseline", "choose_poses", "write_table", "write_table_of_set"),
        *("write_report", "write_baseline_report", "toy_example", "toy_example_of_set"),
    }
)

MAPS = ("map.safetensors", "map.h5")  # of a head, of feature matching
DETAILS = "localization.json"

# input names of stamps that are digests of plain files and texts, not of artifacts
_PLAIN = frozenset(
    {
        "images",
        "content",
        "names",
        "shard",
        "maps",
        "model",
        "file",
        "hloc_features",
        "hloc_matches",
        "poses",
        "training",
    }
)
# (kind, input) of plain files -> the files of the scene's folder that they belong to, the first that is there
_BELONGS = {("covisibility", "model"): ("sfm/sfm.json", "triangulated/triangulation.json")}
# (kind, input) of hloc's files -> where the config names them
_NAMED = {
    ("retrieval", "file"): ("retrieval", "file"),
    ("sfm", "hloc_features"): ("sfm", "hloc_features"),
    ("sfm", "hloc_matches"): ("sfm", "hloc_matches"),
    ("triangulation", "hloc_features"): ("hloc_features",),
    ("triangulation", "hloc_matches"): ("hloc_matches",),
}
# what hloc made bears no stamp at all: file of the scene's folder -> what it was made from
_HLOC = {
    "hloc/matches.h5": ("hloc/features.h5", "hloc/pairs.txt"),
    "hloc/pairs.txt": ("hloc/images.json", "hloc/global-feats-*.h5"),
    "hloc/features.h5": ("hloc/images.json",),
    "hloc/global-feats-*.h5": ("hloc/images.json",),
}
_DIGEST = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True)
class Artifact:
    """A file that a result came from."""

    path: str  # below results/: demo/covisibility.npz
    stamp: Stamp | None  # None: of another tool's making
    inputs: dict[str, str] = field(default_factory=dict)  # name -> path of the artifact
    lost: tuple[str, ...] = ()  # inputs of which no file bears the digest any more

    @property
    def scene(self) -> str:
        return self.path.split("/")[0]

    @property
    def job(self) -> tuple[Job, dict[str, str]] | None:
        """The rule that makes such a file, and its wildcards; None where JOBS has none."""
        for job in JOBS:
            wildcards = job.wildcards(self.path)
            if wildcards is not None and (job.of is None or job.of in self._marks()):
                return job, wildcards
        return None

    def _marks(self) -> set[str]:
        """What tells rules apart that make the same file."""
        config = () if self.stamp is None else self.stamp.config
        return {*config, *(path.rpartition("/")[2] for path in self.inputs.values())}


def results_in(folder: Path) -> list[Path]:
    """The artifacts of results/SCENE/METHOD from which all others are found: the map, and localization, if there."""
    return [folder / name for name in (*MAPS, DETAILS) if (folder / name).exists()]


def upstream(roots: Sequence[Path]) -> dict[str, Artifact]:
    """Everything that the artifacts ``roots`` (results/SCENE/METHOD/FILE) came from, themselves included; path below
    results/ -> artifact, inputs before what was made from them.

    ScrflowError where a root is missing or bears no stamp.
    """
    roots = [Path(root).absolute() for root in roots]
    if not roots:
        return {}
    walk = _Walk({root: read_stamp(root, whole=False) for root in roots})
    for root in roots:
        walk.visit(root, walk.roots[root])
    return walk.found


class _Walk:
    def __init__(self, roots: dict[Path, Stamp]):
        self.roots = roots
        self._results = next(iter(roots)).parents[2]
        self._stamps: dict[str, dict[str, list[Path]]] = {}  # scene -> digest -> files
        self.found: dict[str, Artifact] = {}

    def visit(self, path: Path, stamp: Stamp | None) -> str:
        """Enter the artifact after all that it came from; its path below results/."""
        name = path.relative_to(self._results).as_posix()
        if name in self.found:
            return name
        inputs, lost = {}, []
        for key, digest in (stamp.inputs if stamp else {}).items():
            source = self._source(path, stamp, key)
            if source is not None:
                inputs[key] = self.visit(*source)
            elif key not in _PLAIN and _DIGEST.fullmatch(digest):
                lost.append(key)
        if stamp is None:
            for i, (source, its_stamp) in enumerate(self._behind_hloc(path, name.split("/")[0])):
                inputs[f"file{i}"] = self.visit(source, its_stamp)
        self.found[name] = Artifact(name, stamp, inputs, tuple(lost))
        return name

    def _source(self, path: Path, stamp: Stamp, key: str) -> tuple[Path, Stamp | None] | None:
        """The file that is the input ``key`` of an artifact, and its stamp; None where there is none, or none left."""
        scene = path.relative_to(self._results).parts[0]
        if key in _PLAIN:
            source = self._plain(scene, stamp, key)
            return None if source is None else (source, _stamp_of(source))
        for root, its_stamp in self.roots.items():
            if its_stamp.digest == stamp.inputs[key]:
                return root, its_stamp
        for where in self._scenes(scene, key):
            files = self._known(where).get(stamp.inputs[key], [])
            beside = [file for file in files if file.parent == path.parent]
            for source in (*beside, *files):
                return source, read_stamp(source, whole=False)
        return None

    def _plain(self, scene: str, stamp: Stamp, key: str) -> Path | None:
        """The file of the scene's folder that an input without a stamp is, or belongs to."""
        folder = self._results / scene
        names = _BELONGS.get((stamp.kind, key), ())
        if (stamp.kind, key) in _NAMED:
            named: Any = stamp.config
            for part in _NAMED[stamp.kind, key]:
                named = named[part]
            *_, its_scene, its_folder, name = ("", "", *Path(named.format(scene=scene)).parts)
            names = (f"hloc/{name}",) if (its_scene, its_folder) == (scene, "hloc") else ()
        return next((folder / name for name in names if (folder / name).exists()), None)

    def _scenes(self, scene: str, key: str) -> Iterator[str]:
        """Where an input is looked for: in the scene's own folder; a part of a combined scene in the part's."""
        yield scene
        if key.startswith("part_"):
            yield key.removeprefix("part_")

    def _known(self, scene: str) -> dict[str, list[Path]]:
        if scene not in self._stamps:
            known: dict[str, list[Path]] = {}
            for pattern in sorted({_glob(p, scene) for job in JOBS if not job.last for p in job.makes}):
                for path in sorted(self._results.glob(pattern)):
                    stamp = _stamp_of(path)
                    if stamp is not None and path not in known.get(stamp.digest, ()):
                        known.setdefault(stamp.digest, []).append(path)
            self._stamps[scene] = known
        return self._stamps[scene]

    def _behind_hloc(self, path: Path, scene: str) -> Iterator[tuple[Path, Stamp | None]]:
        folder = self._results / scene
        for made, sources in _HLOC.items():
            if path in folder.glob(made):
                for pattern in sources:
                    for source in sorted(folder.glob(pattern)):
                        yield source, _stamp_of(source)


def _glob(pattern: str, scene: str) -> str:
    names = [name for _, name, _, _ in Formatter().parse(pattern) if name]
    return pattern.format(**{name: scene if name == "scene" else "*" for name in names})


def _stamp_of(path: Path) -> Stamp | None:
    """None for a file without a stamp, or with one of another schema: it is no input of what this version made."""
    try:
        return read_stamp(path, whole=False)
    except ScrflowError:
        return None
