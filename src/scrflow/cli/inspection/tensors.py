"""safetensors files, maps among them."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import RenderableType
from rich.markup import escape

from scrflow.cli.inspection.layout import STAMP_KEY, array_table, grid_of_pairs, page, short, stamp_view
from scrflow.cli.inspection.ranges import range_of
from scrflow.storage.artifact import Stamp, read_safetensors_metadata


def show_safetensors(path: Path) -> RenderableType:
    """Metadata and tensors; of a map also its parts."""
    from safetensors import safe_open

    metadata = read_safetensors_metadata(path)
    grid = grid_of_pairs()
    for key, value in sorted(metadata.items()):  # safetensors gives them in a random order
        if key != STAMP_KEY:
            grid.add_row(escape(key), escape(short(value, 300)))
    table = array_table("tensor", "shape", "dtype", "min", "mean", "max", "")
    with safe_open(path, "pt") as f:
        for name in f.keys():  # noqa: SIM118 - not a dict
            tensor = f.get_tensor(name)
            shape = "x".join(map(str, tensor.shape)) or "scalar"
            found = range_of(tuple(tensor.shape), lambda s, t=tensor: (t[s] if t.ndim else t).double().numpy())
            table.add_row(escape(name), shape, str(tensor.dtype).removeprefix("torch."), *found.cells())
    stamp = stamp_view(metadata.get(STAMP_KEY), path)
    parts = _map_parts(path, metadata)
    return page(path, "safetensors file", path.stat().st_size, stamp, grid if grid.row_count else None, parts, table)


def _map_parts(path: Path, metadata: dict[str, str]) -> RenderableType | None:
    """Of a map: its parts in bytes and what it says of localizing with it; None for any other file."""
    stamp = Stamp.from_json(metadata[STAMP_KEY], path) if STAMP_KEY in metadata else None
    if stamp is None or stamp.kind != "map":
        return None
    from scrflow.map.format import MAP_FORMAT, sizes

    grid = grid_of_pairs()
    grid.add_row(
        "map format", f"{escape(metadata.get('format', 'none, made before maps had one'))}, read: {MAP_FORMAT}"
    )
    unit = stamp.config.get("unit", "")
    pairs = [f"{t:g} {unit} {r:g} deg" for t, r in stamp.config.get("thresholds", ())]
    grid.add_row("thresholds", escape(", ".join(pairs) or "none"))
    for key in ("localize", "map"):
        grid.add_row(key, escape(short(json.dumps(stamp.config.get(key, "none")), 300)))
    for part, count in sorted(sizes(path).items(), key=lambda item: -item[1]):
        grid.add_row(part, f"{count} bytes, {100 * count / path.stat().st_size:.1f} %")
    return grid
