"""docs/licences.md: whose licence is what, from envs/sbom.json, the registry of weights and config/ (make sbom).

.venv/bin/python envs/licences.py
"""

# ruff: noqa: E501 - the page is wrapped for its reader, as the other pages of docs are
from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from scrflow.pipeline.project import Project
from scrflow.storage.weights import registry

ROOT = Path(__file__).resolve().parents[1]
_OPEN = {"allowed": "yes", "forbidden": "**no**", "unknown": "**unknown**"}
_HEAD = """# Licences

Made by `make sbom` (envs/licences.py): nothing here is written by hand, and nothing is advice. "Commercial use" is what the
licence that the publisher states says of it; *unknown* where none is stated or its text was not at hand.

scrflow itself is Apache-2.0. What a method brings that may not be used commercially is told when a workflow with it starts,
listed by `scrflow validate`, and written into the map (`restrictions` in its stamp), for whoever gets the map alone.
"""
_PACKAGES = """## Python packages

What `requirements.txt` pins, as the packages declare it (`envs/sbom.json`, CycloneDX); where one declares nothing, the title of
the licence file in it. Wheels hold libraries of others beside the package's own code. Of these two are to be known:

- `av` (PyAV, for videos alone): its wheels hold FFmpeg, which calls itself LGPL version 3 or later there, linked to libx264 and
  libx265, which their publishers give under the GPL (version 2 or later) or for money. Whoever ships the package on looks there.
- `torch` from PyPI brings NVIDIA's libraries on Linux (envs/torch.lock), under NVIDIA's own licences; the CPU builds bring none.
"""


def row(*cells: str) -> str:
    return "| " + " | ".join(" ".join(cell.split()) for cell in cells) + " |"


def text() -> str:
    return "\n".join([_HEAD, *weights(), "", *scenes(), "", _PACKAGES, *packages(), ""])


def weights() -> Iterator[str]:
    yield "## Weights\n"
    yield "None is part of this project; they are fetched when a method asks for them (`src/scrflow/storage/weights_registry.yaml`).\n"
    yield from (row("weights", "licence", "commercial use"), "|---|---|---|")
    for name, entry in registry().items():
        yield row(f"`{name}`", entry.licence, _OPEN[entry.commercial_use])


def scenes() -> Iterator[str]:
    yield "## Photos and poses\n"
    yield "Only the demo scene is part of this project. A map is made from photos: their licence holds for it too.\n"
    yield from (row("scenes (`config/scenes`)", "licence", "commercial use"), "|---|---|---|")
    found: dict[tuple[str, str], list[str]] = {}
    for name, scene in Project(ROOT / "config").scenes.items():
        found.setdefault((scene.licence, scene.commercial_use), []).append(f"`{name}`")
    for (licence, use), names in found.items():
        yield row(", ".join(names), licence, _OPEN[use])


def packages() -> Iterator[str]:
    yield from (row("package", "version", "licence"), "|---|---|---|")
    for component in json.loads((ROOT / "envs/sbom.json").read_text(encoding="utf-8"))["components"]:
        yield row(f"`{component['name']}`", component["version"], licence_of(component))


def licence_of(component: dict) -> str:
    """Expressions and identifiers where there are any; else the classifiers."""
    entries = [e.get("expression") or e["license"].get("id") or e["license"]["name"] for e in component["licenses"]]
    short = [e for e in entries if not e.startswith("License ::")]
    return ", ".join(short or (e.rpartition(" :: ")[2] for e in entries))


if __name__ == "__main__":
    (ROOT / "docs/licences.md").write_text(text(), encoding="utf-8")
