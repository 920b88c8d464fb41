"""Image names with blanks in COLMAP's lists of pairs, which it reads to the first one: the database has others then."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import pycolmap


@contextlib.contextmanager
def plain_names(database: Path, pairs: Sequence[tuple[str, str]]) -> Iterator[list[tuple[str, str]]]:
    """The pairs by names that COLMAP's pair lists can hold; in the block, and in no other, the database has these."""
    names = {name for pair in pairs for name in pair}
    if not any(any(c.isspace() for c in name) or name.startswith("#") for name in names):
        yield list(pairs)
        return
    plain = {}
    with pycolmap.Database.open(database) as db:
        for image in db.read_all_images():
            plain[image.name] = f"image-{image.image_id}"
            _rename(db, image, plain[image.name])
    try:
        yield [(plain[a], plain[b]) for a, b in pairs]
    finally:
        own = {new: old for old, new in plain.items()}
        with pycolmap.Database.open(database) as db:
            for image in db.read_all_images():
                _rename(db, image, own[image.name])


def _rename(db: pycolmap.Database, image: pycolmap.Image, name: str) -> None:
    image.name = name
    db.update_image(image)
