"""A scene of the Map-free relocalization dataset (github.com/nianticlabs/map-free-reloc, README, "Organization").

``intrinsics.txt`` has lines ``frame fx fy cx cy width height``, ``poses.txt`` lines ``frame qw qx qy qz tx ty tz``
(cam_from_world, metric). Withheld poses of the test set are all 0.
"""

from pathlib import Path
from typing import Literal

from pydantic import Field

from scrflow.core.errors import ScrflowError
from scrflow.scene.checks import checked_size
from scrflow.scene.colmap_model import View
from scrflow.scene.lists import PhotoNames, colmap_camera, pose_of_numbers, read_numbers
from scrflow.scene.readers import Collection, Reader


class MapFreeSource(Reader):
    """A scene of the Map-free dataset: intrinsics.txt, poses.txt (cam_from_world) and a folder a sequence."""

    form, layout = "Map-free", ("intrinsics.txt", "poses.txt", "seq0", "seq1")
    reader: Literal["mapfree"]
    scene: str = Field(".", description="folder of the scene, relative to root")
    mapping: str = Field("seq0", description="sequence that is mapped")
    queries: str = Field("seq1", description="sequence that is localized")
    query_every: int = Field(
        1, ge=1, description="every n-th frame is a query; the published evaluation takes every 5th"
    )

    def files(self, root: Path) -> list[Path]:
        return [root / self.scene / name for name in self.layout[:2]]

    def read(self, root: Path) -> Collection:
        """The frames of both sequences. A mapping frame without a pose is left out; such a query has no reference."""
        folder = root / self.scene
        path = folder / "poses.txt"
        photos = PhotoNames(folder)
        rows = read_numbers(path, "qw qx qy qz tx ty tz").items()
        poses = {photos.find(name, where) or name: pose_of_numbers(v, where) for name, (where, v) in rows if v.any()}
        images: dict[str, View] = {}
        for listed, (where, values) in read_numbers(folder / "intrinsics.txt", "fx fy cx cy width height").items():
            name = photos.find(listed, where) or listed
            *params, width, height = values.tolist()
            size = checked_size(width, height, where)
            if size != (width, height):
                raise ScrflowError(f"{where}: size {width:g}x{height:g} is not of whole pixels; correct it")
            camera = colmap_camera("PINHOLE", size, params)
            images[name] = View(name, camera, poses.get(name))

        mapping, queries = (_frames(images, sequence, folder) for sequence in (self.mapping, self.queries))
        queries = queries[:: self.query_every]
        left_out = {name: "without a pose in poses.txt" for name in mapping if name not in poses}
        if len(left_out) == len(mapping):
            raise ScrflowError(f"{path}: no pose of a frame of {self.mapping}; correct key source.mapping")
        return Collection(
            where=path,
            image_root=folder,
            images=tuple(images[name] for name in dict.fromkeys((*mapping, *queries))),
            split=(mapping, queries),
            left_out=left_out,
        )


def _frames(images: dict[str, View], sequence: str, folder: Path) -> tuple[str, ...]:
    names = tuple(sorted(name for name in images if name.split("/")[0] == sequence))
    if not names:
        there = ", ".join(sorted({name.split("/")[0] for name in images})) or "none"
        raise ScrflowError(
            f"{folder / 'intrinsics.txt'}: no frames of sequence {sequence!r}; there are {there}: correct source"
        )
    return names
