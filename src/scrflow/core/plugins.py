"""Encoders, descriptors and readers: modules that are found by their file's name, without importing them."""

import ast
import functools
import importlib
from pathlib import Path
from typing import Any

from scrflow.core.errors import ScrflowError

_ROOT = Path(__file__).parents[1]
# kind -> folder, and the line that a module of the kind has and helpers beside it have not
_KINDS = {
    "local encoder": ("features/encoders", "\nENCODER = "),
    "global descriptor": ("features/descriptors", "\nDESCRIPTOR = "),
    "reader": ("scene/readers", "\nSOURCE = "),
}


@functools.cache
def plugins(kind: str) -> dict[str, Path]:
    """Name -> file of all modules of a kind. The file ``my_net.py`` is ``my-net`` in the config."""
    folder, mark = _KINDS[kind]
    files = sorted((_ROOT / folder).glob("*.py"))
    return {p.stem.replace("_", "-"): p for p in files if mark in p.read_text(encoding="utf-8")}


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
