"""What all config models share, and reading a file of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from scrflow.errors import ScrflowError


class Strict(BaseModel):
    """Frozen, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ScrflowError(f"{path}: no such config file")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ScrflowError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ScrflowError(f"{path}: expected keys and values, found {type(values).__name__}")
    return values


def deep_merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Values of ``over`` on top of ``base``, dictionaries merged key by key."""
    out = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(out.get(key), dict)
        out[key] = deep_merge(out[key], value) if both else value
    return out


def validate(model: type[Strict], values: dict[str, Any], path: Path) -> Any:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        problems = []
        for e in error.errors():
            key = ".".join(str(p) for p in e["loc"]) or "(file)"
            problems.append(f"key {key}: {e['msg'][0].lower()}{e['msg'][1:]}")
        raise ScrflowError(f"{path}: " + "; ".join(problems)) from None
