"""Claims of papers: two rows of a table compared query by query.

A query's score is the share of the scene's thresholds that its pose is within, and the difference of the mean scores
has an interval by bootstrap over queries and seeds, the same draws for both rows.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Literal

import numpy as np
import pandas as pd

from scrflow.config.table import Claim, Papers, TableConfig, TableScene, TableStage
from scrflow.core.errors import ScrflowError
from scrflow.core.seeds import derived_seed
from scrflow.report.formats import format_value, pipe_table
from scrflow.storage.artifact import require

DRAWS = 4000
LEVEL = 0.95
NO_DIFFERENCE = 0.02  # an interval within it, either side of zero, shows that there is no difference to speak of
MEASURABLE = (0.05, 0.95)  # nothing follows where both rows score below the first, or both above the second


@dataclass(frozen=True)
class Judgement:
    """A claim on one scene. Scores are shares 0..1, medians in the scene's unit, one a seed."""

    claim: Claim
    scene: TableScene
    better: tuple[float, ...]  # score a seed
    worse: tuple[float, ...]
    median_better: tuple[float, ...]
    median_worse: tuple[float, ...]
    queries: int
    interval: tuple[float, float]  # of the difference of the scores

    @property
    def difference(self) -> float:
        return fmean(self.better) - fmean(self.worse)

    @property
    def verdict(self) -> Literal["holds", "does not hold", "cannot tell"]:
        low, high = self.interval
        means = fmean(self.better), fmean(self.worse)
        if max(means) < MEASURABLE[0] or min(means) > MEASURABLE[1]:
            return "cannot tell"
        if low > 0:
            return "holds"
        if high < 0 or (low > -NO_DIFFERENCE and high < NO_DIFFERENCE):
            return "does not hold"
        return "cannot tell"


def judge(config: TableStage, results: Path) -> Iterator[Judgement]:
    """Every claim on every scene. ScrflowError where the table of a run's queries is missing or names others."""
    for claim in config.table.claims:
        for scene in config.scenes:
            better, worse = (_queries(config, results, row, scene) for row in (claim.better, claim.worse))
            if not better or not worse:
                continue
            a, b = (np.stack([_scores(table, scene) for table in found]) for found in (better, worse))
            medians = [tuple(float(table["t_err"].median()) for table in found) for found in (better, worse)]
            interval = bootstrap(a, b, derived_seed(0, "claims", claim.id, scene.name))
            means = tuple(a.mean(1).tolist()), tuple(b.mean(1).tolist())
            yield Judgement(claim, scene, *means, *medians, a.shape[1], interval)


def bootstrap(a: np.ndarray, b: np.ndarray, seed: int) -> tuple[float, float]:
    """Interval of the difference of the mean scores a [seeds, queries] and b [seeds', queries] of the same queries.

    With as many seeds in a as in b they go in pairs: where a row takes the other's heads, both have the same ones.
    """
    rng = np.random.default_rng(seed)
    queries = rng.integers(0, a.shape[1], (DRAWS, a.shape[1]))
    seeds = rng.random((DRAWS, max(len(a), len(b))))

    def means(scores: np.ndarray) -> np.ndarray:
        drawn = (seeds[:, : len(scores)] * len(scores)).astype(int)
        return np.stack([s[queries].mean(1) for s in scores], 1)[np.arange(DRAWS)[:, None], drawn].mean(1)

    tail = 50 * (1 - LEVEL)
    low, high = np.percentile(means(a) - means(b), [tail, 100 - tail])
    return float(low), float(high)


def _queries(config: TableStage, results: Path, row: str, scene: TableScene) -> list[pd.DataFrame]:
    """The per-query tables of a row's seeds, in one order of the queries."""
    found = []
    for run in config.runs:
        if (run.row, run.scene) != (row, scene.name):
            continue
        path = require(Path(results) / run.path / "queries.csv", "table of queries")
        table = pd.read_csv(path, index_col="name")
        table = table[table["t_err"].notna()].sort_index()
        if found and not table.index.equals(found[0].index):
            raise ScrflowError(f"{path}: other queries than in the runs beside it; evaluate again")
        found.append(table)
    return found


def _scores(table: pd.DataFrame, scene: TableScene) -> np.ndarray:
    within = [(table["t_err"] < t) & (table["r_err"] < r) for t, r in scene.thresholds]
    return np.mean([w.to_numpy(float) for w in within], axis=0)


def claims_text(table: TableConfig, judgements: list[Judgement], papers: Papers | None) -> str:
    """A section a claim: what the paper says and measured, what we measured, and the verdict."""
    parts = [
        "## The claims",
        "A query's score is the share of the scene's thresholds that its pose is within (0 to 100 %); the difference "
        f"is that of the mean scores, with its {100 * LEVEL:.0f} % interval by bootstrap over queries and seeds. A "
        "claim *holds* where the interval is above zero, *does not hold* where it is below zero or within "
        f"±{100 * NO_DIFFERENCE:.0f} %, and otherwise we *cannot tell*; nor can we where both scores are below "
        f"{100 * MEASURABLE[0]:.0f} % or both above {100 * MEASURABLE[1]:.0f} %.",
    ]
    labels = {row.id: row.label for row in table.rows}
    for claim in table.claims:
        header = ["scene", labels[claim.better], labels[claim.worse], "difference", "median errors", "verdict"]
        lines = [_judged(j) for j in judgements if j.claim.id == claim.id]
        parts += [f"### {claim.claim}", _cited(claim, papers), pipe_table(header, lines), " ".join(claim.why.split())]
    return "\n\n".join(part for part in parts if part) + "\n"


def _judged(j: Judgement) -> list[str]:
    low, high = (100 * value for value in j.interval)
    better, worse = (
        f"{100 * fmean(scores):.1f}{f' ± {100 * stdev(scores):.1f}' if len(scores) > 1 else ''} % ({len(scores)})"
        for scores in (j.better, j.worse)
    )
    medians = [format_value("median_t", fmean(m), j.scene.unit) for m in (j.median_better, j.median_worse)]
    difference = f"{100 * j.difference:+.1f} [{low:+.1f}, {high:+.1f}]"
    scene = f"{j.scene.name}, {j.queries} queries"
    return [scene, better, worse, difference, ", ".join(medians), f"**{j.verdict}**"]


def _cited(claim: Claim, papers: Papers | None) -> str:
    said = []
    for cell in claim.published:
        found = papers.value(cell.paper, cell.table, cell.row, cell.column)
        value = "no number" if found is None else f"{found.value:g} {found.unit}"
        source = " ".join(of.name for of in papers.table(cell.paper, cell.table))
        said.append(f"{cell.row}, {cell.column}: {value} ({source})")
    return f"The paper's numbers: {'; '.join(said)}." if said else ""
