"""The list of photos for hloc's rules, of a posed scene or of photos without poses."""

import hashlib
from pathlib import Path

from scrflow.config import SfmStage
from scrflow.pipeline.stages import code_of
from scrflow.scene.model import load_scene
from scrflow.scene.photo_files import list_photos
from scrflow.sfm.reconstruct import photos_to_register
from scrflow.storage.artifact import Stamp, write_json

KIND = "hloc-images"


def list_images(config: SfmStage | None, out: Path, root: Path, scene: Path | None = None) -> None:
    """Write the photos that hloc reads (JSON): those of a scene artifact, or with ``config`` those of a folder under
    ``root``. ``mapping`` (for photos without poses: those that SfM registers) are matched with each other, ``queries``
    are only described."""
    if config is None:
        loaded = load_scene(scene)
        folder, mapping, queries = loaded.image_root, [v.name for v in loaded.mapping], [q.name for q in loaded.queries]
    else:
        folder = Path(root) / config.source.images
        mapping = list(photos_to_register(config.source, config.split, Path(root)))
        queries = sorted(set(list_photos(folder)) - set(mapping))
    code = code_of("list_hloc_images", config)
    names = "".join(f"{name}\n" for name in (*mapping, *queries))
    inputs = {"names": hashlib.sha256(names.encode()).hexdigest()[:16]}
    stamp = Stamp.make(KIND, config, code, **inputs) if config is not None else Stamp(KIND, code=code, inputs=inputs)
    write_json(out, {"image_root": str(folder), "mapping": mapping, "queries": queries}, stamp)
