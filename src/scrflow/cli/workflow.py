"""Commands that run the workflow, or say what it will cost: run, plan."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scrflow.cli.options import ConfigDir
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
    scene: Annotated[str | None, typer.Argument(help="A scene of config/scenes; without one: give --images.")] = None,
    method: Annotated[str | None, typer.Option(help="Default: the scene's; rscore-cpu without a scene.")] = None,
    images: Annotated[int | None, typer.Option(min=1, help="Mapping images.")] = None,
    queries: Annotated[int | None, typer.Option(min=1, help="Default: the scene's; 100 without a scene.")] = None,
    resolution: Annotated[
        str | None, typer.Option(metavar="WxH", help="Of the photos on disk. Default: 640x480.")
    ] = None,
    neighbours: Annotated[
        float | None, typer.Option(min=1, help="Covisible images an image; default: the graph's, or a city's 16.5.")
    ] = None,
    bare: Annotated[
        bool, typer.Option("--bare", help="Without a scene: photos without poses, SfM comes first.")
    ] = False,
    profile: Annotated[Path | None, typer.Option(help="Snakemake's profile to check against.")] = None,
    cores: Annotated[int | None, typer.Option(min=1, help="Of this machine; default: all.")] = None,
    gpu: Annotated[
        str | None, typer.Option(help="Train on quadro-rtx-6000 or rtx-4090, by the papers' times; default: the CPU.")
    ] = None,
    calibrate: Annotated[
        list[Path] | None,
        typer.Option(metavar="FOLDER", help="results/SCENE/METHOD of your own: rates are brought to your machine."),
    ] = None,
    rates: Annotated[bool, typer.Option("--rates", help="Print every rate with its range and source.")] = False,
    config: ConfigDir = Path("config"),
) -> None:
    """Print what a scene will cost, stage by stage, from measured rates, and what does not fit, before anything starts.

    "extrapolated x 20" is of a rate that was measured up to a twentieth of that. Exit status 1 when a stage does not
    fit the rules' or the profile's memory and time, or this machine; the line says how to mend it.

    Example: scrflow plan redkitchen

    Example: scrflow plan --images 100000 --method rscore --resolution 1600x1200 --profile profiles/slurm --gpu rtx-4090

    Example: scrflow plan aachen --images 4328 --queries 922 --calibrate results/demo/rscore-cpu --rates
    """
    from scrflow.cli.plan import PlanRequest
    from scrflow.cli.plan import plan as command

    with exit_on_error(2):
        fits = command(
            PlanRequest(
                scene=scene,
                method=method,
                images=images,
                queries=queries,
                resolution=resolution,
                neighbours=neighbours,
                bare=bare,
                profile=profile,
                cores=cores,
                gpu=gpu,
                calibrate=tuple(calibrate or ()),
                rates=rates,
                config=config,
            )
        )
    raise typer.Exit(0 if fits else 1)
