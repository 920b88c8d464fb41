"""Splits that a folder states: lists of train and test photos, and folders of that name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from scrflow.scene.photo_names import PhotoNames
from scrflow.scene.readers.detection import finds, first_rows

_QUERIES = re.compile(r"(queries|query|test)([_-].*)?")
_MAPPING = re.compile(r"(mapping|train)([_-].*)?")
_WORDS = re.compile(r"^(queries|query|test)|list|images|split")
_FOLDERS = ("queries", "query", "test", "val")


def stated_lists(root: Path, names: PhotoNames) -> tuple[dict[str, Path], Path | None]:
    """Lists of queries by condition, and the list of mapping images, beside the scene: queries.txt, queries_night.txt,
    test.txt, train_list.txt ... A line at least names a photo; lines that do not are the list's fault."""
    queries, mapping = {}, None
    for path in sorted(root.glob("*.txt")):
        asked, mapped = _QUERIES.fullmatch(path.stem.lower()), _MAPPING.fullmatch(path.stem.lower())
        if (asked or mapped) and _is_list(path, names):
            if mapped:
                mapping = path
            else:
                queries[_WORDS.sub("", path.stem).strip("_-") or "all"] = path
    return queries, mapping


def _is_list(path: Path, names: PhotoNames) -> bool:
    return any(finds(names, name) for name, _ in first_rows(path))


def in_query_folders(names: Sequence[str]) -> list[str]:
    """The photos in folders that are called as queries are, of the first such name; none where all are in them."""
    for folder in _FOLDERS:
        found = [n for n in names if folder in (part.lower() for part in PurePosixPath(n).parts[:-1])]
        if found and len(found) < len(names):
            return found
    return []
