"""What all config models share, and reading a file of them."""

from collections.abc import Hashable
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from scrflow.core.errors import ScrflowError


class Strict(BaseModel):
    """Frozen; an unknown key is an error, and so is a number that is none or without end."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


# by the licence that its publisher states; unknown: none is stated, or the text was not at hand
CommercialUse = Literal["allowed", "forbidden", "unknown"]


class Restriction(Strict):
    """Something whose licence does not allow commercial use, or that states none."""

    what: str
    licence: str
    commercial_use: Literal["forbidden", "unknown"]

    def __str__(self) -> str:
        verdict = "no commercial use" if self.commercial_use == "forbidden" else "commercial use unknown"
        return f"{self.what}: {verdict} ({' '.join(self.licence.split())})"


class UniqueKeys(yaml.SafeLoader):
    """YAML whose mappings must not name a key twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise yaml.constructor.ConstructorError(None, None, "a key that is a list", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is there twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """Keys and values of a YAML file, none of them made by a tag, no key twice. ScrflowError for anything else."""
    if not path.is_file():
        raise ScrflowError(f"{path}: no such config file; check the name, or write it")
    try:
        # a subclass of SafeLoader: builds plain values alone
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=UniqueKeys)
    except (OSError, UnicodeDecodeError) as error:
        raise ScrflowError(f"{path}: cannot be read as text ({error}); save it as UTF-8") from None
    # of PyYAML: ValueError for 2020-99-99, RecursionError for ever deeper lists
    except (yaml.YAMLError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise ScrflowError(f"{path}: not YAML: {' '.join(str(error).split())[:500]}; correct it there") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ScrflowError(f"{path}: expected keys and values, found {type(values).__name__}; write lines 'key: value'")
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
