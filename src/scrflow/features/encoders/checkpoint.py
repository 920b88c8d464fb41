"""Reading a published checkpoint into a network: strictly, and without running anything that the file might hold."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import torch
from torch import nn

from scrflow.core.errors import ScrflowError
from scrflow.storage.weights import locate

_LISTED = 3  # tensors named in an error; a wrong file disagrees in hundreds


def load_published(
    network: nn.Module,
    name: str,
    *,
    key: str | None = None,
    part: Collection[str] = (),
    missing: Collection[str] = (),
) -> None:
    """Load the registry's weights ``name`` into ``network`` and set it to evaluation.

    ``key``: the entry of the file that holds the tensors, when they are not at its top. ``part``: where the network is
    a part of what the file holds, the prefixes that its names may have there; other tensors are passed over.
    ``missing``: names that the network has and the published file has not (constants). ScrflowError for a file that
    cannot be read, or whose tensors are not the network's, by name and shape.
    """
    path = locate(name)
    state = read_tensors(path, key)
    if part:
        prefix = next((p for p in part if any(tensor.startswith(p) for tensor in state)), None)
        if prefix is None:
            raise ScrflowError(f"{path}: not the weights of {name}: no tensor begins with {' or '.join(part)}")
        state = {t.removeprefix(prefix): value for t, value in state.items() if t.startswith(prefix)}
    load_strictly(network, state, path, name, missing)


def read_tensors(path: Path, key: str | None = None) -> dict[str, torch.Tensor]:
    """The named tensors of a checkpoint, under ``key`` if one is given; ScrflowError if there are none."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ScrflowError(f"{path}: cannot be read ({error.strerror or error})") from None
    except Exception as error:  # torch raises many kinds for a file that is none of its own, IndexError among them
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ScrflowError(f"{path}: no checkpoint of tensors that torch can read ({reason}); delete it") from None
    if key is not None:
        state = state.get(key) if isinstance(state, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        where = f"under {key!r}" if key is not None else "at its top"
        raise ScrflowError(f"{path}: holds no named tensors {where}; it is another file than the one expected")
    return state


def load_strictly(
    network: nn.Module, state: dict[str, torch.Tensor], path: Path, name: str, missing: Collection[str] = ()
) -> None:
    """Load ``state`` into ``network``; ScrflowError (one line) if names or shapes differ but for ``missing``.

    A network built on the device "meta" (without values, which spares drawing them) takes the tensors of ``state``.
    """
    own = network.state_dict()
    wrong = [f"{tensor} is missing" for tensor in own if tensor not in state and tensor not in missing]
    wrong += [f"{tensor} is not known" for tensor in state if tensor not in own]
    wrong += [
        f"{tensor} is {list(state[tensor].shape)}, not {list(value.shape)}"
        for tensor, value in own.items()
        if tensor in state and state[tensor].shape != value.shape
    ]
    if wrong:
        more = f" and {len(wrong) - _LISTED} more" if len(wrong) > _LISTED else ""
        raise ScrflowError(f"{path}: not the weights of {name}: {'; '.join(wrong[:_LISTED])}{more}")
    valueless = any(value.is_meta for value in own.values())
    if valueless:
        state = {tensor: value.to(own[tensor].dtype) for tensor, value in state.items()}
    network.load_state_dict(state, strict=not missing, assign=valueless)
    network.eval()
