"""How good each pose is, in the words and colours that all sections share."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.colors import LinearSegmentedColormap, to_hex

from scrflow.evaluate.metrics import OVERALL
from scrflow.report.page.run import Run

# blue to amber within the thresholds, red beyond: told apart by those who do not tell red from green
_WITHIN = LinearSegmentedColormap.from_list("within", ["#1b5e9b", "#6aaed6", "#f2b04a"])
_BEYOND, _LOST, _UNKNOWN = "#c0392b", "#111111", "#8a8f94"
CONDITION_COLOURS = ("#1b5e9b", "#d1730f", "#2a8c6e", "#8e5ea2", "#b5485d", "#5c6b73")
SYMBOLS = ("circle", "diamond", "square", "cross", "x")  # those that plots in 3D have too


@dataclass(frozen=True)
class Band:
    """Queries alike in quality: those within one threshold and no finer one, or those beyond all."""

    label: str
    colour: str
    names: tuple[str, ...]


def bands(run: Run, names: pd.Series | None = None) -> tuple[Band, ...]:
    """All bands, best first, with the queries in them (of ``names``, or of the run): within each threshold, beyond the
    coarsest, not localized, and without a reference pose."""
    table = run.table if names is None else run.table[run.table["name"].isin(names)]
    index = band_index(run, table)
    return tuple(
        Band(label, colour, tuple(table["name"][index == i])) for i, (label, colour) in enumerate(_legend(run))
    )


def band_index(run: Run, table: pd.DataFrame) -> np.ndarray:
    """Which band [N] of ``bands`` each row of the table is in."""
    limits = run.thresholds
    t, r = table["t_err"].to_numpy(), table["r_err"].to_numpy()
    within = np.array([(t < a) & (r < b) for a, b in limits]).reshape(len(limits), len(table))
    index = np.where(within.any(0), within.argmax(0), len(limits))
    index = np.where(table["localized"], index, len(limits) + 1)
    return np.where(table["reference"] | ~table["localized"], index, len(limits) + 2)


def _legend(run: Run) -> list[tuple[str, str]]:
    limits = run.thresholds
    shades = [to_hex(_WITHIN(x)) for x in np.linspace(0, 1, len(limits))]
    labels = [f"within {limit(bound, run.unit)}" for bound in limits]
    beyond = f"beyond {limit(limits[-1], run.unit, ' or ')}"
    rest = [(beyond, _BEYOND), ("not localized", _LOST), ("no reference pose", _UNKNOWN)]
    return [*zip(labels, shades, strict=True), *rest]


def symbols(run: Run) -> dict[str, str]:
    """Marker of each condition."""
    return {c: SYMBOLS[i % len(SYMBOLS)] for i, c in enumerate(run.conditions)}


def condition_name(condition: str) -> str:
    """A condition in a legend."""
    return "all queries" if condition == OVERALL else condition


def badness(run: Run) -> pd.Series:
    """By query name, how bad its pose is: the larger of both errors over the finest threshold; infinite where it was
    not localized. Of queries without a reference pose, how little confidence it has (or how few inliers): scenes with
    some reference poses have those first."""
    t, r = run.thresholds[0]
    errors = np.maximum(run.table["t_err"] / t, run.table["r_err"] / r)
    doubt = 1 - run.table["confidence"]
    doubt = doubt.fillna(-run.table["inliers"].astype(float))
    doubt = doubt.where(run.table["localized"], math.inf)
    values = errors.where(run.table["reference"], doubt)
    return pd.Series(values.to_numpy(), index=run.table["name"])


def length(value: float, unit: str, digits: int = 2) -> str:
    """A length in the form that is read most easily, 3.2 cm or 1.4 m, with so many digits that count."""
    if not math.isfinite(value):
        return "infinite"
    scale, name = 1.0, unit
    if unit == "m":
        scale, name = (1.0, "m") if value >= 1 else (100.0, "cm") if value >= 0.001 else (1000.0, "mm")
    number = f"{scale * value:.0f}" if scale * value >= 10**digits else f"{scale * value:.{digits}g}"
    return f"{number} {name}"


def limit(bound: tuple[float, float], unit: str, joined: str = ", ") -> str:
    """A threshold: 25 cm, 2°."""
    return f"{length(bound[0], unit, 6)}{joined}{bound[1]:g}°"


def angle(value: float) -> str:
    """An angle in degrees."""
    return f"{value:.2g}°" if value < 10 else f"{value:.0f}°"


def share(part: int, whole: int) -> str:
    """A percentage of a count; with few, a hundredth would be false precision."""
    return f"{100 * part / whole:.0f} %"
