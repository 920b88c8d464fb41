"""Commands that look at results: summary, costs, diff, verify, inspect, report, table."""

from pathlib import Path
from typing import Annotated

import typer

from scrflow.cli import ALL, ConfigDir, Threads
from scrflow.core.errors import ScrflowError, exit_on_error

_OF = "results/SCENE/METHOD, or results/SCENE."
Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help=_OF)]
Folders = Annotated[list[Path], typer.Argument(metavar="FOLDER...", help=_OF)]


def summary(
    folders: Folders,
    config: ConfigDir = Path("config"),
) -> None:
    """Print errors, recall, size and times of results, and name their files.

    A scene's folder stands for its default method.

    Example: scrflow summary results/demo results/demo/ace-cpu
    """
    from scrflow.report.summary import print_summary

    print_summary([_method_folder(folder, config) for folder in folders])


def inspect(files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Artifacts of results/.")]) -> None:
    """Print what an artifact holds.

    Example: scrflow inspect results/demo/covisibility.npz results/demo/rscore-cpu/map.safetensors
    """
    from rich.console import Console

    from scrflow.cli.inspection import inspect_file

    console = Console()
    for path in files:
        console.print(inspect_file(path))


def diff(
    a: Annotated[Path, typer.Argument(metavar="RESULTS_A", help="results/SCENE/METHOD, results/SCENE, or results.")],
    b: Annotated[Path, typer.Argument(metavar="RESULTS_B", help="Of the same kind.")],
    queries: Annotated[int, typer.Option(min=0, help="Most queries named for each threshold.")] = 5,
) -> None:
    """Compare two results, and say why they differ.

    Prints the first stage that differs (config, code or data), packages and device, then recall, errors, map size,
    times, and the queries that changed sides of a threshold.

    Exit status 0 when recipe, poses and map size are the same (times, packages and device may differ), 1 when they
    differ, 2 on an error.

    Example: scrflow diff results/demo/rscore-cpu results/demo/rscore-cpu-sift

    Example: scrflow diff ../before/results results --queries 20
    """
    from scrflow.report.diff import print_difference

    with exit_on_error(2):
        differ = print_difference(a, b, queries)
    raise typer.Exit(int(differ))


def costs(
    folders: Folders,
    config: ConfigDir = Path("config"),
) -> None:
    """Print time and memory of every job that a map needed, the mapping time, and the cost of localization.

    Example: scrflow costs results/demo/rscore-cpu
    """
    from scrflow.report.costs import print_costs

    print_costs([_method_folder(folder, config) for folder in folders])


def verify(paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Artifacts, or folders.")]) -> None:
    """Check artifacts against the checksums in them, after a copy or when a disk is in doubt.

    Names every damaged file, and then ends with exit status 1. Logs, pictures and tables have no checksums.

    Example: scrflow verify results

    Example: scrflow verify results/demo/rscore-cpu/map.safetensors
    """
    from scrflow.report.diff import print_verification

    if not print_verification(paths):
        raise typer.Exit(1)


def report(
    folder: Folder,
    out: Annotated[Path | None, typer.Option(help="The page; default: FOLDER/report.html.")] = None,
    threads: Threads = ALL,
    config: ConfigDir = Path("config"),
) -> None:
    """Write the HTML page of a result: how good the map is, where it fails, how it was made.

    A few queries are localized again for it, so the scene's photos must be at hand.

    Example: scrflow report results/demo/rscore-cpu
    """
    from scrflow.report.page.page import write_report

    folder = _method_folder(folder, config)
    out = out or folder / "report.html"
    write_report(folder, out, threads)
    print(f"written: {out}")


def view(
    folder: Folder,
    port: Annotated[int, typer.Option(min=1, max=65535, help="On localhost.")] = 8080,
    threads: Threads = ALL,
    config: ConfigDir = Path("config"),
) -> None:
    """Show a result in 3D in the browser: points, cameras, queries and their errors.

    While the method is being trained, shows the scene coordinates of each checkpoint. Reaches no other machine:
    from elsewhere, forward the port (ssh -L 8080:localhost:8080 HOST).

    Example: scrflow view results/demo/rscore-cpu
    """
    from scrflow.report.view import view as serve

    serve(_method_folder(folder, config), port, threads)


def table(
    file: Annotated[Path, typer.Argument(metavar="FILE.csv", help="results/tables/NAME.csv.")],
    check: Annotated[Path | None, typer.Option(metavar="STORED.csv", help="Compare with this table instead.")] = None,
    tolerance: Annotated[
        list[str] | None,
        typer.Option(metavar="METRIC=VALUE", help="With --check: least difference that counts; times need one."),
    ] = None,
) -> None:
    """Print a table, or check it against a stored one.

    Two means agree when they are no further apart than twice the standard error of their difference over the seeds;
    recalls also when one query is between them. Exit status with --check: 0 when all cells agree, 1 when any is outside
    or missing, 2 on an error.

    Example: scrflow table results/tables/claims@demo.csv

    Example: scrflow table results/tables/claims@demo.csv --check docs/tables/claims@demo.csv --tolerance median_t=0.01
    """
    from scrflow.report.stored import parse_tolerances, print_check, print_table, read_table

    with exit_on_error(2):
        new = read_table(file)
        if check is None:
            if tolerance:
                raise ScrflowError("--tolerance needs --check STORED.csv; add it, or leave --tolerance out")
            print_table(new)
            return
        agrees = print_check(new, read_table(check), parse_tolerances(tolerance or []))
    raise typer.Exit(0 if agrees else 1)


def _method_folder(folder: Path, config: Path) -> Path:
    from scrflow.pipeline.project import Project

    if not (folder / "metrics.json").exists() and folder.is_dir():
        project = Project(config)
        if folder.resolve().name in project.scenes:
            return folder / project.scene(folder.resolve().name).method
    return folder
