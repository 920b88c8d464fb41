"""The form of a map file: its version, its tensors and their number formats, and the checks of a file that is read.

A map may come from anywhere, so nothing in it is trusted: names, dtypes, shapes and ranges are compared with the map's
own config before a network is built from them.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from pydantic import BaseModel, ValidationError
from safetensors import safe_open
from torch import Tensor

from scrflow.config import MapConfig, MapStage, RetrievalConfig, RetrievalPart
from scrflow.core.errors import ScrflowError
from scrflow.landmarks import codes as landmark_codes
from scrflow.map import views
from scrflow.storage.artifact import Stamp, read_safetensors, read_safetensors_metadata, read_stamp
from scrflow.training.head import Head

# Increase it if older readers would misread new files: if a tensor changes its meaning, not for one more setting.
MAP_FORMAT = 1
SCALE = ".scale"  # of NAME, int8: NAME.scale [rows] float32, and row i is NAME[i] * scale[i]
BOOKS = "retrieval.codebooks"
CODES = "retrieval.codes"
LANDMARK = "landmark."  # tensors of scrflow.landmarks.codes, in their own types
VIEW = "view."  # tensors of scrflow.map.views; maps of older scrflow have none
# limits of numbers in a map's config, by the last part of the key, in addition to the config's own
_BOUNDS = {
    "short_side": (1, 8192),
    "max_size": (1, 8192),
    "max_side": (1, 8192),
    "size": (1, 8192),
    "upscale": (0.01, 8),
    "first_octave": (-2, 8),
    "keypoints": (0, 1 << 17),
    "max_keypoints": (0, 1 << 17),
    "hypotheses": (1, 1 << 17),
    "iterations": (1, 1_000_000),
    "min_iterations": (1, 1_000_000),
    "thresholds": (1e-9, 1e9),
}
_NUMBERS = (-(2**63), 2**63)
_METADATA = frozenset({"format", "names", "output_unit", "weights", "scrflow", "content"})
_FLOATS = (torch.float16, torch.float32)
_LEVELS = 127  # of int8 on either side of zero: symmetric, so that zero stays zero
# layers of the head that stay in fp16: with them in int8 the demo's median coordinate shifts by 244 mm, else by 23
_KEPT = (".out.weight", "decoder.layers.1.weight")
_FIX = "write the map again (rule write_map), or take an undamaged copy"

Tensors = dict[str, Tensor]
M = TypeVar("M", bound=BaseModel)


def retrieval_features(config: MapStage) -> tuple[RetrievalPart, ...]:
    """The map's retrieval feature, then the parts of a fusion; empty for a map without."""
    if config.retrieval is None:
        return ()
    return (RetrievalPart(retrieval=config.retrieval, extractor=config.retrieval_extractor), *config.retrieval_parts)


def quantise(rows: Tensor) -> tuple[Tensor, Tensor]:
    """int8 tensor of the shape of ``rows`` [R, ...], and scale [R] float32: the largest magnitude of a row is 127."""
    flat = rows.float().flatten(1)
    scale = flat.abs().amax(1) / _LEVELS
    # a row of zeros has scale 0, and stays zeros
    steps = torch.where(scale > 0, scale, 1.0)
    whole = (flat / steps[:, None]).round().clamp(-_LEVELS, _LEVELS).to(torch.int8)
    return whole.view(rows.shape), scale


def pack(tensors: Tensors, config: MapConfig) -> Tensors:
    """Tensors in the number formats of the config; the others are unchanged. ScrflowError for numbers that float16
    cannot hold."""
    out: Tensors = {}
    for name, tensor in tensors.items():
        dtype = _stored_as(name, config)
        if dtype is torch.int8:
            out[name], out[name + SCALE] = quantise(tensor)
        else:
            out[name] = tensor if dtype is None else tensor.to(dtype)
            if out[name].is_floating_point() and not out[name].isfinite().all():
                raise ScrflowError(
                    f"map: {name} has numbers that are not finite in {out[name].dtype}; leave its format out of the "
                    "method's map"
                )
    return out


def _stored_as(name: str, config: MapConfig) -> torch.dtype | None:
    part, _, rest = name.partition(".")
    if part == "head":
        matrix = rest.endswith(".weight") and not rest.endswith(_KEPT)
        return torch.int8 if config.head == "int8" and matrix else None
    if part == "pca":
        return torch.float16 if config.pca == "fp16" else None
    if part == "encoding":
        return torch.int8 if config.encodings == "int8" else torch.float16
    if part == "retrieval" and config.retrieval == "int8" and name != CODES:
        return torch.float16 if rest.endswith("whitening_mean") else torch.int8
    return None


def unpack(stored: Mapping[str, Tensor]) -> Tensors:
    """The inverse of ``pack``, in float32 (codes: uint8). ValueError, naming the tensor, for an unknown dtype, a scale
    without its tensor or of another length, or numbers that are not finite."""
    out: Tensors = {}
    for name, tensor in stored.items():
        if name.startswith(LANDMARK):
            out[name] = tensor
            continue
        if name.endswith(SCALE):
            whole = stored.get(name.removesuffix(SCALE))
            if whole is None or whole.dtype is not torch.int8:
                raise ValueError(f"{name} scales no int8 tensor")
            continue
        if name == CODES:
            if tensor.dtype is not torch.uint8:
                raise ValueError(f"{name} is {_dtype(tensor)}, not uint8")
            out[name] = tensor
        elif tensor.dtype is torch.int8:
            scale = stored.get(name + SCALE)
            if scale is None or tensor.ndim < 2 or tuple(scale.shape) != (len(tensor),):
                raise ValueError(f"{name} is int8 and needs {name}{SCALE}, one number a row")
            if scale.dtype is not torch.float32 or not (scale.isfinite() & (scale >= 0)).all():
                raise ValueError(f"{name}{SCALE} is not float32, finite, and 0 or more")
            out[name] = tensor.float() * scale.view(-1, *[1] * (tensor.ndim - 1))
        elif tensor.dtype in _FLOATS:
            out[name] = tensor.float()
        else:
            raise ValueError(f"{name} is {_dtype(tensor)}; float16, float32 and int8 are known")
        if out[name].is_floating_point() and not out[name].isfinite().all():
            raise ValueError(f"{name} has numbers that are not finite")
    return out


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def read_map(path: Path) -> tuple[MapStage, tuple[str, ...], Tensors, float, dict[str, str]]:
    """Config, image names, float32 tensors, output unit and weights (name to SHA-256) of a map file. ScrflowError for a
    file that is damaged, of another version, of unknown content, or whose parts do not fit together."""
    path = Path(path)
    try:
        stamp = read_stamp(path, "map")
        metadata = read_safetensors_metadata(path)
        found = metadata.get("format")
        if found is None:
            raise ScrflowError(f"{path}: the map has no format version (older scrflow); rebuild it (rule write_map)")
        if found != str(MAP_FORMAT):
            raise ScrflowError(
                f"{path}: map format {found[:20]!r}, this scrflow reads {MAP_FORMAT}; use the scrflow that wrote it, "
                "or write the map again (rule write_map)"
            )
        config = stage_config(MapStage, path, stamp, "write the map again (rule write_map)")
        unknown = sorted(set(metadata) - _METADATA)
        if unknown:
            raise ValueError(f"metadata {_listed(unknown)} is not known")
        names = json.loads(metadata["names"])
        if not isinstance(names, list) or not all(isinstance(v, str) for v in names):
            raise ValueError("names are no list of strings")
        if len(set(names)) < len(names):
            raise ValueError("names are not distinct")
        unit = float(metadata["output_unit"])
        if not (math.isfinite(unit) and unit > 0):
            raise ValueError(f"output_unit is {unit}")
        weights = json.loads(metadata["weights"])
        if not isinstance(weights, dict) or not all(isinstance(v, str) for v in weights.values()):
            raise ValueError("weights are not names with digests")
        tensors = unpack(read_safetensors(path, "map"))
        check(config, tensors, len(names))
    except (KeyError, ValueError, RecursionError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error).splitlines()[0]
        raise ScrflowError(f"{path}: not a whole map: {reason}; {_FIX}") from None
    return config, tuple(names), tensors, unit, weights


def stage_config(model: type[M], path: Path, stamp: Stamp, fix: str) -> M:
    """The config in the stamp of a map; ScrflowError naming the first key that does not fit, or whose number would cost
    hours or gigabytes for one photo."""
    try:
        config = model.model_validate(stamp.config)
        key, reason = next(_unreasonable(stamp.config), ("", ""))
    except ValidationError as error:
        first = error.errors()[0]
        key, reason = ".".join(str(p) for p in first["loc"]) or "(all)", first["msg"].lower()
    if key:
        raise ScrflowError(
            f"{path}: its config is not one of this scrflow: key {key[:100]}: {reason}; use the scrflow that wrote it, "
            f"or {fix}"
        )
    return config


def _unreasonable(value: object, key: str = "") -> Iterator[tuple[str, str]]:
    """Keys of numbers out of bounds, and the reason."""
    if isinstance(value, dict | list):
        for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _unreasonable(inner, f"{key}.{name}".lstrip("."))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        least, most = next((_BOUNDS[part] for part in reversed(key.split(".")) if part in _BOUNDS), _NUMBERS)
        if not least <= value <= most:
            yield key, f"{value:.6g} is not within {least:g} and {most:g}"


def _listed(names: Iterable[str], most: int = 3) -> str:
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(n[:60] for n in names[:most]) + more


def check(config: MapStage, tensors: Tensors, images: int) -> None:
    """Compare the tensors with the config: names, shapes that fit together, ``images`` rows. ValueError names the
    first that does not fit."""
    left = dict(tensors)
    seen = {name.removeprefix(VIEW): left.pop(name) for name in list(left) if name.startswith(VIEW)}
    views.check(seen, images)
    if config.landmarks is not None:
        found = {name: left.pop(name) for name in list(left) if name.startswith(LANDMARK)}
        landmark_codes.check({name.removeprefix(LANDMARK): tensor for name, tensor in found.items()}, images)
    if config.head is not None:
        _check_head(config, left, images)
    if left:
        raise ValueError(f"tensor {_listed(sorted(left))} is not known")


def _check_head(config: MapStage, left: Tensors, images: int) -> None:
    """Remove the tensors of a head and of what it needs."""
    local = _pca(left)
    encoding = _encodings(config, left, images)
    described = _retrieval(config, left, images)
    own = described if config.own_encoding and not config.clustered else encoding
    _head(config, left, None if own is None else local + own)


def _take(left: Tensors, name: str, *shape: int | None) -> tuple[int, ...]:
    """Remove a tensor and return its shape; ValueError if it is not ``shape``, where None is any length but 0."""
    if name not in left:
        raise ValueError(f"tensor {name} is missing")
    found = tuple(left.pop(name).shape)
    fits = len(found) == len(shape) and all(n > 0 and (w is None or n == w) for n, w in zip(found, shape, strict=True))
    if not fits:
        wanted = " x ".join("?" if w is None else str(w) for w in shape)
        raise ValueError(f"{name} is {' x '.join(map(str, found)) or 'a number'}, not {wanted}")
    return found


def _pca(left: Tensors) -> int:
    (full,) = _take(left, "pca.mean", None)
    # a map of descriptors as they are has no components
    return _take(left, "pca.components", full, None)[1] if "pca.components" in left else full


def _encodings(config: MapStage, left: Tensors, images: int) -> int:
    """Length of a global encoding; 0 for a method without."""
    if config.global_encoding.name is None:
        return 0
    if config.clustered:
        return _take(left, "centres", None, None)[1]
    return 0 if config.own_encoding else _take(left, "encoding", images, None)[1]


def _retrieval(config: MapStage, left: Tensors, images: int) -> int | None:
    """Length of a photo's retrieval feature; None if only its network or file knows."""
    if config.retrieval is None:
        if config.global_encoding.name is not None:
            raise ValueError("there is a global encoding, but no retrieval to choose it by")
        return None
    feature, *parts = retrieval_features(config)
    if config.own_encoding:  # no index, as no image is searched
        return _described(feature, left, "retrieval.", parts)
    return check_index(feature, parts, left, images)


def check_index(feature: RetrievalPart, parts_of: Sequence[RetrievalPart], left: Tensors, images: int) -> int | None:
    """Remove the tensors of a retrieval model (names begin with ``retrieval.``) and return the length of a feature;
    None if only its network or file knows. ``parts_of``: the parts of a fusion. ValueError for what does not fit."""
    dim = _described(feature, left, "retrieval.", parts_of)
    parts, entries, size = _take(left, BOOKS, None, None, None)
    codes = left.get(CODES)
    _take(left, CODES, images, parts)
    if int(codes.max()) >= entries:
        raise ValueError(f"{CODES} has entry {int(codes.max())} of {entries}")
    if dim is not None and size != -(-dim // parts):  # as learn_codebooks cuts them
        raise ValueError(f"{BOOKS} of {parts} x {size} numbers do not fit features of {dim}")
    return dim


def _described(feature: RetrievalPart, left: Tensors, prefix: str, parts: Sequence[RetrievalPart]) -> int | None:
    r: RetrievalConfig = feature.retrieval
    if r.kind == "hloc":
        return None
    length: int | None = None
    if r.kind == "vlad":
        if feature.extractor is None:
            raise ValueError("config: a feature of kind vlad without its extractor")
        words, width = _take(left, f"{prefix}vocabulary", None, None)
        length = words * width
    elif r.kind == "fusion":
        if prefix != "retrieval." or len(parts) != len(r.parts):
            raise ValueError(f"config: {len(parts)} retrieval_parts of {len(r.parts)}")
        lengths = [_described(part, left, f"{prefix}part{i}.", ()) for i, part in enumerate(parts)]
        length = None if None in lengths else sum(lengths)
    if r.dim is None:
        return length
    (length,) = _take(left, f"{prefix}whitening_mean", length)
    return _take(left, f"{prefix}whitening", None, length)[0]


def _head(config: MapStage, left: Tensors, dim_in: int | None) -> None:
    """``dim_in``: the length of the head's input by the rest of the map; None if that does not say."""
    found = {name.removeprefix("head."): t for name, t in left.items() if name.startswith("head.")}
    first = found.get("input.layers.0.weight")
    if first is None or first.ndim != 2:
        raise ValueError("tensor head.input.layers.0.weight is missing, or no matrix")
    # reject block counts that the file's tensors cannot fill, before allocating
    if config.head.blocks + config.head.refine_blocks > len(found):
        raise ValueError(f"config: more blocks of the head than its {len(found)} tensors can fill")
    if dim_in is not None and first.shape[1] != dim_in:
        raise ValueError(f"the head takes {first.shape[1]} numbers, PCA and encodings give {dim_in}")
    try:
        with torch.device("meta"):  # shapes alone, no memory
            wanted = Head(first.shape[1], config.head, torch.zeros(config.head.clusters, 3)).state_dict()
    except (RuntimeError, TypeError, OverflowError) as error:
        raise ValueError(f"config: such a head cannot be built ({str(error).splitlines()[0][:100]})") from None
    for name, tensor in wanted.items():
        _take(left, f"head.{name}", *tensor.shape)


def part_of(name: str) -> str:
    """The part of the map that a tensor belongs to."""
    name = name.removesuffix(SCALE)
    if name in (BOOKS, CODES):
        return "retrieval index"
    parts = {"landmark": "landmarks", "head": "head", "pca": "PCA", "encoding": "encodings", "centres": "encodings"}
    parts["view"] = "views of mapping photos"
    return {**parts, "retrieval": "retrieval describer"}.get(name.partition(".")[0], "unknown")


def sizes(path: Path) -> dict[str, int]:
    """Bytes of a map file by part; their sum is the size of the file."""
    out: dict[str, int] = {}
    with safe_open(path, "pt") as f:
        for name in f.keys():  # noqa: SIM118 - not a dict
            out[part_of(name)] = out.get(part_of(name), 0) + f.get_tensor(name).nbytes
    return {**out, "names and config": path.stat().st_size - sum(out.values())}
