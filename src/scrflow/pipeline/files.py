"""The files of ``config/`` of one kind, each with what it extends."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from scrflow.config.base import Strict, deep_merge, read_yaml, validate
from scrflow.core.errors import ScrflowError

# folders of config/, each file of which is one of the kind
KINDS = ("scenes", "encoders", "methods", "baselines", "tables")
Model = TypeVar("Model", bound=Strict)


def load_kind(
    folder: Path, kind: str, model: type[Model], over: dict[str, dict[str, Any]]
) -> tuple[dict[str, Model], dict[str, dict[str, Any]]]:
    """All files of a kind (name -> config), and the keys that each has with those of what it extends.

    ``over`` counts as if the files said so. ScrflowError naming file and key.
    """
    files = {p.stem: p for p in sorted((folder / kind).glob("*.yaml"))}
    raw = {name: read_yaml(path) for name, path in files.items()}
    for name, values in over.items():
        if name not in raw:
            raise ScrflowError(f"override {kind}.{name}: no {folder}/{kind}/{name}.yaml; there are {', '.join(raw)}")
        raw[name] = deep_merge(raw[name], values)

    def resolve(name: str, trail: tuple[str, ...]) -> dict[str, Any]:
        if name in trail:
            raise ScrflowError(f"{files[trail[0]]}: extends runs in a circle: {' -> '.join((*trail, name))}")
        base = raw[name].get("extends")
        if base is None:
            return raw[name]
        if not isinstance(base, str) or base not in raw:
            raise ScrflowError(f"{files[name]}: key extends: no {kind} named {base!r}; there are {', '.join(raw)}")
        return deep_merge(resolve(base, (*trail, name)), raw[name])

    keys = {name: resolve(name, ()) for name in raw}
    return {name: validate(model, values, files[name]) for name, values in keys.items()}, keys
