"""Commands that run the workflow, or say what it will cost: run, plan."""

from __future__ import annotations

from typing import Annotated

import typer

from scrflow.core.errors import exit_on_error


def run(
    scene: Annotated[str, typer.Argument(metavar="SCENE", help="A scene of config/scenes, e.g. demo.")],
    snakemake: Annotated[
        list[str] | None, typer.Argument(metavar="-- SNAKEMAKE_ARGS", help="Passed on to Snakemake.")
    ] = None,
    method: Annotated[
        str | None, typer.Option(help="Of config/methods or config/baselines; default: the scene's.")
    ] = None,
    cores: Annotated[int | None, typer.Option(min=1, help="Default: all of this machine.")] = None,
) -> None:
    """Run the workflow of a scene, from photos to poses.

    Shows the progress, and ends with the summary. Run it again to go on after a stop. Everything lands in
    results/SCENE; the full log is results/SCENE/logs/run.log.

    Example: scrflow run demo

    Example: scrflow run redkitchen --method ace-cpu --cores 4

    Example: scrflow run yard -- --config seed=3 --rerun-triggers mtime
    """
    from scrflow.cli.run import run_scene

    run_scene(scene, method, cores, snakemake or [])


def plan(
    scene: Annotated[str, typer.Argument(metavar="SCENE", help="A scene of config/scenes.")],
    method: Annotated[str | None, typer.Option(help="Default: the scene's.")] = None,
    images: Annotated[int | None, typer.Option(min=1, help="Plan for this number of mapping images.")] = None,
    queries: Annotated[int | None, typer.Option(min=1, help="Plan for this number of queries.")] = None,
    cores: Annotated[int | None, typer.Option(min=1, help="Default: all of this machine.")] = None,
) -> None:
    """Print what a scene will cost, and what does not fit.

    Jobs and limits are those of the rules. Time, memory and disk are scaled by the scene's size from the benchmark
    files of finished scenes under results/, or else from figures measured on the demo. Training is on the CPU. Exit
    status 1 when a job does not fit its limits or this machine; the line says what to change.

    Example: scrflow plan demo

    Example: scrflow plan redkitchen --method rscore --images 20000 --cores 16
    """
    from scrflow.cli.plan import print_plan

    with exit_on_error(2):
        fits = print_plan(scene, method, images, queries, cores)
    raise typer.Exit(0 if fits else 1)
