"""The command ``scrflow diff``: pairs of results, and what is to be said of each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

from scrflow.core.errors import ScrflowError
from scrflow.report.diff.outcome import crossings, figures, same_outcome, told_error
from scrflow.report.diff.recipe import StageDifference, first_other_bytes, recipe_differences
from scrflow.report.diff.result import METRICS, Result

_WIDTH = 160  # where the output is no terminal
_RAN = ("training", "localization", "evaluation")
# of what ran: figures, and names of the same code, not causes
_NO_CAUSE = ("gpu_mb", "commit", "clean")


def print_difference(a: Path, b: Path, queries: int) -> bool:
    """Print what differs between two results/SCENE/METHOD, or between all that two results/SCENE or two results hold.

    At most ``queries`` queries are named a list. Whether anything but times, packages and device differs. ScrflowError
    where a folder holds no results, where the two are not of a kind, or a file is damaged.
    """
    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console = Console(highlight=False, soft_wrap=True, width=_WIDTH, color_system=None, emoji=False)
    if (a / METRICS).exists() and (b / METRICS).exists():
        return _print_pair(console, Result.read(a), Result.read(b), queries)
    found = [_results_in(folder) for folder in (a, b)]
    differ = False
    for name in sorted(set(found[0]) | set(found[1])):
        if name not in found[0] or name not in found[1]:
            _say(console, f"{name}: only in {a if name in found[0] else b}", bold=True)
            differ = True
        else:
            differ |= _print_pair(console, Result.read(found[0][name]), Result.read(found[1][name]), queries)
    return differ


def _results_in(folder: Path) -> dict[str, Path]:
    """Name -> folder of every result; the names of one SCENE are METHOD, those of many SCENE/METHOD."""
    if not folder.is_dir():
        raise ScrflowError(f"{folder}: no such folder; give results/SCENE/METHOD, results/SCENE or results")
    if (folder / METRICS).exists():
        raise ScrflowError(f"{folder}: one result, and the other folder is not one; give two of a kind")
    for depth in ("*", "*/*"):
        found = {path.parent.relative_to(folder).as_posix(): path.parent for path in folder.glob(f"{depth}/{METRICS}")}
        if found:
            return found
    raise ScrflowError(f"{folder}: no {METRICS} of a finished run; give results/SCENE/METHOD, results/SCENE or results")


def _print_pair(console: Console, a: Result, b: Result, queries: int) -> bool:
    stages, same = recipe_differences(a, b), same_outcome(a, b)
    title = f"{a.folder} -> {b.folder}"
    ran = list(_ran_differences(a, b))
    if not stages and same:
        _say(console, f"{title}: equal (recipe, poses and map size)", bold=True)
        for line in ran:
            _say(console, f"  all the same, {line}")
        return False
    _say(console, title, bold=True)
    _print_recipe(console, stages)
    if not stages:
        _print_same_recipe(console, a, b, bool(ran))
    for line in ran:
        _say(console, f"  {line}")
    _print_outcome(console, a, b, same, queries)
    return True


def _print_recipe(console: Console, stages: list[StageDifference]) -> None:
    if not stages:
        return
    first, *others = stages
    follows = "all that follows differs by it alone" if not others else "what follows differs by it, and by the below"
    _say(console, f"  the first difference is in {first.stage}: {'; '.join(first.lines)} ({follows})")
    for stage in others:
        _say(console, f"  {stage.stage}: {'; '.join(stage.lines)}")


def _print_same_recipe(console: Console, a: Result, b: Result, ran_differs: bool) -> None:
    part = first_other_bytes(a, b)
    where = f"bytes part at {part}" if part else "no file of those at hand has other bytes"
    known = all(r.ran("localization") for r in (a, b))
    why = (
        "see what it ran on"
        if ran_differs
        else "packages and device are the same: a GPU's sums are not repeatable, a CPU's are to be"
        if known
        else "what it ran on was not noted"
    )
    _say(console, f"  config, code and data are the same; {where}; {why}")


def _ran_differences(a: Result, b: Result) -> Iterator[str]:
    """What training, localization and evaluation ran on: packages, processor, threads; each difference once."""
    lines: dict[str, list[str]] = {}
    for what in _RAN:
        one, other = a.ran(what), b.ran(what)
        if (one is None) != (other is None):
            lines.setdefault(f"what it ran on is noted in {a.folder if one else b.folder} alone", []).append(what)
        elif one is not None:
            flat, flat_other = _flat(one), _flat(other)
            for key in dict.fromkeys((*flat, *flat_other)):
                if key not in _NO_CAUSE and flat.get(key) != flat_other.get(key):
                    lines.setdefault(f"{key} {_told(flat.get(key))} -> {_told(flat_other.get(key))}", []).append(what)
    for line, stages in lines.items():
        yield f"{', '.join(stages)}: {line}"


def _flat(ran: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in ran.items() if key != "packages"} | ran["packages"]


def _told(value: Any) -> str:
    return "none" if value is None else str(value)


def _print_outcome(console: Console, a: Result, b: Result, same: bool, queries: int) -> None:
    _say(console, "  outcome:" if not same else "  outcome: the same poses and map size")
    alike = a.metrics["thresholds"] == b.metrics["thresholds"] and a.errors.keys() == b.errors.keys()
    if alike and a.poses != b.poses and not any(crossings(a, b)):
        _say(console, "    poses differ, but no query changes sides of a threshold")
    for name, before, after in figures(a, b):
        _say(console, f"    {name}: {before} -> {after}")
    for crossing in crossings(a, b):
        for what, names in (("within in the second alone", crossing.gained), ("no longer within", crossing.lost)):
            if names:
                _say(console, f"    {crossing.threshold}, {what}: {_listed(a, b, names, queries)}")


def _listed(a: Result, b: Result, names: tuple[str, ...], most: int) -> str:
    shown = [f"{name} ({told_error(a, name)} -> {told_error(b, name)})" for name in names[:most]]
    if len(names) > most:
        shown.append(f"and {len(names) - most} more" if shown else f"{len(names)} queries")
    return ", ".join(shown)


def _say(console: Console, text: str, bold: bool = False) -> None:
    console.print(text, markup=False, style="bold" if bold else None)
