"""Where the mapping photos were taken, as tensors of a map: with a query's rough position known, they say which
photos and landmarks may matter.

``centre`` [I, 3] float32 of the cameras, ``direction`` and ``up`` [I, 3] float16 (unit) of their views; ``reach`` [I]
float32: the distance within which a photo sees nearly all its landmarks, 0 without landmarks.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch

from scrflow.core.geometry import camera_centre

_NEARLY_ALL = 0.98
_SHAPES = {"centre": (3,), "direction": (3,), "up": (3,), "reach": ()}
Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Views:
    """The module's docstring has the shapes; float64."""

    centre: np.ndarray
    direction: np.ndarray
    up: np.ndarray
    reach: np.ndarray

    @classmethod
    def of(cls, cam_from_world_I34: np.ndarray, reach_I: np.ndarray | None = None) -> Self:
        """Of photos with these poses."""
        poses = np.asarray(cam_from_world_I34)
        reach = np.zeros(len(poses)) if reach_I is None else reach_I
        return cls(camera_centre(poses), poses[:, 2, :3], -poses[:, 1, :3], reach)

    @classmethod
    def from_tensors(cls, tensors: Tensors) -> Self | None:
        """Of tensors that ``check`` accepts; None of none."""
        return cls(*(tensors[name].double().numpy() for name in _SHAPES)) if tensors else None

    def tensors(self) -> Tensors:
        """As they are saved."""
        return {
            "centre": torch.from_numpy(self.centre).float(),
            "direction": torch.from_numpy(self.direction).half(),
            "up": torch.from_numpy(self.up).half(),
            "reach": torch.from_numpy(self.reach).float(),
        }

    def joined(self, more: Self) -> Self:
        """These photos, then ``more``."""
        mine, theirs = ((v.centre, v.direction, v.up, v.reach) for v in (self, more))
        return Views(*map(np.concatenate, zip(mine, theirs, strict=True)))

    def only(self, rows: np.ndarray) -> Self:
        """The photos of ``rows``, in their order."""
        return Views(*(values[rows] for values in (self.centre, self.direction, self.up, self.reach)))


def reach_of(cam_from_world: np.ndarray, xyz: np.ndarray) -> float:
    """The reach of a photo [3, 4] that sees the points [N, 3]."""
    distance = np.linalg.norm(xyz - camera_centre(cam_from_world), axis=1)
    return float(np.quantile(distance, _NEARLY_ALL)) if len(distance) else 0.0


def check(tensors: Tensors, images: int) -> None:
    """ValueError unless the (float) tensors are none, or all views of ``images`` photos."""
    if tensors and set(tensors) != set(_SHAPES):
        raise ValueError(f"view.* are {', '.join(sorted(tensors))[:100]}, not {', '.join(_SHAPES)}")
    for name, tensor in tensors.items():
        if tuple(tensor.shape) != (images, *_SHAPES[name]):
            raise ValueError(f"view.{name} is {list(tensor.shape)}, not of {images} photos")
