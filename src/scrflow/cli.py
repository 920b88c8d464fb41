"""The command line: look at artifacts, results and config. The stages themselves are run by Snakemake."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from scrflow.errors import ScrflowError

app = typer.Typer(
    name="scrflow",
    help="Visual localization by scene coordinate regression: look at artifacts, results and config.\n\n"
    "The pipeline is run by Snakemake: snakemake --cores 8 results/demo/poses.txt",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

ConfigDir = Annotated[Path, typer.Option("--config", help="Folder of the config.")]


@app.command()
def inspect(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Artifacts under results/.")],
) -> None:
    """Print what is in any artifact.

    Example: scrflow inspect results/demo/covisibility.npz results/demo/rscore-cpu/map.safetensors
    """
    from rich.console import Console

    from scrflow.inspection import inspect_file

    console = Console()
    for path in files:
        console.print(inspect_file(path))


@app.command()
def summary(
    folders: Annotated[list[Path], typer.Argument(metavar="FOLDER...", help="results/SCENE/METHOD, or results/SCENE.")],
    config: ConfigDir = Path("config"),
) -> None:
    """Print the table of one or more results, and name their pictures. A scene's folder stands for its default method.

    Example: scrflow summary results/demo results/demo/ace-cpu
    """
    from scrflow.report import print_summary

    print_summary([_method_folder(folder, config) for folder in folders])


def _method_folder(folder: Path, config: Path) -> Path:
    from scrflow.config import Project

    if not (folder / "metrics.json").exists() and folder.is_dir():
        project = Project(config)
        if folder.resolve().name in project.scenes:
            return folder / project.scene(folder.resolve().name).method
    return folder


@app.command()
def validate(config: ConfigDir = Path("config")) -> None:
    """Check the whole config, and say which scenes' photos are at hand.

    Example: SCRFLOW_DATA=/data scrflow validate
    """
    from rich.console import Console
    from rich.table import Table

    from scrflow.config import Project

    project = Project(config)
    table = Table("scene", "reader", "default method", "photos")
    for name, scene in project.scenes.items():
        table.add_row(name, scene.source.reader, scene.method, _photos(project, name))
    console = Console()
    console.print(table)
    console.print(f"encoders: {', '.join(project.encoders)}", f"methods: {', '.join(project.methods)}", sep="\n")


def _photos(project: Any, name: str) -> str:
    root = project.scene_root(name)
    if root.is_dir():
        return f"in {root}"
    if project.scene(name).download is not None:
        return f"will be downloaded to {root}"
    return f"missing: put them in {root}"


@app.command()
def schema(
    out: Annotated[Path, typer.Option(help="Folder of the schemas.")] = Path("workflow/schemas"),
) -> None:
    """Write the JSON schemas of the config files, for editors that complete and check YAML.

    Example: scrflow schema
    """
    out.mkdir(parents=True, exist_ok=True)
    for name, text in schemas().items():
        (out / name).write_text(text, encoding="utf-8")


def schemas() -> dict[str, str]:
    """File name -> JSON schema, of each kind of config file."""
    from scrflow.config import EncoderConfig, GlobalConfig, MethodConfig, SceneConfig

    models = {"config": GlobalConfig, "scene": SceneConfig, "encoder": EncoderConfig, "method": MethodConfig}
    return {
        f"{name}.schema.json": json.dumps(model.model_json_schema(), indent=2, ensure_ascii=False) + "\n"
        for name, model in models.items()
    }


def main() -> None:
    """The console script: a mistake of the user's is one line."""
    try:
        app()
    except ScrflowError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
