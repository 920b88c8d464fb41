"""``scrflow run``: call Snakemake for a scene and a method, show its progress, and end with the summary."""

import contextlib
import importlib.util
import itertools
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from scrflow.core.errors import ScrflowError
from scrflow.pipeline.configs import RESERVED, SHIPPED, snakefile
from scrflow.pipeline.project import Project

_OWN_CORES = ("-c", "--cores", "-j", "--jobs", "--profile", "--workflow-profile", "-e", "--executor")
_SAYS_NOTHING = frozenset({"images", "photos", "rgb", "input", "frames", "transforms", "poses", "dcim", "sparse", "0"})
_DRY = ("-n", "--dry-run", "--dryrun")


def run_scene(scene: str, methods: Sequence[str], cores: int | None, arguments: Sequence[str]) -> None:
    """Make poses and report of the scene by each method (none: the scene's), and print the summary.

    ``arguments`` are passed on to Snakemake. ScrflowError for an unknown scene or method and, with the failing job's
    error and the path of the log, when Snakemake fails.
    """
    chosen = [targets_of(scene, method) for method in methods or (None,)]
    folders = [folder for folder, _ in chosen]
    command = [sys.executable, "-m", "snakemake", *(target for _, targets in chosen for target in targets)]
    command += ["--snakefile", str(snakefile())]
    own = [argument.partition("=")[0] for argument in arguments]
    if cores is not None or not any(name in _OWN_CORES for name in own):
        command += ["--cores", str(cores or default_cores())]
    command += arguments
    if any(name in _DRY for name in own):
        sys.exit(subprocess.run(command).returncode)
    log = Path("results", scene, "logs/run.log")
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "w", encoding="utf-8") as file:
        status, error = _run_snakemake(command, file)
    if status:
        raise ScrflowError(f"{error} (full log: {log})")
    if made := [folder for folder in folders if (folder / "metrics.json").is_file()]:
        from scrflow.report.summary import print_summary

        print_summary(made)
    for folder in folders:
        if (folder / "report.html").is_file():  # not where Snakemake was asked for less
            print(f"report: {(folder / 'report.html').absolute()}")


def enter_project(config: Path = Path("config")) -> Path:
    """Change to the project's folder, which relative paths of a config are relative to: the one that ``config`` is in;
    by default the one that this folder is in, else the checkout that scrflow is installed from. Installed from a wheel,
    every folder is one: results and config/scenes are written there. Returns the config's path there."""
    if importlib.util.find_spec("snakemake") is None:  # before another package of the extra is missed
        raise ModuleNotFoundError(name="snakemake")
    here = Path.cwd()
    if config != Path("config"):
        config = config.expanduser().absolute()
        if not config.is_dir():
            raise ScrflowError(f"{config}: no such folder; correct --config")
        os.chdir(config.parent)
        return Path(config.name)
    for folder in (here, *here.parents, *([] if SHIPPED else [Path(__file__).resolve().parents[3]])):
        if all((folder / name).exists() for name in ("Snakefile", "config/config.yaml", "config/methods")):
            if folder != here:
                print(f"project: {folder}", file=sys.stderr)
                os.chdir(folder)
            return config
    if SHIPPED is not None:
        return config
    raise ScrflowError(f"{here}: no Snakefile and config here; change to the folder of the scrflow project")


def scene_of(given: str, path: Path, **options: Any) -> str:
    """The scene of that name; else that of the photos at ``path``, whose config is written where there is none.
    ``options`` are those of NewScene."""
    from scrflow.newscene import NewScene, new_scene
    from scrflow.newscene.draft import command_of, written_by

    path = Path(os.path.abspath(path))  # without "..", as new-scene writes it
    project = Project("config")

    def command(name: str) -> list[str]:
        """Of the config of this path."""
        words = written_by(project.path_of(f"scenes/{name}.yaml")) if name in project.scenes else []
        return words if words[3:4] == [str(path)] else []

    if given not in project.scenes and not path.exists():
        raise ScrflowError(
            f"{path}: no such file or folder, and no scene {given!r} in config/scenes (scrflow validate lists them); "
            "correct it"
        )
    if given in project.scenes and not any(options.values()):
        return given
    if given in project.scenes and not command(given):
        raise ScrflowError(f"{given}: a scene of config/scenes; change its config instead of giving options")
    name = _slug(path)
    taken = {*project.methods, *project.baselines, *RESERVED}
    for number in itertools.count(2):
        asked = NewScene(name=name, path=path, **options)
        if name not in project.scenes and name not in taken:
            new_scene(asked, Path("config"))
            return name
        if words := command(name):
            config, before = f"config/scenes/{name}.yaml", shlex.join(words[4:]) or "none"
            if any(options.values()) and words != command_of(asked):
                raise ScrflowError(f"{config}: written with other options ({before}); change or remove it")
            print(f"scene {name}: goes on with {config}", file=sys.stderr)
            return name
        name = f"{_slug(path)}-{number}"


def print_check(scene: str, path: Path, config: Path) -> bool:
    """Print how good the photos of a scene, or those at ``path``, are; whether there is advice."""
    from scrflow.newscene.capture import judge
    from scrflow.newscene.draft import print_findings

    found = judge(scene, path, Project(config))
    print_findings(Console(soft_wrap=True), found.rows, found.advice)
    return bool(found.advice)


def _slug(path: Path) -> str:
    """A scene's name from a path: that of the folder, or of the one above it where it says nothing (``images``)."""
    named = path.with_suffix("") if path.is_file() else path
    while named.name.lower() in _SAYS_NOTHING and named.parent.name:
        named = named.parent
    return re.sub(r"[^A-Za-z0-9._-]+", "-", named.name).strip("-._") or "scene"


def targets_of(scene: str, method: str | None) -> tuple[Path, list[str]]:
    """The folder results/SCENE/METHOD, and the files that Snakemake is asked for: the report, which needs all else, and
    the scene's poses where the method is its default one.

    ScrflowError for an unknown scene or method.
    """
    project = Project("config")
    default = project.scene(scene).method
    known = [*project.methods, *project.baselines]
    if method is not None and method not in (*known, *project.variants):
        there = ", ".join(known)
        raise ScrflowError(f"no method {method!r} under config/methods or config/baselines; there are {there}")
    folder = Path("results", scene, method or default)
    report = str(folder / "report.html")
    return folder, [report] if method not in (None, default) else [report, f"results/{scene}/poses.txt"]


def default_cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Output:
    """What Snakemake's output says: the jobs that run and that are done, and what went wrong."""

    def __init__(self) -> None:
        self.done = 0
        self.total: int | None = None
        self._running: dict[str, str] = {}  # job id -> message
        self._job_error = self._job_log = ""
        self._exception: list[str] | None = None  # lines of Snakemake's first exception

    def read(self, line: str) -> str | None:
        """Take a line; return what the user should see of it."""
        if self._exception and self._exception[-1]:  # goes on to the next blank line, or to the code that raised it
            self._exception.append("" if line.startswith("  File ") else line.strip())
        if found := re.fullmatch(r"Job (\d+): (.*)", line):
            self._running[found[1]] = found[2]
        elif found := re.match(r"Finished jobid: (\d+)", line):
            self.done += 1
            return f"{self.done}/{self.total} {self._running.pop(found[1], '')}"
        elif found := re.fullmatch(r"total +(\d+)", line):
            self.total = int(found[1])
        elif found := re.fullmatch(r"\[([^]]+)\] error: (.*)", line):
            self._job_error = f"{found[1]}: {found[2]}"
        elif found := re.match(r" +log: (\S.*) \(check log", line):
            self._job_log = found[1]
        elif self._exception is None and re.match(r"\w+(Error|Exception)\b.*:$", line):
            self._exception = [line]
        return line if line.startswith("licence: ") else None

    def now(self) -> str:
        """The jobs that run."""
        return "; ".join(self._running.values()) or "Snakemake works out the jobs"

    def error(self) -> str:
        """The error line of the last job that failed, or the last line of its log, or Snakemake's own exception."""
        if self._job_error:
            return self._job_error
        log = Path(self._job_log)
        if self._job_log and log.is_file():
            lines = log.read_text("utf-8", errors="replace").split("\n")
            return f"{log}: {next((line for line in reversed(lines) if line.strip()), 'empty')}"
        return " ".join((self._exception or ["", "Snakemake failed"])[1:]).strip()


def _run_snakemake(command: Sequence[str], log: TextIO) -> tuple[int, str]:
    """Run Snakemake; show a bar on a terminal, elsewhere a line a finished job. Its exit status and its error."""
    console, output = Console(stderr=True, highlight=False), _Output()
    columns = (TextColumn("{task.description}", markup=False), BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn())
    with (
        _started(command) as process,
        Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar,
    ):
        task = bar.add_task("", total=None)
        for line in process.stdout:
            log.write(line)
            log.flush()
            shown = output.read(line.rstrip("\n"))
            if shown and not (console.is_terminal and shown[0].isdigit()):
                console.print(shown, markup=False, soft_wrap=True)
            now = output.now()[: max(20, console.width - 42)]
            bar.update(task, description=now, completed=output.done, total=output.total)
    return process.returncode, output.error()


@contextlib.contextmanager
def _started(command: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    """Snakemake in a process group of its own: when this process is stopped, the whole group is."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGHUP)}
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "errors": "replace"}
    process = subprocess.Popen(command, start_new_session=True, **output)
    try:
        yield process
        process.wait()
    except BaseException as error:
        os.killpg(process.pid, signal.SIGINT)
        process.communicate()
        if isinstance(error, KeyboardInterrupt):
            raise ScrflowError("stopped; run the same command again to go on") from None
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
