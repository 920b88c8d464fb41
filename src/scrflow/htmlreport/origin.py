"""How the result was made: the config of every stage as it was read, versions, and digests of the inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml
from markupsafe import Markup

from scrflow.htmlreport.rendering import render, section
from scrflow.htmlreport.run import Run
from scrflow.lineage import Artifact

_SECTION_TITLE = "Config, versions and inputs"


def origin(run: Run) -> Markup:
    """The section."""
    how = (
        "What was read by every stage that led to this result, as its artifact says; equal digests are equal recipes "
        "on equal inputs."
    )
    body = render(
        "origin.html",
        provenance=_flat(run.metrics.get("provenance")),
        artifacts=[_row(path, made) for path, made in run.chain.items()],
    )
    return section("origin", _SECTION_TITLE, how, body)


def _row(path: str, made: Artifact) -> dict[str, Any]:
    stamp = made.stamp
    if stamp is None:
        return {
            "path": path,
            "kind": "of another tool",
            "digest": "",
            "code": "",
            "inputs": "",
            "lost": "",
            "config": "",
        }
    sources = [f"{name} {made.inputs.get(name, digest)}" for name, digest in sorted(stamp.inputs.items())]
    return {
        "path": path,
        "kind": stamp.kind,
        "digest": stamp.digest,
        "code": stamp.code,
        "inputs": ", ".join(sources),
        "lost": ", ".join(made.lost),
        "config": yaml.safe_dump(stamp.config, sort_keys=False, allow_unicode=True) if stamp.config else "",
    }


def _flat(values: Any, prefix: str = "") -> list[tuple[str, str]]:
    """(key, value) of a nested mapping, keys joined by dots."""
    if values is None:
        return []
    rows: list[tuple[str, str]] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            rows += _flat(value, f"{prefix}{key}.")
        else:
            text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
            rows.append((f"{prefix}{key}", text))
    return rows
