"""Whether a claim holds: two rows of a table, compared query by query.

A query's score is the share of the scene's thresholds that its pose is within. The difference of the rows' mean scores
has an interval by bootstrap: queries and seeds are drawn anew, the same ones for both rows. So the interval speaks of
both chances, other queries and another training.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Literal

import numpy as np
import pandas as pd

from scrflow.config.table import Claim, TableScene, TableStage
from scrflow.core.errors import ScrflowError
from scrflow.core.seeds import derived_seed
from scrflow.report.published import Papers
from scrflow.report.tables.cells import folder_of
from scrflow.report.tables.render import format_value
from scrflow.storage.artifact import require

DRAWS = 4000
LEVEL = 0.95
NO_DIFFERENCE = 0.02  # an interval within it, either side of zero, tells that there is none to speak of
MEASURABLE = (0.05, 0.95)  # scores of which nothing follows where both rows are below, or both above

Verdict = Literal["holds", "does not hold", "cannot tell"]


@dataclass(frozen=True)
class Judgement:
    """A claim on one scene. Scores are shares 0..1, medians in the scene's unit and degrees, one a seed."""

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
    def verdict(self) -> Verdict:
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
            tables = {row: _queries(config, results, row, scene) for row in (claim.better, claim.worse)}
            if not all(tables.values()):
                continue
            score = {row: np.stack([_scores(t, scene) for t in found]) for row, found in tables.items()}
            medians = {row: tuple(float(t["t_err"].median()) for t in found) for row, found in tables.items()}
            a, b = score[claim.better], score[claim.worse]
            yield Judgement(
                claim,
                scene,
                tuple(a.mean(1).tolist()),
                tuple(b.mean(1).tolist()),
                medians[claim.better],
                medians[claim.worse],
                a.shape[1],
                bootstrap(a, b, derived_seed(0, "claims", claim.id, scene.name)),
            )


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


def claims_markdown(judgements: list[Judgement], config: TableStage, papers: Papers | None) -> str:
    """A section a claim: what the paper says and measured, what we did, and the verdict."""
    parts = [
        "## The claims",
        "A query's score is the share of the scene's thresholds that its pose is within (0 to 100 %); the difference "
        f"is that of the mean scores, with its {100 * LEVEL:.0f} % interval by bootstrap over queries and seeds. A "
        "claim *holds* where the interval is above zero, *does not hold* where it is below zero or within "
        f"±{100 * NO_DIFFERENCE:.0f} %, and otherwise we *cannot tell*; nor can we where both scores are below "
        f"{100 * MEASURABLE[0]:.0f} % or both above {100 * MEASURABLE[1]:.0f} %.",
    ]
    rows = {row.id: row.label for row in config.table.rows}
    for claim in config.table.claims:
        parts += [f"### {claim.claim}"]
        if claim.published and papers is not None:
            parts.append(_published(claim, papers))
        lines = [
            f"| scene | {rows[claim.better]} | {rows[claim.worse]} | difference | median errors | verdict |",
            "|---|---|---|---|---|---|",
        ]
        for j in (j for j in judgements if j.claim.id == claim.id):
            low, high = (100 * value for value in j.interval)
            medians = [_length(fmean(m), j.scene.unit) for m in (j.median_better, j.median_worse)]
            lines.append(
                f"| {j.scene.name}, {j.queries} queries | {_share(j.better)} | {_share(j.worse)} | "
                f"{100 * j.difference:+.1f} [{low:+.1f}, {high:+.1f}] | {medians[0]}, {medians[1]} | **{j.verdict}** |"
            )
        parts.append("\n".join(lines))
        if claim.why:
            parts.append(" ".join(claim.why.split()))
    return "\n\n".join(parts) + "\n"


# --------------------------------------------------------------------------------------------------------------- parts


def _queries(config: TableStage, results: Path, row: str, scene: TableScene) -> list[pd.DataFrame]:
    """The per-query tables of a row's seeds, in one order of the queries."""
    found = []
    for run in config.runs:
        if (run.row, run.scene) != (row, scene.name):
            continue
        path = require(folder_of(results, run) / "queries.csv", "table of queries")
        table = pd.read_csv(path, index_col="name")
        table = table[table["t_err"].notna()].sort_index()
        if found and not table.index.equals(found[0].index):
            raise ScrflowError(f"{path}: other queries than in the runs beside it; evaluate again")
        found.append(table)
    return found


def _scores(table: pd.DataFrame, scene: TableScene) -> np.ndarray:
    within = [(table["t_err"] < t) & (table["r_err"] < r) for t, r in scene.thresholds]
    return np.mean([w.to_numpy(float) for w in within], axis=0)


def _share(scores: tuple[float, ...]) -> str:
    spread = f" ± {100 * float(np.std(scores, ddof=1)):.1f}" if len(scores) > 1 else ""
    return f"{100 * fmean(scores):.1f}{spread} % ({len(scores)})"


def _length(value: float, unit: str) -> str:
    return format_value("median_t", value, unit)


def _published(claim: Claim, papers: Papers) -> str:
    said = []
    for cell in claim.published:
        found = papers.value(cell.paper, cell.table, cell.row, cell.column)
        value = "no number" if found is None else f"{found.value:g} {found.unit}"
        name = papers.paper(cell.paper).name
        said.append(f"{cell.row}, {cell.column}: {value} ({name} {papers.table(cell.paper, cell.table).name})")
    return "The paper's numbers: " + "; ".join(said) + "."
