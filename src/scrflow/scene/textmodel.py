"""Names of images in COLMAP's text form, where they hold blanks: pycolmap reads them to the first one."""

from __future__ import annotations

from pathlib import Path

import pycolmap

_BEFORE = 9  # IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME


def mend_names(model: pycolmap.Reconstruction, images_txt: Path) -> None:
    """Give the model's images their whole names, in place. The file is one that pycolmap has read."""
    names: dict[int, str] = {}
    with open(images_txt, encoding="utf-8") as lines:
        for line in lines:
            fields = line.strip().split(None, _BEFORE)
            if not fields or fields[0].startswith("#"):
                continue
            if len(fields) > _BEFORE:
                names[int(fields[0])] = fields[_BEFORE]
            next(lines, None)  # its points, which may be an empty line
    for image_id in model.images:
        if names.get(image_id, model.image(image_id).name) != model.image(image_id).name:
            model.image(image_id).name = names[image_id]
