"""How the result was made: the config of every stage as it was read, versions, and digests of the inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml
from markupsafe import Markup

from scrflow.report.page.rendering import render, section
from scrflow.report.page.run import Run
from scrflow.storage.artifact import Stamp

_RUNS = ("training", "localization", "evaluation")


def origin(run: Run) -> Markup:
    """The section."""
    how = (
        "What was read by every stage that led to this result, as its artifact says; equal digests are equal recipes "
        "on equal inputs."
    )
    told = run.metrics.get("provenance")
    body = render(
        "origin.html",
        digests=[(name, told[name]) for name in ("code", "config", "data")] if told else [],
        ran=_ran(told) if told else [],
        runs=_RUNS,
        lost=told["lost"] if told else [],
        artifacts=[_row(path, stamp) for path, stamp in run.stages.items()],
    )
    return section("origin", "Config, versions and inputs", how, body)


def _row(path: str, stamp: Stamp | None) -> dict[str, Any]:
    if stamp is None:
        return {"path": path, "kind": "of another tool", "digest": "", "code": "", "inputs": "", "config": ""}
    return {
        "path": path,
        "kind": stamp.kind,
        "digest": stamp.digest,
        "code": stamp.code,
        "inputs": ", ".join(f"{name} {digest}" for name, digest in sorted(stamp.inputs.items())),
        "config": yaml.safe_dump(stamp.config, sort_keys=False, allow_unicode=True) if stamp.config else "",
    }


def _ran(told: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """(name, its value in each of _RUNS) of what the stages ran on, packages among the rest; what is told of none is
    left out."""
    runs = [None if told[name] is None else _flat(told[name]) for name in _RUNS]
    names = dict.fromkeys(name for run in runs for name, value in (run or {}).items() if value)
    return [(name, ["not known" if run is None else run.get(name, "") for run in runs]) for name in names]


def _flat(values: Mapping[str, Any]) -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in values.items():
        flat |= _flat(value) if isinstance(value, Mapping) else {key: "" if value is None else str(value)}
    return flat
