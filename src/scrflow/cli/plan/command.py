"""What ``scrflow plan`` does."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from scrflow.cli.plan.calibrate import calibrated
from scrflow.cli.plan.limits import check, default_cores, read_limits
from scrflow.cli.plan.rates import load_rates
from scrflow.cli.plan.show import show_compared, show_plan, show_problems, show_rates
from scrflow.cli.plan.stages import stages_of
from scrflow.cli.plan.workload import resolution, workload_of
from scrflow.core.errors import ScrflowError
from scrflow.pipeline.project import Project

DEFAULT_METHOD = "rscore-cpu"  # of a scene that does not exist


@dataclass(frozen=True)
class PlanRequest:
    """What the command line asks for."""

    scene: str | None
    method: str | None = None
    images: int | None = None
    queries: int | None = None
    resolution: str | None = None
    neighbours: float | None = None
    bare: bool = False
    profile: Path | None = None
    cores: int | None = None
    gpu: str | None = None
    calibrate: tuple[Path, ...] = ()
    rates: bool = False
    config: Path = Path("config")
    results: Path = Path("results")
    rules: Path = Path("rules")


def plan(request: PlanRequest, console: Console | None = None) -> bool:
    """Print the plan; whether everything fits. ScrflowError for what cannot be planned."""
    console = console or Console(highlight=False)
    project, rates = Project(request.config), load_rates()
    if request.calibrate:
        plain = rates
        rates, compared = calibrated(project, request.calibrate, plain)
        show_compared(console, compared)
        if request.scene is None and request.images is None:
            return True
    if request.scene is None and request.images is None:
        raise ScrflowError("nothing to plan: name a scene of config/scenes, or give --images")
    if request.scene is not None:
        project.scene(request.scene)
    method = request.method or (DEFAULT_METHOD if request.scene is None else project.scene(request.scene).method)
    size = None if request.resolution is None else resolution(request.resolution)
    work = workload_of(
        project, request.scene, request.results, request.images, request.queries, size, request.neighbours, request.bare
    )
    graph = "frustum" if request.scene is None else project.scene(request.scene).graph
    stages = stages_of(project, method, work, rates, None if request.gpu in (None, "none") else request.gpu, graph)
    cores = request.cores or default_cores()
    limits = read_limits(request.rules, project.method(method), request.profile, cores)
    show_plan(console, f"{request.scene or 'a scene'}, {method}", stages, work, limits, cores, rates)
    if request.rates:
        show_rates(console, stages, rates)
    problems = check(stages, limits, project, request.results, cores)
    show_problems(console, problems, limits)
    return not problems
