"""A tiny project in a folder of its own: a copy of the workflow, and a scene cut out of the demo scene."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

REPO = Path(__file__).resolve().parents[2]

CONFIG = {
    "seed": 1,
    "data_root": "elsewhere",
    "buffer_shards": 2,
    "graphs": {"frustum": {"kind": "frustum", "samples": 64, "min_overlap": 0.05}},
    "encodings": {
        "node2vec": {"dim": 16, "walks": 8, "length": 10, "context": 4, "epochs": 1, "min_average_precision": 0.0}
    },
    "retrieval": {"vlad": {"encoder": "small", "clusters": 4, "keypoints": 128, "dim": 8, "pq_bytes": 4}},
}
SCENE = {
    "description": "a few images of the demo scene",
    "licence": "Apache-2.0",
    "synthetic": True,
    "root": "data",
    "in_project": True,
    "source": {"reader": "colmap", "model": "model", "images": "images"},
    "split": {"mapping": "mapping.txt", "queries": {"day": "queries_day.txt", "night": "queries_night.txt"}},
    "depth_range": [0.1, 50],
    "depth_bias": 3,
    "thresholds": [[0.25, 2], [0.5, 5], [5, 10]],
    "method": "quick",
}
ENCODER = {
    "description": "SIFT, small",
    "licence": "BSD-3-Clause",
    "extractor": {"name": "sift", "short_side": 240, "max_keypoints": 256},
    "pca": {"dim": 32, "samples": 2000},
    "buffer": {"samples_per_copy": 128},
}
METHOD = {
    "description": "as small as it gets",
    "encoder": "small",
    "retrieval": "vlad",
    "global_encoding": {"name": "node2vec", "neighbour_share": 0.5},
    "head": {"width": 32, "blocks": 1, "clusters": 4, "refine_blocks": 1, "frequencies": 4},
    "training": {
        "steps": 60,
        "batch_size": 256,
        "checkpoint_every": 10,
        "log_every": 10,
        "precision": "fp32",
        "loss": {"coarse": True, "depth_adjusted": True, "pull": True},
    },
    "localize": {"hypotheses": 2, "max_keypoints": 256, "iterations": 100, "min_inliers": 4},
}
BASELINE = {
    "description": "SIFT, small",
    "features": {"name": "sift", "max_keypoints": 2000, "descriptors": "uint8"},
    "neighbours": 6,
    "retrieval": "vlad",
    "localize": {"retrieved": 24},
}


class Project:
    """A working directory with Snakefile, package, config and a scene ``tiny``; commands run in it."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(parents=True)
        shutil.copy(REPO / "Snakefile", folder)
        for name in ("rules", "workflow", "profiles", "envs", "src"):
            # compiled files too, which are as old as their sources: each project would compile the package again; but
            # none that another process is writing
            shutil.copytree(REPO / name, folder / name, ignore=shutil.ignore_patterns("*.egg-info", "*.pyc.*"))
        self._write_scene(folder / "data")
        self.write("config/config.yaml", CONFIG)
        self.write("config/scenes/tiny.yaml", SCENE)
        self.write("config/encoders/small.yaml", ENCODER)
        self.write("config/methods/quick.yaml", METHOD)

    def copy(self, folder: Path) -> Project:
        """Another project with all that is made here, and nothing to be done in it."""
        shutil.copytree(self.folder, folder, symlinks=True)
        return Project.at(folder)

    @staticmethod
    def at(folder: Path) -> Project:
        """The project that is there."""
        found = object.__new__(Project)
        found.folder = folder
        return found

    def _write_scene(self, data: Path) -> None:
        demo = REPO / "demo"
        data.mkdir()
        (data / "images").symlink_to(demo / "images")
        shutil.copytree(demo / "model", data / "model")
        for name, every, offset in (("mapping", 6, 0), ("queries_day", 14, 3), ("queries_night", 10, 3)):
            lines = (demo / f"{name}.txt").read_text().splitlines()
            (data / f"{name}.txt").write_text("\n".join(lines[offset::every]) + "\n")

    def write(self, path: str, values: dict) -> None:
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(yaml.safe_dump(values, sort_keys=False))

    def edit(self, path: str, old: str, new: str) -> None:
        """Replace text that must be in the file."""
        file = self.folder / path
        text = file.read_text()
        assert old in text, f"{path} has no {old!r}"
        file.write_text(text.replace(old, new))

    def read(self, path: str) -> bytes:
        return (self.folder / path).read_bytes()

    @staticmethod
    def command(*arguments: str) -> list[str]:
        return [sys.executable, "-m", "snakemake", "--cores", "2", *arguments]

    @staticmethod
    def environment() -> dict[str, str]:
        env = {k: v for k, v in os.environ.items() if not k.startswith(("SCRFLOW_", "SNAKEMAKE_", "PYTHONPATH"))}
        return {**env, "XDG_CACHE_HOME": str(Path(env.get("XDG_CACHE_HOME", Path.home() / ".cache")))}

    def snakemake(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self.command(*arguments),
            cwd=self.folder,
            env=self.environment(),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=1200,
        )
        if check and done.returncode:
            pytest.fail(f"snakemake {' '.join(arguments)} failed:\n{done.stdout}")
        return done

    def scrflow(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A command of the project's own package."""
        own = {"PYTHONPATH": str(self.folder / "src"), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
        return subprocess.run(
            [sys.executable, "-m", "scrflow", *arguments],
            cwd=self.folder,
            env={**self.environment(), **own},
            text=True,
            capture_output=True,
            timeout=600,
        )

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """In a process group of its own, so that all of it can be killed at once."""
        return subprocess.Popen(
            self.command(*arguments),
            cwd=self.folder,
            env=self.environment(),
            text=True,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def planned(self, *arguments: str) -> dict[str, int]:
        """Rules that a dry run would run, with the number of jobs of each."""
        out = self.snakemake("-n", *arguments).stdout
        if "Nothing to be done" in out:
            return {}
        table = re.search(r"^job +count\n-+ +-+\n(.*?)^total +\d+", out, re.M | re.S)
        assert table, out
        return {name: int(count) for name, count in (line.split() for line in table[1].splitlines())}

    def stages_of(self, *targets: str) -> dict[str, set[str]]:
        """Scene -> rules that make its files, by the plan for the targets."""
        lines = self.snakemake("--summary", *targets).stdout.split("output_file\t")[1].splitlines()[1:]
        found: dict[str, set[str]] = {}
        for path, _, rule, *_ in (line.split("\t") for line in lines):
            found.setdefault(path.split("/")[1], set()).add(rule)
        return found


POSES = "results/tiny/poses.txt"


def without_scenes(folder: Path) -> Path:
    """A project with the repository's config, but for its scenes and tables."""
    shutil.copytree(REPO / "config", folder / "config", ignore=shutil.ignore_patterns("scenes", "tables"))
    (folder / "config/scenes").mkdir()
    (folder / "Snakefile").touch()
    return folder
