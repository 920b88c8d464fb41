"""Global descriptors: frozen networks that describe a whole photo by one vector.

A new descriptor ``my-net`` is one module ``my_net.py`` here with a class that fulfils ``GlobalDescriptor``, the name of
its weights ``WEIGHTS`` (an entry of weights_registry.yaml) and a last line ``DESCRIPTOR = MyNet``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from scrflow.core.errors import ScrflowError
from scrflow.core.plugins import load

if TYPE_CHECKING:  # the workflow asks for names and does not wait for torch
    import torch
    from PIL import Image


class GlobalDescriptor(Protocol):
    """A frozen network. Constructed with ``device`` and the config's ``options`` as keywords. With ``side_by_side =
    True`` (small) several threads describe photos at once on a CPU. One that derives from
    ``scrflow.features.networks.NetworkDescriptor`` describes several photos at once on a GPU."""

    dim: int

    def __call__(self, photo: Image.Image) -> torch.Tensor:
        """Descriptor [dim] of unit length, float32 on the CPU, of an RGB photo of any size."""
        ...


def build_descriptor(name: str, options: dict[str, Any], device: torch.device | str = "cpu") -> GlobalDescriptor:
    """The network that a config names; ScrflowError for an unknown name, unknown options or missing weights."""
    descriptor = load("global descriptor", name).DESCRIPTOR
    try:
        return descriptor(device=device, **options)
    except TypeError as error:
        raise ScrflowError(f"descriptor {name}: options {options}: {error}; correct them") from None
