"""The command line: the commands of the other modules in groups. Imports nothing heavy, so that --help is quick."""

from typing import Any

import typer
from typer.core import TyperGroup

from scrflow.cli import maps, results, workflow
from scrflow.core.errors import exit_on_error

GROUPS = {
    "Run": (workflow.run, workflow.new_scene, workflow.check, workflow.validate, workflow.plan),
    "Use a map": (maps.localize, maps.add, maps.serve, maps.export),
    "Look at results": (results.summary, results.view, results.inspect, results.diff),
}
HIDDEN = (
    *(results.costs, results.verify, results.report, results.table, maps.export_hloc, maps.score_poses),
    *(workflow.pick_frames, workflow.upright, workflow.schema),
)


def name_of(command: Any) -> str:
    """As it is typed: ``new-scene``."""
    return command.__name__.replace("_", "-")


class _Grouped(TyperGroup):
    """Lists the commands under their groups. Typer does so only with rich, which doubles the time of --help."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        for title, commands in GROUPS.items():
            with formatter.section(title):
                formatter.write_dl([(n, self.commands[n].get_short_help_str(100)) for n in map(name_of, commands)])
        with formatter.section("More (scrflow COMMAND --help)"):
            formatter.write_text(", ".join(map(name_of, HIDDEN)))


app = typer.Typer(
    name="scrflow",
    cls=_Grouped,
    help="Visual localization by scene coordinate regression.\n\n"
    "Start with: scrflow run demo. It calls Snakemake, as you may: snakemake --cores 8 results/demo/poses.txt",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for _command in (*(command for group in GROUPS.values() for command in group), *HIDDEN):
    app.command(name_of(_command), hidden=_command in HIDDEN)(_command)


def main() -> None:
    """The console script: errors that the user can fix are one line."""
    with exit_on_error():
        app()
