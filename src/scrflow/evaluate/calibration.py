"""How far confidences can be believed: said against observed, as numbers and as a picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scrflow.storage.artifact import atomic_path

EDGES = np.array([0, 0.05, 0.2, 0.4, 0.6, 0.8, 0.95, 1.0])


@dataclass(frozen=True)
class Reliability:
    """Of N poses: by bin of confidence, how many there are, the mean confidence, and the share that is right."""

    count: np.ndarray  # [bins] int64
    said: np.ndarray  # [bins] NaN where there is none
    right: np.ndarray  # [bins] NaN where there is none
    calibration_error: float  # mean of |said - right| over the poses (ECE)
    brier: float  # mean of (confidence - right)^2: 0 at best, share * (1 - share) for one who knows but the share


def reliability(confidence_N: np.ndarray, right_N: np.ndarray) -> Reliability:
    """Confidences [N], N > 0, held against whether the poses were right [N] (bool)."""
    p, right = np.asarray(confidence_N, float), np.asarray(right_N, float)
    bins = len(EDGES) - 1
    index = np.clip(np.digitize(p, EDGES) - 1, 0, bins - 1)
    count = np.bincount(index, minlength=bins)
    with np.errstate(invalid="ignore"):
        said, share = (np.bincount(index, values, bins) / count for values in (p, right))
    gap = np.abs(np.bincount(index, p - right, bins)).sum() / len(p)
    return Reliability(count, said, share, float(gap), float(((p - right) ** 2).mean()))


def draw_reliability(out: Path, curves: dict[str, Reliability], title: str) -> None:
    """Write the reliability curves: said against observed, with 90 % intervals (Wilson) and, below, the counts."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    fig = Figure(figsize=(5.6, 6.4), dpi=120)
    FigureCanvasAgg(fig)
    ax, below = fig.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    ax.plot([0, 1], [0, 1], color="#9aa5ad", lw=1, ls="--")
    width = 0.8 / len(curves)
    for k, (name, curve) in enumerate(curves.items()):
        some = curve.count > 0
        n, share = curve.count[some], curve.right[some]
        low, high = _wilson(share, n)
        style = {"fmt": "os^Dv"[k % 5] + "-", "ms": 5, "lw": 1.4, "elinewidth": 0.8, "capsize": 2}
        label = f"{name}: {n.sum()} poses, ECE {curve.calibration_error:.3f}, Brier {curve.brier:.3f}"
        drawn = ax.errorbar(curve.said[some], share, yerr=[share - low, high - share], label=label, **style)
        span = np.diff(EDGES)
        left = EDGES[:-1] + span * (0.1 + width * k)
        below.bar(left, curve.count, span * width, align="edge", color=drawn[0].get_color())
    ax.set(ylabel="share of poses that are right", ylim=(-0.02, 1.02), xlim=(-0.02, 1.02))
    ax.set_title(title, loc="left", fontsize=11, fontweight="bold")
    ax.legend(fontsize=8, loc="upper left", frameon=False)
    below.set(xlabel="confidence", ylabel="poses", yscale="log")
    fig.tight_layout()
    with atomic_path(Path(out)) as temporary:
        # no version of matplotlib in the file: equal input is equal bytes
        fig.savefig(temporary, format="png", metadata={"Software": None})


def _wilson(share: np.ndarray, n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """90 % interval of a share of n."""
    z = 1.645
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # the interval holds the share but for rounding at 0 and 1
    return np.minimum(centre - half, share), np.maximum(centre + half, share)
