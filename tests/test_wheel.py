"""The wheel, in environments that have nothing but what it asks for: localizing, and the workflow in any folder."""

import importlib.metadata
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Sequence
from pathlib import Path

import plane_map
import pytest
from packaging.requirements import Requirement
from tiny_project import REPO

FILES = ("pyproject.toml", "setup.py", "README.md", "LICENSE", "src", "Snakefile", "rules", "workflow", "config")
FILES += ("profiles", "envs", "demo")


@pytest.fixture(scope="session")
def wheel(tmp_path_factory) -> Path:
    """Of a copy of the checkout, as a build leaves its traces there."""
    folder = tmp_path_factory.mktemp("wheel")
    ignored = shutil.ignore_patterns("*.egg-info", "__pycache__")
    for name in FILES:
        source, copy = REPO / name, folder / "checkout" / name
        copy.parent.mkdir(exist_ok=True)
        shutil.copytree(source, copy, ignore=ignored) if source.is_dir() else shutil.copy(source, copy)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--wheel-dir", folder, folder / "checkout"], check=True)
    return next(folder.glob("*.whl"))


def needed(distribution: importlib.metadata.Distribution, extra: str, found: dict, without: Sequence[str] = ()) -> dict:
    """Everything that a distribution needs with an extra ("": without), by name, as far as it is installed here."""
    for requirement in map(Requirement, distribution.requires or ()):
        if requirement.name in without:
            continue
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            for wanted in requirement.extras or {""}:
                if (requirement.name, wanted) not in found:
                    other = importlib.metadata.distribution(requirement.name)
                    found[requirement.name, wanted] = other
                    needed(other, wanted, found)
    return found


def install(wheel: Path, folder: Path, light: bool = False) -> Path:
    """A virtual environment with the wheel and, as links into this one, what it needs, or what a ``light`` installation
    has of it. Its ``bin``."""
    declared = tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))
    without = declared["tool"]["scrflow"]["workflow-only"] if light else ()
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin/python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel]
    subprocess.run(pip, check=True, env=environment())
    here = Path(sysconfig.get_path("purelib"))
    there = folder / here.relative_to(sys.prefix)
    scrflow = next(importlib.metadata.distributions(name="scrflow", path=[str(there)]))
    for other in needed(scrflow, "", {}, without).values():
        for name in {file.parts[0] for file in other.files or ()} - {"..", "__pycache__"}:
            if not (there / name).exists():
                (there / name).symlink_to(here / name)
    return folder / "bin"


def environment() -> dict[str, str]:
    """Without the checkout on Python's path."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("SCRFLOW_", "SNAKEMAKE_", "PYTHONPATH"))}


def scrflow(bin_: Path, folder: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [bin_ / "scrflow", *arguments]
    return subprocess.run(command, cwd=folder, env=environment(), text=True, capture_output=True)


def test_a_light_installation_localizes_and_names_the_rest(wheel, tmp_path):
    bin_ = install(wheel, tmp_path / "venv", light=True)
    wall = plane_map.build_landmarks(tmp_path / "wall")
    photo = next(iter(wall.queries))
    told = ("--camera", plane_map.CAMERA_LINE, "--out", "poses.txt", "--threads", "1")
    done = scrflow(bin_, tmp_path, "localize", wall.map, wall.photos / photo, *told)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "1 of 1 photos have a pose: poses.txt\n"

    refused = scrflow(bin_, tmp_path, "run", "demo")
    line = f"error: snakemake is not installed; pip install 'scrflow @ {wheel.as_uri()}'\n"
    assert (refused.returncode, refused.stderr) == (1, line)
    assert not (tmp_path / "results").exists()


@pytest.mark.long
def test_the_workflow_runs_in_any_folder(wheel, tmp_path):
    bin_ = install(wheel, tmp_path / "venv")
    photos, work = tmp_path / "yard", tmp_path / "work"
    shutil.copytree(REPO / "demo/images/mapping", photos, ignore=lambda _, names: sorted(names)[10:])
    work.mkdir()
    done = scrflow(bin_, work, "run", photos, "--cores", "2")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(f"report: {work}/results/yard/landmarks/report.html\n")
    assert (work / "results/yard/poses.txt").read_text()
    assert sorted(p.name for p in work.iterdir() if p.name != ".snakemake") == ["config", "results"]
    assert [p.name for p in (work / "config/scenes").iterdir()] == ["yard.yaml"]

    # a file in the folder replaces the wheel's of that name, or adds to them
    (work / "config/methods").mkdir()
    (work / "config/methods/few.yaml").write_text("extends: landmarks\nlandmarks: {count: 100}\n")
    (work / "config/config.yaml").write_text("seed: 5\n")
    planned = scrflow(bin_, work, "run", "demo", "--method", "few", "--", "--dry-run", "--cores", "1")
    assert planned.returncode == 0 and "demo: map file, few" in planned.stdout, planned.stderr
