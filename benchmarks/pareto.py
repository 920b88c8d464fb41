"""Draw the table ``mapsize``: the size of a map against its median error and its recall.

snakemake --cores 2 results/tables/mapsize@demo.md results/tables/mapsize@real.md
.venv/bin/python benchmarks/pareto.py mapsize.png results/tables/mapsize@{demo,real}.csv
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pandas as pd
import typer
from matplotlib.figure import Figure

KINDS = (  # title, colour, mark, and the ids of the table's rows
    ("landmarks", "C0", "o-", "landmarks-500 landmarks-2000 landmarks-5000 landmarks landmarks-all"),
    ("landmarks of XFeat", "C4", "s", "landmarks-xfeat"),
    ("head", "C1", "o", "head-half head-int8 head"),
    ("head and landmarks", "C3", "D", "head-int8-landmarks head-landmarks"),
    ("SIFT matching", "C2", "^", "matching"),
)


def main(
    out: Annotated[Path, typer.Argument(help="PNG")],
    tables: Annotated[list[Path], typer.Argument(help="mapsize@SET.csv", metavar="TABLE...")],
) -> None:
    """Draw a column of panels for each scene: median error, and recall at the finest threshold."""
    rows = pd.concat(map(pd.read_csv, tables))
    rows = rows[(rows["condition"] == "all") & (rows["scene"] != "mean")]
    scenes = list(dict.fromkeys(rows["scene"]))
    figure = Figure((4 * len(scenes), 6), layout="constrained")
    axes = figure.subplots(2, len(scenes), squeeze=False, sharex=True)
    for column, scene in enumerate(scenes):
        here = rows[rows["scene"] == scene]
        wide = here.pivot(index="row", columns="metric", values="mean")
        for axis, metric in zip(axes[:, column], ("median_t", "recall@0"), strict=True):
            for title, colour, mark, ids in KINDS:
                values = wide.reindex(ids.split()).dropna(subset=["map_mb"])
                axis.plot(values["map_mb"], values[metric], mark, color=colour, label=title)
            axis.set_xscale("log")
        unit = here[here["metric"] == "median_t"]["unit"].iloc[0]
        axes[0, column].set(title=scene, ylabel=f"median error, {unit}", yscale="log")
        axes[1, column].set(ylabel="recall at the finest threshold, %", xlabel="map, MB")
    axes[0, 0].legend(fontsize="small")
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    typer.run(main)
