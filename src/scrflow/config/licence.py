"""What a licence says of commercial use."""

from __future__ import annotations

from typing import Literal

from scrflow.config.base import Strict

# by the licence that its publisher states; unknown: none is stated, or the text was not at hand
CommercialUse = Literal["allowed", "forbidden", "unknown"]


class Restriction(Strict):
    """Something whose licence does not allow commercial use, or that states none."""

    what: str
    licence: str
    commercial_use: Literal["forbidden", "unknown"]

    def __str__(self) -> str:
        verdict = "no commercial use" if self.commercial_use == "forbidden" else "commercial use unknown"
        return f"{self.what}: {verdict} ({' '.join(self.licence.split())})"
