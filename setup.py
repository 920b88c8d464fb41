"""What pyproject.toml cannot say: a wheel has the files of the workflow, which lie at the top of the project."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

# into scrflow/_project, where scrflow.pipeline.configs finds them
FILES = (
    *("Snakefile", "rules", "workflow", "config", "profiles", "envs/scrflow.yaml", "envs/hloc.yaml"),
    *("demo/images", "demo/model", "demo/mapping.txt", "demo/queries_day.txt", "demo/queries_night.txt"),
)


def workflow_files() -> list[str]:
    """Every file of FILES, without what Python compiles."""
    found = []
    for name in FILES:
        path = Path(name)
        files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
        found += [str(file) for file in files if file.suffix != ".pyc"]
    return sorted(found)


class BuildWithWorkflow(build_py):
    """An editable installation runs the files where they lie: nothing is copied for it."""

    def run(self) -> None:
        super().run()
        for name, copy in self._copies().items():
            os.makedirs(os.path.dirname(copy), exist_ok=True)
            shutil.copyfile(name, copy)
            shutil.copymode(name, copy)  # profiles have scripts

    def _copies(self) -> dict[str, str]:
        if self.editable_mode:
            return {}
        return {name: os.path.join(self.build_lib, "scrflow", "_project", name) for name in workflow_files()}

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        return [*super().get_outputs(include_bytecode), *self._copies().values()]

    def get_source_files(self) -> list[str]:
        """For the source distribution, which a wheel can be built from too."""
        return [*super().get_source_files(), *workflow_files()]


setup(cmdclass={"build_py": BuildWithWorkflow})
