"""Gives tiny projects and a small disk to the tests, and deals the tests out to processes (pytest -n)."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from exif_photos import colmap, photo  # noqa: F401
from fake_server import server  # noqa: F401
from filelock import FileLock
from graph_helpers import ring_views  # noqa: F401
from tiny_project import POSES, REPO, Project

# folders whose files take minutes: begun last, one of them would be waited for by the other processes
_LONG = ("tests/cluster/", "tests/workflow/", "tests/faults/")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    paths = {item: item.path.relative_to(REPO).as_posix() for item in items}
    items.sort(key=lambda item: next((i for i, long in enumerate(_LONG) if paths[item].startswith(long)), len(_LONG)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Tests of a file run in one process, one after another, as do all that use the SLURM node."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.split("::")[0]
            return _LONG[0] if file.startswith(_LONG[0]) else file

    config.option.loadscopereorder = False  # it would begin with the files of the most tests
    return ByFile(config, log)


@pytest.fixture()
def project(tmp_path: Path) -> Project:
    """A fresh project, nothing run."""
    return Project(tmp_path / "project")


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder that is made once for all processes: change nothing in it."""
    own = factory.getbasetemp()
    root = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / name
    with FileLock(root.with_suffix(".lock")):
        if not root.with_suffix(".done").exists():
            shutil.rmtree(root, ignore_errors=True)
            make(root)
            root.with_suffix(".done").touch()
    return root


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose poses are made; tests that change something in it must put it back."""
    pristine = once(tmp_path_factory, "pristine", lambda root: Project(root).snakemake(POSES))
    # each process has a copy, as one may change something while another reads it
    return Project.at(pristine).copy(tmp_path_factory.getbasetemp() / "finished" / "project")


@pytest.fixture()
def copied(finished: Project, tmp_path: Path) -> Project:
    """A copy of it, to be changed."""
    return finished.copy(tmp_path / "project")


@pytest.fixture(scope="session")
def wall_map(tmp_path_factory: pytest.TempPathFactory):
    """A painted wall's photos, scene and map (``plane_map.PlaneMap``): change nothing."""
    import plane_map

    return plane_map.PlaneMap.at(once(tmp_path_factory, "wall", plane_map.build))


@pytest.fixture(scope="session")
def wall_landmarks(tmp_path_factory: pytest.TempPathFactory):
    """A map of landmarks alone of the painted wall; beside ``photos`` lie ``graph.npz`` and ``tracks.h5``: change
    nothing."""
    import plane_map

    return plane_map.PlaneMap.at(once(tmp_path_factory, "landmarks", plane_map.build_landmarks))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Playwright's browser: the system's Chromium, without a window. The test is skipped where there is none."""
    names = ("chromium", "chromium-browser", "google-chrome")
    program = next((path for path in map(shutil.which, names) if path), None)
    if program is None:
        pytest.skip("no chromium here (Debian: apt install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # without a sandbox, which root has none of; the software renderer, as there may be no GPU
        opened = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--use-angle=swiftshader"])
        yield opened
        opened.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 kB, which can be given another size by a remount."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture(scope="session")
def inputs(tmp_path_factory) -> dict:
    """Artifacts of the synthetic scene that training reads."""
    import synthetic

    from scrflow.config import SampleDepthConfig, SampleDepthStage
    from scrflow.depths.matched import estimate_sample_depths

    folder = tmp_path_factory.mktemp("inputs")
    buffer, _, _ = synthetic.scene(0.3)
    shards = synthetic.write_shards(buffer, folder)
    graph = synthetic.write_graph(folder)
    depth = folder / "depth.h5"
    estimate_sample_depths(SampleDepthStage(depth=SampleDepthConfig(), seed=1), graph, shards, depth, 1)
    return {"shards": shards, "graph": graph, "encoding": synthetic.write_encoding(folder), "depth": depth}


@pytest.fixture(scope="session")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small file that is right, by reader."""
    from sound_files import write_all

    return write_all(tmp_path_factory.mktemp("sound"))
