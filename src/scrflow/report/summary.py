"""The short table at the end of a run: what came out, day and night apart, and where the files are."""

from itertools import groupby
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from scrflow.report.costs import mapping_seconds
from scrflow.report.formats import length, limit
from scrflow.storage.artifact import read_json

_FILES = {
    "pictures": {
        "errors.png": "queries by error on the map, from above",
        "overlay.png": "one query with its reprojected scene coordinates",
    },
    "files": {
        "report.html": "all of it as a page, for a browser",
        "poses.txt": "name qw qx qy qz tx ty tz, cam_from_world",
        "queries.csv": "errors of every query",
        "metrics.json": "the numbers above",
        "map.safetensors": "all that a query needs",
    },
}
_NAMES_SHOWN = 5


def terminal() -> Console:
    """Standard output: colours and rules on a terminal, plain columns otherwise."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=200, color_system=None, emoji=False)


def print_summary(folders: list[Path]) -> None:
    """Print the metrics of ``folders`` (results/SCENE/METHOD); ScrflowError where one has no metrics.json."""
    console = terminal()
    # a line that the terminal wraps can be read, a column cut to dots cannot
    console.width = max(console.width, 112)
    runs = [(Path(folder), read_json(Path(folder) / "metrics.json", "metrics")) for folder in folders]
    for _, group in groupby(runs, lambda run: (run[1]["scene"], run[1]["thresholds"])):
        members = list(group)
        console.print(_table(members, SIMPLE_HEAD if console.is_terminal else None))
        for folder, metrics in members:
            _print_notes(console, folder, metrics)


def _table(runs: list[tuple[Path, dict[str, Any]]], box: Any) -> Table:
    first = runs[0][1]
    title = first["scene"] + (" (SYNTHETIC scene)" if first["synthetic"] else "")
    table = Table("method", "queries", title=title, title_justify="left", box=box, title_style="bold", pad_edge=False)
    table.add_column("localized", justify="right")
    for bound in first["thresholds"]:
        table.add_column(limit(bound, first["unit"], " "), justify="right")
    for header in ("median error", "map", "a query", "mapping", "training"):
        table.add_column(header, justify="right", no_wrap=True)
    for folder, metrics in runs:
        groups = {"all": metrics["overall"], **metrics["conditions"]}
        if len(groups) == 2:  # one condition is all there is
            del groups["all"]
        # what belongs to the map stands once
        method, size = metrics["method"], f"{metrics['map_mb']:.2f} MB"
        times = [_minutes(mapping_seconds(folder)), _minutes((metrics["training"] or {}).get("seconds"))]
        for condition, group in groups.items():
            recall = [f"{100 * share:.1f} %" for share in group["recall"] or ()] or ["-"] * len(first["thresholds"])
            median, ms = _medians(group, metrics["unit"]), f"{group['ms']['total']:.0f} ms"
            queries = f"{group['queries']} {condition}"
            table.add_row(method, queries, str(group["localized"]), *recall, median, size, ms, *times)
            method, size, times = "", "", ["", ""]
    return table


def _print_notes(console: Console, folder: Path, metrics: dict[str, Any]) -> None:
    if metrics["overall"]["with_reference"] < metrics["overall"]["queries"]:
        console.print(metrics["reference"], soft_wrap=True)
    missed = metrics["queries_without_pose"]
    if missed:
        shown = [f"{name} ({reason})" for name, reason in list(missed.items())[:_NAMES_SHOWN]]
        more = f" and {len(missed) - _NAMES_SHOWN} more" if len(missed) > _NAMES_SHOWN else ""
        console.print(f"not localized: {', '.join(shown)}{more}", soft_wrap=True, markup=False)
    for title, names in _FILES.items():
        there = {str(folder / name): what for name, what in names.items() if (folder / name).exists()}
        if there:
            console.print(f"{title}:", style="bold")
        for path, what in there.items():
            console.print(f"  {path:{max(map(len, there))}}  {what}", soft_wrap=True, markup=False)


def _medians(group: dict[str, Any], unit: str) -> str:
    if not group["with_reference"]:
        return "-"
    t, r = group["median_t_err"], group["median_r_err"]
    return "infinite" if t is None or r is None else f"{length(t, unit, 3)} {r:.2f}°"


def _minutes(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds / 60:.1f} min"
