"""The software bill of materials: envs/sbom.json, CycloneDX, of what running scrflow takes (make sbom).

    .venv-tools/bin/python envs/sbom.py .venv/bin/python

cyclonedx-py describes the environment; kept of it are the packages of requirements.txt, their licences and who needs
whom. The same pins give the same bytes: no time, no serial number, no path. The digests are in requirements.lock.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from lock import ROOT, normal, read_pins

KEPT = ("type", "bom-ref", "name", "version", "description", "licenses", "purl")


def main(python: str) -> None:
    tool = Path(sys.executable).with_name("cyclonedx-py")
    form = ("--output-reproducible", "--output-format", "JSON", "--spec-version", "1.6")
    command = [tool, "environment", *form, "--pyproject", ROOT / "pyproject.toml", python]
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, text=True, check=True)
    bom = trimmed(json.loads(done.stdout), site_packages(python))
    (ROOT / "envs/sbom.json").write_text(json.dumps(bom, indent=1) + "\n", "utf-8")


def site_packages(python: str) -> Path:
    command = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    return Path(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip())


def licence_title(folder: Path, name: str) -> str:
    """First line of the licence file that a package ships, for one whose metadata declare nothing."""
    for info in folder.glob("*.dist-info"):
        if normal(info.name.partition("-")[0]) == name:
            for path in sorted([*info.glob("LICEN*"), *info.glob("licenses/LICEN*")]):
                return path.read_text(encoding="utf-8").strip().splitlines()[0].strip()
    return "unknown"


def trimmed(bom: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The packages of requirements.txt alone. ValueError where the environment has not these versions."""
    pins = read_pins(ROOT / "requirements.txt")
    components, refs = [], {}
    for component in bom["components"]:
        name, version = normal(component["name"]), component["version"].partition("+")[0]
        if name not in pins:
            continue
        if version != pins[name]:
            raise ValueError(f"{name} {version} is installed, {pins[name]} is pinned: make setup")
        ref = refs[component["bom-ref"]] = f"pkg:pypi/{name}@{version}"  # without the build of torch, as all else
        if not component.get("licenses"):
            component["licenses"] = [{"license": {"name": licence_title(folder, name)}}]
        component |= {"bom-ref": ref, "purl": ref, "version": version}
        components.append({key: component[key] for key in KEPT if key in component})
    missing = sorted(set(pins) - {normal(c["name"]) for c in components})
    if missing:
        raise ValueError(f"{', '.join(missing)}: pinned, not installed: make setup")
    root = bom["metadata"]["component"]["bom-ref"]
    refs[root] = root
    needs = [
        {"ref": refs[d["ref"]], "dependsOn": sorted(refs[r] for r in d.get("dependsOn", ()) if r in refs)}
        for d in bom["dependencies"]
        if d["ref"] in refs
    ]
    bom["metadata"]["component"] = {k: v for k, v in bom["metadata"]["component"].items() if k in KEPT}
    bom["metadata"].pop("properties", None)
    bom["metadata"]["tools"] = {"components": [
        {key: tool[key] for key in ("type", "name", "version") if key in tool}
        for tool in bom["metadata"]["tools"]["components"]
    ]}  # fmt: skip
    return bom | {
        "components": sorted(components, key=lambda c: c["bom-ref"]),
        "dependencies": sorted(needs, key=lambda d: d["ref"]),
    }


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    try:
        main(sys.argv[1])
    except ValueError as error:
        sys.exit(f"error: {error}")
