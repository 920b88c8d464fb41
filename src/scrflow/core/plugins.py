"""Encoders, descriptors and readers: modules that are found by their file's name, or a reader's name in it, without
importing them."""

import ast
import functools
import importlib
import re
from pathlib import Path
from typing import Any

from scrflow.core.errors import ScrflowError

_ROOT = Path(__file__).parents[1]
# kind -> folder, and the line that a module of the kind has and helpers beside it have not; it may give the name
_KINDS = {
    "local encoder": ("features/encoders", "^ENCODER = ()"),
    "global descriptor": ("features/descriptors", "^DESCRIPTOR = ()"),
    "reader": ("scene/readers", r"""^    reader: Literal\[["']([\w-]+)["']\]"""),
}


@functools.cache
def plugins(kind: str) -> dict[str, Path]:
    """Name -> file of all modules of a kind. The file ``my_net.py`` is ``my-net`` in the config; a file of readers may
    have several."""
    folder, mark = _KINDS[kind]
    found = {}
    for path in (_ROOT / folder).glob("*.py"):
        for name in re.findall(mark, path.read_text(encoding="utf-8"), re.MULTILINE):
            found[name or path.stem.replace("_", "-")] = path
    return dict(sorted(found.items()))


def module_of(kind: str, name: str) -> str:
    """The module of the one of that name, relative to the package; ScrflowError that lists the known names."""
    found = plugins(kind).get(name)
    if found is None:
        raise ScrflowError(f"no {kind} {name!r}; there are {', '.join(plugins(kind))}")
    return ".".join(found.relative_to(_ROOT).with_suffix("").parts)


def load(kind: str, name: str) -> Any:
    """The module of the one of that name, imported."""
    return importlib.import_module(f"scrflow.{module_of(kind, name)}")


def constant(kind: str, name: str, key: str) -> Any:
    """The value of ``KEY = literal`` in a module, which is not imported; None where it has none."""
    module_of(kind, name)
    for node in ast.parse(plugins(kind)[name].read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and [getattr(t, "id", None) for t in node.targets] == [key]:
            return ast.literal_eval(node.value)
    return None
