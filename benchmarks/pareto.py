"""Draw the table ``mapsize``: the size of a map against its median error and its recall.

snakemake --cores 2 results/tables/mapsize@demo.md
.venv/bin/python benchmarks/pareto.py results/tables/mapsize@demo.csv docs/images/mapsize.png
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pandas as pd
import typer
from matplotlib.figure import Figure

KINDS = {"head-": "C1", "landmarks": "C0", "matching": "C2"}  # beginnings of row ids
BOTH = "C3"  # a head with landmarks


def main(
    table: Annotated[Path, typer.Argument(help="mapsize@SET.csv")],
    out: Annotated[Path, typer.Argument(help="PNG")],
) -> None:
    """Draw a column of panels for each scene: median error, and recall at the finest threshold."""
    rows = pd.read_csv(table)
    rows = rows[(rows["condition"] == "all") & (rows["scene"] != "mean")]
    scenes = list(dict.fromkeys(rows["scene"]))
    figure = Figure((5 * len(scenes), 7), layout="constrained")
    axes = figure.subplots(2, len(scenes), squeeze=False, sharex=True)
    for column, scene in enumerate(scenes):
        here = rows[rows["scene"] == scene]
        wide = here.pivot(index="row", columns="metric", values="mean")
        labels = here.drop_duplicates("row").set_index("row")["label"]
        for axis, metric in zip(axes[:, column], ("median_t", "recall@0"), strict=True):
            for row, values in wide.iterrows():
                both = row.startswith("head") and row.endswith("landmarks")
                colour = BOTH if both else next((c for start, c in KINDS.items() if row.startswith(start)), "C1")
                axis.plot(values["map_mb"], values[metric], "o", color=colour)
                axis.annotate(
                    labels[row], (values["map_mb"], values[metric]), (4, 4), textcoords="offset points", size=7
                )
            axis.set_xscale("log")
        unit = here[here["metric"] == "median_t"]["unit"].iloc[0]
        axes[0, column].set(title=scene, ylabel=f"median error, {unit}", yscale="log")
        axes[1, column].set(ylabel="recall at the finest threshold, %", xlabel="map, MB")
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    typer.run(main)
