"""Readers: a class for each dataset form, found by the name in its key ``reader``.

A new form is one module here with a class of ``Reader``: its keys, ``read``, and for ``scrflow new-scene`` ``detect``.
"""

import logging
import os
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import pycolmap

from scrflow.config import Source
from scrflow.config.scene import reader_named
from scrflow.core.plugins import plugins
from scrflow.scene.colmap_model import View

log = logging.getLogger("scrflow")


@dataclass(frozen=True, eq=False)
class Collection:
    """All images that a source lists, before the split."""

    where: Path  # the file or folder that errors name
    image_root: Path
    images: tuple[View, ...]
    split: tuple[tuple[str, ...], tuple[str, ...]] | None = None  # (mapping, queries) where the layout fixes it
    conditions: Mapping[str, str] = field(default_factory=dict)  # of that split's queries; "all" where not given
    model: pycolmap.Reconstruction | None = None  # where there are 3D points to keep
    inputs: Mapping[str, Path | str] = field(default_factory=dict)  # artifacts it was read from, for the stamp
    # images without which the mapping goes on: name -> reason (not registered by SfM)
    left_out: Mapping[str, str] = field(default_factory=dict)
    parts: Mapping[str, str] = field(default_factory=dict)  # image -> its room, where several make up the scene
    guessed: frozenset[str] = frozenset()  # names whose intrinsics nothing tells: a query only where the split says so
    sha256: Mapping[str, str] = field(default_factory=dict)  # image -> digest of the file that its pose was made from
    absent: int = 0  # listed photos without a file, which are not among the images


# A dataset's own layout, a model or pose file, an export beside which the model may lie, lines that could be of
# something else, photos alone
LAYOUT, MODEL, EXPORT, LINES, BARE = 4, 3, 2, 1, 0


@dataclass(frozen=True)
class Found:
    """A form that a path has: ``root`` of the scene, and ``source`` as in the scene's config."""

    form: str
    root: Path
    source: dict[str, Any]
    evidence: str
    unit: str  # m where the form is metric by definition, else unit
    rank: int = LAYOUT  # the more specific form is taken


class Reader(Source):
    """The keys of a dataset form, and how it is read and found."""

    form: ClassVar[str]  # what new-scene calls it
    layout: ClassVar[tuple[str, ...]] = ()  # files, folders and globs that tell a metric form

    @abstractmethod
    def read(self, root: Path) -> Self:
        """All images that the dataset under ``root`` lists. A form that is made of artifacts takes ``sfm_model`` or
        ``parts`` too (see ``read_source``)."""

    @classmethod
    def detect(cls, path: Path) -> Found | None:
        """The form that a file or folder has; None if it is another one."""
        if not cls.layout or not has(path, *cls.layout):
            return None
        return Found(cls.form, path, {"reader": cls.reader_name()}, ", ".join(cls.layout), "m")


def has(folder: Path, *patterns: str) -> bool:
    """Whether each of the globs matches something in the folder."""
    return all(any(folder.glob(pattern)) for pattern in patterns)


def detect_forms(path: Path) -> list[Found]:
    """All forms that fit ``path``, the most specific first; of equal ones in the order of the readers' names."""
    found = [reader_named(name).detect(path) for name in plugins("reader")]
    return sorted((f for f in found if f is not None), key=lambda f: -f.rank)


def missing(source: Source, folder: Path, names: Iterable[str], where: Path) -> set[str]:
    """Names without a file under ``folder``, told, where the source leaves such photos out; else none."""
    names = list(names)
    gone = {name for name in names if source.skip_missing and not os.path.isfile(folder / name)}
    if gone:
        log.warning("%s: %d of %d photos have no file; they are left out", where, len(gone), len(names))
    return gone


def read_source(
    source: Source, root: Path, sfm_model: Path | None = None, parts: Mapping[str, Path] | None = None
) -> Collection:
    """All images that the dataset under ``root`` lists; ScrflowError, naming the file, for every fault in it.

    ``sfm_model`` is for the reader ``photos``; ``parts`` are the scene artifacts (name -> folder) that the readers
    ``combined`` and ``region`` take.
    """
    artifacts = {"sfm_model": sfm_model, "parts": parts}
    found = source.read(root, **{name: value for name, value in artifacts.items() if value})
    gone = missing(source, found.image_root, (image.name for image in found.images), found.where)
    if not gone:
        return found
    split = found.split and tuple(tuple(name for name in names if name not in gone) for names in found.split)
    images = tuple(i for i in found.images if i.name not in gone)
    return replace(found, images=images, split=split, absent=found.absent + len(gone))
