"""Variants of methods: what the rows of config/tables run beside the methods of config/methods.

A variant is a method with some keys changed, and perhaps another seed. It is named METHOD+ROW, METHOD+TABLE.ROW where
its table changes keys of all its rows, and +sN with seed N; tables that mean
the same by a name share all of its stages.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scrflow.config.base import deep_merge, validate
from scrflow.config.method import MethodConfig
from scrflow.config.table import TableConfig, TableRow
from scrflow.core.errors import ScrflowError


@dataclass(frozen=True)
class Variant:
    """A method that a table runs."""

    base: str
    config: MethodConfig
    where: Path  # the table's file


def variant_name(table: str, config: TableConfig, row: TableRow, small: bool, seed: int, default_seed: int) -> str:
    """Name of the method that a row runs with a seed; the method's own where nothing is changed."""
    name = row.method_of(small)
    if config.over:
        name += f"+{table}.{row.id}"
    elif row.over_of(small):
        name += f"+{row.id}"
    return name if seed == default_seed else f"{name}+s{seed}"


def variants_of(
    table: str,
    config: TableConfig,
    where: Path,
    raw: Callable[[str, Path], dict[str, Any]],
    methods: set[str],
    default_seed: int,
    others: dict[str, Variant],
) -> dict[str, Variant]:
    """Every variant that a table (the file ``where``) runs. ``raw`` gives the keys of a method, its bases' too.

    ScrflowError naming the table for an unknown method or key, and for a name that one of the ``others``, of tables
    before it, has with another meaning.
    """
    found: dict[str, Variant] = {}
    for row in config.rows:
        for small in (False, True):
            base = row.method_of(small)
            if base is None:
                continue
            values = deep_merge(raw(base, where), deep_merge(config.over, row.over_of(small)))
            for seed in config.seeds:
                name = variant_name(table, config, row, small, seed, default_seed)
                if name in methods:
                    continue
                values["seed"] = None if seed == default_seed else seed
                made = Variant(base, validate(MethodConfig, values, Path(f"{where}: row {row.id}")), where)
                known = others.get(name) or found.setdefault(name, made)
                if known.config != made.config:
                    raise ScrflowError(
                        f"{where}: row {row.id}: {known.where} has a row of that name with other keys; "
                        "give one of them another id"
                    )
    return found
