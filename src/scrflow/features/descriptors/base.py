"""What a global descriptor is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:  # annotations alone: the workflow asks for module names and should not wait for torch
    import torch
    from PIL import Image


class GlobalDescriptor(Protocol):
    """A frozen network that describes a whole photo. Constructed with ``device`` and the config's ``options`` as
    keywords."""

    dim: int

    def __call__(self, photo: Image.Image) -> torch.Tensor:
        """Descriptor [dim] of unit length, float32 on the CPU, of an RGB photo of any size."""
        ...
