"""The list of photos for hloc's rules: names and folder, of a posed scene or of photos without poses."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from scrflow.config import SfmStage
from scrflow.pipeline.stages import code_of
from scrflow.scene.model import load_scene
from scrflow.scene.photo_files import list_photos
from scrflow.sfm.reconstruct import photos_to_register
from scrflow.storage.artifact import Stamp, write_json

KIND = "hloc-images"


@dataclass(frozen=True)
class Images:
    """Photos by name, relative to ``root``: mapping images are matched with each other, queries only described."""

    root: Path
    mapping: tuple[str, ...]
    queries: tuple[str, ...]


def images_of_scene(scene: Path) -> Images:
    """Mapping images and queries of a scene artifact."""
    loaded = load_scene(scene)
    return Images(loaded.image_root, tuple(v.name for v in loaded.mapping), tuple(q.name for q in loaded.queries))


def images_of_photos(config: SfmStage, root: Path) -> Images:
    """Photos without poses: those that SfM registers as mapping images, the others as queries."""
    folder = Path(root) / config.source.images
    mapping = photos_to_register(config.source, config.split, Path(root))
    return Images(folder, tuple(mapping), tuple(n for n in list_photos(folder) if n not in set(mapping)))


def list_images(config: SfmStage | None, out: Path, root: Path, scene: Path | None = None) -> None:
    """Write the photos that hloc is to read (JSON): bare photos under ``root`` (with a config), or those of a scene."""
    write_images(out, images_of_scene(scene) if config is None else images_of_photos(config, root), config)


def write_images(out: Path, images: Images, config: SfmStage | None) -> None:
    """Write the list (JSON). ``config``: the stage's, for photos without poses."""
    names = "".join(f"{name}\n" for name in (*images.mapping, *images.queries))
    code = code_of("list_hloc_images", config)
    inputs = {"names": hashlib.sha256(names.encode()).hexdigest()[:16]}
    stamp = Stamp.make(KIND, config, code, **inputs) if config is not None else Stamp(KIND, code=code, inputs=inputs)
    values = {"image_root": str(images.root), "mapping": list(images.mapping), "queries": list(images.queries)}
    write_json(out, values, stamp)
