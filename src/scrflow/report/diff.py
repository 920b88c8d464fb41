"""``scrflow diff``: what differs between two results, and the first stage that is the reason.

``scrflow verify``: whether results are what was written: checksums of artifacts, files of folders, poses.
"""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Self

import pandas as pd

from scrflow.core.errors import ScrflowError
from scrflow.core.progress import track
from scrflow.pipeline.provenance import ran_on, stages_of
from scrflow.report.costs import mapping_seconds
from scrflow.scene.colmap_model import MODEL_DIGEST, WRITTEN
from scrflow.storage.artifact import FORMS, Stamp, folder_digest, read_json, read_stamp, require, sha256_file

METRICS = "metrics.json"
_RAN = ("training", "localization", "evaluation")
_NO_CAUSE = ("gpu_mb", "commit", "clean")  # figures, and names of the same code
# inputs that are results, not recipe: they are compared as outcome
_OUTCOME = {"metrics": ("poses", "training")}
_INPUTS = {"images": "photos (checksums)", "content": "poses, intrinsics and lists (checksums)"}
# files of these kinds hold times, or the place of the photos, whose checksums are in the stamp
_VARYING = ("scene", "hloc-images", "localization", "metrics")


@dataclass(frozen=True)
class Result:
    """results/SCENE/METHOD."""

    folder: Path
    metrics: dict[str, Any]
    stages: dict[str, Stamp]  # path below results/ -> stamp, inputs before what was made from them
    errors: pd.DataFrame  # t_err and r_err by query; infinite: no pose; NaN: no reference
    mapping_s: float | None

    @classmethod
    def read(cls, folder: Path) -> Self:
        """ScrflowError if metrics.json or queries.csv is missing or damaged."""
        metrics = read_json(folder / METRICS, "metrics")
        stages = {p: s for p, s in stages_of(folder / METRICS, metrics).items() if s is not None}
        return cls(folder, metrics, stages, _errors(folder / "queries.csv"), mapping_seconds(folder))

    @property
    def poses(self) -> str:
        """Digest of poses.txt."""
        return self.stages[METRICS].inputs["poses"]


def _errors(path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(require(path, "table of queries"), index_col="name")[["t_err", "r_err"]].astype(float)
    except (KeyError, TypeError, ValueError):
        raise ScrflowError(f"{path}: expected columns name, t_err, r_err; evaluate again") from None


def print_difference(a: Path, b: Path, queries: int) -> bool:
    """Print what differs between two results/SCENE/METHOD, or between all results in two folders, with at most
    ``queries`` names in each list; whether anything but times, packages and device differs.

    ScrflowError if a folder holds no results, the two are not of one kind, or a file is damaged.
    """
    if (a / METRICS).exists() and (b / METRICS).exists():
        return _print_pair(Result.read(a), Result.read(b), queries)
    found = [_results_in(folder) for folder in (a, b)]
    differ = False
    for name in sorted(found[0].keys() | found[1].keys()):
        if name in found[0] and name in found[1]:
            differ |= _print_pair(Result.read(found[0][name]), Result.read(found[1][name]), queries)
        else:
            print(f"{name}: only in {a if name in found[0] else b}")
            differ = True
    return differ


def _results_in(folder: Path) -> dict[str, Path]:
    """Name -> folder of every result: METHOD in results/SCENE, SCENE/METHOD in results."""
    if not folder.is_dir():
        raise ScrflowError(f"{folder}: no such folder; give results/SCENE/METHOD, results/SCENE or results")
    if (folder / METRICS).exists():
        raise ScrflowError(f"{folder}: one result, and the other folder is not one; give two of a kind")
    for depth in ("*", "*/*"):
        found = {path.parent.relative_to(folder).as_posix(): path.parent for path in folder.glob(f"{depth}/{METRICS}")}
        if found:
            return found
    raise ScrflowError(f"{folder}: no {METRICS} of a finished run; give results/SCENE/METHOD, results/SCENE or results")


def _print_pair(a: Result, b: Result, queries: int) -> bool:
    stages, ran = list(_recipe_differences(a, b)), list(_ran_differences(a, b))
    same = a.poses == b.poses and _figures(a) == _figures(b)
    if not stages and same:
        print(f"{a.folder} -> {b.folder}: equal (recipe, poses and map size)")
        for line in ran:
            print(f"  all the same, {line}")
        return False
    print(f"{a.folder} -> {b.folder}")
    if stages:
        first, *others = stages
        follows = "Later stages also differ, as listed." if others else "All later differences follow from it."
        print(f"  the first difference is in {first}. {follows}")
        for line in others:
            print(f"  {line}")
    else:
        file = _first_other_bytes(a, b)
        where = f"bytes differ first in {file}" if file else "no file at hand has other bytes"
        why = "packages and device are the same: sums on a GPU are not repeatable, on a CPU they should be"
        if ran or not (ran_on(a.metrics, "localization") and ran_on(b.metrics, "localization")):
            why = "see what it ran on" if ran else "what it ran on is unknown"
        print(f"  config, code and data are the same; {where}; {why}")
    for line in ran:
        print(f"  {line}")
    _print_outcome(a, b, same, queries)
    return True


def _recipe_differences(a: Result, b: Result) -> Iterator[str]:
    """Stages that differ in themselves, not only by their inputs, the earliest first."""
    digests = [{stamp.digest for stamp in side.stages.values()} for side in (a, b)]
    for title, one, other in _paired(a, b):
        if one is None or other is None:
            yield f"{title}: only in {a.folder if one else b.folder}"
        elif lines := list(_stage_differences(one[1], other[1], *digests)):
            yield f"{title}: {'; '.join(lines)}"


def _paired(a: Result, b: Result) -> Iterator[tuple[str, Any, Any]]:
    """(title, (path, stamp) in a, the same in b) of stages of one kind, and of one name if a kind has several."""
    counts = [Counter(stamp.kind for stamp in side.stages.values()) for side in (a, b)]
    keyed: list[dict[str, Any]] = [{}, {}]
    for side, titled in zip((a, b), keyed, strict=True):
        for path, stamp in side.stages.items():
            title, parts = stamp.kind, PurePosixPath(path)
            if max(count[stamp.kind] for count in counts) > 1:
                title += f" ({parts.parts[0] if parts.name == 'scene.json' else parts.stem})"
            titled[title] = path, stamp
    for title in dict.fromkeys((*keyed[0], *keyed[1])):
        yield title, keyed[0].get(title), keyed[1].get(title)


def _stage_differences(one: Stamp, other: Stamp, digests: set[str], other_digests: set[str]) -> Iterator[str]:
    yield from _changes(_flat(one.config), _flat(other.config))
    if one.code != other.code:
        yield f"code version {one.code} -> {other.code}"
    for key in dict.fromkeys((*one.inputs, *other.inputs)):
        before, after = one.inputs.get(key, "absent"), other.inputs.get(key, "absent")
        # other artifacts are compared themselves
        artifact = before in digests | {"absent"} and after in other_digests | {"absent"}
        if before != after and not artifact and key not in _OUTCOME.get(one.kind, ()):
            yield f"{_INPUTS.get(key, f'input {key}')} {before} -> {after}"


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted keys of a config; lists are values."""
    found = {}
    for key, value in values.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return found


def _changes(before: dict[str, Any], after: dict[str, Any], colon: str = "") -> Iterator[str]:
    for key in dict.fromkeys((*before, *after)):
        one, other = (side.get(key, "absent") for side in (before, after))
        if one != other:
            yield f"{key}{colon} {_shown(one)} -> {_shown(other)}"


def _shown(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _first_other_bytes(a: Result, b: Result) -> str | None:
    """The first file of the same recipe with other bytes in ``b``, below results/; None if no file at hand has any."""
    for _, one, other in _paired(a, b):
        if one and other and one[1].digest == other[1].digest and one[1].kind not in _VARYING:
            files = [Path(side.folder).absolute().parents[1] / path for side, (path, _) in ((a, one), (b, other))]
            if all(file.exists() for file in files) and sha256_file(files[0]) != sha256_file(files[1]):
                return one[0]
    return None


def _ran_differences(a: Result, b: Result) -> Iterator[str]:
    """Packages, processor and threads that differ, each difference once."""
    stages: dict[str, list[str]] = {}
    for what in _RAN:
        one, other = ran_on(a.metrics, what), ran_on(b.metrics, what)
        if bool(one) != bool(other):
            stages.setdefault(f"what it ran on is known in {a.folder if one else b.folder} only", []).append(what)
        else:
            for line in _changes(*({k: v for k, v in ran.items() if k not in _NO_CAUSE} for ran in (one, other))):
                stages.setdefault(line, []).append(what)
    yield from (f"{', '.join(names)}: {line}" for line, names in stages.items())


def _print_outcome(a: Result, b: Result, same: bool, queries: int) -> None:
    print("  outcome: the same poses and map size" if same else "  outcome:")
    alike = a.metrics["thresholds"] == b.metrics["thresholds"]
    crossings = list(_crossings(a, b)) if alike else []
    if alike and a.errors.index.equals(b.errors.index) and a.poses != b.poses and not crossings:
        print("    poses differ, but no query changes sides of a threshold")
    for line in _changes(_figures(a) | _times(a), _figures(b) | _times(b), ":"):
        print(f"    {line}")
    for title, names in crossings:
        shown = [f"{name} ({_error(a, name)} -> {_error(b, name)})" for name in names[:queries]]
        more = [f"{len(names) - len(shown)} more"] if len(names) > len(shown) else []
        print(f"    {title}: {' and '.join([*([', '.join(shown)] if shown else []), *more])}")


def _figures(result: Result) -> dict[str, str]:
    """Name -> value of every figure but times."""
    metrics, found = result.metrics, {}
    for condition, group in {"": metrics["overall"], **metrics["conditions"]}.items():
        of = f" ({condition})" if condition else ""
        found |= {f"queries{of}": str(group["queries"]), f"localized{of}": str(group["localized"])}
        for title, share in zip(_thresholds(result), group["recall"] or (), strict=False):
            found[f"recall {title}{of}"] = f"{100 * share:.1f} %"
        for name, key, digits, unit in (
            ("median error", "median_t_err", 4, metrics["unit"]),
            ("median rotation error", "median_r_err", 3, "degrees"),
        ):
            found[f"{name}{of}"] = "-" if group[key] is None else f"{group[key]:.{digits}g} {unit}"
    return found | {"map": f"{metrics['map_mb']:.3f} MB"}


def _times(result: Result) -> dict[str, str]:
    training = (result.metrics["training"] or {}).get("seconds")
    times = {"mapping time": result.mapping_s, "training time": training}
    found = {name: "-" if seconds is None else f"{seconds:.1f} s" for name, seconds in times.items()}
    return found | {"a query": f"{result.metrics['overall']['ms']['total']:.0f} ms"}


def _thresholds(result: Result) -> list[str]:
    return [f"{t:g} {result.metrics['unit']} {r:g}°" for t, r in result.metrics["thresholds"]]


def _crossings(a: Result, b: Result) -> Iterator[tuple[str, list[str]]]:
    """(title, queries that are within a threshold on one side only), finest threshold first."""
    both = a.errors.index.intersection(b.errors.index, sort=False)
    for bound, title in zip(a.metrics["thresholds"], _thresholds(a), strict=True):
        # NaN (no reference) is within on neither side
        within = [side.errors.loc[both].lt(bound).all(axis=1) for side in (a, b)]
        for side, what in ((1, "within in the second only"), (0, "no longer within")):
            if len(names := both[within[side] & ~within[1 - side]]):
                yield f"{title}, {what}", list(names)


def _error(result: Result, query: str) -> str:
    t, r = result.errors.loc[query]
    return "no pose" if math.isinf(t) else f"{t:.3g} {result.metrics['unit']} {r:.3g}°"


# ------------------------------------------------------------------------------------------------------------- verify

_NO_ARTIFACTS = ("train.json",)  # the training job


def print_verification(paths: list[Path]) -> bool:
    """Print the faults of everything under ``paths``; whether there are none."""
    files = list(dict.fromkeys(file for path in paths for file in _artifacts_in(Path(path))))
    lines = [line for file in track(files, "verifying") for line in _faults(file)]
    for line in lines:
        print(line)
    size = sum(file.stat().st_size for file in files) / 1e6
    print(f"{len(files)} artifacts, {size:.1f} MB: {f'{len(lines)} faults' if lines else 'all as they were written'}")
    return not lines


def _artifacts_in(path: Path) -> list[Path]:
    """The artifacts under a folder, or the file itself. ScrflowError if there is none."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise ScrflowError(f"{path}: no such file or folder")
    files = [p for p in path.rglob("*") if p.suffix in FORMS and p.name not in _NO_ARTIFACTS and p.is_file()]
    found = sorted(p for p in files if not any(part.startswith(".") for part in p.relative_to(path).parts))
    if not found:
        raise ScrflowError(f"{path}: no artifact in it ({' '.join(FORMS)})")
    return found


def _faults(file: Path) -> Iterator[str]:
    """A line for each fault of an artifact and of the files that it describes."""
    try:
        stamp = read_stamp(file)
        digest = stamp.inputs.get("content") if stamp.kind == "scene" else None
        if file.name in WRITTEN:
            digest = read_json(file, WRITTEN[file.name]).get(MODEL_DIGEST)
        if (stamp.kind == "scene" or file.name in WRITTEN) and folder_digest(file.parent, file.name) != digest:
            yield f"{file.parent}: damaged: its files are not those that were written with {file.name}"
        if stamp.kind == "scene":
            yield from _submission_faults(file.parents[1])
        if stamp.kind == "localization":
            poses = file.with_name("poses.txt")
            if not poses.exists():
                yield f"{poses}: missing"
            elif sha256_file(poses) != read_json(file, stamp.kind).get("poses_sha256"):
                yield f"{poses}: not the poses that were written with {file.name}"
    except ScrflowError as error:
        yield str(error)


def _submission_faults(scene: Path) -> Iterator[str]:
    """SCENE/poses.txt has the poses of one of the methods; names may lack their folders there."""
    poses = scene / "poses.txt"
    methods = [path for path in sorted(scene.glob("*/poses.txt")) if path.with_name("localization.json").exists()]
    if poses.exists() and methods and _lines(poses) not in map(_lines, methods):
        yield f"{poses}: not the poses of any method in {scene}; delete it and run again"


def _lines(poses: Path) -> list[bytes]:
    return [line.rsplit(b"/", 1)[-1] for line in poses.read_bytes().splitlines()]
