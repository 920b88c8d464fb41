"""Rates: measured costs with where they come from, and amounts that remember which rates they are made of."""

from __future__ import annotations

import importlib.resources
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import yaml
from pydantic import Field, model_validator

from scrflow.config.base import Strict, validate
from scrflow.core.errors import ScrflowError

How = Literal["measured", "derived", "paper", "assumed"]
_FILE = "rates.yaml"


class Rate(Strict):
    """cost = fixed + value * driver ** exponent."""

    value: float = Field(ge=0)
    fixed: float = Field(0.0, ge=0)
    exponent: float = Field(1.0, gt=0)
    per: str = Field(description="what the driver counts")
    range: tuple[float, float] | None = Field(None, description="of the driver, when it was measured")
    how: How
    source: str = Field(min_length=1, description="table, file or command")

    @model_validator(mode="after")
    def _measured_somewhere(self) -> Rate:
        if self.how == "measured" and self.range is None and self.value > 0:
            raise ValueError("range: what is measured was measured somewhere")
        return self


class RateFile(Strict):
    """rates.yaml."""

    machine: str
    rates: dict[str, Rate]
    parallel: dict[str, float] = Field(description="rule -> share of a job that more threads make shorter")


@dataclass(frozen=True)
class Evidence:
    """A rate as it was used."""

    key: str
    rate: Rate
    driver: float
    share: float  # what it contributed, in the unit of the amount

    @property
    def grows(self) -> float:
        """What of ``share`` the driver makes; the rest is fixed."""
        grown = self.rate.value * self.driver**self.rate.exponent
        return self.share * grown / (self.rate.fixed + grown) if grown else 0.0

    @property
    def beyond(self) -> float:
        """How many times the driver lies outside of the measured range; 1 within."""
        if self.rate.range is None or self.driver <= 0:
            return 1.0
        low, high = self.rate.range
        return max(self.driver / high, low / self.driver, 1.0)


@dataclass(frozen=True)
class Amount:
    """A cost, and the rates that it was counted with."""

    value: float = 0.0
    evidence: tuple[Evidence, ...] = ()

    def __add__(self, other: Amount | float) -> Amount:
        if isinstance(other, Amount):
            return Amount(self.value + other.value, self.evidence + other.evidence)
        return Amount(self.value + other, self.evidence)

    def times(self, factor: float) -> Amount:
        """So many of it."""
        scaled = tuple(Evidence(e.key, e.rate, e.driver, e.share * factor) for e in self.evidence)
        return Amount(self.value * factor, scaled)


@dataclass(frozen=True)
class Rates:
    """Rates by name. ``factors`` are of one's own machine: rule -> (CPU seconds, memory) measured over predicted."""

    file: RateFile
    factors: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def __call__(self, key: str, driver: float = 1.0) -> Amount:
        """The cost of so much. KeyError for a rate that is not there: a mistake of the code."""
        rate = self.file.rates[key]
        cost = rate.fixed + rate.value * driver**rate.exponent
        return Amount(cost, (Evidence(key, rate, driver, cost),))

    def value(self, key: str) -> float:
        """The bare value of a rate."""
        return self.file.rates[key].value

    def has(self, key: str) -> bool:
        """Whether there is such a rate."""
        return key in self.file.rates

    def parallel(self, rule: str) -> float:
        """Share of a job of the rule that more threads make shorter."""
        return self.file.parallel.get(rule, 0.0)


def load_rates(path: Path | None = None) -> Rates:
    """The project's rates, or those of a file. ScrflowError, naming file and key, for one that is not well formed."""
    if path is None:
        text, where = importlib.resources.files("scrflow.cli.plan").joinpath(_FILE).read_text("utf-8"), Path(_FILE)
    elif path.is_file():
        text, where = path.read_text("utf-8"), path
    else:
        raise ScrflowError(f"{path}: no such file of rates")
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ScrflowError(f"{where}: not YAML: {' '.join(str(error).split())}") from None
    return Rates(validate(RateFile, values if isinstance(values, dict) else {}, where))
