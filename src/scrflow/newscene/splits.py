"""Splits that a folder states: lists of train and test photos, JSON files of such lists, and folders of that name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path, PurePosixPath

from scrflow.scene.photo_names import PhotoNames
from scrflow.scene.readers.shared import finds, first_rows, json_of, numbers_only, photo_names, walk

_MAPPING = re.compile(r"(mapping|train)([_-].*)?")
_QUERIES = [re.compile(rf"({words})([_-].*)?") for words in ("queries|query|test", "val")]  # val where nothing else is
_WORDS = re.compile(r"^(queries|query|test|val)|list|images|split")
_FOLDERS = ("queries", "query", "test", "val")
_JSON = re.compile(r".*(split|train|test|dataset).*")
_TABLES = (".csv", ".tsv", ".yaml", ".yml", ".npy", ".npz")  # not read


@dataclass(frozen=True)
class Stated:
    """The split that files state. A JSON file stands in place of lists, and its photos are ``names``."""

    queries: dict[str, Path] = field(default_factory=dict)  # condition -> list
    mapping: Path | None = None
    names: dict[str, list[str]] = field(default_factory=dict)  # mapping, queries -> photos
    passed_over: tuple[str, ...] = ()  # a line for each file that looks like a split and is not taken


def stated_split(root: Path, names: PhotoNames) -> Stated:
    """Of lists (queries.txt, queries_night.txt, test.txt, train_list.txt ...), or of a JSON file with lists of train
    and test, in the nearest folder under the scene's that has them. A line at least names a photo; lines that do not
    are the list's fault."""
    taken, others = Stated(), []
    files = sorted((p for p in walk(root) if _looks(p)), key=lambda p: (len(p.parts), p))
    for _, inside in groupby(files, key=lambda p: p.parent):
        here = list(inside)
        if not (taken.queries or taken.mapping):
            taken = _of_lists(here, names) or _of_json(here, names) or taken
        others += [p for p in here if p not in (*taken.queries.values(), taken.mapping)]
    chosen = next(iter((*taken.queries.values(), taken.mapping)), None)
    why = f"{chosen.relative_to(root)} is taken" if chosen else "it has no list of photos that are there"
    told = (f"Split passed over: {p.relative_to(root)} ({why}); give --queries LIST for another." for p in others)
    return Stated(taken.queries, taken.mapping, taken.names, tuple(told))


def _looks(path: Path) -> bool:
    """Whether a file may be meant as a split, by its name and, of text, its first lines."""
    stem, suffix = path.stem.lower(), path.suffix.lower()
    if suffix == ".json":
        values = json_of(path) if _JSON.fullmatch(stem) and path.is_file() else None
        return isinstance(values, dict | list) and "frames" not in values
    named = any(form.fullmatch(stem) for form in (_MAPPING, *_QUERIES)) or "split" in stem
    if suffix in _TABLES:
        return named and path.is_file()
    # lines with numbers after the name are poses
    return (
        suffix == ".txt" and named and path.is_file() and not any(numbers_only(r[:1], 1) for _, r in first_rows(path))
    )


def _of_lists(files: Sequence[Path], names: PhotoNames) -> Stated | None:
    lists = [p for p in files if p.suffix.lower() == ".txt" and any(finds(names, name) for name, _ in first_rows(p))]
    mapping = next((p for p in lists if _MAPPING.fullmatch(p.stem.lower())), None)
    for form in _QUERIES:
        found = {_WORDS.sub("", p.stem).strip("_-") or "all": p for p in lists if form.fullmatch(p.stem.lower())}
        if found:
            return Stated(found, mapping)
    return Stated({}, mapping) if mapping else None


def _of_json(files: Sequence[Path], names: PhotoNames) -> Stated | None:
    for file in files:
        values = json_of(file) if file.suffix.lower() == ".json" else None
        if not isinstance(values, dict):
            continue
        found = {}
        for part, forms in (("mapping", (_MAPPING,)), ("queries", _QUERIES)):
            keys = (key for form in forms for key in values if form.fullmatch(key.lower()))
            listed = next((photo_names(v) for key in keys if isinstance(v := values[key], list)), [])
            if any(finds(names, name) for name in listed):
                found[part] = [names.find(name, file) or name for name in listed]
        if found:
            return Stated({"all": file} if "queries" in found else {}, file if "mapping" in found else None, found)
    return None


def in_query_folders(names: Sequence[str]) -> list[str]:
    """The photos in folders that are called as queries are, of the first such name; none where all are in them."""
    for folder in _FOLDERS:
        found = [n for n in names if folder in (part.lower() for part in PurePosixPath(n).parts[:-1])]
        if found and len(found) < len(names):
            return found
    return []
