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

Made by `make sbom` (envs/licences.py); do not edit. Nothing here is legal advice. "Commercial use" is what the stated
licence says of it; *unknown* where none is stated or its text was not at hand.

scrflow itself is Apache-2.0. Parts of a method that forbid commercial use are reported when a workflow starts and by
`scrflow validate`, and written into the map (`restrictions` in its stamp).
"""
_PACKAGES = """## Python packages

What `requirements.txt` pins, as the packages declare it; `envs/sbom.json` (CycloneDX) lists each. Wheels contain
libraries of others too:

- `av` (PyAV, for videos alone) contains FFmpeg (LGPL version 3 or later), linked to libx264 and libx265 (GPL version 2
  or later, or commercial). Check this before you redistribute the package.
- `pillow-heif` (for HEIC photos alone) contains libheif and libde265 (LGPL version 3) and libx265 (GPL version 2): its
  wheels are GPL version 2 as a whole. Check this before you redistribute the package.
- `opencv-python-headless` (for landmarks' SIFT) contains FFmpeg (LGPL version 2.1), which scrflow does not call.
- `torch` from PyPI brings NVIDIA's libraries on Linux (envs/torch.lock), under NVIDIA's licences; the CPU builds bring
  none.
"""
_PERMISSIVE = {
    *("Apache Software License", "Apache-2.0", "Apache Software License, BSD License", "ISC", "PSF-2.0", "Python-2.0"),
    *("BSD License", "BSD 3-Clause License", "BSD-2-Clause", "BSD-3-Clause", "MIT", "MIT License", "MIT AND PSF-2.0"),
    "MIT-CMU",
}


def row(*cells: str) -> str:
    return "| " + " | ".join(" ".join(cell.split()) for cell in cells) + " |"


def text() -> str:
    return "\n".join([_HEAD, *weights(), "", *scenes(), "", _PACKAGES, *packages(), ""])


def weights() -> Iterator[str]:
    yield "## Weights\n"
    yield "None is part of this project; a method fetches what it needs (`src/scrflow/storage/weights_registry.yaml`).\n"
    yield from (row("weights", "licence", "commercial use"), "|---|---|---|")
    found: dict[tuple[str, str], list[str]] = {}
    for name, entry in registry().items():
        found.setdefault((entry.licence, entry.commercial_use), []).append(f"`{name}`")
    for (licence, use), names in found.items():
        yield row(", ".join(names), licence, _OPEN[use])


def scenes() -> Iterator[str]:
    yield "## Photos and poses\n"
    yield "Only the demo scene is part of this project. The photos' licence holds for a map made from them.\n"
    yield from (row("scenes (`config/scenes`)", "licence", "commercial use"), "|---|---|---|")
    found: dict[tuple[str, str], list[str]] = {}
    for name, scene in Project(ROOT / "config").scenes.items():
        found.setdefault((scene.licence, scene.commercial_use), []).append(name)
    for (licence, use), names in found.items():
        yield row(", ".join(f"`{name}`" for name in in_short(names)), licence, _OPEN[use])


def in_short(names: list[str]) -> list[str]:
    """Three names or more of one dataset (``7scenes-chess``, ...) as one pattern (``7scenes-*``)."""
    datasets = [name.partition("-")[0] for name in names]
    return list(dict.fromkeys(f"{d}-*" if datasets.count(d) > 2 else n for d, n in zip(datasets, names, strict=True)))


def packages() -> Iterator[str]:
    yield from (row("licence", "packages"), "|---|---|")
    found: dict[str, list[str]] = {}
    for component in json.loads((ROOT / "envs/sbom.json").read_text(encoding="utf-8"))["components"]:
        found.setdefault(licence_of(component), []).append(component["name"])
    for licence in sorted(set(found) - _PERMISSIVE):
        yield row(licence, ", ".join(found[licence]))
    others = sum(len(found[licence]) for licence in set(found) & _PERMISSIVE)
    yield row("MIT, BSD, Apache 2.0, ISC or PSF", f"the other {others}")


def licence_of(component: dict) -> str:
    """Expressions and identifiers where there are any; else the classifiers."""
    entries = [e.get("expression") or e["license"].get("id") or e["license"]["name"] for e in component["licenses"]]
    short = [e for e in entries if not e.startswith("License ::")]
    return ", ".join(short or (e.rpartition(" :: ")[2] for e in entries))


if __name__ == "__main__":
    (ROOT / "docs/licences.md").write_text(text(), encoding="utf-8")
