"""How two results were made: stage by stage, what of config, code and data is not the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from scrflow.report.diff.result import Result
from scrflow.storage.artifact import Stamp, sha256_file

Pair = tuple[tuple[str, Stamp] | None, tuple[str, Stamp] | None]  # (path, stamp) of either side

# inputs that are results, not recipe: of the same recipe they may come out otherwise, which is told of apart
_OUTCOME = {"metrics": ("poses", "training")}
_INPUTS = {"images": "photos (checksums)", "content": "poses, intrinsics and lists (checksums)"}
# files of these kinds hold times, or the place of the photos, whose checksums are in the stamp
_UNLIKE = ("scene", "hloc-images", "localization", "metrics")
_ABSENT = "absent"


@dataclass(frozen=True)
class StageDifference:
    """What a stage does otherwise of itself, not by what it was given."""

    stage: str
    lines: tuple[str, ...]


def recipe_differences(a: Result, b: Result) -> list[StageDifference]:
    """Stages that differ of themselves, the earliest first."""
    mine, others = _digests(a), _digests(b)
    kinds = [stamp.kind for stamp in max(a, b, key=lambda side: len(side.stages)).stages.values()]
    found = []
    for one, other in paired(a, b):
        if one is None or other is None:
            path, stamp = one or other
            side = a.folder if one else b.folder
            found.append(StageDifference(_title(path, stamp, kinds), (f"only in {side}",)))
        elif one[1].digest != other[1].digest:
            lines = tuple(_own_lines(one[1], other[1], mine, others))
            if lines:
                found.append(StageDifference(_title(*one, kinds), lines))
    return found


def first_other_bytes(a: Result, b: Result) -> str | None:
    """The first file of one recipe that has other bytes in ``b``, below results/; None where none of those at hand."""
    for one, other in paired(a, b):
        if one is None or other is None or one[1].kind in _UNLIKE or one[1].digest != other[1].digest:
            continue
        files = [Path(side.folder).absolute().parents[1] / path for side, (path, _) in ((a, one), (b, other))]
        if all(file.exists() for file in files) and sha256_file(files[0]) != sha256_file(files[1]):
            return one[0]
    return None


def paired(a: Result, b: Result) -> Iterator[Pair]:
    """Stages of the two that answer each other: by kind, and by name where there are several of a kind."""
    left: dict[str, dict[str, tuple[str, Stamp]]] = {}
    for path, stamp in b.stages.items():
        left.setdefault(stamp.kind, {})[_name(path)] = (path, stamp)
    kinds = [stamp.kind for stamp in a.stages.values()]
    for path, stamp in a.stages.items():
        others = left.get(stamp.kind, {})
        single = kinds.count(stamp.kind) == 1 and len(others) == 1
        name = next(iter(others)) if single else _name(path)
        yield (path, stamp), others.pop(name, None)
    for others in left.values():
        for item in others.values():
            yield None, item


def _name(path: str) -> str:
    """Without the scene and the method, whose names differ where two of them are compared."""
    parts = PurePosixPath(path)
    return parts.parts[0] if parts.name == "scene.json" else parts.stem


def _title(path: str, stamp: Stamp, kinds: list[str]) -> str:
    """The stage's kind, and its name where there are several of that kind."""
    return f"{stamp.kind} ({_name(path)})" if kinds.count(stamp.kind) > 1 else stamp.kind


def _digests(result: Result) -> set[str]:
    return {stamp.digest for stamp in result.stages.values()}


def _own_lines(one: Stamp, other: Stamp, mine: set[str], others: set[str]) -> Iterator[str]:
    keys, keys_other = dict(_flat(one.config)), dict(_flat(other.config))
    for key in dict.fromkeys((*keys, *keys_other)):
        before, after = keys.get(key, _ABSENT), keys_other.get(key, _ABSENT)
        if before != after:
            yield f"{key} {_shown(before)} -> {_shown(after)}"
    if one.code != other.code:
        yield f"code version {one.code} -> {other.code}"
    for key in dict.fromkeys((*one.inputs, *other.inputs)):
        before, after = one.inputs.get(key, _ABSENT), other.inputs.get(key, _ABSENT)
        # another artifact's digest speaks of that artifact, which is compared itself
        upstream = before in mine | {_ABSENT} and after in others | {_ABSENT}
        if before != after and not upstream and key not in _OUTCOME.get(one.kind, ()):
            yield f"{_INPUTS.get(key, f'input {key}')} {before} -> {after}"


def _flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys of a config; lists are values."""
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _shown(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
